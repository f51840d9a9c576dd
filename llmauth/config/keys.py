"""Proxy keys and provider keys: where they may come from, and what is wrong with one."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..exceptions import ConfigurationError
from ..providers.table import KEY_PREFIXES
from ..redact.messages import hidden
from ..redact.shapes import MASK, mask
from ..redact.uris import uri_secrets
from .key_shape import LINE, MINIMUM_LENGTH, is_path, not_a_key, not_a_line
from .placeholders import is_sample, is_variable
from .values import read_text

logger = logging.getLogger(__name__)

KEY_VARIABLE = "LLM_INTERACTIVE_PROXY_API_KEY"
DEFAULT_NAME = "default"
MAX_KEY_BYTES = 4096
"""A longer key is refused unseen: it is hostile input (CVE-2026-42208)."""

QUOTES = ("'", '"', "`")
SAMPLES = ("change-me", "your-key", "your-proxy-key", "secret", "example")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")
_HOLDS_FILE = re.compile(r".*_API_KEY(?:_\w+)?_FILE")
_HOLDS_SECRET = re.compile(rf"{KEY_VARIABLE}\w*|(?:.*_)?(?:KEY|TOKEN|SECRET|PASSWORD)")
_HOLDS_URI = re.compile(r".*_(?:PROXY|UR[IL])")


@dataclass(frozen=True)
class KeySource:
    """A variable of the environment that holds a key, or names a file of keys.

    :param name: of its key, or of the first one in the file
    :param value: the key, or the file's path
    """

    variable: str
    name: str
    value: str = field(repr=False)
    in_file: bool


def proxy_key_sources(environ: Mapping[str, str]) -> tuple[KeySource, ...]:
    """Return where the proxy keys are.

    ``LLM_INTERACTIVE_PROXY_API_KEY`` holds the key named ``default``, a suffix ``_ALICE`` makes it
    one named ``alice``; with a further ``_FILE`` the variable names a file that holds keys.
    """
    sources: list[KeySource] = []
    for variable in sorted(environ):
        if not variable.startswith(KEY_VARIABLE) or not environ[variable].strip():
            continue
        suffix = variable[len(KEY_VARIABLE) :]
        in_file = suffix.endswith("_FILE")
        name = suffix.removesuffix("_FILE").removeprefix("_").lower() or DEFAULT_NAME
        if suffix and not suffix.startswith("_"):
            continue
        sources.append(KeySource(variable, name, environ[variable].strip(), in_file))
    return tuple(sources)


def read_keys(sources: Iterable[KeySource]) -> tuple[tuple[str, str], ...]:
    """Return pairs of a name and a key.

    :raises ConfigurationError: for a key that no client could send, or one name for two keys
    """
    keys: list[tuple[str, str]] = []
    for source in sources:
        if source.in_file:
            keys += keys_in_file(Path(source.value), source.name, source.variable)
        else:
            keys.append((source.name, _key_in(source)))
    return distinct(keys)


def distinct(
    keys: list[tuple[str, str]], places: Sequence[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Return the keys, refusing one name for two keys and two names for one.

    :param places: where each one stands, for the error
    """
    names: dict[str, str] = {}
    by_key: dict[str, str] = {}
    for number, (name, key) in enumerate(keys):
        where = f"{places[number]}: " if places else ""
        if names.setdefault(name, key) != key:
            raise ConfigurationError(
                f"{where}There are two keys named '{name}'. Name them differently."
            )
        if by_key.setdefault(key, name) != name:
            raise ConfigurationError(f"{where}'{by_key[key]}' and '{name}' name the same key.")
    return tuple(names.items())


def keys_in_file(path: Path, name: str, variable: str) -> list[tuple[str, str]]:
    """Return the keys of a file: one a line, ``key`` or ``name: key``; ``#`` begins a comment.

    :param name: for keys without a name of their own
    :param variable: named in errors
    """
    keys: list[tuple[str, str]] = []
    places: list[str] = []
    for number, line in _lines(path, variable):
        own, colon, key = line.partition(": ")
        if not colon:
            own, key = name if not keys else f"{name}-{len(keys) + 1}", line
        where = f"{variable} ({path}, line {number})"
        if wrong := not_a_name(own):
            raise ConfigurationError(f"{where}: {wrong}. {LINE}")
        if weakness(key) and hidden(own) != own:
            raise ConfigurationError(f"{where}: the name looks like a key. {LINE}")
        key = key.strip()
        if not _is_quoted(key) and (wrong := not_a_line(key, named=bool(colon))):
            raise ConfigurationError(f"{where}: {wrong}")
        keys.append((own, checked_key(key, where)))
        places.append(where)
    if not keys:
        raise ConfigurationError(f"{variable}: {path} holds no key.")
    distinct(keys, places)
    return keys


def not_a_name(name: str) -> str | None:
    """Say what is wrong with a key's name, None when nothing is; it is not repeated."""
    if _NAME.fullmatch(name):
        return None
    return "a name is made of at most 64 letters, digits and . _ @ + -, a letter or digit first"


