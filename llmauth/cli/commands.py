"""The command line; the options of ``serve`` and ``check`` come from the settings table."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..capture import show as capture_view
from ..capture.har import har
from ..capture.reading import exchanges
from ..config.faults import Faults
from ..config.keys import hiding, secrets_in
from ..config.loading import Given, load, require_keys, warn, with_changes
from ..config.settings import TABLE, Setting, Settings, printed
from ..exceptions import ConfigurationError
from ..redact.controls import visible, visible_prose
from ..redact.messages import hidden
from ..server.server import Server
from ..server.sockets import PortTakenError
from ..version import __version__
from ..web.app import create_app
from . import console, traffic
from .check import run_checks
from .completion import completion
from .keys import keys
from .lockouts import lockouts
from .logs import colourful, configure, reopen
from .mistakes import Group
from .usage import usage

KEY_BYTES = 32
"""Entropy of a key that ``keygen`` makes: 256 bits, 43 characters."""


@contextlib.contextmanager
def _hiding_keys() -> Iterator[None]:
    """Have neither our refusals nor click's repeat a key."""
    try:
        with hiding(secrets_in(os.environ)):
            yield
    except click.UsageError as exc:
        message = visible_prose(hidden(exc.format_message(), secrets_in(os.environ)))
        raise click.UsageError(message, exc.ctx) from None


class _ServeByDefault(click.Group):
    """Takes ``llmauth --port 9000`` for ``llmauth serve --port 9000``, and shows no keys."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_command = bool(args) and not args[0].startswith("-")
        is_own = args[:1] in (["--help"], ["--version"], ["-h"])
        is_completed = not args and ctx.resilient_parsing
        if not (is_command or is_own or is_completed):
            args = ["serve", *args]
        with _hiding_keys():
            return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            found += serve.shell_complete(click.Context(serve, ctx, "serve"), incomplete)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _hiding_keys():
                return super().invoke(ctx)
        except ConfigurationError as exc:
            for message in exc.messages:
                click.echo(console.refusal(message), err=True)
            ctx.exit(1 if isinstance(exc, PortTakenError) else 2)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting of the table, and ``--backend``, ``--config``."""
    for setting in reversed(TABLE):
        command = _option(setting)(command)
    command = click.option(
        "--backend",
        "backend",
        multiple=True,
        metavar="NAME=URL",
        help="Backend and its base URL; repeatable. Its key: <NAME>_API_KEY in the environment.",
    )(command)
    return click.option(
        "--config", metavar="FILE", help="Config file (YAML).  [env LLMAUTH_CONFIG]"
    )(command)


def _option(setting: Setting) -> Callable[..., Any]:
    help = f"{setting.help}  [env {setting.env}; default {printed(setting.default)}]"
    if isinstance(setting.default, bool):
        names = f"{setting.flag}/{setting.switch_off}" if setting.switch_off else setting.flag
        return click.option(names, setting.attribute, is_flag=True, default=None, help=help)
    multiple = setting.list_of is not None
    metavar = (setting.list_of or setting.attribute.rpartition("_")[2]).upper()
    if multiple:
        help = f"{help[:-1]}; repeatable]"
    return click.option(
        setting.flag, setting.attribute, multiple=multiple, metavar=metavar, help=help
    )


def _settings(options: dict[str, Any]) -> Settings:
    config = options.pop("config")
    backends: dict[str, Any] = {}
    faults = Faults()
    for pair in options.pop("backend"):
        name, equals, url = pair.partition("=")
        if equals:
            backends[name.strip()] = url
        else:
            faults.add(f"flag --backend: '{pair}' is not NAME=URL.")
    values = {name: value for name, value in options.items() if value not in (None, ())}
    with faults.collected():
        settings = load(Given(values, backends, config_file=config))
    faults.refuse()
    return settings


@click.group(
    cls=_ServeByDefault,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, package_name="llmauth", message="llmauth %(version)s")
