"""Reading one value of a setting: text from the command line or the environment, or YAML.

Every parser raises ``ValueError`` with the end of a sentence that begins with the setting's name.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import ConfigurationError
from ..redact.controls import visible
from ..redact.uris import is_ambiguous
from .addresses import UNIX, Network, parse_network
from .names import nearest

WINDOWED_STORES = re.compile(
    r"^(?:memory|(?:redis|valkey)(?:s|\+unix|\+cluster|\+sentinel)?|mongodb(?:\+srv)?)$"
)
"""Schemes of the ``limits`` stores that have a moving window; memcached has none."""

_STORES = "memory://, redis://host:6379/0, valkey://host:6379/0 or mongodb://host"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)[a-z]*", re.IGNORECASE | re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
UNIX_PREFIX = "unix:"
"""What the path of a Unix socket to listen on begins with."""

_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[^\]/]+)?)\]")
_WITH_PORT = re.compile(
    r"(?:(?:[a-z][a-z0-9+.-]*:)?//+)?(\[[^\]/@]*\]|[^\[\]/@:]*)(?::(\d{1,5}))?/*", re.IGNORECASE
)
_QUOTED = re.compile(
    "([\"'`]).*\\1|[\u201c\u201d\u201e].*[\u201c\u201d]|[\u2018\u2019].*\u2019", re.DOTALL
)
_ORIGIN = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
)
"""RFC 6454 section 6.2; of extensions and desktop programs too, which have schemes of their own."""


def read_text(path: Path, trouble: str, *, utf_16: bool = False) -> str:
    """Return the text of a file.

    :param trouble: begins the error
    :param utf_16: take that as well, which has a mark at its beginning: what ``>`` writes in
        Windows PowerShell 5.1
    :raises ConfigurationError: when it cannot be read, or is not UTF-8
    """
    try:
        data = path.read_bytes()
        marked = utf_16 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if marked else "utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8; save it as such"
        raise ConfigurationError(f"{trouble}: {reason}.") from None


def kind_of(value: Any) -> str:
    """Return what people call a value of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {dict: "a mapping", list: "a list", str: "a text", int: "a number", float: "a number"}
    return kinds.get(type(value), "something else")


def sentence(text: str) -> str:
    """Return a text with a full stop, unless it ends in a question."""
    return text if text.endswith("?") else f"{text}."


def plain(value: Any) -> Any:
    """Return a value as it is.

    :raises ValueError: for a text in quotes that are part of it, or with what nobody sees
    """
    if isinstance(value, str):
        text = value.strip()
        if _QUOTED.fullmatch(text):
            raise ValueError(
                "has quotes around it, which only a shell takes off (--env-file of docker does "
                "not): remove them"
            )
        if visible(joined := "".join(text.split())) != joined:
            raise ValueError("holds a character that is not seen: type it anew")
    return value


def parse_bool(value: Any) -> bool:
    """Parse a switch: true/false, yes/no, on/off, 1/0."""
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError("is neither true nor false (yes, no, on, off, 1, 0)")


def number(
    kind: type[int] | type[float], low: float, high: float, unit: str = ""
) -> Callable[[Any], Any]:
    """Return a parser for numbers from ``low`` to ``high``.

    :param unit: seconds, or none
    """
    wanted = " ".join(filter(None, ["a whole number" if kind is int else "a number", unit]))
    wanted = wanted.replace(" seconds", " of seconds")

    def parse(value: Any) -> int | float:
        text = str(value).strip()
        try:
            result = kind(text.replace("_", "").encode("ascii"))
        except ValueError:
            instead = ""
            if duration := _DURATION.fullmatch(text) if unit else None:
                instead = f": write {_in_seconds(duration)}, without a unit"
            elif re.fullmatch(r"\d+,\d+", text):
                instead = f": write {text.replace(',', '.')}"
            raise ValueError(f"is not {wanted}{instead}") from None
        if isinstance(value, bool) or not low <= result <= high:
            raise ValueError(" ".join([f"is not between {low} and {high}", unit]).rstrip())
        return result

    return parse


