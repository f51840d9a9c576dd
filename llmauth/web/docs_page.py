"""The page at ``/docs``: one document that loads nothing else.

Its parts lie in the folder ``documents``. Style and script stand in the page itself, so that no
further path has to be public, and the policy names their digests: nothing else that gets
into the page, by whatever mistake, would run.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def docs_page() -> tuple[str, str]:
    """Return the page and its Content-Security-Policy."""
    style, script = _part("page.css"), _part("page.js")
    page = _part("page.html").replace("/* page.css */", style).replace("/* page.js */", script)
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


def _part(name: str) -> str:
    text = files(__package__).joinpath("documents", name).read_text(encoding="utf-8")
    # A browser reads CRLF, as a checkout on Windows may have it, as LF, and digests that.
    return text.replace("\r\n", "\n")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
