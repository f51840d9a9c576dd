"""The exchanges of a wire capture, put together from its lines, and what was said in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_OPEN = 1000
"""Exchanges without an end that are kept in mind."""

_LATEST = 1e11  # seconds; what is no time of any clock is not calculated with
_ENDS = frozenset({"outbound_response", "stream_end"})


@dataclass
class Transcript:
    """What was captured of one exchange.

    :param events: the first of each direction
    :param streamed: texts of the chunks of a stream
    """

    request_id: str
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    streamed: list[str] = field(default_factory=list)

    def add(self, event: dict[str, Any]) -> None:
        direction = event["direction"]
        self.events.setdefault(direction, event)
        if direction in ("stream_chunk", "stream_end") and isinstance(event.get("payload"), str):
            self.streamed.append(event["payload"])

    def first(self, *directions: str) -> dict[str, Any]:
        return next((self.events[name] for name in directions if name in self.events), {})

    @property
    def request(self) -> dict[str, Any]:
        return self.first("inbound_request", "outbound_request")

    @property
    def response(self) -> dict[str, Any]:
        return self.first("stream_start", "inbound_response", "outbound_response")

    @property
    def end(self) -> dict[str, Any]:
        return self.first("stream_end", "outbound_response")

    def at(self, event: dict[str, Any]) -> float | None:
        moment = event.get("timestamp_unix")
        if not isinstance(moment, (int, float)) or not 0 <= moment < _LATEST:
            return None
        return float(moment)


def exchanges(lines: Iterable[str]) -> Iterator[Transcript]:
    """Yield the exchanges of a capture in the order in which they ended, unfinished ones last."""
    unfinished: dict[str, Transcript] = {}
    for line in lines:
        event = _event(line)
        if event is None:
            continue
        key = str(event.get("request_id"))
        transcript = unfinished.setdefault(key, Transcript(key))
        transcript.add(event)
        if event["direction"] in _ENDS:
            yield unfinished.pop(key)
        elif len(unfinished) > MAX_OPEN:
            yield unfinished.pop(next(iter(unfinished)))
    yield from unfinished.values()


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None  # a line cut off by a crash
    return event if isinstance(event, dict) and isinstance(event.get("direction"), str) else None


def metadata(event: dict[str, Any]) -> dict[str, Any]:
    """Return what an event says of itself."""
    about = event.get("metadata")
    return about if isinstance(about, dict) else {}


def timings(transcript: Transcript) -> tuple[float, float, float]:
    """Return milliseconds until the request was sent, the answer began, and it ended."""
    asked, ended = transcript.request, transcript.end
    sent = transcript.first("outbound_request") or asked
    answered = transcript.first("stream_start", "inbound_response") or ended
    stages = [transcript.at(event) for event in (asked, sent, answered, ended)]
    last = next((moment for moment in stages if moment is not None), 0.0)
    marks = [last := last if moment is None else moment for moment in stages]
    send, wait, receive = (max(0.0, (b - a) * 1000) for a, b in zip(marks, marks[1:], strict=False))
    return send, wait, receive


def streamed_text(stream: str) -> str:
    """Return the text of a stream of server-sent events, or of lines of JSON, joined."""
    texts: list[str] = []
    lines = stream.lstrip().startswith("{")
    for event in stream.split("\n") if lines else re.split(r"\r?\n\r?\n", stream):
        data = event if lines else "\n".join(
            line[5:].removeprefix(" ") for line in event.splitlines() if line.startswith("data:")
        )
        try:
            texts.append(text_of(json.loads(data)) if data else "")
        except (ValueError, RecursionError):
            texts.append("" if data == "[DONE]" else data)
    return "".join(texts)


def messages(payload: Any) -> list[tuple[str, str]]:
    """Return roles and texts of a request or a whole response of any of the three APIs."""
    if isinstance(payload, str):
        return [("body", payload)]
    if not isinstance(payload, dict):
        return [("body", json.dumps(payload))] if payload is not None else []
    parts = [("system", payload[n]) for n in ("system", "instructions") if payload.get(n)]
    listed = payload.get("messages") or payload.get("contents") or payload.get("input")
    if isinstance(listed, str):
        listed = [{"role": "user", "content": listed}]
    for message in listed if isinstance(listed, list) else []:
        if isinstance(message, dict):
            parts.append((str(message.get("role") or message.get("type") or "user"), message))
    spoken = [(role, text_of(content)) for role, content in parts]
    if not spoken:
        text = text_of(payload)
        spoken = [("body", text or json.dumps(payload, ensure_ascii=False))]
    return [(role, text) for role, text in spoken if text]


def text_of(content: Any) -> str:
    """Return the text in a message, wherever its API keeps it."""
    try:
        return _text_of(content)
    except RecursionError:
        return "[nested too deeply]"


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text_of(part) for part in content)
    if not isinstance(content, dict):
        return ""
    kind = content.get("type")
    if isinstance(kind, str) and kind.endswith(".done"):
        return ""
    for name in ("text", "thinking", "content", "parts", "delta", "message", "candidates",
                 "choices", "output", "content_block", "error"):  # fmt: skip
        if content.get(name):
            return _text_of(content[name])
    if isinstance(content.get("response"), str):
        return str(content["response"])
    if kind in ("image", "image_url", "input_image") or "inlineData" in content:
        return "[image]"
    call = content.get("function") or content.get("functionCall") or content.get("input")
    return json.dumps(call, ensure_ascii=False) if call else str(content.get("partial_json") or "")
