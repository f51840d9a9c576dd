"""Forms in which a secret may stand in text, and a search for what is left of any of them.

The search shares no code with the package: it undoes encodings where the package compares, and
finds fragments of 15 characters or more, so that a secret that is masked in part is found, too.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

Form = Callable[[str], str]

_GRAM = 8
_ROUNDS = 4
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ESCAPE = re.compile(r"""(?:\\u[0-9A-Fa-f]{4})+|\\x[0-9A-Fa-f]{2}|\\[\\"'/]""")


def percent_all(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def lower_hex(text: str) -> str:
    return "".join(f"%{b:02x}" if chr(b) not in "abcXYZ019" else chr(b) for b in text.encode())


def json_text(text: str) -> str:
    return json.dumps(text)[1:-1]


def json_u(text: str) -> str:
    units = text.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2))


def base64_of(text: str, encode: Callable[[bytes], bytes] = base64.b64encode) -> str:
    return encode(text.encode()).decode()


FORMS: dict[str, Form] = {
    "plain": lambda s: s,
    "quoted": lambda s: quote(s, safe=""),
    "quoted, slashes kept": quote,
    "quote_plus": quote_plus,
    "quoted in lower case": lower_hex,
    "every byte quoted": percent_all,
    "quoted twice": lambda s: quote(quote(s, safe=""), safe=""),
    "json": json_text,
    "json, not ascii": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "json with \\/": lambda s: json_text(s).replace("/", "\\/"),
    "json, all \\u": json_u,
    "json in json": lambda s: json_text(json.dumps(s)[1:-1]),
    "quoted in json": lambda s: json_text(quote(s, safe="")),
    "json quoted": lambda s: quote(json_text(s), safe=""),
    "repr": lambda s: repr(s)[1:-1],
    "repr of bytes": lambda s: repr(s.encode())[2:-1],
    "latin-1 of utf-8": lambda s: s.encode().decode("latin-1"),
    "html": html.escape,
    "base64": base64_of,
    "base64, no padding": lambda s: base64_of(s).rstrip("="),
    "base64 url": lambda s: base64_of(s, base64.urlsafe_b64encode),
    "base64 of :key": lambda s: base64_of(f":{s}"),
    "base64 of u:key": lambda s: base64_of(f"u:{s}"),
    "base64 of me:key": lambda s: base64_of(f"me:{s}"),
    "base64 of user:key:more": lambda s: base64_of(f"user:{s}:more"),
    "base64 url of user:key": lambda s: base64_of(f"user:{s}", base64.urlsafe_b64encode),
    "base64 quoted": lambda s: quote(base64_of(f"user:{s}"), safe=""),
}

RESPELLED: dict[str, Form] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "title case": str.title,
    "upper case, as in an environ": lambda s: s.upper().replace("-", "_"),
}
"""Only long secrets are looked for in these."""

LONG_FORMS = FORMS | RESPELLED


class Hunt:
    """Looks for secrets in what was written.

    :param secrets: without recognisable prefixes, which may stay; by the name to report
    """

    def __init__(self, secrets: dict[str, str]) -> None:
        self._grams: dict[str, str] = {}
        self._short: dict[str, str] = {}
        for name, secret in secrets.items():
            for text in _needles(secret):
                if len(text) < 2 * _GRAM - 1:
                    self._short[text] = name
                for start in range(len(text) - _GRAM + 1):
                    self._grams[text[start : start + _GRAM]] = name

    def search(self, text: str) -> set[str]:
        """Return the names of the secrets that are in the text, and what is there of them."""
        found: set[str] = set()
        for level in _undone(text):
            blocks = (level[i : i + _GRAM] for i in range(0, len(level), _GRAM))
            hits = {(self._grams[block], block) for block in blocks if block in self._grams}
            hits |= {(name, short) for short, name in self._short.items() if short in level}
            found |= {f"{name}: …{hit}…" for name, hit in hits}
        return found


def _needles(secret: str) -> Iterator[str]:
    yield secret.lower()
    data = secret.encode()
    for alignment, foreign in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * alignment + data).decode()
        middle = encoded[foreign : (alignment + len(data)) * 8 // 6].lower()
        yield from (middle, middle.replace("+", "-").replace("/", "_"))


def _undone(text: str) -> Iterator[str]:
    """Yield the text in lower case with more and more of its encodings undone."""
    for _ in range(_ROUNDS):
        yield text.lower()
        before = text
        text = html.unescape(_ESCAPE.sub(_unescaped, _PERCENT.sub(_unquoted, text)))
        if text == before:
            return


def _unquoted(match: re.Match[str]) -> str:
    return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "replace")


def _unescaped(match: re.Match[str]) -> str:
    escape = match[0]
    if escape[1] == "u":
        units = bytes.fromhex(escape.replace("\\u", ""))
        return units.decode("utf-16-be", "replace")
    return chr(int(escape[2:], 16)) if escape[1] == "x" else escape[1]
