"""The pages at ``/docs`` and ``/dashboard``: one document each that loads nothing else.

Their parts lie in the folder ``documents``. Style and script stand in the page itself, so that no
further path has to be public, and the policy names their digests: nothing else that gets
into the page, by whatever mistake, would run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from ..auth.request import raw_mount
from ..exceptions import RequestRefused

_ELSEWHERE = {"/": "docs", "/docs/": "../docs", "/dashboard/": "../dashboard"}
"""Where people with a browser look for a page first, and where it is from there."""
_WEIGHT = re.compile(r"[01](?:\.\d{0,3})?", re.ASCII)
_BACKENDS = "<!-- backends -->"
_CLIENTS = "<!-- clients.html -->\n"


class PageElsewhere(RequestRefused):
    """302: the page is at another path than where a browser asks for it."""

    code = 302
    type = "not_found_error"
    status = "NOT_FOUND"
    error_code = "page_elsewhere"

    def __init__(self, location: str) -> None:
        headers = [("Location", location), ("Vary", "Accept")]
        name = location.rpartition("/")[2]
        super().__init__(f"What people want to know of this server is at /{name}.", headers)


def elsewhere(path: str, environ: Mapping[str, Any]) -> PageElsewhere | None:
    """Return the way to the page for who asks for HTML where only a mistake can be meant.

    It leads from one public place to another, whatever key the request brings. Programs, which do
    not ask for HTML by its name, are not concerned.

    :param path: below the application's root
    """
    if path not in _ELSEWHERE or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return None
    if not _wants_html(environ.get("HTTP_ACCEPT", "")):
        return None
    # Relative, so that it holds behind prefixes that only a front knows; but a mount point may be
    # written without the slash after it.
    mount, location = raw_mount(environ), _ELSEWHERE[path]
    return PageElsewhere(f"{mount}/{location.rpartition('/')[2]}" if mount else location)


def with_backends(page: str, names: Iterable[str]) -> str:
    """Return the page with the names of the backends that it offers."""
    options = "".join(f'<option value="{escape(name)}">' for name in names)
    return page.replace(_BACKENDS, options)


def docs_page() -> tuple[str, str]:
    """Return the page at ``/docs`` and its Content-Security-Policy."""
    return _document("page.html", ["page.css"], ["shared.js", "page.js"])


def dashboard() -> tuple[str, str]:
    """Return the page at ``/dashboard`` and its Content-Security-Policy."""
    return _document("dashboard.html", ["page.css", "dashboard.css"], ["shared.js", "dashboard.js"])


def with_notice(page: str, notice: str) -> str:
    """Return the dashboard with a notice in place of the field for a key.

    :param notice: the id of the notice, empty for none
    """
    if not notice:
        return page
    page = page.replace('id="enter"', 'id="enter" hidden', 1)
    return page.replace(f'id="{notice}" hidden', f'id="{notice}"', 1)


def _document(name: str, styles: list[str], scripts: list[str]) -> tuple[str, str]:
    style, script = "".join(map(_part, styles)), "".join(map(_part, scripts))
    page = _part(name).replace(_CLIENTS, _part("clients.html"))
    page = page.replace("/* style */", style).replace("/* script */", script)
    policy = (
        "default-src 'none'",
        f"style-src {_digest(style)}",
        f"script-src {_digest(script)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
    return page, "; ".join(policy)


def _wants_html(accept: str) -> bool:
    """True where HTML is named, and JSON is not preferred (RFC 9110 §12.5.1)."""
    html = _quality(accept, "text/html")
    return html > 0 and html >= _quality(accept, "application/json")


def _quality(accept: str, kind: str) -> float:
    for entry in accept.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if name == kind:
            weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
            return float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    return 0.0


def _part(name: str) -> str:
    text = files(__package__).joinpath("documents", name).read_text(encoding="utf-8")
    # A browser reads CRLF, as a checkout on Windows may have it, as LF, and digests that.
    return text.replace("\r\n", "\n")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
