"""Finding any number of forms of secrets in a text, quickly."""

from __future__ import annotations

import re
from typing import TypeVar

from .forms import Form
from .shapes import MASK, Run, Span

HEAD = 15
"""Characters of a form by which it is found."""

BEGINNING = 6
"""Characters of a form by which a text is known to break off in it; fewer are not shown either."""

CROWD = 16
"""Forms with one head that are compared; of more, all that follows the head is masked, too."""

_REST = re.compile(r"""[^\s"'\\,<>&]*""")
_T = TypeVar("_T")
_SLICE = 64 * 1024  # characters whose blocks are in memory at a time: a multiple of all their sizes


class FormIndex:
    """Finds any number of forms in a time that depends on the text alone.

    To add a form, or to discard it, costs the same whatever else is known. Not locked: these two
    are the owner's to serialise, and a reader sees each form either whole or not at all.
    """

    def __init__(self) -> None:
        self._tables = tuple(_Table(gram) for gram in (8, 4, 2, 1))
        self._begun: dict[str, dict[Form, int]] = {}
        self._longest = 0

    def add(self, form: Form) -> None:
        self._longest = max(self._longest, len(form.text))
        self._count(form, 1)

    def discard(self, form: Form) -> None:
        self._count(form, -1)

    def _count(self, form: Form, by: int) -> None:
        next(table for table in self._tables if len(form.text) >= table.least).count(form, by)
        _count_in(self._begun, form.text[:BEGINNING], form, by)

    def find(self, text: str) -> list[Span]:
        """Return the spans of all forms in the text, those that overlap as one."""
        rest = Run(text, _REST)
        return [span for table in self._tables if table.blocks for span in table.find(text, rest)]

    def begun(self, text: str) -> int:
        """Return where the form begins that a text breaks off in; its length if there is none.

        At least `BEGINNING` characters of it must be there.
        """
        for start in range(max(0, len(text) - self._longest), len(text) - BEGINNING + 1):
            known = self._begun.get(text[start : start + BEGINNING])
            if known is None:
                continue
            if len(known) > CROWD or any(form.text.startswith(text[start:]) for form in (*known,)):
                return start
        return len(text)


class _Table:
    """Forms of at least ``2 * gram - 1`` characters.

    The beginning of such a form covers, wherever it stands, one whole block of the text at a
    multiple of `gram`. So only those blocks are looked up, and the heads around known ones.
    """

    def __init__(self, gram: int) -> None:
        self.least = 2 * gram - 1
        self.blocks: dict[str, int] = {}
        self._gram = gram
        # The longest ones first; those with longer heads are in the table before.
        self._lengths = range(min(HEAD, 4 * gram - 2), self.least - 1, -1)
        self._heads: dict[str, dict[Form, int]] = {}

    def count(self, form: Form, by: int) -> None:
        """Count a form once more (1), or once less (-1)."""
        head = form.text[:HEAD]
        # A head that is known without its blocks is not found, and does no harm.
        _count_in(self._heads, head, form, by)
        for offset in range(self._gram):
            _count(self.blocks, head[offset : offset + self._gram], by)

    def find(self, text: str, rest: Run) -> list[Span]:
        gram, blocks = self._gram, self.blocks
        spans: list[Span] = []
        for begin in range(0, len(text), _SLICE):
            places = range(begin, min(begin + _SLICE, len(text)), gram)
            present = [text[at : at + gram] for at in places]
            if not blocks.keys().isdisjoint(present):
                for at, block in zip(places, present, strict=True):
                    if block in blocks:
                        self._compare(text, at, rest, spans)
        return spans

    def _compare(self, text: str, at: int, rest: Run, spans: list[Span]) -> None:
        """Add the spans of forms whose beginning covers a block."""
        for start in range(max(0, at - self._gram + 1), at + 1):
            for length in self._lengths:
                known = self._heads.get(text[start : start + length])
                if known and (span := _longest(text, start, length, known, rest)):
                    _append(spans, span)
                    break  # a shorter one ends before this one


def _longest(
    text: str, start: int, head: int, known: dict[Form, int], rest: Run
) -> Span | None:
    """Return the span of the longest of the forms with one head that is in the text at `start`."""
    if len(known) > CROWD:
        return start, rest.end(start + head), MASK
    longest = None
    for form in tuple(known):
        if text.startswith(form.text, start):
            span = form.span(text, start, rest)
            if span and (longest is None or span[1] > longest[1]):
                longest = span
    return longest


def _append(spans: list[Span], span: Span) -> None:
    if spans and span[0] < spans[-1][1]:
        start, end, replacement = spans[-1]
        spans[-1] = min(start, span[0]), max(end, span[1]), replacement
    else:
        spans.append(span)


def _count_in(counts: dict[str, dict[_T, int]], key: str, item: _T, by: int) -> None:
    _count(known := counts.setdefault(key, {}), item, by)
    if not known:
        del counts[key]


def _count(counts: dict[_T, int], key: _T, by: int) -> None:
    if left := counts.get(key, 0) + by:
        counts[key] = left
    else:
        del counts[key]
