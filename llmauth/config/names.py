"""Names that nobody knows, and the one that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], sure: str | None = None) -> str:
    """Return the question after the known name that was meant, or nothing.

    :param sure: what is asked after in any case
    """
    if meant := sure or near(name, known):
        return f" Did you mean '{meant}'?"
    return ""


def near(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that this one is nearest to: as a whole, or by its last part."""
    by_last = {candidate.rpartition(".")[2]: candidate for candidate in known}
    everything = {candidate: candidate for candidate in by_last.values()} | by_last
    for word in (name, name.rpartition(".")[2]):
        if close := difflib.get_close_matches(word, everything, 1):
            return everything[close[0]]
    return None
