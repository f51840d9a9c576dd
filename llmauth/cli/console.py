"""What the command line prints: the banner, the snippets of the demo, the origins of settings.

Styles are click's, which leaves them out of files and pipes.
"""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterable, Iterator

import click

from ..auth.guard import PUBLIC_PATHS
from ..config.settings import TABLE, BackendSettings, Settings, printed
from ..config.values import UNIX_PREFIX
from ..redact.controls import visible
from ..redact.messages import hidden
from ..server.server import Server
from ..version import __version__
from ..web.extension import State
from .key_table import counted

logger = logging.getLogger("llmauth")

_WIDTH = 80
_COLUMN = 33
"""Width of the names in the table of settings."""

_MANY = 20
"""Names of keys that are listed where not everything is."""

_NOT_SAID = ("default", "not set")
"""Where a value comes from that nobody has set."""

_BACKEND_ATTRIBUTES = (
    "base_url", "auth", "api_key", "headers", "proxy", "redirects",
    "connect_timeout", "first_byte_timeout", "read_timeout", "idle_timeout",
)  # fmt: skip


def address(server: Server) -> str:
    """Return the URL of the server, with a name that a client on this machine can use."""
    host = server.state.settings.host
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}:{server.port}"


def _listening(server: Server) -> str:
    host = server.state.settings.host
    if server.sockets.were_given:
        return f"{server.sockets.where}, by a socket of systemd"
    if host.startswith(UNIX_PREFIX):
        return host
    everywhere = host in ("0.0.0.0", "::")
    return f"{address(server)} and every other address" if everywhere else address(server)


def banner(server: Server) -> str:
    """Return the start-up banner: plain ASCII, without secrets."""
    settings = server.state.settings
    rows = [
        ("listening on", _listening(server)),
        ("authentication", _authentication(settings)),
        *_database(server.state),
        ("backends", _backends(settings)),
        ("wrong keys", _brute_force(settings)),
        ("counted in", settings.storage_uri),
        ("capture", settings.capture_file or "off"),
        ("public", " ".join([*sorted(PUBLIC_PATHS), *settings.bypass_paths])),
    ]
    if settings.cors_origins:
        rows.append(("web pages of", " ".join(settings.cors_origins)))
    lines = [click.style(f"llmauth {__version__}", bold=True)]
    for name, value in rows:
        text = _ascii(hidden(value, settings.secrets))
        first, *rest = _wrapped(f"  {name + ':':16}{text}", indent=18)
        lines += [click.style(first[:18], fg="cyan") + first[18:], *rest]
    return "\n".join(lines)


def _authentication(settings: Settings) -> str:
    if settings.disable_auth:
        return "off"
    names = ", ".join(name for name, _ in settings.keys)
    return f"on, {len(settings.keys)} key(s): {names}" if names else "on"


def _database(state: State) -> Iterator[tuple[str, str]]:
    if state.accounts:
        keys = counted(state.accounts.directory.keys.values())
        yield "database", f"{state.settings.database}, {keys}"


def refusal(message: str) -> str:
    """Return an error for standard error: one line, or lines of whole words on a terminal."""
    message = visible(message)
    if not sys.stderr.isatty():
        return message
    return click.style("\n".join(_wrapped(message)), fg="red")


def verdict(good: bool) -> str:
    """Return the first line of ``llmauth check``."""
    if good:
        return click.style("ok", fg="green") + ": it can start, and what is configured answers."
    return click.style("not ok", fg="red") + ": what is wrong comes first."


def finding(settings: Settings, line: str) -> str:
    """Return a line of ``llmauth check``, such as ``backend openai: ok``, secrets masked."""
    subject, colon, rest = _ascii(hidden(line, settings.secrets)).partition(": ")
    lines = _wrapped(f"{subject}{colon}{rest}", indent=2)
    style = {"fg": "green"} if rest.startswith("ok") else {"bold": True}
    lines[0] = click.style(lines[0][: len(subject)], **style) + lines[0][len(subject) :]
    return "\n".join(lines)


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _ascii(text: str) -> str:
    return visible(text).encode("ascii", "backslashreplace").decode("ascii")


