"""What a request asks: the words of its last message, and the tool it wants called."""

from __future__ import annotations

from typing import Any

from .formats import Json

_EXAMPLES: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}


def asked_text(messages: list[Any]) -> str:
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


def chosen_tool(body: Json, messages: list[Any]) -> tuple[str, Json] | None:
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


def example_arguments(schema: Json, depth: int = 0) -> Json:
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
        return example_arguments(schema, depth + 1)
    if kind == "array":
        return []
    return _EXAMPLES.get(kind, name)
