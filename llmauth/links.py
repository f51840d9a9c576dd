"""The provider's own URLs in its answers, made to point here.

A client that follows one takes its key along, and that is the proxy's key: it must not reach a
provider. Two places are known in which clients do: a redirect, and Anthropic's message batches,
whose SDKs fetch ``results_url``. Nothing else in an answer is touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .exceptions import UpstreamUnreachable
from .headers import Headers
from .providers.backend import Backend, path_of
from .providers.table import PROVIDERS
from .upstream import Incoming, UpstreamBroke

LARGEST_BODY = 8 * 1024 * 1024
"""Bytes; a list of 1,000 batches, as many as Anthropic hands out at a time, has under 1 MiB."""

_LOCATIONS = frozenset({"location", "content-location", "operation-location"})
_BATCHES = PROVIDERS["anthropic"].linked_paths
_RESULTS_URL = re.compile(rb'("results_url"\s*:\s*)("(?:[^"\\]|\\.)*")')
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


def has_links(path: str) -> bool:
    """True for a path whose answers hold URLs in their body; it must arrive uncompressed."""
    return _BATCHES.search(unquote(path)) is not None


def names_urls(path: str, headers: Headers) -> bool:
    """True for an answer that may hold URLs which :meth:`Here.pointed` looks after.

    :param path: of the request, as the backend has it
    """
    return has_links(path) or any(name.lower() in _LOCATIONS for name, _ in headers)


@dataclass(frozen=True)
class Here:
    """Where the client found one backend.

    :param origin: scheme and host as the client wrote them, None when that is not known
    :param prefix: what stands before the backend's own paths: mount point and backend's name
    """

    backend: Backend
    origin: str | None
    prefix: str

    def pointed(self, incoming: Incoming, method: str, path: str) -> Incoming:
        """Return the answer with the provider's URLs pointing here.

        :raises UpstreamUnreachable: when the answer cannot be looked through
        """
        headers = [(name, self.location(name, value)) for name, value in incoming.headers]
        if not has_links(path) or method == "HEAD" or not 200 <= incoming.status < 300:
            incoming.headers = headers
            return incoming
        try:
            body = _RESULTS_URL.sub(self._results_url, _read(incoming, self.backend.name))
        finally:
            incoming.close()
        kept = [(n, v) for n, v in headers if n.lower() not in ("content-length", "etag")]
        kept.append(("Content-Length", str(len(body))))
        return _Whole(incoming.status, incoming.reason, kept, body)

    def location(self, name: str, value: str) -> str:
        """Return a header's value; one that redirects inside the provider redirects inside us.

        A path is enough (RFC 9110 §10.2.2), and needs no trust in what the client says of itself.
        """
        lower = name.lower()
        if lower not in _LOCATIONS or (path := self.backend.own_path(value)) is None:
            return value
        # Azure's own header is no reference by the standard; its clients want a whole URL.
        lead = self.origin if lower == "operation-location" and self.origin else ""
        return lead + self.prefix + path

    def _results_url(self, found: re.Match[bytes]) -> bytes:
        """Return ``results_url`` as a URL here, wherever it pointed.

        Without a scheme and a host that are known to be right it is a path, which the SDKs append
        to their base URL: a guess might send the key over plain HTTP.
        """
        try:
            url = json.loads(found[2])
            parts = urlsplit(url)
        except ValueError:
            return found[1] + b"null"
        if not parts.netloc:
            return found[0]
        path = self.backend.own_path(url) or path_of(parts)
        whole = self.origin + self.prefix + path if self.origin else path
        return found[1] + json.dumps(whole).encode("ascii")


def origin_of(header: Callable[[str], str | None], scheme: str, *, trusted: bool) -> str | None:
    """Return the scheme and host under which the client reached this server, None if unsure.

    ``Host`` is the client's own word; it goes back to that client alone.

    :param header: returns a header's value by its lower-case name
    :param scheme: of the connection to this server
    :param trusted: the peer is a reverse proxy whose forwarding headers are believed
    """
    host = header("host")
    if any(header(name) for name in ("forwarded", "x-forwarded-for", "x-forwarded-proto")):
        scheme = (header("x-forwarded-proto") or "").strip().lower()
        if not trusted or scheme not in ("http", "https"):
            return None
        host = header("x-forwarded-host") or host
    return f"{scheme}://{host}" if host and _HOST.fullmatch(host) else None


def _read(incoming: Incoming, name: str) -> bytes:
    """Return the whole body, which was asked for without an encoding."""
    for header, value in incoming.headers:
        if header.lower() == "content-encoding" and value.lower() != "identity":
            raise UpstreamUnreachable(
                f"The backend '{name}' compressed an answer that was asked for uncompressed."
            )
    body = bytearray()
    try:
        for chunk in incoming.chunks():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise UpstreamUnreachable(
                    f"The backend '{name}' answered with over {LARGEST_BODY} bytes; "
                    "ask for fewer batches at a time with 'limit'."
                )
    except UpstreamBroke as exc:
        raise UpstreamUnreachable(
            f"The backend '{name}' broke off in the middle of its answer."
        ) from exc
    return bytes(body)


class _Whole:
    """An answer that has been read to its end."""

    def __init__(self, status: int, reason: str, headers: Headers, body: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._body = body

    def chunks(self) -> Iterator[bytes]:
        return iter([self._body])

    def close(self) -> None:
        pass
