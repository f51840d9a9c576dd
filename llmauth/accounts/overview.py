"""What is going on, for a page that is looked at often: so many rows, and no more, of any database.

It is made of daily totals and indexes. Single requests are read for the last ones, and for the
median time to the first byte.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

from .keys import StoredKey
from .limits import MINUTE, WINDOW
from .report import day, rows_of
from .store import TOTALS, Database, RequestRow
from .terms import NANO, PERIODS, Budget, iso, period_name

SERIES = 8
"""Keys or models that a day's bar tells apart; the rest is one."""

MODELS = 50
REQUESTS = 50
ATTENTION = 20
"""Of each kind of what needs attention; of the rest the number is told."""

TIMED = 5_000
"""Requests of the last day, the newest, of which the median time to the first byte is."""

NEAR = 0.8
"""The share of a limit above which it needs attention."""

SOON = 7 * 86_400
"""Seconds before a key expires in which that needs attention."""

_PAIRS = 1_000  # of backend and model: clients choose the names of models
_DAY = 86_400


def figures(
    database: Database, *, by: str, since: str, until: str, key: str | None = None
) -> dict[str, Any]:
    """Return what was used: in all, by day, and by model.

    :param by: ``key`` or ``model``, of which a day's bar is made
    :param since: first day; days are told of a week at least
    :param until: last day
    :param key: of this one only
    """
    first = min(since, day("since", "6d"))
    largest = [one[0] for one in database.totals([by], first, until, key, largest=SERIES)]
    found = _by_day(database, by, largest, first, until, key)
    within = [one[2:] for one in found if one[0] >= since]
    totals = [sum(column) for column in zip(*within, strict=True)] or [0] * len(TOTALS)
    pairs = database.totals(["backend", "model"], since, until, key, largest=_PAIRS)
    return {
        "totals": rows_of((), [totals])[0],
        "days": rows_of(("day", by), found),
        "series": largest,
        "models": _models(database, pairs, key),
        "unpriced": _counted(pairs, 1, "unpriced"),
        "unknown": _counted(pairs, 0, "unknown"),
    }


def latest(database: Database, key: str | None = None) -> list[dict[str, Any]]:
    """Return the requests that ended last."""
    return [_request(row) for row in database.requests(REQUESTS, key)]


def near_limits(database: Database, keys: Iterable[StoredKey]) -> list[dict[str, Any]]:
    """Return the limits of which most is used, the fullest first."""
    now = time.time()
    periods = {period: period_name(period, now) for period in PERIODS}
    used: dict[tuple[str, str], tuple[int, int]] = {}
    for name, what, number, dollars in database.all_used(now - MINUTE, periods):
        used[name.removeprefix(WINDOW), what] = number, dollars
    found = [
        (share, told)
        for key in keys
        if key.state(now) == "active"
        for share, told in _shares(key, periods, used)
        if share > NEAR
    ]
    return [told for _, told in sorted(found, key=lambda one: -one[0])]


def ending(keys: Iterable[StoredKey]) -> list[dict[str, Any]]:
    """Return the keys that are about to expire, the first one first."""
    now = time.time()
    found = [
        (key.terms.expires, key.name)
        for key in keys
        if key.state(now) != "revoked" and key.terms.expires and 0 < key.terms.expires - now < SOON
    ]
    return [{"kind": "expiry", "key": name, "at": iso(at)} for at, name in sorted(found)]


def _by_day(
    database: Database, by: str, names: list[str], since: str, until: str, key: str | None
) -> list[tuple[Any, ...]]:
    """Return each day's sums of these keys or models, and of all others as None."""
    told = database.totals(["day", by], since, until, key, names=names)
    rest = {at: sums for at, *sums in database.totals(["day"], since, until, key)}
    for at, _, *sums in told:
        rest[at] = [one - other for one, other in zip(rest[at], sums, strict=True)]
    others = [(at, None, *sums) for at, sums in rest.items() if sums[0]]
    return sorted([*told, *others], key=lambda one: str(one[0]))


def _models(
    database: Database, pairs: list[tuple[Any, ...]], key: str | None
) -> list[dict[str, Any]]:
    sums: dict[str, list[int]] = {}
    for _, model, *values in pairs:
        before = sums.get(model, [0] * len(values))
        sums[model] = [one + other for one, other in zip(before, values, strict=True)]
    times = defaultdict(list)
    for model, milliseconds in database.first_bytes(time.time() - _DAY, TIMED, key):
        times[model].append(milliseconds)
    rows = rows_of(("model",), [(model, *values) for model, values in sums.items()][:MODELS])
    for row in rows:
        known = times.get(row["model"])
        row["first_byte_ms"] = round(median(known)) if known else None
    return rows


def _counted(pairs: list[tuple[Any, ...]], place: int, column: str) -> dict[str, int]:
    """Return how many requests have something, by their backend or model."""
    counted: dict[str, int] = defaultdict(int)
    for pair in pairs:
        if number := pair[2 + TOTALS.index(column)]:
            counted[pair[place]] += number
    return counted


def _shares(
    key: StoredKey, periods: dict[str, str], used: dict[tuple[str, str], tuple[int, int]]
) -> Iterator[tuple[float, dict[str, Any]]]:
    terms = key.terms
    numbers = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "parallel")
    for name in numbers:
        if limit := getattr(terms, name):
            what = periods["day"] if name == "tokens_per_day" else name
            number = used.get((key.name, what), (0, 0))[0]
            yield number / limit, _limit(key, name, number, limit)
    if budget := terms.budget:
        dollars = used.get((key.name, periods[budget.period]), (0, 0))[1]
        told = _limit(key, "budget", str(Budget(dollars, budget.period)), str(budget))
        yield (dollars / budget.dollars if budget.dollars else 1.0), told


def _limit(key: StoredKey, name: str, used: Any, limit: Any) -> dict[str, Any]:
    return {"kind": "limit", "key": key.name, "limit": name, "used": used, "of": limit}


def _request(row: RequestRow) -> dict[str, Any]:
    return {
        "at": iso(row.at),
        "key": row.key,
        "backend": row.backend,
        "model": row.model,
        "status": row.status,
        "ended": row.ended,
        "streamed": bool(row.streamed),
        "input_tokens": row.input,
        "output_tokens": row.output,
        "cost_usd": None if row.cost is None else row.cost / NANO,
        "estimated": bool(row.estimated),
        "ms": row.ms,
        "first_byte_ms": row.first_ms,
    }