def main() -> None:
    """An authenticating proxy for LLM APIs. Without a command: serve."""
    if not colourful():
        click.get_current_context().color = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A code page of Windows lacks most characters: none of them shall end the program.
            stream.reconfigure(errors="backslashreplace")


@main.command()
@settings_options
def serve(**options: Any) -> None:
    """Start the proxy. The key comes from LLM_INTERACTIVE_PROXY_API_KEY."""
    _serve(_settings(options), console.banner)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port; another if it is taken.",
)
def demo(port: int) -> None:
    """Try it: a throw-away key, an echo, and snippets to paste."""
    with tempfile.TemporaryDirectory(prefix="llmauth-demo-", ignore_cleanup_errors=True) as folder:
        database = Path(folder) / "keys.db"
        key = traffic.fill(database)
        settings = with_changes(
            load(environ={}),
            database=str(database),
            prices=traffic.PRICES,
            default_backend="echo",
            port=port,
            shutdown_timeout=2.0,
        )
        settings = with_changes(settings, backends={"echo": settings.backends["echo"]})
        try:
            _serve(settings, lambda server: console.demo(server, key))
        except PortTakenError:
            _serve(with_changes(settings, port=0), lambda server: console.demo(server, key))


def _serve(settings: Settings, announce: Callable[[Server], str]) -> None:
    app = create_app(settings)
    state = app.extensions["llmauth"]
    undo = configure(settings, state.redactor)
    try:
        try:
            server = Server(app)
        except BaseException:
            state.close()
            raise

        def started() -> None:
            click.echo(announce(server), err=True)
            warn(settings)

        server.run(started, reopen)
    finally:
        undo()


@main.command()
def keygen() -> None:
    """Print a strong key."""
    click.echo(secrets.token_urlsafe(KEY_BYTES))


@main.command()
@settings_options
@click.option("--all", "everything", is_flag=True, help="Show the defaults as well.")
def check(everything: bool, **options: Any) -> None:
    """Try backends and store; show what was set, and where."""
    settings = _settings(options)
    faults = Faults()
    lines: list[str] = []
    good = run_checks(settings, lines.append)
    with faults.collected():
        require_keys(settings, stored=settings.database is not None)
    good = good and not faults.messages
    click.echo(console.verdict(good))
    for line in (*faults.messages, *lines):
        click.echo(console.finding(settings, line))
    click.echo()
    for line in console.origins(settings, everything=everything):
        click.echo(line)
    sys.exit(2 if faults.messages else 0 if good else 1)


main.add_command(completion)
main.add_command(keys)
main.add_command(lockouts)
main.add_command(usage)


@main.group(cls=Group)
def capture() -> None:
    """Read a wire capture."""


@capture.command("show")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--follow", is_flag=True, help="Go on as the file grows.")
def capture_show(file: str, follow: bool) -> None:
    """Print a capture as a conversation."""
    if follow:
        next(_lines(file, may_be_empty=True), None)
    lines = capture_view.follow(file) if follow else _lines(file)
    capture_view.show(lines, sys.stdout, color=sys.stdout.isatty() and colourful())


@capture.command("har")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def capture_har(file: str) -> None:
    """Print a capture as HAR 1.2, for the developer tools of a browser."""
    click.echo(json.dumps(har(_lines(file)), indent=1))


def _lines(file: str, *, may_be_empty: bool = False) -> Iterator[str]:
    """Yield the lines of a capture from its first event on.

    :raises click.ClickException: for a file without one
    """
    name = visible(file)
    with open(file, encoding="utf-8", errors="replace") as opened:
        begins = (line for line in opened if any(True for _ in exchanges([line])))
        if first := next(begins, None):
            yield first
            yield from opened
        elif opened.tell():
            raise click.ClickException(
                f"'{name}' is no wire capture, which --capture-file makes: no line is an event."
            )
        elif not may_be_empty:
            raise click.ClickException(f"'{name}' is empty: nothing has been captured yet.")


if __name__ == "__main__":
    main()
