"""Options and commands that there are not, and those that were meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click

from ..config.names import near

_OPTIONS = {
    "address": "from", "cidr": "from", "ip": "from", "network": "from", "source": "from",
    "comment": "note", "description": "note", "label": "note",
    "concurrency": "parallel", "concurrent": "parallel", "simultaneous": "parallel",
    "cost": "budget", "dollars": "budget", "limit": "budget", "spend": "budget", "usd": "budget",
    "db": "database", "file": "database",
    "end": "until", "to": "until", "group": "by", "start": "since",
    "expiration": "expires", "expiry": "expires", "ttl": "expires", "valid": "expires",
    "grace": "overlap", "json": "format", "csv": "format",
    "provider": "backends",
    "rate": "requests-per-minute", "requests": "requests-per-minute",
    "tokens": "tokens-per-minute", "daily": "tokens-per-day",
}  # fmt: skip
"""What others call our options; of several words one is enough."""

_COMMANDS = {
    "create": "add", "generate": "add", "make": "add", "new": "add",
    "change": "set", "edit": "set", "limit": "set", "update": "set",
    "del": "revoke", "delete": "revoke", "remove": "revoke", "rm": "revoke", "withdraw": "revoke",
    "disable": "pause", "stop": "pause", "suspend": "pause",
    "continue": "resume", "enable": "resume", "unpause": "resume",
    "get": "show", "info": "show", "ls": "list",
    "regenerate": "rotate", "renew": "rotate", "reset": "rotate", "roll": "rotate",
    "allow": "clear", "forgive": "clear", "unblock": "clear",
}  # fmt: skip


def option_meant(name: str, known: Iterable[str]) -> str | None:
    """Return the option that was meant: by its initials, another name of it, or its letters.

    :param name: with its dashes, as all
    """
    known = [one for one in known if one.startswith("--")]
    text = name.lstrip("-").lower().replace("_", "-")
    no = "--no-" if text.startswith("no-") else "--"
    text = text.removeprefix("no-")
    plain = {one.removeprefix(no): one for one in known if one.startswith(no)}
    initials = {"".join(word[0] for word in one.split("-")): one for one in plain if "-" in one}
    words = text.split("-")
    others = (_OPTIONS.get(word, _OPTIONS.get(word.removesuffix("s"))) for word in words)
    alike = near(text, {*plain, *_OPTIONS}) or ""
    for meant in (initials.get(text), *words, *others, alike, _OPTIONS.get(alike)):
        if meant in plain:
            return plain[meant]
    return None


class Command(click.Command):
    """Names the option that was meant by one that there is not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            known = [name for one in self.get_params(ctx) for name in _names(one)]
            meant = option_meant(exc.option_name, known)
            raise _wrong("option", exc.option_name, meant, ctx) from None


class Group(click.Group):
    """Names the command that was meant by one that there is not."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            raise _wrong("command", name, _command_meant(name.lower(), self.commands), ctx)
        return super().resolve_command(ctx, args)


def _command_meant(name: str, known: Mapping[str, click.Command]) -> str | None:
    for meant in (name, near(name, {*known, *_COMMANDS}) or ""):
        if (command := _COMMANDS.get(meant, meant)) in known:
            return command
    return None


def _names(parameter: click.Parameter) -> Iterable[str]:
    return (*parameter.opts, *parameter.secondary_opts)


def _wrong(what: str, name: str, meant: str | None, ctx: click.Context) -> click.UsageError:
    question = f" Did you mean '{meant}'?" if meant else ""
    return click.UsageError(f"No such {what} '{name}'.{question}", ctx)
