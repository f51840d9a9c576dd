"""The provider's own URLs in its answers, made to point here; those of others, refused.

A client that follows one takes its key along, and that is the proxy's key: it must not reach a
provider, nor anybody else. Three places are known in which clients do: redirects, headers that say
where to ask next, and Anthropic's message batches, whose SDKs fetch ``results_url``. Nothing else
in an answer is touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from ..exceptions import RedirectRefused, UpstreamUnreachable
from ..http.grammar import Headers
from ..http.uri_references import URIReference
from ..providers.backend import Backend, is_versioned
from ..providers.table import PROVIDERS
from .upstream import Incoming
from .whole import LARGEST_BODY, read_whole, with_body

MOST_URLS = 10_000
"""Batches in a list."""

LONGEST_URL = 8 * 1024
"""Bytes, as they stand in a body. Common servers take no longer request line."""

_WHOLE = frozenset({"azure-asyncoperation", "link", "operation-location"})
"""Headers whose URL clients ask with their key, and want whole: Azure's of an operation, and pages
of a list (RFC 8288)."""

_UPLOAD = "x-goog-upload-url"
"""Where Google's clients send a file: those for Python without any key, so that it stays as it is;
those for JavaScript with theirs."""

_UPLOADS_WITH_KEY = re.compile(r"\bgl-(?:node|web)\b")
_FOLLOWED = _WHOLE | {"location"}
_LOCATIONS = _FOLLOWED | {"content-location"}
_STRICT_LINK = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"|"|,(?!\s*<))+')
_LENIENT_LINK = re.compile(r"(?:[^,]|,(?!\s*<))+")
"""One link of a ``Link``: RFC 8288 knows quoted titles, in which ``requests`` sees the next one."""

_TARGET = re.compile(r"[\s'\"]*(?:<([^>]*)>|([^;]*))")
_TO_A_PAGE = re.compile(
    r"""(?i)\brel['"*\s]*=\s*(?:"(?:[^"\\]|\\.)*?|[^"=]*?)\b(?:next|prev|previous|first|last)\b"""
)
_BATCHES = PROVIDERS["anthropic"].linked_paths


def _followed(header: str, value: str) -> list[str]:
    """Return the URLs in a header that clients ask with their key."""
    if header == "link":
        return [value[start:end] for start, end in _pages(value)]
    return [value] if header in _FOLLOWED else []


def _pages(header: str) -> list[tuple[int, int]]:
    """Return where the URLs of pages of a list stand in a ``Link``.

    Read as leniently as clients read it: without brackets, with quotes in odd places, and two
    links where a strict reader sees a title with one in it.
    """
    found = set()
    for pattern in (_STRICT_LINK, _LENIENT_LINK):
        for link in pattern.finditer(header):
            target = _TARGET.match(header, *link.span())
            if target and _TO_A_PAGE.search(header, target.end(), link.end()):
                found.add(target.span(target.lastindex or 0))
    return sorted(found)


def _spelled(name: str) -> bytes:
    """Return a pattern of a name in JSON, where each character may be an escape."""
    return b"".join(b"(?:%c|\\\\u00(?i:%02x))" % (code, code) for code in name.encode("ascii"))