def _lines(path: Path, variable: str) -> Iterator[tuple[int, str]]:
    text = read_text(path, f"{variable}: cannot read {path}", utf_16=True)
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def checked_key(value: str, where: str, *, if_path: str = "Put the key there.") -> str:
    """Return a key that can travel in a header.

    :param where: the variable or file that holds it; the value itself is never named
    :param if_path: what to do about a file's path in place of the key
    """
    key = value.strip()
    if _is_quoted(key):
        raise ConfigurationError(f"{where}: the key has quotes around it; remove them.")
    if is_path(key):
        raise ConfigurationError(f"{where}: holds the path of a file, not a key. {if_path}")
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigurationError(
            f"{where}: the key holds a space, a control character or one that is not ASCII."
        )
    if len(key) > MAX_KEY_BYTES:
        raise ConfigurationError(f"{where}: the key is over {MAX_KEY_BYTES} characters long.")
    if wrong := not_a_key(key):
        raise ConfigurationError(f"{where}: {wrong}")
    return key


def checked_provider_key(value: str, where: str, *, if_path: str = "Put the key there.") -> str:
    """Return a provider's key, as :func:`checked_key` does, or what a sample has in its place.

    That is named at the start, and does not stop it: other providers may have their keys.
    """
    text = value.strip()
    is_left = text == "..." or is_variable(text)
    return text if is_left else checked_key(value, where, if_path=if_path)


def _is_quoted(key: str) -> bool:
    return key[:1] in QUOTES or key.rstrip(",;")[-1:] in QUOTES


def _key_in(source: KeySource) -> str:
    """Return the key that a variable holds."""
    variable = source.variable
    return checked_key(source.value, variable, if_path=f"Name the file in {variable}_FILE.")


def weakness(key: str) -> str | None:
    """Say what makes a key weak, None when nothing does."""
    if len(key) < MINIMUM_LENGTH:
        return f"under {MINIMUM_LENGTH} characters"
    if any(sample in key.lower() for sample in SAMPLES) or is_sample(key) or is_variable(key):
        return "a sample from the documentation"
    return None


def about_key(name: str, key: str) -> str | None:
    """Say what is wrong with a proxy key that works, None when nothing is."""
    reason = weakness(key)
    if not reason:
        whose = next((whose for prefix, whose in KEY_PREFIXES if key.startswith(prefix)), "another")
        if mask(key) == MASK:
            return None
        return (
            f"the key '{name}' looks like {whose}, and a provider's key must not be the proxy's "
            "too: make one with 'llmauth keygen'"
        )
    # The log masks a key wherever it stands, and what it leaves of our own words would tell it.
    said = (
        f"the key '{name}' is weak ({reason}): make a strong one with 'llmauth keygen'",
        f"'{name}': run 'llmauth keygen'",
    )
    return next((one for one in said if key.lower() not in one.lower()), "run 'llmauth keygen'")


def warn_of_weak(keys: Iterable[tuple[str, str]]) -> None:
    """Log a warning for every key with which something is wrong, by its name."""
    for name, key in keys:
        if said := about_key(name, key):
            logger.warning("%s", said)


def provider_key_source(variable: str, environ: Mapping[str, str]) -> KeySource | None:
    """Return where a provider's key is: in the variable, or in the file that ``…_FILE`` names."""
    for name in (variable, f"{variable}_FILE"):
        if value := environ.get(name, "").strip():
            return KeySource(name, variable, value, in_file=name != variable)
    return None


def read_provider_key(source: KeySource) -> str:
    """Return a provider's key.

    :raises ConfigurationError: when there is none that could be sent, or more than one
    """
    if not source.in_file:
        advice = f"Name the file in {source.variable}_FILE."
        return checked_provider_key(source.value, source.variable, if_path=advice)
    lines = list(_lines(Path(source.value), source.variable))
    if len(lines) != 1:
        raise ConfigurationError(f"{source.variable}: the file must hold one key on one line.")
    number, line = lines[0]
    return checked_key(line, f"{source.variable} ({source.value}, line {number})")


def read_header_value(source: KeySource) -> str:
    """Return what a variable, or the file that it names, holds of a header's value.

    :raises ConfigurationError: when it could not be sent
    """
    where, text = source.variable, source.value
    if source.in_file:
        where = f"{source.variable} ({source.value})"
        text = "\n".join(line for _, line in _lines(Path(source.value), source.variable))
    if not re.fullmatch(r"[ -~]+", text) or _is_quoted(text):
        raise ConfigurationError(
            f"{where}: a header's value is one line of visible ASCII, without quotes around it."
        )
    return text


def secrets_in(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield every key and password that an environment holds, by the names of its variables."""
    for name, value in environ.items():
        if _HOLDS_FILE.fullmatch(name):
            try:
                yield from (line.rpartition(": ")[2] for _, line in _lines(Path(value), name))
            except ConfigurationError:
                if Path(value).name == value:  # no path: it may be the key itself
                    yield value
        elif _HOLDS_SECRET.fullmatch(name):
            yield value.strip("\"' ")
        elif name.endswith("_HEADER"):
            yield from (word for word in value.partition(":")[2].split() if len(word) >= 8)
        elif _HOLDS_URI.fullmatch(name):
            yield from uri_secrets(value)


@contextlib.contextmanager
def hiding(secrets: Iterable[str]) -> Iterator[None]:
    """Have errors of configuration not repeat these secrets."""
    try:
        yield
    except ConfigurationError as exc:
        known = tuple(secrets)
        raise type(exc)(*(hidden(message, known) for message in exc.messages)) from None
