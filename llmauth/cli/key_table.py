"""Stored keys as people read them: a table of all, and one in full."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import click

from ..accounts.keys import StoredKey
from ..accounts.terms import moment

WIDTH = 80
_STATES = {"active": "green", "paused": "yellow", "expired": "red", "revoked": "red"}
_LONGEST_NAME = 16  # that stands in its column
_BAR = 6
_NEARLY = 0.75  # of a limit, from which on its bar is yellow
_COUNTED = {
    "requests_per_minute": "requests/min", "tokens_per_minute": "tokens/min",
    "tokens_per_day": "tokens/day", "parallel": "at a time",
}  # fmt: skip
_LISTED = ("models", "backends", "from")
_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


class _Limit(NamedTuple):
    """One limit, and how much of it is used.

    :param share: of 1
    """

    text: str
    share: float


def counted(keys: Iterable[StoredKey]) -> str:
    """Return how many keys there are, and how many of them let nobody in."""
    states = Counter(key.state(time.time()) for key in keys)
    text = f"{states.total()} stored key{'' if states.total() == 1 else 's'}"
    others = [f"{states[one]} {one}" for one in ("paused", "expired", "revoked") if states[one]]
    return ", ".join([text, *others])


def table(records: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table: a line for each limit, and what was revoked at the end.

    :param records: of keys, as JSON has them
    """
    width = min(max(len(record["name"]) for record in records), _LONGEST_NAME) + 2
    width = max(width, 6)
    left = width + 9 + 9 + 12
    head = f"{'NAME':{width}}{'STATE':9}{'KEY':9}{'LAST USED':12}LIMITS"
    yield click.style(head, bold=True)
    for record in sorted(records, key=lambda one: one["state"] == "revoked"):
        name, state = record["name"], record["state"]
        if len(name) > width - 2:
            yield name
            name = ""
        start = f"{name:{width}}{click.style(state, fg=_STATES[state])}{' ' * (9 - len(state))}"
        start += f"{'...' + record['hint']:9}{_ago(record['last_used']):12}"
        lines = list(_lines(record, WIDTH - left))
        yield (start + lines[0] if lines else start).rstrip()
        yield from (" " * left + line for line in lines[1:])


def in_full(record: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that tell all of one key.

    :param record: as JSON has it
    """
    counted = {name: limit.text for name, limit in _limits(record)}
    rows = {
        "name": record["name"],
        "state": record["state"],
        "key": f"ends in {record['hint']}",
        "created": record["created"],
        "expires": record["expires"] or "never",
        "last used": record["last_used"] or "never",
        **{name.replace("_", " "): text for name, text in counted.items()},
        **{name: ", ".join(record[name]) for name in _LISTED},
        "admin": "yes" if record["admin"] else "",
        "note": record["note"],
    }
    for name, text in rows.items():
        first, *rest = _wrapped(text, WIDTH - 21) or [""]
        if first:
            style = _STATES.get(text) if name == "state" else None
            yield click.style(f"{name:21}", fg="cyan") + click.style(first, fg=style)
        yield from (" " * 21 + line for line in rest)


def _lines(record: dict[str, Any], width: int) -> Iterator[str]:
    """Yield what stands in the last column: limits with bars, then what it may do."""
    for _, (text, share) in _limits(record):
        full = min(_BAR, int(share * _BAR) + (share > 0))
        color = "red" if share >= 1 else "yellow" if share >= _NEARLY else "cyan"
        bar = click.style("#" * full, fg=color) + "." * (_BAR - full)
        room = width - _BAR - 1
        yield f"{text:{room}} {bar}" if len(text) <= room else text
    may = ["admin"] if record["admin"] else []
    may += [f"{name} {' '.join(record[name])}" for name in _LISTED if record[name]]
    if record["expires"]:
        verb = "expired" if record["state"] == "expired" else "expires"
        may.append(f"{verb} {record['expires'][:10]}")
    for text in may:
        yield from _wrapped(text, width)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _limits(record: dict[str, Any]) -> Iterator[tuple[str, _Limit]]:
    used = record["used"]
    if record["budget"]:
        dollars, _, period = record["budget"].partition("/")
        spent = float(used["budget"].partition("/")[0])
        per = " in all" if period == "total" else f"/{period}"
        text = f"${spent:,.2f} of ${float(dollars):,.2f}".removesuffix(".00") + per
        yield "budget", _Limit(text, spent / float(dollars) if float(dollars) else 1.0)
    for name, unit in _COUNTED.items():
        if limit := record[name]:
            text = f"{_short(used[name])} of {_short(limit)} {unit}"
            yield name, _Limit(text, used[name] / limit)


def _short(number: int) -> str:
    """Return a number in at most three digits and a unit, rounded down."""
    for size, unit in _UNITS:
        if number >= size:
            tenths = number * 10 // size
            return f"{tenths // 10}{unit}" if tenths >= 1000 or not tenths % 10 else (
                f"{tenths / 10:.1f}{unit}"
            )
    return str(number)


def _ago(at: str | None) -> str:
    if at is None:
        return "never"
    passed = max(0.0, time.time() - moment(at))
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{int(passed // length)} {unit} ago"
    return "just now"
