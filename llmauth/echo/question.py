"""What a request to the echo backend asks, and what the echo says to it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .example import NoneFitsError, example

Json = dict[str, Any]

MODELS = ("echo-1", "echo-1-mini")

MAX_DEPTH = 100
"""Lists and objects within each other, as deep as any client's; more would exhaust the stack."""

ANY_OBJECT: Json = {"type": "object"}
"""The schema of an answer that is to be some JSON object."""

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


def answer_to(
    body: Json, messages: list[Any], model: str | None = None, *, schema: Any = None
) -> Answer:
    """Return the echo of the last message, or a call of a tool.

    :param model: of the path, where the body names none
    :param schema: of the JSON that the client wants for a text
    :raises BadRequestError: nothing fits the schema
    """
    text = _asked_text(messages)
    tool = _chosen_tool(body, messages)
    return Answer(
        id=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24],
        model=model or str(body.get("model") or MODELS[0]),
        asked=len(text.split()),
        text=f"echo: {text}" if schema is None or tool else json.dumps(_value(schema, text)),
        tool=tool[0] if tool else None,
        arguments=_arguments(tool[1]) if tool else {},
    )


def schema_of(form: Any) -> Any:
    """Return the schema in an answer's format, as OpenAI and Anthropic write it; None for text."""
    form = form if isinstance(form, dict) else {}
    if form.get("type") == "json_object":
        return ANY_OBJECT
    if form.get("type") != "json_schema":
        return None
    inner = form.get("json_schema")
    return (inner if isinstance(inner, dict) else form).get("schema", ANY_OBJECT)


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
    """Return a tool's name and JSON schema, if the user's message is to call one.

    It is the one that the client names, else the first.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or last.get("role", "") != "user" or _is_tool_result(last):
        return None
    wanted, tools = _wanted_tools(body), list(_functions(body.get("tools")))
    function = next((one for one in tools if wanted is None or one["name"] in wanted), None)
    if function is None:
        return None
    names = ("parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema")
    schema: Json = next((function[n] for n in names if isinstance(function.get(n), dict)), {})
    return str(function["name"]), schema


def _functions(tools: Any) -> Iterator[Json]:
    for tool in tools if isinstance(tools, list) else []:
        tool = tool if isinstance(tool, dict) else {}
        declared = tool.get("functionDeclarations") or tool.get("function_declarations")
        for one in declared if isinstance(declared, list) else [tool.get("function", tool)]:
            if isinstance(one, dict) and "name" in one:
                yield one


def _wanted_tools(body: Json) -> list[Any] | None:
    """Return the names of the tools that may be called, None for any."""
    choice = body.get("tool_choice")
    config = body.get("toolConfig") or body.get("tool_config")
    if isinstance(config, dict):  # Google's
        choice = config.get("functionCallingConfig") or config.get("function_calling_config")
    choice = choice if isinstance(choice, dict) else {"type": choice}
    if choice.get("type") == "none" or choice.get("mode") in ("NONE", "none"):
        return []
    names = choice.get("allowedFunctionNames") or choice.get("allowed_function_names")
    if isinstance(names, list):
        return names
    function = choice.get("function", choice)
    return [function["name"]] if isinstance(function, dict) and "name" in function else None


def _is_tool_result(message: Json) -> bool:
    parts = message.get("content") or message.get("parts")
    return isinstance(parts, list) and any(
        isinstance(part, dict) and (part.get("type") == "tool_result" or "functionResponse" in part)
        for part in parts
    )


def _arguments(schema: Json) -> Json:
    arguments = _value(ANY_OBJECT | schema, "")
    return arguments if isinstance(arguments, dict) else {}


def _value(schema: Any, text: str) -> Any:
    if schema is ANY_OBJECT:
        return {"echo": text}
    try:
        return example(schema, "echo")
    except NoneFitsError as exc:
        raise BadRequestError(f"The echo has no value that fits the schema: {exc}.") from None
