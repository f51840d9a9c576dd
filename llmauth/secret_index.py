"""Finding any number of forms of secrets in a text, quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .secret_forms import Form
from .secret_shapes import Span

MAX_CANDIDATES = 200_000
"""Comparisons for one text (or its length, if more). Only a text built for it needs more."""

_SLICE = 64 * 1024  # characters whose blocks are in memory at a time: a multiple of all their sizes


class TooCostly(Exception):
    """The text was made to be expensive to search."""


_T = TypeVar("_T")
_Table = dict[str, tuple[tuple[Form, int], ...]]


class FormIndex:
    """Finds any number of forms in a time that depends on the text alone.

    A form of at least ``2 * gram - 1`` characters covers, wherever it stands, one whole block of
    the text at a multiple of `gram`. So only those blocks are looked up, among the first `gram`
    substrings of each form. Not locked: `add` and `discard` are the owner's to serialise, and a
    reader sees each form either whole or not at all.
    """

    def __init__(self) -> None:
        self._tables: tuple[tuple[int, _Table], ...] = ((8, {}), (4, {}))
        self._tiny: dict[Form, None] = {}
        self._heads: dict[str, tuple[Form, ...]] = {}
        self._longest = 0

    def add(self, form: Form) -> None:
        self._longest = max(self._longest, len(form.text))
        for size in (1, 2, 3):
            head = form.text[:size]
            if len(head) == size:
                self._heads[head] = (*self._heads.get(head, ()), form)
        for gram, table in self._tables:
            if len(form.text) >= 2 * gram - 1:
                for offset in range(gram):
                    block = form.text[offset : offset + gram]
                    table[block] = (*table.get(block, ()), (form, offset))
                return
        self._tiny = {**self._tiny, form: None}

    def discard(self, form: Form) -> None:
        for size in (1, 2, 3):
            _remove(self._heads, form.text[:size], lambda entry: entry == form)
        for gram, table in self._tables:
            if len(form.text) >= 2 * gram - 1:
                for offset in range(gram):
                    block = form.text[offset : offset + gram]
                    _remove(table, block, lambda entry: entry[0] == form)
                return
        self._tiny = {known: None for known in self._tiny if known != form}

    def find(self, text: str) -> set[Span]:
        """Return the spans of all forms in the text.

        :raises TooCostly: for a text that was made to be
        """
        spans: set[Span] = set()
        for gram, table in self._tables:
            if table and _may_hold(text, gram, table):
                spans |= _confirmed(text, gram, table)
        for form in self._tiny:
            start = text.find(form.text)
            while start >= 0:
                if span := form.span(text, start):
                    spans.add(span)
                start = text.find(form.text, start + 1)
        return spans

    def unfinished(self, text: str) -> int:
        """Return where a form begins that more text could complete, else the text's length."""
        heads = self._heads
        first = max(0, len(text) - self._longest)
        found = [text[start : start + 3] for start in range(first, len(text))]
        if not any(map(heads.__contains__, found)):
            return len(text)
        for start, head in enumerate(found, first):
            for form in heads.get(head, ()):
                tail = len(text) - start
                if tail < len(form.text) + form.bounded and form.text.startswith(text[start:]):
                    return start
        return len(text)


def _remove(table: dict[str, tuple[_T, ...]], key: str, is_it: Callable[[_T], bool]) -> None:
    left = tuple(entry for entry in table.get(key, ()) if not is_it(entry))
    if left:
        table[key] = left
    else:
        table.pop(key, None)


def _may_hold(text: str, gram: int, table: _Table) -> bool:
    for begin in range(0, len(text), _SLICE):
        blocks = range(begin, min(begin + _SLICE, len(text)), gram)
        if any(map(table.__contains__, [text[i : i + gram] for i in blocks])):
            return True
    return False


def _confirmed(text: str, gram: int, table: _Table) -> set[Span]:
    spans: set[Span] = set()
    candidates = 0
    for block in range(0, len(text) - gram + 1, gram):
        entries = table.get(text[block : block + gram], ())
        candidates += len(entries)
        if candidates > max(MAX_CANDIDATES, len(text)):
            raise TooCostly
        for form, offset in entries:
            start = block - offset
            if start >= 0 and text.startswith(form.text, start):
                span = form.span(text, start)
                if span:
                    spans.add(span)
    return spans
