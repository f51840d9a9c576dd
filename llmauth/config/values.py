"""Reading one value of a setting: text from the command line or the environment, or YAML.

Every parser raises ``ValueError`` with the end of a sentence that begins with the setting's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import ConfigurationError
from ..redact.uris import is_ambiguous
from .addresses import UNIX, Network, parse_network

WINDOWED_STORES = re.compile(
    r"^(?:memory|(?:redis|valkey)(?:s|\+unix|\+cluster|\+sentinel)?|mongodb(?:\+srv)?)$"
)
"""Schemes of the ``limits`` stores that have a moving window; memcached has none."""

_ORIGIN = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
)
"""RFC 6454 section 6.2; of extensions and desktop programs too, which have schemes of their own."""


def read_text(path: Path, trouble: str) -> str:
    """Return the text of a file.

    :param trouble: begins the error
    :raises ConfigurationError: when it cannot be read, or is not UTF-8
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{trouble}: {reason}.") from None


def parse_bool(value: Any) -> bool:
    """Parse a switch: true/false, yes/no, on/off, 1/0."""
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError("is neither true nor false")


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[Any], Any]:
    """Return a parser for numbers from ``low`` to ``high``."""

    def parse(value: Any) -> int | float:
        try:
            result = kind(str(value).strip().replace("_", "").encode("ascii"))
        except ValueError:
            raise ValueError(
                "is not a whole number" if kind is int else "is not a number"
            ) from None
        if isinstance(value, bool) or not low <= result <= high:
            raise ValueError(f"is not between {low} and {high}")
        return result

    return parse


def parse_size(value: Any) -> int:
    """Parse a size in bytes: 1048576, 512K, 256M, 1G (with or without a B, powers of 1024)."""
    parts = re.fullmatch(r"(\d+)\s*([KMG]?)i?B?", str(value).strip(), re.IGNORECASE)
    if not parts or isinstance(value, bool):
        raise ValueError("is not a size in bytes, such as 1048576, 512K or 256M")
    size = int(parts[1]) << 10 * " KMG".index(parts[2].upper() or " ")
    if not 1024 <= size <= 2**40:
        raise ValueError("is not between 1K and 1024G")
    return size


def one_of(*choices: str) -> Callable[[Any], str]:
    """Return a parser for one of some words, whatever their case."""

    def parse(value: Any) -> str:
        for choice in choices:
            if str(value).strip().lower() == choice.lower():
                return choice
        raise ValueError(f"is none of {', '.join(choices)}")

    return parse


def parse_text(value: Any) -> str:
    """Parse a text that must not be empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is not a text")
    return value.strip()


def parse_optional_text(value: Any) -> str | None:
    """Parse a text; empty means none."""
    return parse_text(value) if value not in (None, "") else None


def parse_bypass_path(value: Any) -> str:
    """Parse the exact path of a public page."""
    text = parse_text(value)
    if not text.startswith("/") or text == "/":
        raise ValueError("is not the path of a page: it starts with a slash and names something")
    if any(part in (".", "..") for part in text.split("/")) or re.search(r"[%\\?#\s\x00]|//", text):
        raise ValueError("is not a plain path: no dots, doubled slashes, escapes, query or spaces")
    return text


def parse_origin(value: Any) -> str:
    """Parse the origin of web pages as a browser sends it, or ``*`` for all of them."""
    text = parse_text(value)
    if text == "*":
        return text
    if text.lower() == "null":
        raise ValueError("holds 'null', which any page can be: serve the page from an address")
    parts = _ORIGIN.fullmatch(text.rstrip("/"))
    if not parts:
        raise ValueError(
            f"holds '{text}', which is no origin such as https://chat.example.com or "
            "http://localhost:3000: no path, no patterns, names in ASCII"
        )
    scheme, host, port = parts[1].lower(), parts[2].lower(), parts[3]
    default = {"http": "80", "https": "443"}.get(scheme)
    origin = f"{scheme}://{host}" + (f":{port}" if port and port != default else "")
    if text != origin:
        raise ValueError(f"holds '{text}', which a browser sends as '{origin}': write it so")
    return origin


def parse_storage_uri(value: Any) -> str:
    """Parse the URI of a ``limits`` store that has a moving window."""
    text = parse_text(value)
    scheme = text.partition("://")[0]
    try:
        urlsplit(text)
    except ValueError:
        raise ValueError("is not a URI") from None
    if is_ambiguous(text):
        raise ValueError("is ambiguous: in a password, write %40 %2F %3F %23 for @ / ? #")
    if "://" not in text or not WINDOWED_STORES.match(scheme):
        raise ValueError("is no store with a moving window, as memory:// or redis:// is")
    return text


def list_of(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a parser for lists; text is split at commas."""

    def parse_list(value: Any) -> tuple[Any, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError("is not a list")
        return tuple(parse(item) for item in items if str(item).strip())

    return parse_list


def parse_origins(value: Any) -> tuple[str, ...]:
    """Parse a list of origins, or ``*`` alone."""
    origins = list_of(parse_origin)(value)
    if "*" in origins and len(origins) > 1:
        raise ValueError("holds '*' beside others: name it alone, or only the others")
    return tuple(dict.fromkeys(origins))


def parse_one_network(value: Any) -> Network:
    """Parse an address or a network."""
    try:
        return parse_network(str(value))
    except ValueError:
        raise ValueError(f"holds '{value}', which is no address or network") from None


def parse_proxy(value: Any) -> Network | str:
    """Parse the address or network of a reverse proxy; ``unix`` means a Unix socket's peers."""
    text = str(value).strip()
    if text.lower() == UNIX:
        return UNIX
    try:
        return parse_network(text)
    except ValueError:
        raise ValueError(f"holds '{value}', which is no address, network or '{UNIX}'") from None
