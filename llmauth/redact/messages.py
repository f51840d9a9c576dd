"""Keys where they do not belong: what a message may repeat of a setting's value.

A key that was pasted into the wrong setting is known to nobody as a key, and those of ``llmauth
keygen`` have no shape but that of chance. In our own messages, unlike in logs and conversations,
nothing else looks like that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from .redactor import Redactor
from .shapes import MASK
from .uris import masked_uri

# Shorter words may be anything, and the host of a URL is often made by chance. A slash belongs to
# base64; in a path each name is a word.
_WORD = re.compile(
    r"(?P<host>://[^\s/?#'\"]*)|(?<![\w/.~+=-])\w[\w/+=-]{15,}|[\w+=-]{16,}", re.ASCII
)


def hidden(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a message without keys: those given, those of a known shape, and what only chance
    would have written.
    """
    return _WORD.sub(_unless_by_chance, masked_uri(Redactor(secrets).text(text)))


def _unless_by_chance(word: re.Match[str]) -> str:
    if word["host"]:
        return word.group()
    letters = [c for c in word.group() if c.isalnum()]
    # Capitals, small letters and digits take turns as nobody writes them; "A" before "b" is usual.
    turns = sum(_kind(a) != _kind(b) for a, b in pairwise(letters) if _kind(a) + _kind(b) != "Aa")
    return MASK if turns * 5 > len(letters) else word.group()


def _kind(character: str) -> str:
    return "1" if character.isdigit() else "A" if character.isupper() else "a"
