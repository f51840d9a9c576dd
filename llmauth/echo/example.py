"""A value that fits a JSON schema, or one of Google's: what a structured answer consists of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any, TypeGuard
from urllib.parse import unquote

Json = dict[str, Any]

MAX_DEPTH = 40
"""Values within each other; what may be left out is, from there on."""

MAX_VALUES = 500
"""Values in all, after which only those are made that must be there."""

MAX_ATTEMPTS = 4000
"""Values in all, those included that came to nothing."""

MAX_LENGTH = 10_000
"""Characters of a string, or items of a list, that a schema may ask for."""

_FORMATS = {
    "date-time": "2026-01-01T00:00:{:02}Z",
    "date": "2026-01-{:02}",
    "time": "00:00:{:02}Z",
    "duration": "PT{}S",
    "email": "name{}@example.com",
    "idn-email": "name{}@example.com",
    "hostname": "host{}.example.com",
    "idn-hostname": "host{}.example.com",
    "ipv4": "192.0.2.{}",
    "ipv6": "2001:db8::{}",
    "uri": "https://example.com/{}",
    "uri-reference": "https://example.com/{}",
    "iri": "https://example.com/{}",
    "uuid": "{:08}-0000-4000-8000-000000000000",
    "uuid4": "{:08}-0000-4000-8000-000000000000",
    "json-pointer": "/{}",
    "regex": "a{{{}}}",
    "byte": "ZWNob{:03}",
    "json-string": "{}",
    "ipv4network": "192.0.2.{}/32",
    "ipvanyaddress": "192.0.2.{}",
}


class NoneFitsError(Exception):
    """There is no such value, or it would be too large or have no end."""


def example(schema: Any, name: str) -> Any:
    """Return a value that fits a schema.

    Strings say where they stand, numbers are small, lists are short; what may be left out is there.

    :param name: what a string says that stands in no property
    :raises NoneFitsError: saying why
    """
    return _Examples(schema).of(schema, name)


class _Examples:
    """Values that fit the parts of one schema.

    :param root: where references begin
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._made = 0
        self._depth = 0
        self._within: list[str] = []

    def of(self, schema: Any, name: str, number: int = 0) -> Any:
        """Return a value.

        :param name: of the property
        :param number: different values for different ones, as far as there are some
        """
        if schema is False:
            raise NoneFitsError("it excludes everything")
        self._made += 1
        if self._made > MAX_ATTEMPTS or self._depth > 2 * MAX_DEPTH:
            raise NoneFitsError("it is too large")
        within = len(self._within)
        self._depth += 1
        try:
            return self._of(self._merged(schema), name, number)
        finally:
            self._depth -= 1
            del self._within[within:]

    @property
    def _sparing(self) -> bool:
        """True where only what must be there is made."""
        repeated = len(set(self._within)) < len(self._within)
        return repeated or self._depth > MAX_DEPTH or self._made > MAX_VALUES

    def _of(self, schema: Json, name: str, number: int) -> Any:
        if "const" in schema:
            return schema["const"]
        if choices := _list(schema, "anyOf") or _list(schema, "oneOf"):
            return self._chosen(schema, choices, name, number)
        if "enum" in schema:
            values = _list(schema, "enum")
            if not values:
                raise NoneFitsError("it is one of no values")
            return values[number % len(values)]
        kinds = _kinds(schema)
        if self._sparing and "null" in kinds:
            return None
        make: dict[str, Callable[[Json, str, int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "integer": _integer,
            "number": _number,
            "boolean": lambda *_: number % 2 == 0,
            "null": lambda *_: None,
        }
        return make[kinds[0]](schema, name, number)

    def _chosen(self, schema: Json, choices: list[Any], name: str, number: int) -> Any:
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        # What says something first; where little is to be made, null, which leads no deeper.
        choices = sorted(choices, key=lambda one: one in ({}, True))
        if self._sparing:
            choices = sorted(choices, key=lambda one: not (one and _kinds(one) == ["null"]))
        reason = NoneFitsError("it has no alternative that fits")
        for choice in choices:
            within = len(self._within)
            try:
                return self.of({"allOf": [rest, choice]}, name, number)
            except NoneFitsError as exc:
                reason = exc
                del self._within[within:]
        raise reason

    def _object(self, schema: Json, name: str, number: int) -> Json:
        properties = _dict(schema.get("properties"))
        required = [one for one in _list(schema, "required") if isinstance(one, str)]
        others = schema.get("additionalProperties", True)
        most = _size(schema, "maxProperties", len(properties)) - len(required)
        made: Json = {}
        for key in [*properties, *(one for one in required if one not in properties)]:
            if key not in required and (self._sparing or most <= 0):
                continue
            try:
                made[key] = self.of(properties.get(key, others), key, number)
                most -= key not in required
            except NoneFitsError:
                if key in required:
                    raise
        for at in range(_size(schema, "minProperties") - len(made)):
            made[f"{name}{at}"] = self.of(others, name, at)
        return made

    def _array(self, schema: Json, name: str, number: int) -> list[Any]:
        first = _list(schema, "prefixItems") or _list(schema, "items")
        others = schema.get("items", True)
        if isinstance(others, list):
            others = schema.get("additionalItems", True)
        if wanted := schema.get("contains"):
            first = [*first, *[wanted] * max(1, _size(schema, "minContains", 1))]
        count = max(_size(schema, "minItems"), len(first) if "contains" in schema else 0)
        if not self._sparing:
            count = max(count, len(first))
        count = min(count, _size(schema, "maxItems", count))
        each = [*first[:count], *[others] * (count - len(first))]
        return [self.of(one, name, number + at) for at, one in enumerate(each)]

    def _merged(self, schema: Any) -> Json:
        """Return a schema without references, and with what all of its parts ask for."""
        merged: Json = {}
        for part in self._parts(schema):
            for key, value in part.items():
                _merge(merged, key, value)
        return merged

    def _parts(self, schema: Any) -> Iterator[Json]:
        if not isinstance(schema, dict):
            return
        reference = schema.get("$ref", schema.get("ref"))
        if isinstance(reference, str):
            if self._within.count(reference) > 1 or len(self._within) > 2 * MAX_DEPTH:
                raise NoneFitsError(f"{reference[:100]} has no end")
            self._within.append(reference)
            yield from self._parts(self._found(reference))
        for part in _list(schema, "allOf"):
            if part is False:
                raise NoneFitsError("it excludes everything")
            yield from self._parts(part)
        yield {key: value for key, value in schema.items() if key not in ("$ref", "ref", "allOf")}

    def _found(self, reference: str) -> Any:
        """Return what a JSON pointer points to (RFC 6901)."""
        found: Any = self._root
        for part in unquote(reference).removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise NoneFitsError(f"there is no {reference[:100]}")
        return found


def _merge(merged: Json, key: str, value: Any) -> None:
    old = merged.get(key)
    if key == "required" and isinstance(old, list) and isinstance(value, list):
        merged[key] = [*old, *value]
    elif key == "properties" and isinstance(old, dict) and isinstance(value, dict):
        both = {name: {"allOf": [old[name], value[name]]} for name in old if name in value}
        merged[key] = old | value | both
    elif key in ("anyOf", "oneOf") and isinstance(old, list) and isinstance(value, list):
        pairs = islice(product(old, value), MAX_VALUES)
        merged[key] = [{"allOf": list(pair)} for pair in pairs]
    elif key.startswith(("min", "exclusiveMin")) and _is_number(old) and _is_number(value):
        merged[key] = max(old, value)
    elif key.startswith(("max", "exclusiveMax")) and _is_number(old) and _is_number(value):
        merged[key] = min(old, value)
    else:
        merged[key] = value


_KINDS = ("object", "array", "string", "integer", "number", "boolean", "null")
_TOLD_BY = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "contains"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _kinds(schema: Any) -> list[str]:
    """Return the types that a schema allows, null last."""
    given = _dict(schema).get("type")
    named = [str(one).lower() for one in (given if isinstance(given, list) else [given])]
    kinds = [one for one in named if one in _KINDS]
    if not kinds:
        told = (kind for kind, keys in _TOLD_BY.items() if any(key in schema for key in keys))
        kinds = [next(told, "string")]
    if _dict(schema).get("nullable") is True:
        kinds.append("null")
    return sorted(kinds, key=lambda kind: kind == "null")


def _string(schema: Json, name: str, number: int) -> str:
    form = _FORMATS.get(str(schema.get("format", "")).lower())
    text = form.format(1 + number % 28) if form else f"{name}{number or ''}"
    text += "." * (_size(schema, "minLength") - len(text))
    most = _size(schema, "maxLength", len(text))
    return text[max(0, len(text) - most) :]  # the end tells one from the others


def _integer(schema: Json, name: str, number: int) -> int:
    low, high = _lowest(schema), _highest(schema)
    given = schema.get("multipleOf")
    step = int(given) if _is_number(given) and given >= 1 and given == int(given) else 1
    first = min(1, high if high is not None else 1) if low is None else low
    value = (math.ceil(first / step) + number) * step
    if high is not None and value > high:
        value = high // step * step
    if low is not None and value < low:
        raise NoneFitsError("it leaves no number")
    return value


def _number(schema: Json, name: str, number: int) -> float:
    step = schema.get("multipleOf")
    if _is_number(step) and 0 < step != int(step):
        times = _integer({key: schema[key] / step for key in _LIMITS if key in schema}, "", number)
        return float(step * times)
    if not any(key in schema for key in (*_LIMITS, "multipleOf")):
        return 1.5 + number
    try:
        return _integer(schema, name, number)
    except NoneFitsError:
        lows = [schema[key] for key in _LIMITS[:2] if _is_number(schema.get(key))]
        highs = [schema[key] for key in _LIMITS[2:] if _is_number(schema.get(key))]
        if not lows or not highs or max(lows) > min(highs):
            raise
        return float(max(lows) + (min(highs) - max(lows)) / (2 + number))


_LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def _lowest(schema: Json) -> int | None:
    """Return the least integer that the limits allow; a limit is excluded by a word in draft 4."""
    least, over = schema.get("minimum"), schema.get("exclusiveMinimum")
    found = [math.floor(over) + 1] if _is_number(over) else []
    if _is_number(least):
        found.append(math.floor(least) + 1 if over is True else math.ceil(least))
    return max(found, default=None)


def _highest(schema: Json) -> int | None:
    most, under = schema.get("maximum"), schema.get("exclusiveMaximum")
    found = [math.ceil(under) - 1] if _is_number(under) else []
    if _is_number(most):
        found.append(math.ceil(most) - 1 if under is True else math.floor(most))
    return min(found, default=None)


def _size(schema: Json, name: str, default: int = 0) -> int:
    """Return a limit of a length; Google writes it as a string."""
    value = schema.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if not _is_number(value) or value < 0:
        return default
    if name.startswith("min") and value > MAX_LENGTH:
        raise NoneFitsError("it is too large")
    return int(min(value, MAX_LENGTH))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list(schema: Any, name: str) -> list[Any]:
    value = _dict(schema).get(name)
    return value if isinstance(value, list) else []


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
