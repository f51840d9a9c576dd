"""What the echo backend is asked and how it replies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..exceptions import error_body
from .formats import Json


@dataclass(frozen=True)
class EchoReply:
    """An answer; a stream has no ``Content-Length`` and its chunks come slowly."""

    status: int
    headers: list[tuple[str, str]]
    chunks: Iterable[bytes]


MAX_DEPTH = 100
"""Lists and objects within each other, as deep as any client's; more would exhaust the stack."""


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
            value = json.loads(self.body, parse_constant=_refuse, parse_float=_finite)
        except RecursionError:
            raise BadRequestError(_TOO_DEEP) from None
        except ValueError:
            raise BadRequestError("The request body is not JSON.") from None
        if not isinstance(value, dict):
            raise BadRequestError("The request body is not a JSON object.")
        _check_depth(value)
        return value


_TOO_DEEP = f"The request body has over {MAX_DEPTH} lists or objects within each other."


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")  # RFC 8259 §6


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for found in inner for one in found if isinstance(one, (dict, list))]
        if not level:
            return
    raise BadRequestError(_TOO_DEEP)


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
