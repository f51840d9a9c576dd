"""What an answer says that it used, whatever the API; pure functions of its bytes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .documents import IS_JSON, documents

HEAD = 8 * 1024
TAIL = 64 * 1024
"""Bytes at both ends of an answer that hold all that any API says of its usage."""

BYTES_PER_TOKEN = 4
"""Of text, in UTF-8, where nobody says it: English and code, give or take a fifth."""

_MAX = 10**12
"""Tokens of one answer, with room for mistakes: the sums of many are whole numbers of SQLite."""

_BESIDE = frozenset({"advisor_message", "compaction"})
"""What Anthropic lists in ``usage.iterations``, bills, and leaves out of the sums."""

_STRUCTURED = re.compile(
    r"/(?:completions|responses(?:/[\w-]+)?|messages|embeddings|rerank|images/\w+)$"
    r"|:(?:streamG|g)enerateContent$|:(?:batchE|e)mbedContents?$"
    r"|^/api/(?:chat|generate|embed|embeddings)$"
)
"""Paths of answers that are JSON, or events, whatever their type says."""

_SPOKEN = frozenset({
    "arguments", "content", "delta", "partial_json", "reasoning", "reasoning_content", "refusal",
    "response", "text", "thinking",
})  # fmt: skip


class Usage(NamedTuple):
    """What an answer says; None is what it does not say, and never zero.

    :param input_tokens: all of them: fresh, read from a cache and written to one
    :param output_tokens: reasoning included
    :param cost_usd: where the provider itself names it
    :param model: as the answer names it
    """

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    model: str | None = None

    @property
    def is_known(self) -> bool:
        """False where an answer says nothing of what it used."""
        return (self.input_tokens, self.output_tokens, self.cost_usd) != (None, None, None)

    def without(self, counted: Usage) -> Usage:
        """Return what is left when some of it has been counted before."""

        def less(number: int | None, before: int | None) -> int | None:
            return None if number is None else max(0, number - (before or 0))

        fresh = less(self.input_tokens, counted.input_tokens)
        written = less(self.output_tokens, counted.output_tokens)
        cached = [self.cached_input_tokens, self.cache_write_tokens]
        cached = [one if one is None else min(one, fresh or 0) for one in cached]
        reasoned = self.reasoning_tokens
        return self._replace(
            input_tokens=fresh,
            cached_input_tokens=cached[0],
            cache_write_tokens=cached[1],
            output_tokens=written,
            reasoning_tokens=reasoned if reasoned is None else min(reasoned, written or 0),
        )


NOTHING = Usage(input_tokens=0, output_tokens=0, cost_usd=0.0)
"""Of what asks no model anything, which is known to be free."""


def read_usage(
    head: bytes, tail: bytes, *, path: str, content_type: str = "", complete: bool = True
) -> Usage:
    """Read the usage from an answer, whole or streamed, decoded.

    :param head: its beginning, when its middle is missing, else empty
    :param tail: the rest of it, or all
    :param path: upstream, without the query
    :param complete: it did not break off
    """
    if _is_other_text(path, content_type):
        return Usage()
    is_interim = bool(head) and not complete and IS_JSON.match(head) is not None
    nested = "response" if "/responses" in path else ""
    figures: dict[str, float] = {}
    model = None
    for document in documents(head, tail, complete=complete, nested=nested):
        source = _source(document)
        name = source.get("model") or source.get("modelVersion")
        model = name[:200] if isinstance(name, str) and name else model
        _merge(figures, document, source)
    usage = _usage(figures, model, complete=complete)
    # Of many documents that break off only the first ones are read: theirs was not the last word.
    return usage._replace(output_tokens=None) if is_interim else usage


def awaited_id(head: bytes, tail: bytes) -> str | None:
    """Return the id of a response that is still being made, by what was said of it last."""
    found = [_source(one) for one in documents(head, tail, complete=False, nested="response")]
    said = [one for one in found if isinstance(one.get("status"), str)]
    if not said or said[-1]["status"] not in ("queued", "in_progress"):
        return None
    name = said[-1].get("id")
    return name if isinstance(name, str) and len(name) <= 200 else None


def estimate_output(
    head: bytes, tail: bytes, length: int, *, path: str, content_type: str = ""
) -> int | None:
    """Estimate the output tokens of an answer that does not say them, mostly as it broke off.

    Of streams the texts in the events count, in UTF-8, at four bytes a token; a middle that is
    missing is as wordy as the rest. Reasoning that is not shown is not in it. Of a document whose
    texts are cut every byte counts. Where the answer is no text, None.

    :param length: of all that came, in bytes, decoded
    """
    if _is_other_text(path, content_type) or any(
        f"/{kind}" in path for kind in ("audio", "images", "embed")
    ):
        return None
    found = documents(head, tail, complete=False, every=True)
    # Of many documents that are no events, the tail begins within one, and is not read.
    kept = len(head) if head and IS_JSON.match(head) else len(head) + len(tail)
    if not kept or not found:
        return None
    spoken = sum(_spoken(document) for document in found)
    if not spoken and IS_JSON.match(head or tail):
        spoken = kept
    return math.ceil(spoken * max(length, kept) / kept / BYTES_PER_TOKEN)


def _is_other_text(path: str, content_type: str) -> bool:
    """True for what may be plain text, such as a transcription: a speaker could dictate figures."""
    if any(kind in content_type.lower() for kind in ("json", "event-stream")):
        return False
    return _STRUCTURED.search(path) is None


def _source(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what has model and usage: the document, or what OpenAI and Anthropic put around it."""
    response, message = document.get("response"), document.get("message")
    if isinstance(response, dict):
        return response
    if document.get("type") == "message_start" and isinstance(message, dict):
        return message
    return document


