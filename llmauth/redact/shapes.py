"""What keys look like: the shapes by which an unknown secret is recognised in text.

Every shape begins with a *stem*, a few fixed characters. Whether a text holds any stem is one
cheap check; only where one stands is a pattern tried. That takes a bounded time for each stem:
where a value ends is looked for once, however many stems are in it, and whether it counts is told
by its first `SAMPLE` characters. So the time for a text is in proportion to its length.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import NamedTuple

from . import stored_key

MASK = "****"

SAMPLE = 256
"""Characters of a value that tell whether it is a secret; what is longer is taken for one."""

Span = tuple[int, int, str]
"""Start, end, and what takes the place of what is between."""

_BODY = r"[A-Za-z0-9_-]"
_ALPHANUMERIC = r"[A-Za-z0-9]{20,}"
_KEYS = {
    "AIza": rf"{_BODY}{{30,}}",
    "AKIA": r"[0-9A-Z]{16,}(?![a-z])",
    "ASIA": r"[0-9A-Z]{16,}(?![a-z])",
    "github_pat_": r"[A-Za-z0-9_]{20,}",
    "glpat-": rf"{_BODY}{{20,}}",
    "llmauth_": rf"[0-9A-Za-z]{{{stored_key.RANDOM + stored_key.CHECKSUM}}}",
    "nvapi-": rf"{_BODY}{{20,}}",
    **dict.fromkeys(("gsk_", "xai-", "hf_", "pplx-", "r8_"), _ALPHANUMERIC),
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), _ALPHANUMERIC),
}
"""What keys begin with, and what follows; but for those with ``sk-``, which are of many kinds."""

_KEY_PREFIX = re.compile(
    r"sk-(?:ant-(?:[a-z]{2,8}\d\d-)?|or-v\d-|proj-|svcacct-|admin-|None-)?|" + "|".join(_KEYS)
)
_EDGE = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt]))"

# Names and values: `api_key="…"`, `"api_key": "…"`, `('x-api-key', '…')`, `api_key%3D…`, JSON in
# JSON with its backslashes. A quoted value ends at its quote, a bare one at any delimiter.
_GAP = r"""(?:\\{0,4}["'])?\s{0,4}"""
_SEPARATOR = (
    rf"{_GAP}(?P<sep>[:=]|%3[AaDd]|(?<=[\"']),)\s{{0,4}}"
    r"""(?:[bru]?\\{0,4}(?P<quote>["']))?"""
)
_SCHEME = r"(?:(?P<scheme>bearer|basic|token|apikey|negotiate)(?:\s|%20|\+){1,4})?"
_QUOTED = re.compile(r"""[^"'\\\r\n]*""")
_BARE = re.compile(r"""[^\s"'\\,;&<>(){}\[\]|`]*""")
# Where the name alone says little, a value is not read beyond the `=` of another name.
_WEAK = re.compile(r"""[^\s"'\\,;&<>(){}\[\]|`=]*""")
_BEARER = re.compile(r"[\w.~+/*-]*")
_BASIC = re.compile(r"[\w+/-]*")
_PADDING = 2  # at most so many `=` end base64
_IDENTIFIER = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")

_NOT_VALUES = frozenset({
    "none", "null", "nil", "true", "false", "str", "string", "bytes", "int", "any", "optional",
    "required", "undefined",
})
_STRONG_TOKENS = ("access", "refresh", "id", "auth", "session", "security", "api", "bot", "hub")


class Run:
    """Where runs of some characters end; each is read once, however often one asks.

    :param characters: matches any number of them
    """

    def __init__(self, text: str, characters: re.Pattern[str]) -> None:
        self._text = text
        self._match = characters.match
        self._begin, self._end = 0, -1

    def end(self, at: int) -> int:
        """Return where the run ends that goes on at a position; the position if none does."""
        if at < self._begin and self._reach(at, self._begin) == self._begin:
            self._begin = at
        elif not self._begin <= at <= self._end:
            self._begin, self._end = at, self._reach(at, len(self._text))
        return self._end

    def _reach(self, at: int, limit: int) -> int:
        match = self._match(self._text, at, limit)
        return match.end() if match else at


class Value(NamedTuple):
    """What may be a secret.

    :param head: what stands before it, from the stem on
    :param start: its position
    :param end: position after it
    """

    head: re.Match[str]
    start: int
    end: int

    @property
    def beginning(self) -> str:
        """Its first characters, at most `SAMPLE`."""
        return self.head.string[self.start : min(self.end, self.start + SAMPLE)]

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def before(self) -> str:
        """The character before the stem, if there is one."""
        start = self.head.start()
        return self.head.string[max(0, start - 1) : start]

    @property
    def after(self) -> str:
        """The character after the value, if there is one."""
        return self.head.string[self.end : self.end + 1]

    @property
    def is_masked(self) -> bool:
        return self.head.string.endswith(MASK, self.start, self.end)

    @property
    def has_digit(self) -> bool:
        return any(c.isdigit() for c in self.beginning)


class Shape(NamedTuple):
    """One way in which a secret shows.

    :param stem: in lower case; what the text must hold
    :param pattern: matched at the stem, in a bounded time where it does not match. Its group
        ``secret`` is masked; if it has none, the characters that follow it
    :param characters: of the value that follows the pattern
    :param least: how many of them there must be
    :param accept: the last word on a value
    """

    stem: str
    pattern: re.Pattern[str]
    characters: re.Pattern[str] | None = None
    least: int = 1
    accept: Callable[[Value], bool] = lambda value: True


def mask(secret: str) -> str:
    """Return what takes its place: the recognisable prefix, if there is one, and the mask."""
    prefix = _KEY_PREFIX.match(secret)
    if prefix is None or len(secret) - prefix.end() < 8:
        return MASK
    return prefix.group() + MASK


def find_shapes(text: str) -> list[Span]:
    """Return the spans of everything in the text that has the shape of a secret."""
    lowered = _lower(text)
    spans: list[Span] = []
    for stem in _stems_in(lowered):
        spans += _matches(text, lowered, stem)
    return spans


def _stems_in(lowered: str) -> list[str]:
    # Looking for each stem is twice as fast as one pattern of all of them, and most texts lack
    # what many of them have in common.
    present = [
        stem for part, stems in _BY_PART if part in lowered for stem in stems if stem in lowered
    ]
    return present if len(present) < 2 else sorted(present, key=_ORDER.__getitem__)


def _matches(text: str, lowered: str, stem: str) -> list[Span]:
    spans: list[Span] = []
    for shape in _STEMS[stem]:
        values = {c: Run(text, c) for c in (shape.characters, _QUOTED) if c}
        at = lowered.find(stem)
        while at >= 0:
            match = shape.pattern.match(text, at)
            value = _value(shape, match, values) if match else None
            if value and shape.accept(value):
                spans.append((value.start, value.end, mask(text[value.start : value.end])))
                at = lowered.find(stem, value.end)
            else:
                at = lowered.find(stem, at + 1)
    return spans


def _value(
    shape: Shape, match: re.Match[str], values: dict[re.Pattern[str], Run]
) -> Value | None:
    if shape.characters is None:
        return Value(match, *match.span("secret"))
    text, start = match.string, match.end()
    quoted = "quote" in match.re.groupindex and match["quote"]
    end = values[_QUOTED if quoted else shape.characters].end(start)
    if end - start < shape.least:
        return None
    if not quoted:
        padding = text[end : end + _PADDING]
        end += len(padding) - len(padding.lstrip("="))
    return Value(match, start, end)


def broken_off(text: str) -> int:
    """Return where the secret begins in which a text may break off; its length if none is seen.

    Only those that are not long enough yet to be found by their shape.
    """
    begin = max(0, len(text) - SAMPLE)
    lowered = _lower(text[begin:])
    word = max((m.end() for m in _DELIMITER.finditer(lowered)), default=0)
    stems = [at for stem in _PREFIXES if (at := lowered.find(stem, word)) >= 0]
    if stems:
        return begin + min(stems)
    return begin + word if lowered[:word].rstrip().endswith(("bearer", "basic")) else len(text)


def _lower(text: str) -> str:
    # U+0130 is the one character whose lower case is longer than itself; positions must agree.
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text.replace("\u0130", "I").lower()


def _bearer(value: Value) -> bool:
    if value.is_masked:
        return False
    return value.length >= 20 or (value.length >= 4 and value.has_digit)


def _basic(value: Value) -> bool:
    """Tell `Basic dTpw` from "Basic authentication": credentials are base64 with a colon in it."""
    if value.length > SAMPLE:
        return not value.is_masked
    secret = value.beginning.rstrip("=")
    try:
        decoded = base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_")
    except (binascii.Error, ValueError):
        return False
    return b":" in decoded


def _named(value: Value) -> bool:
    """Tell a value from code and prose: `key=len)`, `password: str`, `api_key=settings.key`."""
    name, sep, quoted = value.head.group("name", "sep", "quote")
    word = value.beginning.rstrip(".!?:").lower()
    if value.is_masked or (sep == "," and not quoted):
        return False
    if value.length > SAMPLE:
        return True
    if word in _NOT_VALUES:
        return False
    if value.before in ("?", "&") or quoted:
        return True
    if value.beginning.startswith(("$", "{", "<", "os.", "self.", "=", ":")):
        return False
    header = "-" in name and sep == ":"
    if header:
        return True
    identifier = _IDENTIFIER.fullmatch(word) is not None
    if sep == ":":
        return not identifier or value.length >= 20
    after = value.after
    if "." in word or word.endswith(name.lower()):
        return not (identifier and after in tuple("()[]},"))
    return not (identifier and after in tuple("()[]}") or after == "(")


def _token(value: Value) -> bool:
    start = value.head.start()
    before = value.head.string[max(0, start - 10) : start].lower().rstrip("-_")
    return _named(value) if before.endswith(_STRONG_TOKENS) else _weak(value)


def _weak(value: Value) -> bool:
    """`key=…` and `token=…` are credentials in a query, or when the value looks like one."""
    before = value.before
    if value.head["sep"] in (":", ",") or before.isalnum() or before in tuple("_-."):
        return False
    if before in ("?", "&") or not value.head.start():
        return _named(value) and value.beginning.lower() not in ("len", "lambda", "value", "str")
    looks_random = value.length > SAMPLE or (
        value.length >= 8 and value.has_digit and not set(".(") & set(value.beginning)
    )
    return looks_random and _named(value)


def _authorization(value: Value) -> bool:
    quoted, scheme = value.head.group("quote", "scheme")
    if value.is_masked or (value.head["sep"] == "," and not quoted):
        return False
    return bool(quoted or scheme or value.length > SAMPLE or not value.beginning.isalpha())


def _prefixed(stem: str, secret: str) -> Shape:
    return Shape(stem, re.compile(rf"{_EDGE}(?P<secret>{secret})"))


def _named_shape(
    stem: str,
    name: str,
    accept: Callable[[Value], bool],
    *,
    scheme: str = "",
    characters: re.Pattern[str] = _BARE,
) -> Shape:
    pattern = re.compile(rf"(?i)(?P<name>{name}){_SEPARATOR}{scheme}")
    return Shape(stem, pattern, characters, 1, accept)


SHAPES: tuple[Shape, ...] = (
    _prefixed("sk-", rf"sk-(?:ant|or-v\d|proj|svcacct|admin|None)-{_BODY}{{8,}}"),
    _prefixed("sk-", rf"sk-(?={_BODY}{{0,200}}\d)(?:[A-Za-z0-9]{{20}}|(?={_BODY}{{0,200}}[A-Z])"
                     rf"{_BODY}{{20}}){_BODY}*"),
    *(_prefixed(prefix.lower(), prefix + rest) for prefix, rest in _KEYS.items()),
    *(
        Shape(stem, re.compile(f"(?P<secret>{form})"))
        for stem, form in stored_key.FORMS.items()
    ),
    Shape(
        "bearer", re.compile(rf"{_EDGE}(?i:bearer)(?:\s|%20|\+){{1,4}}"), _BEARER, 3, _bearer
    ),
    Shape("basic", re.compile(rf"{_EDGE}(?i:basic)(?:\s|%20|\+){{1,4}}"), _BASIC, 4, _basic),
    _named_shape("authorization", "authorization", _authorization, scheme=_SCHEME),
    *(_named_shape(stem, stem, _named) for stem in ("api-key", "api_key", "apikey")),
    *(_named_shape(stem, stem, _named) for stem in ("access_key", "access-key", "accesskey")),
    _named_shape("secret", r"secret(?:[-_]?(?:access[-_]?)?key)?", _named),
    _named_shape("passw", r"passw(?:or)?d", _named),
    _named_shape("pwd", "pwd", _named),
    _named_shape("token", "token", _token, characters=_WEAK),
    _named_shape("key=", r"(?<![A-Za-z0-9_.-])key", _weak, characters=_WEAK),
    _named_shape("key%3d", r"(?<![A-Za-z0-9_.-])key", _weak, characters=_WEAK),
    Shape(
        "cookie",
        re.compile(
            rf"(?i)cookie{_GAP}:\s{{0,4}}(?:\\{{0,4}}[\"'])?"
            r"""(?P<secret>[^\s=;,"']{1,256}=[^\s;,"'\\]*"""
            r"""(?:; ?[^\s=;,"']{1,256}=[^\s;,"'\\]*)*)"""
        ),
    ),
    # No slash is in what is read after one, so nothing is read twice.
    Shape(
        "//",
        re.compile(
            r"""//(?:[^\s/:@"'<>\\]{1,64}(?P<user>:)(?=[^\s/"'<>\\@]))?"""
            r"""(?P<secret>[^\s/"'<>\\]+)@(?=[\w\[.%*-])"""
        ),
        accept=lambda value: bool(
            value.head["user"] or ":" in value.beginning or value.length >= 16
        ),
    ),
)

_DELIMITER = re.compile(r"""[\s"'\\,;<>&]""")
_PREFIXES = ("sk-", *map(str.lower, _KEYS))
_STEMS = {shape.stem: tuple(s for s in SHAPES if s.stem == shape.stem) for shape in SHAPES}
_ORDER = {stem: number for number, stem in enumerate(_STEMS)}
_PARTS = ("key", "gh", "_", "-", "")
_BY_PART = [
    (part, tuple(s for s in _STEMS if next(p for p in _PARTS if p in s) == part)) for part in _PARTS
]
