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
_BREAK = re.compile(r"(?:\\[rn]|[\r\n\0])[ \t]*")
_LISTED = re.compile(r"(?:(?:0x)?[0-9a-fA-F]{1,3}(?:[: ]|,\s*)){6,}[0-9a-fA-Fx]{1,4}")
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



def wrapped(text: str, end: str = "\n", width: int = 76) -> str:
    return end.join(text[at : at + width] for at in range(0, len(text), width))


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le")


ENCODED: dict[str, Form] = {
    "hex": lambda s: s.encode().hex(),
    "hex in capitals": lambda s: s.encode().hex().upper(),
    "hex in a longer one": lambda s: f"user:{s}!".encode().hex(),
    "hex with colons": lambda s: s.encode().hex(":"),
    "hex with spaces, in capitals": lambda s: s.encode().hex(" ").upper(),
    "base64 of utf-16": lambda s: base64.b64encode(utf16(s)).decode(),
    "powershell, key=": lambda s: base64.b64encode(utf16(f"$k='{s}'; run")).decode(),
    "powershell, a key=": lambda s: base64.b64encode(utf16(f"$ke='{s}'; run")).decode(),
    "powershell, the key=": lambda s: base64.b64encode(utf16(f"$key='{s}'; run")).decode(),
    "base64 of utf-16, big endian": lambda s: base64.b64encode(s.encode("utf-16-be")).decode(),
    "base64 at 76": lambda s: wrapped(base64_of(f"{'x' * 40}{s}{'y' * 40}")),
    "base64 at 76, \\r\\n": lambda s: wrapped(base64_of(f"{'x' * 40}{s}{'y' * 40}"), "\r\n"),
    "base64 at 76, json": lambda s: json_text(wrapped(base64_of(f"{'x' * 40}{s}"), "\r\n")),
    "base64 of utf-16 at 20": lambda s: wrapped(base64.b64encode(utf16(s)).decode(), width=20),
    "broken in two": lambda s: f"{s[:5]}\n{s[5:]}",
    "broken every 6": lambda s: wrapped(s, "\r\n", 6),
    "wrapped by a terminal": lambda s: wrapped(s, "\n    ", 9),
    "broken, json": lambda s: json_text(wrapped(s, "\n", 9)),
    "broken, quoted": lambda s: quote(wrapped(s, "\n", 9), safe=""),
    "codes": lambda s: str(list(s.encode())),
    "codes, compact": lambda s: json.dumps(list(s.encode()), separators=(",", ":")),
    "codes, one a line": lambda s: json.dumps(list(s.encode()), indent=4),
    "codes of characters": lambda s: str([ord(c) for c in s]),
    "codes in hex": lambda s: ", ".join(f"0x{byte:02x}" for byte in s.encode()),
    "codes in hex, compact": lambda s: ",".join(f"0x{byte:02X}" for byte in s.encode()),
    "codes of utf-16": lambda s: str(list(utf16(s))),
    "utf-16": lambda s: utf16(s).decode("latin-1"),
    "utf-16, big endian": lambda s: s.encode("utf-16-be").decode("latin-1"),
    "utf-16, json": lambda s: json_text(utf16(s).decode("latin-1")),
    "utf-16, repr": lambda s: repr(utf16(s))[2:-1],
}
"""What programs make of what they are given, for secrets long enough to be told from it."""

LONG_FORMS = FORMS | RESPELLED | ENCODED


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
    yield secret.encode().hex()
    yield from _base64_needles(utf16(secret).rstrip(b"\0"))
    yield from _base64_needles(secret.encode())


def _base64_needles(data: bytes) -> Iterator[str]:
    for alignment, foreign in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * alignment + data).decode()
        middle = encoded[foreign : (alignment + len(data)) * 8 // 6].lower()
        yield from (middle, middle.replace("+", "-").replace("/", "_"))


def _undone(text: str) -> Iterator[str]:
    """Yield the text in lower case with more and more of its encodings undone."""
    for _ in range(_ROUNDS):
        yield text.lower()
        yield _BREAK.sub("", text).lower()
        yield _LISTED.sub(_uncoded, text).lower()
        before = text
        text = html.unescape(_ESCAPE.sub(_unescaped, _PERCENT.sub(_unquoted, text)))
        if text == before:
            return


def _uncoded(match: re.Match[str]) -> str:
    listed = match[0].lower()
    codes = re.findall(r"[0-9a-f]{2,3}" if "x" in listed or "," not in listed else r"\d+", listed)
    base = 10 if "," in listed and "x" not in listed else 16
    return "".join(chr(int(code, base)) for code in codes if int(code, base))


def _unquoted(match: re.Match[str]) -> str:
    return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "replace")


def _unescaped(match: re.Match[str]) -> str:
    escape = match[0]
    if escape[1] == "u":
        units = bytes.fromhex(escape.replace("\\u", ""))
        return units.decode("utf-16-be", "replace")
    return chr(int(escape[2:], 16)) if escape[1] == "x" else escape[1]
