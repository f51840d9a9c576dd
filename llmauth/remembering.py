"""Answers that are remembered, within bounds that no client can move."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


def remembered(
    number: int, longest: int
) -> Callable[[Callable[[str], _Answer]], Callable[[str], _Answer]]:
    """Have a function of a text remember its answers, the latest ones.

    :param number: of answers
    :param longest: characters of a text that is remembered: clients choose how long theirs are
    """

    def decorate(function: Callable[[str], _Answer]) -> Callable[[str], _Answer]:
        known = functools.lru_cache(number)(function)

        @functools.wraps(function)
        def answer(text: str) -> _Answer:
            return known(text) if len(text) <= longest else function(text)

        return answer

    return decorate
