"""Streamed answers without secrets, also where a model says one a few characters at a time.

What a model repeats comes in pieces, a token in each event: the secret stands nowhere in the bytes,
but whoever joins the pieces reads it. So when the stream has ended, the texts that its events have
at the same place are joined, and secrets are masked in what that makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from ..redact.redactor import Redactor, masked_pieces
from ..redact.shapes import Span

MAX_EVENT = 4 * 1024**2
"""Characters of an event; a longer one is treated as plain text."""

_MAX_TEXTS = 64
_LINE = re.compile(r"\r\n|\n|\r")
_ENDS = {"lines": re.compile(r"\n"), "events": re.compile(r"\r\n\r\n|\n\n|\r\r")}
# What every event of a stream repeats; a model says nothing there.
_REPEATED = frozenset({
    "id", "object", "model", "type", "role", "finish_reason", "system_fingerprint", "service_tier",
    "created_at", "item_id", "modelVersion", "responseId", "obfuscation", "status",
})  # fmt: skip

_Texts = list[tuple[str, dict[str, Any], str]]
"""The texts of an event: their path, and where each of them is."""


def stream_without_secrets(
    redactor: Redactor, kind: str, text: str, cuts: Sequence[int] = (), *, broken: bool = False
) -> list[str]:
    """Mask the secrets in a stream that has ended, and return it in pieces.

    :param kind: ``events`` are separated by empty lines (server-sent events), ``lines`` are JSON
    :param cuts: where the pieces but the last one end; a secret is masked where it begins
    :param broken: the stream broke off, maybe in the middle of a secret
    """
    if spoken := _spoken_secrets(redactor, kind, text, broken):
        pieces = masked_pieces(text, spoken, cuts)
        text = "".join(pieces)
        cuts = list(accumulate(map(len, pieces[:-1])))
    return masked_pieces(text, redactor.spans(text, cut=broken), cuts)


def array_without_secrets(redactor: Redactor, events: list[Any]) -> Any:
    """Mask secrets in a stream that came as one JSON array, as Gemini's does without SSE."""
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (masked,) = stream_without_secrets(redactor, "lines", lines)
    try:
        return [json.loads(line) for line in masked.split("\n") if line]
    except ValueError:
        return redactor.mapping(events)


def _spoken_secrets(redactor: Redactor, kind: str, text: str, broken: bool) -> list[Span]:
    """Return the spans of events that hold a piece of a secret, and what takes their place."""
    ends = [0, *(match.end() for match in _ENDS[kind].finditer(text)), len(text)]
    events = list(pairwise(ends))
    spoken: dict[str, list[tuple[int, int, str]]] = {}
    for number, (start, end) in enumerate(events):
        for place, (path, holder, name) in enumerate(_parsed(text[start:end])[1]):
            if path in spoken or len(spoken) < _MAX_TEXTS:
                spoken.setdefault(path, []).append((number, place, holder[name]))
    changed: dict[int, dict[int, str]] = {}
    for said in spoken.values():
        whole = "".join([piece for _, _, piece in said])
        if not (spans := redactor.spans(whole, cut=broken)):
            continue
        cuts = accumulate(len(piece) for _, _, piece in said)
        for (number, place, piece), masked in zip(
            said, masked_pieces(whole, spans, cuts), strict=False
        ):
            if masked != piece:
                changed.setdefault(number, {})[place] = masked
    return [
        (start, end, _rewritten(text[start:end], changed[number]))
        for number, (start, end) in enumerate(events)
        if number in changed
    ]


def _parsed(event: str) -> tuple[Any, _Texts]:
    """Return an event's JSON, None if it has none, and its texts."""
    texts: _Texts = []
    if "{" not in event or len(event) > MAX_EVENT:
        return None, texts
    # Not str.splitlines, which splits at what JSON allows in a text, too.
    lines = _LINE.split(event) if "data:" in event else [event]
    data = [line[5:] for line in lines if line.startswith("data:")] or [event]
    try:
        document = json.loads("\n".join(data))
        if isinstance(document, (dict, list)):
            _find_texts(document, "", texts)
    except (ValueError, RecursionError):
        return None, []
    return document, texts


def _rewritten(event: str, replacements: dict[int, str]) -> str:
    """Return an event with other texts, by their number."""
    document, texts = _parsed(event)
    for place, text in replacements.items():
        _, holder, name = texts[place]
        holder[name] = text
    line = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    body = event.rstrip("\r\n")
    if "data:" in body:
        other = [one for one in _LINE.split(body) if not one.startswith("data:")]
        line = "\n".join([*other, f"data: {line}"])
    return line + event[len(body) :]


def _find_texts(value: Any, path: str, texts: _Texts) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str):
                if item and name not in _REPEATED:
                    texts.append((f"{path}.{name}", value, name))
            elif isinstance(item, (dict, list)):
                _find_texts(item, f"{path}.{name}", texts)
    else:
        for number, item in enumerate(value):
            if isinstance(item, (dict, list)):
                # Of several answers to one question each event may hold another one.
                place = item.get("index", number) if isinstance(item, dict) else number
                _find_texts(item, f"{path}.{place}", texts)