def _backends(settings: Settings) -> str:
    used = []
    for name, backend in settings.backends.items():
        if not settings.uses(backend):
            continue
        note = "default" if name == settings.default_backend else ""
        key = "key set" if backend.api_key else ""
        notes = ", ".join(filter(None, (note, key)))
        used.append(f"{name} ({notes})" if notes else name)
    others = len(settings.backends) - len(used)
    return ", ".join(used) + (f", and {others} built in without a key" if others else "")


def _brute_force(settings: Settings) -> str:
    if settings.disable_auth or not settings.brute_force_enabled:
        return "not counted"
    return (
        f"{settings.max_failed_attempts} within {settings.ttl_seconds} s block an address for "
        f"{settings.initial_block_seconds} s, then x{settings.block_multiplier:g} "
        f"up to {settings.max_block_seconds} s"
    )


def origins(settings: Settings, *, everything: bool = True) -> Iterator[str]:
    """Yield a table of the effective values and where they came from, secrets masked.

    :param everything: those that nobody set as well
    """
    rows = [
        (s.name, printed(getattr(settings, s.attribute)), settings.origins[s.attribute])
        for s in TABLE
    ]
    names = [name for name, _ in settings.keys]
    shown = names if everything else names[:_MANY]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    rows.append(("proxy keys", (", ".join(shown) or "none") + more, _key_origins(settings)))
    for name, backend in settings.backends.items():
        if not settings.uses(backend):
            continue
        rows += [
            (setting, _backend_value(backend, attribute), settings.origins.get(setting, "default"))
            for attribute in _BACKEND_ATTRIBUTES
            for setting in [f"backends.{name}.{attribute}"]
        ]
    rows = [row for row in rows if everything or row[2] not in _NOT_SAID]
    if everything:
        yield "Values without a source in brackets are the defaults."
    else:
        yield "What was set; all else is as by default, and --all shows it."
    yield from _table([tuple(hidden(one, settings.secrets) for one in row) for row in rows])


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of settings by section; what does not fit goes on below the value."""
    section = None
    for name, value, origin in rows:
        head, _, last = name.rpartition(".")
        if head != section:
            section = head
            yield ""
            if head:
                yield click.style(_ascii(head), bold=True)
        indent = "  " if head else ""
        source = "" if origin in _NOT_SAID else f"  [{_ascii(origin)}]"
        lines = _wrapped(f"{indent + _ascii(last):{_COLUMN}}{_ascii(value)}", indent=_COLUMN)
        if len(lines[-1] + source) > _WIDTH:
            yield from lines
            below = _wrapped(" " * _COLUMN + source.strip(), indent=_COLUMN)
            yield from (click.style(line, dim=True) for line in below)
        else:
            yield from lines[:-1]
            yield lines[-1] + (click.style(source, dim=True) if source else "")


def _key_origins(settings: Settings) -> str:
    sources = settings.key_sources
    if settings.keys and not sources:
        return settings.origins["keys"]
    where = [s.value if s.in_file else f"environment {s.variable}" for s in sources]
    return ", ".join(where) or "not set"


def _backend_value(backend: BackendSettings, attribute: str) -> str:
    value = getattr(backend, attribute)
    if attribute == "api_key":
        return "****" if value else "none"
    if attribute == "headers":  # what a variable holds is not in there
        return ", ".join(f"{name.title()}: {text}" for name, text in value.items()) or "none"
    return str(value or "none")


def demo(server: Server, key: str) -> str:
    """Return snippets that work when pasted."""
    url = address(server)
    return f"""llmauth {__version__} demo: an echo answers, and this key is good until you stop it.

Browser: who uses what, and keys for others, at {url}/dashboard
with the key
{key}
To try a model with it: {url}/docs

curl:

curl -N {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "echo-1", "stream": true,
       "messages": [{{"role": "user", "content": "Hello, how are you?"}}]}}'

Python (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
messages = [{{"role": "user", "content": "Hello, how are you?"}}]
for chunk in client.chat.completions.create(model="echo-1", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)

JavaScript (npm install openai; save as demo.mjs, run with node):

import OpenAI from "openai";
const client = new OpenAI({{ baseURL: "{url}/v1", apiKey: "{key}" }});
const messages = [{{ role: "user", content: "Hello, how are you?" }}];
const stream = await client.chat.completions.create({{ model: "echo-1", messages, stream: true }});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");

Press Ctrl-C to stop."""
