"""Cross-origin requests of web pages (the CORS protocol of the Fetch standard, and Private Network
Access, which asks in the same way); no Flask in here.

Off unless origins are configured. A page must send the key in a header like any other client:
``Access-Control-Allow-Credentials`` is never sent, so that what a browser keeps for this server
(cookies, passwords, certificates) stays out of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..exceptions import OriginRefused
from ..http.grammar import TOKEN_CHARS, Headers

ANY_ORIGIN = "*"
PREFLIGHT_SECONDS = 600
"""How long a browser may remember a preflight's answer: a change of the settings is soon seen."""

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_NAMES = re.compile(rf"[{TOKEN_CHARS}, ]{{1,4096}}")


class Cors:
    """What pages of other origins may do.

    :param origins: exact origins, or ``*`` alone
    """

    def __init__(self, origins: Collection[str]) -> None:
        self.enabled = bool(origins)
        self._origins = frozenset(origins)

    def is_preflight(self, environ: Mapping[str, Any]) -> bool:
        """True for a browser's question whether a page may send a request: it carries no key."""
        return (
            environ["REQUEST_METHOD"] == "OPTIONS"
            and "HTTP_ORIGIN" in environ
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        )

    def preflight(self, environ: Mapping[str, Any]) -> Headers:
        """Return the headers that answer a preflight, beside :meth:`headers`.

        :raises OriginRefused: for a page that may not send requests
        """
        origin = environ["HTTP_ORIGIN"]
        if not self._allows(origin):
            raise OriginRefused(origin)
        # A wildcard would not cover Authorization, and the SDKs add headers of their own.
        wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
        asked = [("Vary", "Access-Control-Request-Headers")]
        if _NAMES.fullmatch(wanted):
            asked.append(("Access-Control-Allow-Headers", wanted))
        # A page of the Internet may reach a private address only where somebody has named it.
        if environ.get("HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK") == "true":
            asked.append(("Vary", "Access-Control-Request-Private-Network"))
            if origin in self._origins:
                asked.append(("Access-Control-Allow-Private-Network", "true"))
        return [
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
            *asked,
        ]

    def headers(self, environ: Mapping[str, Any]) -> Headers:
        """Return what lets a page read an answer, errors included; for every answer."""
        if not self.enabled:
            return []
        origin = environ.get("HTTP_ORIGIN")
        vary = [] if ANY_ORIGIN in self._origins else [("Vary", "Origin")]
        if not origin or not self._allows(origin):
            return vary
        shown = ANY_ORIGIN if ANY_ORIGIN in self._origins else origin
        # All headers may be read, a provider's rate limits and request ids among them: without
        # credentials the wildcard means what it says, and no answer has a Set-Cookie.
        return [
            ("Access-Control-Allow-Origin", shown),
            ("Access-Control-Expose-Headers", "*"),
            *vary,
        ]

    def _allows(self, origin: str) -> bool:
        return ANY_ORIGIN in self._origins or origin in self._origins
