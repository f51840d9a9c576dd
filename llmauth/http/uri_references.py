"""Where an answer sends its reader: URLs, read strictly."""

from __future__ import annotations

import re
from typing import NamedTuple

_REFERENCE = re.compile(
    r"(?:(?:(?P<scheme>https?):)?"
    r"//(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?=[/?#]|\Z)"
    r"|(?!//|[^/?#]*:))"
    r"(?P<path>[!\"$->@-\[\]-~]*)(?P<rest>(?:[?#][!-\[\]-~]*)?)",
    re.ASCII | re.IGNORECASE,
)
"""A reference to an HTTP URL (RFC 3986 §4.1) that all clients read in the same way: visible ASCII,
no userinfo, no backslash, two slashes before a host and nowhere else at the start."""


class URIReference(NamedTuple):
    """A URL in an answer, taken apart.

    :param scheme: None where a relative reference leaves it out
    :param host: in lower case, None where a relative reference leaves it out
    :param rest: query and fragment
    """

    scheme: str | None
    host: str | None
    port: int | None
    path: str
    rest: str

    @classmethod
    def parse(cls, text: str) -> URIReference | None:
        """Return what a text refers to, None when clients might not agree about it."""
        match = _REFERENCE.fullmatch(text)
        if not match:
            return None
        scheme, host, port, path, rest = match.group("scheme", "host", "port", "path", "rest")
        return cls(
            scheme and scheme.lower(),
            host and host.lower().strip("[]"),
            int(port) if port else None,
            path,
            rest,
        )

    @property
    def stays(self) -> bool:
        """True for one that is relative to the request's own path, and leads no folder up."""
        relative = self.host is None and not self.path.startswith("/")
        return relative and _without_dots(self.path) == self.path

    def below(self, root: str = "") -> str:
        """Return the path below a root, query and fragment; never one that leads out of it."""
        path = _without_dots(self.path)
        if root and (path == root or path.startswith(f"{root}/")):
            path = path[len(root) :]
        return "/" + path.lstrip("/") + self.rest


def _without_dots(path: str) -> str:
    """Return a path without dot segments, escaped ones included (RFC 3986 §5.2.4, §6.2.2.2).

    With parameters (``..;a``) they are dot segments to Python's ``urljoin``, and so to requests.
    """
    *folders, last = re.sub("%2e", ".", path, flags=re.IGNORECASE).split("/")
    kept: list[str] = []
    for segment in folders:
        name = segment.partition(";")[0]
        if name == "..":
            del kept[-1:]
        elif name != ".":
            kept.append(segment)
    name = last.partition(";")[0]
    if name == "..":
        del kept[-1:]
    return "/".join([*kept, "" if name in (".", "..") else last])
