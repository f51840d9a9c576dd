"""What keys look like: the shapes by which an unknown secret is recognised in text.

Every shape begins with a *stem*, a few fixed characters. Whether a text holds any stem is one
cheap check; only where one stands is a pattern tried. All patterns run in linear time.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

MASK = "****"

MAX_SHAPE = 4096
"""Characters of an unfinished secret of unknown value that a stream waits for."""

Span = tuple[int, int, str]
"""Start, end, and the text to show instead."""

_KEY_PREFIX = re.compile(
    r"sk-(?:ant-(?:[a-z]{2,8}\d\d-)?|or-v\d-|proj-|svcacct-|admin-|None-)?"
    r"|AIza|gsk_|xai-|hf_|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|nvapi-|pplx-|r8_"
)

_BODY = r"[A-Za-z0-9_-]"
_EDGE = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt]))"

# Names and values: `api_key="…"`, `"api_key": "…"`, `('x-api-key', '…')`, `api_key%3D…`, JSON in
# JSON with its backslashes. A quoted value ends at its quote, a bare one at any delimiter.
_GAP = r"""(?:\\{0,4}["'])?\s{0,4}"""
_SEPARATOR = (
    rf"{_GAP}(?P<sep>[:=]|%3[AaDd]|(?<=[\"']),)\s{{0,4}}"
    r"""(?:[bru]?\\{0,4}(?P<quote>["']))?"""
)
_VALUE = r"""(?P<secret>(?(quote)[^"'\\\r\n]{1,4096}|[^\s"'\\,;&<>(){}\[\]|`]{1,4096}))"""
# Where the name alone says little, most values are refused: they must not be long to read.
_WEAK_VALUE = _VALUE.replace("|`]{1,4096}))", "|`=]{1,4096}={0,2}))")
_SCHEME = r"(?:(?P<scheme>bearer|basic|token|apikey|negotiate)(?:\s|%20|\+){1,4})?"
_OPEN_VALUE = (
    r"""[\w-]{0,24}(?:[\\"'\s:=,%+]|3[AaDd]?|2(?:0|\Z)){0,24}(?:(?i:bearer|basic|token)\s{1,4})?"""
    r"""(?:(?<=["'])[^"'\\\r\n]{0,4096}|[^\s"'\\,;&]{0,4096})\Z"""
)

_NOT_VALUES = frozenset({
    "none", "null", "nil", "true", "false", "str", "string", "bytes", "int", "any", "optional",
    "required", "undefined",
})
_STRONG_TOKENS = ("access", "refresh", "id", "auth", "session", "security", "api", "bot", "hub")


class Shape(NamedTuple):
    """One way in which a secret shows.

    :param stem: in lower case; what the text must hold
    :param pattern: matched at the stem; its group ``secret`` is masked
    :param unfinished: matched at the stem when the secret could go on after the end of the text
    :param accept: the last word on a match
    """

    stem: str
    pattern: re.Pattern[str]
    unfinished: re.Pattern[str]
    accept: Callable[[re.Match[str]], bool] = lambda match: True


def mask(secret: str) -> str:
    """Return what is shown instead: the recognisable prefix, if there is one, and the mask."""
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
    found = [
        stem for part, stems in _BY_PART if part in lowered for stem in stems if stem in lowered
    ]
    return found if len(found) < 2 else sorted(found, key=_ORDER.__getitem__)


def _matches(text: str, lowered: str, stem: str) -> list[Span]:
    spans: list[Span] = []
    for shape in _STEMS[stem]:
        at = lowered.find(shape.stem)
        while at >= 0:
            match = shape.pattern.match(text, at)
            found = match is not None and shape.accept(match)
            if match is not None and found:
                spans.append((*match.span("secret"), mask(match.group("secret"))))
            after = match.end() if match is not None and found else at + 1
            at = lowered.find(shape.stem, after)
    return spans


def unfinished_shape(text: str) -> int:
    """Return where a shape begins that more text could complete; the text's length if none does."""
    window = max(0, len(text) - MAX_SHAPE)
    lowered = _lower(text)
    earliest = len(text)
    for shape in [shape for stem in _stems_in(lowered) for shape in _STEMS[stem]]:
        for at in _occurrences(lowered, shape.stem, window, earliest):
            if shape.unfinished.match(text, at):
                earliest = at
                break
    for length in range(min(_LONGEST_STEM, len(text)), 0, -1):
        if lowered[-length:] in _STEM_BEGINNINGS:
            earliest = min(earliest, len(text) - length)
            break
    # The word before the stem belongs to it: `access_` in `access_token`.
    while 0 < earliest < len(text) and (text[earliest - 1].isalnum() or text[earliest - 1] in "_-"):
        earliest -= 1
        if len(text) - earliest > 2 * MAX_SHAPE:
            break
    return earliest


def _occurrences(text: str, stem: str, start: int, end: int) -> Iterator[int]:
    at = text.find(stem, start, end)
    while at >= 0:
        yield at
        at = text.find(stem, at + 1, end)


def _lower(text: str) -> str:
    # U+0130 is the one character whose lower case is longer than itself; positions must agree.
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text.replace("\u0130", "I").lower()


def _bearer(match: re.Match[str]) -> bool:
    secret = match.group("secret")
    if secret.endswith(MASK):
        return False
    return len(secret) >= 20 or (len(secret) >= 4 and any(c.isdigit() for c in secret))


def _basic(match: re.Match[str]) -> bool:
    """Tell `Basic dTpw` from "Basic authentication": credentials are base64 with a colon in it."""
    secret = match.group("secret").rstrip("=")
    try:
        decoded = base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_")
    except (binascii.Error, ValueError):
        return False
    return b":" in decoded


def _named(match: re.Match[str]) -> bool:
    """Tell a value from code and prose: `key=len)`, `password: str`, `api_key=settings.key`."""
    secret, sep, quoted = match.group("secret"), match.group("sep"), match.group("quote")
    text, end = match.string, match.end()
    word = secret.rstrip(".!?:").lower()
    if secret.endswith(MASK) or (sep == "," and not quoted) or word in _NOT_VALUES:
        return False
    if text[: match.start()].endswith(("?", "&")) or quoted:
        return True
    if secret.startswith(("$", "{", "<", "os.", "self.", "=", ":")):
        return False
    header = "-" in match.group("name") and sep == ":"
    if header:
        return True
    identifier = re.fullmatch(r"[a-z_]+(?:\.[a-z_]+)*", word) is not None
    if sep == ":":
        return not identifier or len(secret) >= 20
    after = text[end : end + 1]
    if "." in word or word.endswith(match.group("name").lower()):
        return not (identifier and after in tuple("()[]},"))
    return not (identifier and after in tuple("()[]}") or after == "(")


def _token(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 10) : match.start()].lower().rstrip("-_")
    return _named(match) if before.endswith(_STRONG_TOKENS) else _weak(match)


def _weak(match: re.Match[str]) -> bool:
    """`key=…` and `token=…` are credentials in a query, or when the value looks like one."""
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    secret = match.group("secret")
    if match.group("sep") in (":", ",") or before.isalnum() or before in tuple("_-."):
        return False
    if before in ("?", "&") or not match.start():
        return _named(match) and secret.lower() not in ("len", "lambda", "value", "str")
    looks_random = len(secret) >= 8 and any(c.isdigit() for c in secret)
    return looks_random and re.search(r"[.(]", secret) is None and _named(match)


def _authorization(match: re.Match[str]) -> bool:
    secret = match.group("secret")
    if secret.endswith(MASK) or (match.group("sep") == "," and not match.group("quote")):
        return False
    return bool(match.group("quote") or match.group("scheme") or not secret.isalpha())


def _prefixed(stem: str, secret: str) -> Shape:
    return Shape(
        stem,
        re.compile(rf"{_EDGE}(?P<secret>{secret})"),
        re.compile(rf"{_EDGE}(?i:{re.escape(stem)}){_BODY}{{0,4200}}\Z"),
    )


def _named_shape(
    stem: str,
    name: str,
    accept: Callable[[re.Match[str]], bool],
    *,
    scheme: str = "",
    value: str = _VALUE,
) -> Shape:
    return Shape(
        stem,
        re.compile(rf"(?i)(?P<name>{name}){_SEPARATOR}{scheme}{value}"),
        re.compile(rf"(?i:{re.escape(stem)}){_OPEN_VALUE}"),
        accept,
    )


SHAPES: tuple[Shape, ...] = (
    _prefixed("sk-", rf"sk-(?:ant|or-v\d|proj|svcacct|admin|None)-{_BODY}{{8,}}"),
    _prefixed("sk-", rf"sk-(?={_BODY}{{0,200}}\d)(?:[A-Za-z0-9]{{20}}|(?={_BODY}{{0,200}}[A-Z])"
                     rf"{_BODY}{{20}}){_BODY}*"),
    _prefixed("aiza", rf"AIza{_BODY}{{30,}}"),
    _prefixed("gsk_", r"gsk_[A-Za-z0-9]{20,}"),
    _prefixed("xai-", r"xai-[A-Za-z0-9]{20,}"),
    _prefixed("hf_", r"hf_[A-Za-z0-9]{20,}"),
    _prefixed("akia", r"AKIA[0-9A-Z]{16,}(?![a-z])"),
    _prefixed("asia", r"ASIA[0-9A-Z]{16,}(?![a-z])"),
    *(_prefixed(f"gh{c}_", rf"gh{c}_[A-Za-z0-9]{{20,}}") for c in "pousr"),
    _prefixed("github_pat_", r"github_pat_[A-Za-z0-9_]{20,}"),
    _prefixed("glpat-", rf"glpat-{_BODY}{{20,}}"),
    _prefixed("nvapi-", rf"nvapi-{_BODY}{{20,}}"),
    _prefixed("pplx-", r"pplx-[A-Za-z0-9]{20,}"),
    _prefixed("r8_", r"r8_[A-Za-z0-9]{20,}"),
    Shape(
        "bearer",
        re.compile(rf"{_EDGE}(?i:bearer)(?:\s|%20|\+){{1,4}}(?P<secret>[\w.~+/*-]{{3,}}=*)"),
        re.compile(r"(?i:bearer)(?:\s|%20?|\+){0,4}[\w.~+/=*-]{0,4200}\Z"),
        _bearer,
    ),
    Shape(
        "basic",
        re.compile(rf"{_EDGE}(?i:basic)(?:\s|%20|\+){{1,4}}(?P<secret>[\w+/-]{{4,}}=*)"),
        re.compile(r"(?i:basic)(?:\s|%20?|\+){0,4}[\w+/=-]{0,4200}\Z"),
        _basic,
    ),
    _named_shape("authorization", "authorization", _authorization, scheme=_SCHEME),
    *(_named_shape(stem, stem, _named) for stem in ("api-key", "api_key", "apikey")),
    *(_named_shape(stem, stem, _named) for stem in ("access_key", "access-key", "accesskey")),
    _named_shape("secret", r"secret(?:[-_]?(?:access[-_]?)?key)?", _named),
    _named_shape("passw", r"passw(?:or)?d", _named),
    _named_shape("pwd", "pwd", _named),
    _named_shape("token", "token", _token, value=_WEAK_VALUE),
    _named_shape("key=", r"(?<![A-Za-z0-9_.-])key", _weak, value=_WEAK_VALUE),
    _named_shape("key%3d", r"(?<![A-Za-z0-9_.-])key", _weak, value=_WEAK_VALUE),
    Shape(
        "cookie",
        re.compile(
            rf"(?i)cookie{_GAP}:\s{{0,4}}(?:\\{{0,4}}[\"'])?"
            r"""(?P<secret>[^\s=;,"']{1,256}=[^\s;,"'\\]{0,4096}"""
            r"""(?:; ?[^\s=;,"']{1,256}=[^\s;,"'\\]{0,4096})*)"""
        ),
        re.compile(rf"(?i:cookie){_GAP}:?[^\r\n\"'\\]{{0,4200}}\Z"),
    ),
    Shape(
        "//",
        re.compile(r"""//(?:[^\s/:@"'<>\\]{1,64}:(?=[^\s/"'<>\\@]))?"""
                   r"""(?P<secret>[^\s/"'<>\\]{1,2048})@(?=[\w\[.%*-])"""),
        re.compile(r"""//[^\s/"'<>\\]{0,2048}\Z"""),
        lambda match: ":" in match.group() or len(match.group("secret")) >= 16,
    ),
)

_LONGEST_STEM = max(len(shape.stem) for shape in SHAPES)
_STEM_BEGINNINGS = frozenset(s.stem[:n] for s in SHAPES for n in range(1, len(s.stem) + 1))
_STEMS = {shape.stem: tuple(s for s in SHAPES if s.stem == shape.stem) for shape in SHAPES}
_ORDER = {stem: number for number, stem in enumerate(_STEMS)}
_PARTS = ("key", "gh", "_", "-", "")
_BY_PART = [
    (part, tuple(s for s in _STEMS if next(p for p in _PARTS if p in s) == part)) for part in _PARTS
]
