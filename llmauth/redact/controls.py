"""What a terminal obeys, or does not show, as text that anybody can see: ``\\x1b`` for ESC.

One table for everything that people read: the log, `llmauth check`, the banner, messages,
`llmauth capture show` and the capture itself.
"""

from __future__ import annotations

import re

CONTROLS = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u2028\u2029"  # separators of lines, at which `str.splitlines` splits as well
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of text
    "\xad\u034f\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # no width
    "\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufff0-\ufff8"  # letters that are not seen
    "\u180b-\u180d\u180f\ufe00-\ufe0f"  # selectors of variants
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # tags among them
    "\ud800-\udfff"  # surrogates
)
"""Characters that are escaped, as a class of a regular expression.

Those of the categories Cc, Cs, Zl and Zp; those of Cf but for the signs of Arabic, Syriac, Kaithi
and Egyptian that are seen; and what Unicode calls ``Default_Ignorable_Code_Point``.
"""

_EMOJI = (
    "\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2934\u2935\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_ARABIC = "\u0620-\u064a\u066e-\u06d3\u06d5\u06fa-\u06ff\u0750-\u077f"
_VIRAMAS = (
    "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d3b\u0d3c\u0d4d\u0dca\u1039\u17d2\u1b44"
)
# Where a script cannot be written without one: alone, and after what it belongs to (RFC 5892, A.1,
# and Unicode's emoji sequences). Elsewhere it would hide something, or be there to do so.
_NEEDED = (
    f"[\n\t]"
    f"|(?<=[{_EMOJI}])\ufe0f|(?<=[#*0-9])\ufe0f(?=\u20e3)"
    f"|(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
    f"|(?<=[{_VIRAMAS}])[\u200c\u200d](?=\\w)"
    f"|(?<=[{_ARABIC}])\u200c(?=[{_ARABIC}])"
    f"|(?<=[\u1820-\u18aa])[\u180b-\u180d\u180f]"
)

_CONTROL = re.compile(f"[{CONTROLS}]")
_CONTROL_IN_PROSE = re.compile(f"({_NEEDED})|[{CONTROLS}]")


def visible(text: str) -> str:
    r"""Return the text on one line, ``\n`` as ``\\n``, with all that drives a terminal escaped."""
    plain = text.isascii() and text.isprintable()
    return text if plain else _CONTROL.sub(_escape, text)


def visible_prose(text: str) -> str:
    """Return the text with its lines, its tabs, and the joiners that emoji and scripts need."""
    plain = text.isascii() and text.isprintable()
    return text if plain else _CONTROL_IN_PROSE.sub(_escape_or_keep, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def _escape_or_keep(match: re.Match[str]) -> str:
    return match[1] or _escape(match)