def _merge(
    figures: dict[str, float], document: Mapping[str, Any], source: Mapping[str, Any]
) -> None:
    """Add the figures of one document: of those that say it several times the last one counts."""
    places = [source.get("usage"), source.get("usageMetadata")]
    # Groq's, and Moonshot's streams.
    choices = source.get("choices")
    outer = [source.get("x_groq"), *(choices if isinstance(choices, list) else [])]
    places += [one.get("usage") for one in outer if isinstance(one, dict)]
    if "eval_count" in source or "prompt_eval_count" in source:
        places.append(source)  # Ollama's own API
    for place in places:
        new = _figures(place) if isinstance(place, dict) else {}
        if document.get("type") == "message_start":
            new.pop("output_tokens", None)  # of the first word, not of the answer
        if document.get("type") == "message_delta":
            # Cumulative; some leave 0 where message_start had said it.
            new = {name: max(number, figures.get(name, 0)) for name, number in new.items()}
        figures |= new


def _figures(usage: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a usage, with those in ``prompt_tokens_details`` and its kin."""
    found: dict[str, float] = {}
    for name, value in usage.items():
        if isinstance(value, dict) and name.endswith("_details"):
            found = _figures(value) | found
    for name, value in usage.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX:
            found[name] = value
    iterations = usage.get("iterations")
    for one in iterations if isinstance(iterations, list) else []:
        if isinstance(one, dict) and one.get("type") in _BESIDE:
            for name, value in _figures(one).items():
                found[f"beside {name}"] = found.get(f"beside {name}", 0) + value
    return found


def _usage(figures: Mapping[str, float], model: str | None, *, complete: bool) -> Usage:
    def first(*names: str) -> int | None:
        for name in names:
            if name in figures:
                return int(figures[name] + figures.get(f"beside {name}", 0))
        return None

    read = first("cached_tokens", "cache_read_input_tokens", "cachedContentTokenCount")
    read = first("prompt_cache_hit_tokens") if read is None else read  # DeepSeek
    written = first("cache_write_tokens", "cache_creation_input_tokens")
    asked = first("prompt_tokens", "promptTokenCount", "prompt_eval_count")
    if asked is None and (asked := first("input_tokens")) is not None:
        # Anthropic alone leaves these two out of it.
        asked += first("cache_read_input_tokens") or 0
        asked += first("cache_creation_input_tokens") or 0
    reasoning = first("reasoning_tokens", "thinking_tokens", "thoughtsTokenCount")
    said = first("completion_tokens", "output_tokens", "eval_count")
    total = first("total_tokens")
    if said is not None and asked is not None and total is not None:
        # xAI, and Gemini behind OpenAI's API, leave reasoning out of all but the sum.
        said = max(said, total - asked)
    elif asked is None and said is None:
        asked = total  # rerankers and some embeddings
    if said is None and (complete or "candidatesTokenCount" in figures):
        said = _sum(first("candidatesTokenCount"), first("thoughtsTokenCount"))
    if asked is not None:
        asked += first("toolUsePromptTokenCount") or 0
    cost = figures.get("cost")
    return Usage(asked, read, written, said, reasoning, cost, model)


def _sum(*numbers: int | None) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _spoken(value: Any, name: str = "") -> int:
    """Return the bytes of all texts in a document that a model said."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace")) if name in _SPOKEN else 0
    if isinstance(value, list):
        return sum(_spoken(item, name) for item in value)
    if not isinstance(value, dict):
        return 0
    kind = str(value.get("type"))
    if kind.startswith("response.") and not kind.endswith(".delta"):
        return 0  # says again what came before
    if isinstance(arguments := value.get("args"), dict):  # Gemini's calls
        return len(json.dumps(arguments))
    return sum(_spoken(v, k) for k, v in value.items() if k != "reasoning_details")
