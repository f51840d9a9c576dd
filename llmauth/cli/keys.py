"""``llmauth keys``: makes, shows, changes and withdraws the keys in the database."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ..accounts.keys import Directory, KeyBook, StoredKey
from ..accounts.limits import Limits
from ..accounts.prices import NO_PRICES, Prices
from ..accounts.store import Database, explained
from ..accounts.terms import FIELDS, seconds
from ..auth.stores import shared_store
from ..config.loading import Given, load
from ..exceptions import ConfigurationError, KeyNotFound, NameTaken
from .key_table import in_full, table
from .mistakes import Group

_METAVARS = {
    "expires": "WHEN", "models": "GLOB", "backends": "NAME", "from": "NETWORK",
    "budget": "DOLLARS/PERIOD", "note": "TEXT",
}  # fmt: skip
_HELP = {
    "expires": "90d, 12h, or the beginning of a day: 2027-01-31 (UTC).",
    "models": "Model that it may use, with wildcards: 'gpt-4o*'; repeatable.",
    "backends": "Backend that it may use; repeatable.",
    "from": "Address or network from which it may be used; repeatable.",
    "requests_per_minute": "Requests within any 60 seconds.",
    "tokens_per_minute": "Tokens within any 60 seconds, prompts and answers.",
    "tokens_per_day": "Tokens a day (UTC).",
    "parallel": "Requests at a time.",
    "budget": "US dollars per day, week, month or in total, such as 20/month (UTC).",
    "admin": "It may see everybody's figures, and manage keys.",
    "note": "For whom it is, or what for.",
}
_REPEATABLE = ("models", "backends", "from")


@click.group("keys", cls=Group, short_help="Make, show, change and withdraw keys.")
def keys() -> None:
    """Keys of people and programs, each with limits of its own, in a database.

    \b
    Example:
      export LLMAUTH_DATABASE=team.db
      KEY=$(llmauth keys add alice --budget 20/month)
    """


def where(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the database is."""
    command = click.option("--config", metavar="FILE", help="Config file (YAML).")(command)
    return click.option(
        "--database", metavar="FILE", help="The database.  [env LLMAUTH_DATABASE]"
    )(command)


