"""How the echo backend replies: whole, with an error, or as the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from ..exceptions import error_body
from .question import Json


@dataclass(frozen=True)
class EchoReply:
    """An answer; a stream has no ``Content-Length`` and its chunks come slowly."""

    status: int
    headers: list[tuple[str, str]]
    chunks: Iterator[bytes]


def json_reply(value: Json) -> EchoReply:
    return _whole(200, json.dumps(value).encode())


def error_reply(status: int, message: str, type: str, google: str) -> EchoReply:
    return _whole(status, error_body(message, type=type, status=google, code=type))


def not_found(message: str) -> EchoReply:
    return error_reply(404, message, "not_found_error", "NOT_FOUND")


def stream_reply(chunks: Iterator[bytes], kind: str = "text/event-stream") -> EchoReply:
    return EchoReply(200, [("Content-Type", kind)], chunks)


def data_events(events: Iterator[Json], end: str = "\n\n") -> Iterator[bytes]:
    """Yield server-sent events that have no names, as OpenAI's and Google's."""
    for event in events:
        yield f"data: {json.dumps(event)}{end}".encode()


def named_events(events: Iterator[Json]) -> Iterator[bytes]:
    """Yield server-sent events that are named by their type."""
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _whole(status: int, body: bytes) -> EchoReply:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return EchoReply(status, headers, iter([body]))
