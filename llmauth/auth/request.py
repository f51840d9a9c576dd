"""What is known of a request, read from its WSGI environ once, whatever server made that."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ..exceptions import RequestRefused

NOT_HEADERS = frozenset(key for key in os.environ if key.startswith("HTTP_"))
"""granian puts the process's environment into each request's, where ``HTTP_PROXY``, with a password
in its URL, would pass for a header."""

_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_SAFE_IN_PATH = "/:@!$&'()*+,;=-._~"

LONGEST_PREFIX = 256
"""Characters of all of ``X-Forwarded-Prefix``."""

_PREFIX = re.compile(
    r"(?:/(?!\.{1,2}(?:/|\Z))(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%(?!2[5EFef]|5[Cc]|7[Ff])[2-9A-Fa-f]"
    r"[0-9A-Fa-f])+)*/?"
)
"""A path that all read alike: no empty or dot segments, and no escapes that hide one."""


@dataclass
class RequestInfo:
    """What is known of a request; the access log and the proxy read it.

    :param path: raw, without the mount point; the one path on which everything is decided
    :param client: the client's address
    :param key_name: of the key that it showed
    :param key: the key itself, which is kept out of what is forwarded
    :param account: what is known of that key, when it is a stored one
    :param model: that it names, as far as that can be seen
    :param public: it needs no key
    :param decided: whether it is let in has been decided, and never is again
    :param admitted: it was let in, and may be forwarded
    :param refusal: the answer, if it is not let in
    """

    id: str
    path: str
    query: str
    client: str
    started: float = field(default_factory=time.perf_counter)
    key_name: str | None = None
    key: str | None = field(default=None, repr=False)
    account: Any = None
    own_credentials: bool = False
    public: bool = False
    admitted: bool = False
    preflight: bool = False
    backend: str | None = None
    model: str | None = None
    error: str | None = None
    decided: bool = False
    refusal: RequestRefused | None = None

    def refuse(self, refusal: RequestRefused) -> None:
        """Leave the verdict that the request is not let in."""
        refusal.__context__ = None  # whose traceback holds the request, and the answer to it
        self.refusal = identified(refusal.with_traceback(None), self)
        self.decided = True


def identified(refusal: RequestRefused, info: RequestInfo) -> RequestRefused:
    """Give the refusal the request's id, and the access log the reason."""
    refusal.request_id = info.id
    info.error = refusal.error_code
    return refusal


def new_id() -> str:
    """Return an id for a request that has none."""
    # Not from the system: that call hands Python's lock to another thread. Nothing trusts an id.
    return f"req_{random.getrandbits(96):024x}"  # noqa: S311 # nosec B311


def raw_target(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return a request's raw path, from the application's root on, and its raw query.

    PEP 3333 knows only the decoded path; waitress and gunicorn give the request target as
    ``REQUEST_URI`` or ``RAW_URI``. It may be in absolute form (RFC 9112 §3.2.2), whose host is
    not ours to judge.
    """
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if not target:
        path = quote(environ.get("PATH_INFO", "").encode("latin-1"), safe=_SAFE_IN_PATH)
        return path or "/", environ.get("QUERY_STRING", "")
    if target == "*":  # of OPTIONS: the server as a whole (RFC 9112 §3.2.4)
        return "/", ""
    if not target.startswith("/"):
        target = _ABSOLUTE_FORM.sub("", target, count=1)
    path, _, query = target.partition("?")
    return path.removeprefix(raw_mount(environ)) or "/", query


def raw_mount(environ: Mapping[str, Any]) -> str:
    """Return the path under which the application is mounted, as it stands in URLs."""
    mount = environ.get("SCRIPT_NAME")
    return quote(mount.encode("latin-1"), safe=_SAFE_IN_PATH) if mount else ""


def outer_mount(environ: Mapping[str, Any], *, trusted: bool) -> str:
    """Return what clients write before the application's paths, as it stands in URLs.

    Each reverse proxy adds the part that it takes away, so that several values stand in the order
    of the path. If one is no plain path, none is believed.

    :param trusted: the peer is a reverse proxy whose forwarding headers are believed
    """
    mount = raw_mount(environ)
    said = environ.get("HTTP_X_FORWARDED_PREFIX", "")
    # werkzeug's ProxyFix, where an application has one, has made it a part of the mount point.
    fixed = environ.get("werkzeug.proxy_fix.orig", environ).get("SCRIPT_NAME") or ""
    if not trusted or len(said) > LONGEST_PREFIX or fixed != environ.get("SCRIPT_NAME", ""):
        return mount
    parts = [part.strip(" \t") for part in said.split(",")]
    if not all(map(_PREFIX.fullmatch, parts)):
        return mount
    if len(set(parts)) == 1:
        del parts[1:]
    return "".join(part.rstrip("/") for part in parts) + mount


def header_getter(environ: Mapping[str, Any]) -> Callable[[str], str | None]:
    """Return a function that gives a header's value by its lower-case name."""
    return lambda name: environ.get("HTTP_" + name.upper().replace("-", "_"))


def received_header(environ: Mapping[str, Any], name: str) -> str | None:
    """Return a forwarding header as the client's request had it.

    ``waitress-serve`` takes those of a proxy that it was not told to trust out of the environ,
    unless it is started with ``--no-clear-untrusted-proxy-headers``; whom to trust is decided here.

    :param name: in upper case, with underscores
    """
    value: str | None = environ.get("HTTP_" + name)
    if value is None and (requests := _waitress_requests(environ)):
        value = requests[0].headers.get(name)
    return value


def received_names(environ: Mapping[str, Any]) -> set[str]:
    """Return the names of a request's headers, in upper case with underscores."""
    names = {key[5:] for key in environ if key.startswith("HTTP_") and key not in NOT_HEADERS}
    return names.union(*(request.headers for request in _waitress_requests(environ)[:1]))


def _waitress_requests(environ: Mapping[str, Any]) -> list[Any]:
    """Return the requests of a waitress connection; the first is the one that is answered.

    None where waitress leaves all headers in the environ: our own server decides on a request
    while an earlier one, of maybe another client, is being answered.
    """
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    takes_out = getattr(getattr(channel, "adj", None), "clear_untrusted_proxy_headers", False)
    return getattr(channel, "requests", None) or [] if takes_out else []