def _terms_options(*, lifting: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each limit, and for ``set`` one that lifts it."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(FIELDS):
            name = field.replace("_", "-")
            if field == "admin":
                flags = "--admin/--no-admin" if lifting else "--admin"
                option = click.option(flags, "admin", is_flag=True, default=None, help=_HELP[field])
                command = option(command)
                continue
            if lifting:
                command = click.option(f"--no-{name}", f"no_{field}", is_flag=True, hidden=True)(
                    command
                )
            command = click.option(
                f"--{name}", f"{field}_", metavar=_METAVARS.get(field, "N"),
                multiple=field in _REPEATABLE, help=_HELP[field],
            )(command)  # fmt: skip
        return command

    return decorate


def _values(options: dict[str, Any]) -> dict[str, Any]:
    """Return the terms that are given as options."""
    values: dict[str, Any] = {}
    for field in FIELDS:
        value = options.get("admin") if field == "admin" else options.get(f"{field}_")
        if options.get(f"no_{field}"):
            if value:
                raise ConfigurationError(
                    f"--no-{field} contradicts --{field}.".replace("_", "-")
                )
            values[field] = None
        elif value not in (None, ()):
            values[field] = list(value) if isinstance(value, tuple) else value
    return values


class _Book:
    """The database as commands use it.

    :param makes: a new file where there is none; a name that is misspelt shows nothing otherwise
    """

    def __init__(self, database: str | None, config: str | None, *, makes: bool) -> None:
        given = {"database": database} if database else {}
        self.settings = settings = load(Given(given, config_file=config))
        if not settings.database:
            raise ConfigurationError(
                "No database: name its file with --database, or in LLMAUTH_DATABASE."
            )
        self.path = Path(settings.database)
        with explained(self.path):
            is_there = self.path.exists()
        if not makes and not is_there:
            raise ConfigurationError(
                f"There is no database {self.path} yet. "
                f"'llmauth keys add NAME --database {self.path}' makes it."
            )
        self.database = Database(self.path)
        self.keys = KeyBook(self.database, [name for name, _ in settings.keys])
        shared: tuple[Any, Any] = (None, ())
        with contextlib.suppress(ConfigurationError):  # it is shown as far as it is known
            shared = shared_store(settings.storage_uri)
        self._limits = Limits(self.database, "", *shared)

    def record(self, key: StoredKey) -> dict[str, Any]:
        """Return a key as JSON has it."""
        return key.record(self._limits.used(key))

    def all(self) -> list[StoredKey]:
        """Return all keys."""
        directory = Directory()
        directory.load(self.database)
        return list(directory.keys.values())

    def one(self, name: str) -> StoredKey:
        """Return one key."""
        for key in self.all():
            if key.name.lower() == name.lower():
                return key
        raise KeyNotFound(f"There is no key '{name}'. 'llmauth keys list' shows them all.")


@contextlib.contextmanager
def opened(
    database: str | None, config: str | None, *, makes: bool = False
) -> Iterator[_Book]:
    """Open the database, and say what is wrong in the words of the command line.

    :param makes: a new file where there is none
    """
    try:
        book = _Book(database, config, makes=makes)
        with contextlib.closing(book.database), explained(book.path):
            yield book
    except (KeyNotFound, NameTaken) as exc:
        raise ConfigurationError(str(exc)) from None
    except ValueError as exc:
        field, colon, fault = str(exc).partition(": ")
        option = "NAME" if field == "name" else f"--{field.replace('_', '-')}"
        raise ConfigurationError(f"{option}{colon}{fault}.") from None


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _tell_of_prices(book: _Book, name: str) -> None:
    """Say that a budget counts nothing, where nobody knows what a model costs."""
    if book.one(name).terms.budget and not Prices(book.settings.prices).are_known:
        _tell(f"{NO_PRICES}.")


def _tell_of_fault(book: _Book, name: str) -> None:
    """Say why a key lets nobody in, where one would think that it does now."""
    key = book.one(name)
    if (state := key.state(time.time())) != "active":
        advice = "llmauth keys resume" if state == "paused" else "llmauth keys set --expires 90d"
        _tell(f"It lets nobody in nevertheless: it is {state}. Mend that: {advice} {key.name}")


@keys.command("add", short_help="Make a key.")
@click.argument("name")
@_terms_options(lifting=False)
@where
def add(name: str, database: str | None, config: str | None, **options: Any) -> None:
    """Make a key, and print it: this once, for only its digest is kept.

    \b
    Example:
      llmauth keys add alice --budget 20/month --requests-per-minute 60
    """
    with opened(database, config, makes=True) as book:
        key = book.keys.add(name, _values(options))
        click.echo(key)
        _tell(f"'{name}' may use this key from now on. It is shown this once: hand it over safely.")
        _tell_of_prices(book, name)


@keys.command("list", short_help="Show all keys.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@where
def list_keys(as_json: bool, database: str | None, config: str | None) -> None:
    """Show all keys, what they may do, and what they have used.

    \b
    Example:
      llmauth keys list
    """
    with opened(database, config) as book:
        records = [book.record(key) for key in book.all()]
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    if not records:
        _tell("There are no keys yet. Make one: llmauth keys add NAME")
        return
    for line in table(records):
        click.echo(line)


@keys.command("show", short_help="Show one key.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@where
def show(name: str, as_json: bool, database: str | None, config: str | None) -> None:
    """Show one key.

    \b
    Example:
      llmauth keys show alice
    """
    with opened(database, config) as book:
        record = book.record(book.one(name))
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    for line in in_full(record):
        click.echo(line)


@keys.command("set", short_help="Change a key's limits.")
@click.argument("name")
@_terms_options(lifting=True)
@where
def change(name: str, database: str | None, config: str | None, **options: Any) -> None:
    """Change what is given; --no-budget and its like lift a limit.

    \b
    Example:
      llmauth keys set alice --budget 30/month --no-parallel
    """
    values = _values(options)
    if not values:
        raise ConfigurationError("Nothing to change: give a limit, such as --budget 20/month.")
    with opened(database, config) as book:
        book.keys.change(name, values)
        _tell(f"'{name}' is changed. Running servers follow within two seconds.")
        _tell_of_prices(book, name)
        _tell_of_fault(book, name)


@keys.command("rotate", short_help="Give a key's owner a new one.")
@click.argument("name")
@click.option("--overlap", metavar="TIME", default="0s", help="How long the old key works: 24h.")
@where
def rotate(name: str, overlap: str, database: str | None, config: str | None) -> None:
    """Print a new key; the old one works until the overlap ends, by default no longer.

    \b
    Example:
      llmauth keys rotate alice --overlap 24h
    """
    with opened(database, config) as book:
        try:
            left = seconds(overlap)
        except ValueError as exc:
            raise ValueError(f"overlap: {exc}") from None
        click.echo(book.keys.rotate(name, left))
        until = f"in {overlap}" if left else "now"
        _tell(f"'{name}' has a new key, which is shown this once; the old one ends {until}.")
        _tell_of_fault(book, name)


def _state_command(verb: str, done: str, action: Callable[[KeyBook, str], None]) -> None:
    @keys.command(verb, short_help=f"{verb.capitalize()} a key.")
    @click.argument("name")
    @where
    def command(name: str, database: str | None, config: str | None) -> None:
        with opened(database, config) as book:
            action(book.keys, name)
            _tell(f"'{name}' {done}.")
            if verb == "resume":
                _tell_of_fault(book, name)

    command.help = f"{done.capitalize()}.\n\n\b\nExample:\n  llmauth keys {verb} alice"


_state_command(
    "pause", "lets nobody in until it is resumed",
    lambda book, name: book.change(name, {"paused": True}),
)  # fmt: skip
_state_command(
    "resume", "lets in again", lambda book, name: book.change(name, {"paused": False})
)
_state_command(
    "revoke", "is withdrawn for good; what it has used stays known", KeyBook.revoke
)
