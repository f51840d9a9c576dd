"""``llmauth usage``: who used what, from the database."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import click

from ..accounts import report
from ..accounts.store import GROUPS
from ..redact.controls import visible
from .keys import opened, where
from .mistakes import Command

_COLUMNS = 80
_FIGURES = 42
"""Columns for requests, tokens, dollars and their share in percent."""

_BAR = 10
_DAY = 10
_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


@click.command("usage", cls=Command, short_help="Show who used what.")
@click.option("--since", metavar="DAY", default=report.DEFAULT_SINCE, show_default=True,
              help="First day: 30d, today, or 2026-11-01 (UTC).")  # fmt: skip
@click.option("--until", metavar="DAY", default="today", show_default=True, help="Last day.")
@click.option("--by", metavar="WHAT", default="key", show_default=True,
              help="key, model, backend, day, or several: key,model.")  # fmt: skip
@click.option("--key", metavar="NAME", help="Of this key only.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table",
              show_default=True, help="json and csv are for programs.")  # fmt: skip
@where
def usage(
    since: str, until: str, by: str, key: str | None, form: str, database: str | None,
    config: str | None,
) -> None:  # fmt: skip
    """Show requests, tokens and dollars, with the server running or not.

    \b
    Example:
      llmauth usage --since 7d --by key,model
    """
    with opened(database, config) as book:
        groups = report.groups(by)
        first, last = report.days(since, until)
        found = report.rows(book.database, by=groups, since=first, until=last, key=key)
        total = report.rows(book.database, by=(), since=first, until=last, key=key)[0]
        without = report.unpriced(book.database, first, last, key)
        if key and not total["requests"] and key not in (name for name, _ in book.settings.keys):
            book.one(key)
    # Whoever reads it may have read enough, which is no fault of the file.
    if form == "table":
        for line in _table(found, groups, total):
            click.echo(line)
    else:
        text = report.as_csv(found, groups) if form == "csv" else json.dumps(found, indent=2) + "\n"
        click.echo(text, nl=False)
    if without:
        named = f"Without a price, so not in the dollars: {visible(', '.join(without))}."
        click.echo(named, err=form != "table")


def _table(
    found: list[dict[str, Any]], groups: list[str], total: dict[str, Any]
) -> Iterator[str]:
    """Yield the lines of a table, as wide as the terminal: most used first, days in their order."""
    if not total["requests"]:
        yield "Nothing was used in this time."
        return
    measure = "cost_usd" if total["cost_usd"] else "requests"
    if "day" not in groups:
        found = sorted(found, key=lambda row: (-(row[measure] or 0), -row["requests"]))
    names = [[visible(row[group] or "-") for group in groups] for row in found]
    bars = _BAR if len(groups) < 2 else 0
    columns = max(_COLUMNS, shutil.get_terminal_size().columns) - _FIGURES - bars
    widths = _widths([[group.upper() for group in groups], *names, ["total"]], columns)
    yield click.style(
        f"{_named(map(str.upper, groups), widths)}{'REQUESTS':>9}{'INPUT':>8}{'OUTPUT':>8}"
        f"{'COST':>10}  SHARE",
        bold=True,
    )
    for own, row in zip(names, found, strict=True):
        share = (row[measure] or 0) / (total[measure] or 1)
        bar = "#" * max(round(share * bars), 1 if share and bars else 0)
        bar = click.style(bar, fg="cyan") + " " if bar else ""
        yield f"{_named(own, widths)}{_figures(row)}  {bar}{share:.0%}"
    if groups:
        yield click.style(f"{_named(['total'], widths)}{_figures(total)}", bold=True)
    for field, what in (
        ("errors", "Failed or refused"),
        ("estimated_requests", "Cut off, and estimated"),
        ("unknown_requests", "Usage unknown, so not in tokens and dollars"),
    ):
        if total[field]:
            yield f"{what}: {total[field]:,} of the requests."


def _widths(rows: list[list[str]], columns: int) -> list[int]:
    """Return the widths of names side by side, of which the widest give way until all fit."""
    number = max(map(len, rows))
    widths = [max(len(row[at]) for row in rows if at < len(row)) for at in range(number)]
    while sum(widths) + number > columns and max(widths) > _DAY:
        widths[widths.index(max(widths))] -= 1
    return widths


def _named(names: Iterable[str], widths: list[int]) -> str:
    shown = zip(names, [*widths, *[0] * len(GROUPS)], strict=False)
    text = " ".join(f"{_shortened(name, width):{width}}" for name, width in shown)
    return f"{text:{sum(widths) + len(widths)}}"


def _shortened(name: str, width: int) -> str:
    """Return a name that fits: models that differ do so at their ends as well."""
    if len(name) <= width:
        return name
    half = (width - 2) // 2
    return f"{name[: width - 2 - half]}..{name[len(name) - half :]}"


def _figures(row: dict[str, Any]) -> str:
    figures = f"{row['requests']:>9,}{_short(row['input_tokens']):>8}"
    return f"{figures}{_short(row['output_tokens']):>8}{_dollars(row['cost_usd']):>10}"


def _dollars(cost: float | None) -> str:
    if cost is None:
        return "-"
    return "<$0.01" if 0 < cost < 0.005 else f"${cost:,.2f}"


def _short(number: int) -> str:
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
