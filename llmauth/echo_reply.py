"""What the echo backend is asked and how it replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .echo_formats import Json
from .exceptions import error_body


@dataclass(frozen=True)
class EchoReply:
    """An answer; a stream has no ``Content-Length`` and its chunks come slowly."""

    status: int
    headers: list[tuple[str, str]]
    chunks: Iterable[bytes]


class BadRequestError(Exception):
    """What is wrong with the request."""


@dataclass(frozen=True)
class Question:
    method: str
    path: str
    query: str
    header: Callable[[str], str | None]
    body: bytes
    beta: bool

    def json(self) -> Json:
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise BadRequestError("The request body is not JSON.") from None
        if not isinstance(value, dict):
            raise BadRequestError("The request body is not a JSON object.")
        return value


def json_reply(value: Json) -> EchoReply:
    return _whole(200, json.dumps(value).encode())


def error_reply(status: int, message: str, type: str, google: str) -> EchoReply:
    return _whole(status, error_body(message, type=type, status=google, code=type))


def _whole(status: int, body: bytes) -> EchoReply:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return EchoReply(status, headers, [body])


def listed(body: Json, name: str) -> list[Any]:
    value = body.get(name)
    if isinstance(value, (str, dict)) and name == "contents":
        value = [{"role": "user", "parts": [value if isinstance(value, dict) else {"text": value}]}]
    if not isinstance(value, list) or not value:
        raise BadRequestError(f"'{name}' must be a list with at least one entry.")
    return value
