"""``llmauth usage``: who used what, from the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from ..accounts import report
from .keys import opened, where
from .mistakes import Command

_BAR = 16
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
        first, last = report.day("since", since), report.day("until", until)
        found = report.rows(book.database, by=groups, since=first, until=last, key=key)
        if form == "json":
            click.echo(json.dumps(found, indent=2))
        elif form == "csv":
            click.echo(report.as_csv(found, groups), nl=False)
        else:
            total = report.rows(book.database, by=(), since=first, until=last, key=key)[0]
            without = report.unpriced(book.database, first, last, key)
            for line in _table(found, groups, total, without):
                click.echo(line)


def _table(
    found: list[dict[str, Any]], groups: list[str], total: dict[str, Any], without: list[str]
) -> Iterator[str]:
    if not found or not total["requests"]:
        yield "Nothing was used in this time."
        return
    names = [" ".join(str(row[group] or "-") for group in groups) for row in found]
    width = min(max(map(len, [*names, "total"])), 28) + 1
    head = f"{' '.join(groups).upper():{width}}{'REQUESTS':>9}{'INPUT':>8}{'OUTPUT':>8}{'COST':>10}"
    yield click.style(f"{head}  SHARE", bold=True)
    measure = "cost_usd" if total["cost_usd"] else "requests"
    for name, row in zip(names, found, strict=True):
        share = (row[measure] or 0) / (total[measure] or 1)
        bar = click.style("#" * max(round(share * _BAR), 1 if share else 0), fg="cyan")
        yield f"{_line(name, row, width)}  {bar} {share:.0%}"
    yield click.style(_line("total", total, width), bold=True)
    if without:
        yield f"Without a price, so not in the dollars: {', '.join(without)}."
    for field, what in (
        ("errors", "failed or were refused"),
        ("estimated_requests", "were cut off, and are estimated"),
        ("unknown_requests", "did not tell their usage: tokens and dollars are without them"),
    ):
        if total[field]:
            yield f"{total[field]} of the requests {what}."


def _line(name: str, row: dict[str, Any], width: int) -> str:
    cost = "-" if row["cost_usd"] is None else f"${row['cost_usd']:,.2f}"
    if len(name) >= width:
        name = name[: width - 3] + ".."
    figures = f"{row['requests']:>9,}{_short(row['input_tokens']):>8}"
    return f"{name:{width}}{figures}{_short(row['output_tokens']):>8}{cost:>10}"


def _short(number: int) -> str:
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
