"""What a request to the echo backend asks, and what the echo says to it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

Json = dict[str, Any]

MODELS = ("echo-1", "echo-1-mini")

MAX_DEPTH = 100
"""Lists and objects within each other, as deep as any client's; more would exhaust the stack."""

_EXAMPLES: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}
_TOO_DEEP = f"The request body has over {MAX_DEPTH} lists or objects within each other."


class BadRequestError(Exception):
    """What is wrong with the request."""


@dataclass(frozen=True)
class Question:
    """A request.

    :param path: without its version
    :param header: returns a header's value by its lower-case name
    :param beta: the version was that of a beta
    """

    method: str
    path: str
    query: str
    header: Callable[[str], str | None]
    body: bytes
    beta: bool

    def json(self) -> Json:
        """Return the body.

        :raises BadRequestError: it is no JSON object, or nested too deeply
        """
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


def nonempty_list(body: Json, name: str) -> list[Any]:
    """Return a list in the body.

    :raises BadRequestError: it is not there, or has no entries
    """
    value = body.get(name)
    if not isinstance(value, list) or not value:
        raise BadRequestError(f"'{name}' must be a list with at least one entry.")
    return value


@dataclass(frozen=True)
class Answer:
    """What the echo says, before a provider's format is put around it.

    :param id: hexadecimal, the stem of every identifier in the reply
    :param model: as the client named it
    :param asked: tokens of the question; a word counts as one
    :param text: the echo; not sent when a tool is called
    :param tool: the tool to call instead
    :param arguments: for the tool
    """

    id: str
    model: str
    asked: int
    text: str
    tool: str | None = None
    arguments: Json = field(default_factory=dict)

    @property
    def pieces(self) -> list[str]:
        """What is streamed: words with the space that follows them, or JSON of the arguments."""
        spoken = json.dumps(self.arguments) if self.tool else self.text
        return re.findall(r"\S+\s*", spoken)

    @property
    def said(self) -> int:
        return len(self.pieces)


def answer_to(body: Json, messages: list[Any], model: str | None = None) -> Answer:
    """Return the echo of the last message, or a call of the first tool.

    :param model: of the path, where the body names none
    """
    text = _asked_text(messages)
    tool = _chosen_tool(body, messages)
    return Answer(
        id=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24],
        model=model or str(body.get("model") or MODELS[0]),
        asked=len(text.split()),
        text=f"echo: {text}",
        tool=tool[0] if tool else None,
        arguments=_example_arguments(tool[1]) if tool else {},
    )


def embedding(text: str) -> list[float]:
    """Return a vector that depends on the text alone."""
    return [round(byte / 127.5 - 1, 6) for byte in hashlib.shake_256(text.encode()).digest(16)]


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


def _asked_text(messages: list[Any]) -> str:
    """Return the text of the last message of the user or of a tool."""
    for message in reversed(messages):
        if isinstance(message, str):
            return message
        if isinstance(message, dict) and message.get("role") not in (
            "assistant",
            "model",
            "system",
        ):
            return _text(message)
    return ""


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return " ".join(filter(None, map(_text, part)))
    if not isinstance(part, dict):
        return ""
    kind = str(part.get("type", ""))
    if "image" in kind or "inlineData" in part or "inline_data" in part or "fileData" in part:
        return "[image]"
    for name in ("content", "parts", "text", "output", "functionResponse", "response", "result"):
        if name in part:
            return _text(part[name])
    return ""


def _chosen_tool(body: Json, messages: list[Any]) -> tuple[str, Json] | None:
    """Return the first tool's name and JSON schema, if the user's message is to call one."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    last = messages[-1] if messages else None
    if not isinstance(tools, list) or not tools or choice == "none":
        return None
    if not isinstance(last, dict) or last.get("role", "") != "user" or _is_tool_result(last):
        return None
    first = tools[0] if isinstance(tools[0], dict) else {}
    declared = first.get("functionDeclarations") or first.get("function_declarations")
    function = declared[0] if isinstance(declared, list) and declared else first
    function = function.get("function", function) if isinstance(function, dict) else {}
    if not isinstance(function, dict) or "name" not in function:
        return None
    names = ("parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema")
    schema: Json = next((function[n] for n in names if isinstance(function.get(n), dict)), {})
    return str(function["name"]), schema


def _is_tool_result(message: Json) -> bool:
    parts = message.get("content") or message.get("parts")
    return isinstance(parts, list) and any(
        isinstance(part, dict) and (part.get("type") == "tool_result" or "functionResponse" in part)
        for part in parts
    )


def _example_arguments(schema: Json, depth: int = 0) -> Json:
    """Return arguments that fit a JSON schema, in a simple way."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or depth > 4:
        return {}
    return {name: _example(name, one, depth) for name, one in properties.items()}


def _example(name: str, schema: Any, depth: int) -> Any:
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = str(schema.get("type", "string")).lower()
    if kind == "object":
        return _example_arguments(schema, depth + 1)
    if kind == "array":
        return []
    return _EXAMPLES.get(kind, name)