_RESULTS_URL = re.compile(rb'"%b"[ \t\r\n]*:[ \t\r\n]*(?=")' % _spelled("results_url"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_LIKELY_HOST = re.compile(
    r"(?i)(?:(?:https?|wss?|ftp):/*|//+)(?:[^/?#]*@)?([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])"
)


def has_links(path: str) -> bool:
    """True for a path whose answers hold URLs in their body; it must arrive uncompressed."""
    return _BATCHES.search(unquote(path)) is not None


def names_urls(path: str, headers: Headers) -> bool:
    """True for an answer that may hold URLs which :meth:`URLRewriter.pointed` looks after.

    :param path: of the request, as the backend has it
    """
    return has_links(path) or any(
        name.lower() == _UPLOAD or name.lower() in _LOCATIONS for name, _ in headers
    )


def uploads_with_key(header: Callable[[str], str | None]) -> bool:
    """True for a client that sends a file with its key to the URL that it is given for that."""
    said = f"{header('x-goog-api-client')} {header('user-agent')}"
    return _UPLOADS_WITH_KEY.search(said) is not None


@dataclass(frozen=True)
class URLRewriter:
    """Where the client found one backend.

    :param origin: scheme and host as the client wrote them, None when that is not known
    :param prefix: what stands before the backend's own paths: mount point and backend's name
    :param named: the backend's name is a part of that
    :param at_root: the request's path has no folder, so that what is relative to it could lead to
        another backend, or to a page of this server
    :param uploads: the client sends files with its key, see :func:`uploads_with_key`
    """

    backend: Backend
    origin: str | None
    prefix: str
    named: bool = True
    at_root: bool = False
    uploads: bool = False

    def pointed(self, incoming: Incoming, method: str, path: str) -> Incoming:
        """Return the answer with the provider's URLs pointing here.

        :param path: of the request, as the backend has it
        :raises RedirectRefused: when the client would ask another host
        :raises UpstreamUnreachable: when the answer cannot be looked through
        """
        try:
            followed = self._without_others(incoming, path)
            headers = [(name, self.location(name, value, path)) for name, value in followed]
            if not has_links(path) or method == "HEAD" or not 200 <= incoming.status < 300:
                incoming.headers = headers
                return incoming
            body = self._with_results_here(read_whole(incoming, self.backend.name))
        except BaseException:
            incoming.close()
            raise
        incoming.headers = headers
        return with_body(incoming, body)

    def location(self, name: str, value: str, path: str = "/") -> str:
        """Return a header's value; one that leads on inside the provider leads on inside us.

        A path is enough (RFC 9110 §10.2.2), and needs no trust in what the client says of itself.

        :param path: of the request, as the backend has it
        """
        lower = name.lower()
        is_upload = lower == _UPLOAD and self.uploads and self.origin is not None
        lead = self.origin if (lower in _WHOLE or is_upload) and self.origin else ""

        def pointed(url: str) -> str:
            reference = URIReference.parse(url)
            if reference is None or (reference.stays and not (self.at_root and reference.path)):
                return url
            own = self.backend.own_path(reference, self.backend.target(path))
            return url if own is None else lead + self._path(own)

        if lower == "link":
            for start, end in reversed(_pages(value)):
                value = value[:start] + pointed(value[start:end]) + value[end:]
            return value
        return pointed(value) if is_upload or lower in _LOCATIONS else value

    def _without_others(self, incoming: Incoming, path: str) -> Headers:
        """Return the headers of an answer, refused when its client would ask another host.

        A ``Location`` of a success names what was made, and the success stands without it.
        """
        name, status, base = self.backend.name, incoming.status, self.backend.target(path)
        if status >= 400 or self.backend.settings.redirects == "hand-on":
            return incoming.headers
        kept = list(incoming.headers)
        for header, value in incoming.headers:
            is_upload = self.uploads and header.lower() == _UPLOAD
            for url in [value] if is_upload else _followed(header.lower(), value):
                reference = URIReference.parse(url)
                own = reference and self.backend.own_path(reference, base)
                if own is None and header.lower() == "location" and status < 300 and status != 202:
                    kept.remove((header, value))
                elif own is None:
                    raise RedirectRefused(name, self._shown_host(url))
                elif status >= 300 and has_links(path) and not has_links(own):
                    raise UpstreamUnreachable(
                        f"The backend '{name}' redirects from its batches to something else."
                    )
        return kept

    def _path(self, own: str) -> str:
        """Return the path here of one of the backend's; without a version it could be another's."""
        name = "" if self.named or is_versioned(own) else f"/{self.backend.name}"
        return self.prefix + name + own

    def _shown_host(self, url: str) -> str | None:
        """Return the host that a client would most likely find in a URL."""
        plain = re.sub(r"[\x00-\x20]", "", url[:LONGEST_URL]).replace("\\", "/")
        found = _LIKELY_HOST.match(plain)
        return self.backend.mask.text(found[1].lower()) if found else None

    def _with_results_here(self, body: bytes) -> bytes:
        """Return a body of JSON in which every ``results_url`` points here."""
        pieces = bytearray()
        at = 0
        for number, found in enumerate(_RESULTS_URL.finditer(body)):
            if found.start() < at:
                continue  # inside a URL
            string = _STRING.match(body, found.end(), found.end() + LONGEST_URL)
            if string is None:
                raise self._unusable(f"with a results_url of over {LONGEST_URL} bytes")
            pieces += body[at : found.end()]
            pieces += self._results_url(string[0])
            at = string.end()
            if number >= MOST_URLS or len(pieces) > LARGEST_BODY:
                raise self._unusable("with too many batches; ask for fewer with 'limit'")
        pieces += body[at:]
        return bytes(pieces)

    def _results_url(self, string: bytes) -> bytes:
        """Return ``results_url`` as a URL here, wherever it pointed.

        Without a scheme and a host that are known to be right it is a path, which the SDKs append
        to their base URL: a guess might send the key over plain HTTP.

        :param string: in JSON
        """
        try:
            reference = URIReference.parse(json.loads(string))
        except ValueError:
            reference = None
        if reference is None:
            return b"null"
        if reference.host is None:
            return string
        path = self.backend.own_path(reference) or reference.below()
        return json.dumps(self.origin + self._path(path) if self.origin else path).encode("ascii")

    def _unusable(self, how: str) -> UpstreamUnreachable:
        return UpstreamUnreachable(f"The backend '{self.backend.name}' answered {how}.")


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
