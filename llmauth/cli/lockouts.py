"""``llmauth lockouts``: which addresses are locked out, and letting one in again."""

from __future__ import annotations

import json
import time

import click

from ..accounts.terms import iso
from ..auth.client_address import Clients
from ..exceptions import ConfigurationError
from .keys import opened, where
from .mistakes import Group


@click.group(
    "lockouts", cls=Group, invoke_without_command=True, short_help="Show who is locked out."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@where
@click.pass_context
def lockouts(
    context: click.Context, as_json: bool, database: str | None, config: str | None
) -> None:
    """Show the addresses that are locked out for wrong keys, and until when.

    \b
    Example:
      llmauth lockouts
      llmauth lockouts clear 203.0.113.9
    """
    if context.invoked_subcommand:
        context.obj = database, config
        return
    now = time.time()
    with opened(database, config) as book:
        found = book.database.lockouts(now)
    if as_json:
        rows = [{"address": address, "until": iso(until)} for address, until in found]
        click.echo(json.dumps(rows, indent=2))
        return
    if not found:
        click.echo("Nobody is locked out.", err=True)
    for address, until in found:
        click.echo(f"{address:45} until {iso(until)} ({round(until - now)} s)")


@lockouts.command("clear", short_help="Let an address in again.")
@click.argument("address")
@where
@click.pass_obj
def clear(
    above: tuple[str | None, str | None], address: str, database: str | None, config: str | None
) -> None:
    """Let an address in again; running servers follow within two seconds.

    \b
    Example:
      llmauth lockouts clear 203.0.113.9
    """
    with opened(database or above[0], config or above[1]) as book:
        prefix = book.settings.ipv6_prefix
        counted = Clients(ipv6_prefix=prefix).counted_as(address.partition("/")[0])
        with book.database.transaction():
            known = book.database.clear_lockout(counted or address, time.time())
        if not known:
            raise ConfigurationError(
                f"{address} is not locked out. 'llmauth lockouts' shows who is."
            )
        click.echo(f"{counted} is let in again.", err=True)
