"""What was used, as people and programs want it: rows by key, model, backend or day."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping
from typing import Any

from .store import GROUPS, TOTALS, Database
from .terms import NANO, Budget, Terms, iso, period_end, period_name, seconds

DEFAULT_SINCE = "30d"

COLUMNS = {
    "requests": "requests",
    "errors": "errors",
    "input_tokens": "input",
    "cached_input_tokens": "cached",
    "cache_write_tokens": "written",
    "output_tokens": "output",
    "reasoning_tokens": "reasoning",
    "cost_usd": "cost",
    "estimated_requests": "estimated",
    "unknown_requests": "unknown",
}
"""The figures of a row by their names, and the columns of the totals that they are."""


def groups(text: str) -> list[str]:
    """Return what rows are grouped by, of a list with commas.

    :raises ValueError: for what there is not
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in GROUPS:
            raise ValueError(f"by: '{name}' is none of {', '.join(GROUPS)}")
    return [name for name in GROUPS if name in names]


def day(field: str, text: str) -> str:
    """Return a day of ``2026-11-26``, of ``today``, or of ``30d`` ago (UTC).

    :raises ValueError: naming the field
    """
    text = text.strip()
    if text == "today":
        return period_name("day", time.time())
    try:
        return period_name("day", time.time() - seconds(text))
    except ValueError:
        pass
    try:
        return time.strftime("%Y-%m-%d", time.strptime(text, "%Y-%m-%d"))
    except ValueError:
        raise ValueError(
            f"{field}: '{text}' is no day: write 30d, today, or 2026-11-26 (UTC)"
        ) from None


def days(since: str, until: str) -> tuple[str, str]:
    """Return the first and the last day of a time, each as `day` reads it.

    :raises ValueError: naming what is wrong
    """
    first, last = day("since", since), day("until", until)
    if first > last:
        raise ValueError(f"since: {first} is after {last}")
    return first, last


def rows(
    database: Database, *, by: Iterable[str], since: str, until: str, key: str | None = None
) -> list[dict[str, Any]]:
    """Return what was used, grouped.

    :param by: of `GROUPS`; of nothing for one row
    :param since: first day
    :param until: last day
    :param key: of this one only
    """
    by = list(by)
    return rows_of(by, database.totals(by, since, until, key))


def rows_of(by: Iterable[str], found: Iterable[Iterable[Any]]) -> list[dict[str, Any]]:
    """Return sums as rows.

    :param found: what they are grouped by, in the order of `GROUPS`, and the sums of `TOTALS`
    """
    names = [*(name for name in GROUPS if name in by), *TOTALS]
    return [_row(dict(zip(names, one, strict=True))) for one in found]


def unpriced(database: Database, since: str, until: str, key: str | None = None) -> list[str]:
    """Return the models that have been used and have no price."""
    found = database.totals(["model"], since, until, key)
    return [one[0] or "(none named)" for one in found if one[1 + TOTALS.index("unpriced")]]


def remaining(terms: Terms, used: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return what a key may still use of each limit, and when those of the calendar begin anew.

    What is used within a minute comes back bit by bit, and a budget in total never does.

    :param used: of each limit, by their names
    """
    left: dict[str, Any] = {}
    resets: dict[str, str | None] = {}
    for name, spent in used.items():
        if name == "budget":
            assert terms.budget
            period = terms.budget.period
            dollars = terms.budget.dollars - Budget.parsed(spent).dollars
            left[name] = str(Budget(max(0, dollars), period))
            resets[name] = iso(period_end(period, now))
        else:
            left[name] = max(0, getattr(terms, name) - spent)
            if name == "tokens_per_day":
                resets[name] = iso(period_end("day", now))
    return {"left": left, "resets": resets}


def as_csv(found: list[dict[str, Any]], by: Iterable[str]) -> str:
    """Return rows as CSV (RFC 4180), with a head."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(name for name in GROUPS if name in by), *COLUMNS])
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def _row(one: dict[str, Any]) -> dict[str, Any]:
    row = {name: one[name] for name in GROUPS if name in one}
    row |= {name: int(one[column]) for name, column in COLUMNS.items()}
    is_unknown = one["unpriced"] and not one["cost"]
    row["cost_usd"] = None if is_unknown else one["cost"] / NANO
    return row