def _in_seconds(duration: re.Match[str]) -> str:
    return f"{float(duration[1]) * _SECONDS[duration[2].lower()]:g}"


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
        text = str(value).strip().lower()
        for choice in choices:
            if text == choice.lower():
                return choice
        question = nearest(text, map(str.lower, choices))
        raise ValueError(f"is none of {', '.join(choices)}{question and '.' + question}")

    return parse


def parse_text(value: Any) -> str:
    """Parse a text that must not be empty."""
    if not isinstance(value, str):
        quotes = ": put quotes around it" if isinstance(value, (int, float)) else ""
        raise ValueError(f"is not a text but {kind_of(value)}{quotes}")
    if not value.strip():
        raise ValueError("is empty")
    return value.strip()


def parse_host(value: Any) -> str:
    """Parse what to listen on: an address without scheme and port, or a Unix socket's path."""
    text = parse_text(value)
    if text.startswith(UNIX_PREFIX):
        path = re.sub("^//+(?=/)", "", text.removeprefix(UNIX_PREFIX))
        if not path or path.endswith("/"):
            raise ValueError(f"names no socket, as {UNIX_PREFIX}/run/llmauth/llmauth.sock does")
        return UNIX_PREFIX + path
    if bracketed := _BRACKETED.fullmatch(text):  # as in URLs
        return bracketed[1]
    if re.search(r"[/\[\]@]", text) or text.count(":") == 1:
        raise ValueError(
            "is not an address alone, as 0.0.0.0 is; the port is a setting by itself"
            f"{_listen_instead(text)}"
        )
    return text


def _listen_instead(text: str) -> str:
    """Return what to write in place of a URL, or of an address with a port."""
    parts = _WITH_PORT.fullmatch(text)
    if parts is None or not (parts[1] or parts[2]):
        return ""
    host = parts[1].strip("[]") or "0.0.0.0 or 127.0.0.1"
    port = f", and {parts[2]} in server.port (APP_PORT, --port)" if parts[2] else ""
    return f": write {host} here{port}"


def parse_optional_text(value: Any) -> str | None:
    """Parse a text; empty means none."""
    return parse_text(value) if value not in (None, "") else None


def parse_bypass_path(value: Any) -> str:
    """Parse the exact path of a public page."""
    text = parse_text(value)
    if not text.startswith("/") or text == "/":
        raise ValueError(f"holds '{text}', no path of a page, which starts with a slash")
    if any(part in (".", "..") for part in text.split("/")) or re.search(r"[%\\?#\s\x00]|//", text):
        raise ValueError(
            f"holds '{text}', no plain path: no dots, doubled slashes, escapes, query or spaces"
        )
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
    scheme, separator, _ = text.partition("://")
    try:
        urlsplit(text)
    except ValueError:
        raise ValueError(f"is not a URI, such as {_STORES}") from None
    if is_ambiguous(text):
        raise ValueError("is ambiguous: in a password, write %40 %2F %3F %23 for @ / ? #")
    if not separator:
        raise ValueError(f"names no store for the counts of wrong keys, as {_STORES} do")
    if not WINDOWED_STORES.match(scheme):
        raise ValueError(
            "names no store with a moving window, in which wrong keys could be counted, as "
            f"{_STORES} do"
        )
    return text


def list_of(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a parser for lists; text is split at commas."""

    def parse_list(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            raise ValueError("has brackets around it: write commas between the values, no more")
        if isinstance(value, str) and re.search(r"[^\s,][\s;]+[^\s,]", value):
            raise ValueError(f"holds '{value.strip()}': write commas between the values")
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError(f"is not a list but {kind_of(value)}")
        return tuple(parse(item) for item in items if str(item).strip())

    return parse_list


def parse_mapping(value: Any) -> Mapping[str, Any] | None:
    """Parse a mapping, or JSON that holds one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("is no JSON") from None
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"is {kind_of(value)}, and not a mapping")
    return value


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
        raise ValueError(
            f"holds '{value}', which is no address, network or '{UNIX}': such as 10.0.0.0/8, "
            "neither a name nor *"
        ) from None
