"""What is wrong with a base URL that can be read, but cannot be meant."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from .table import VERSION

_ENDPOINT = re.compile(
    r"(?i)/(?:(?:chat|fim)/(?:completions?|messages|responses)|completions?|responses"
    r"|messages(?:/(?:batches|count_tokens))?|embeddings?|moderations|images/\w+|audio/\w+|models"
    r"|models/[^/:]+:\w+)$"
    r"|/api/(?:chat|embed|generate|tags)$"
    r"|(?<=/v\d)/(?:chat|complete|embed|files|batches|images|audio|realtime|rerank)$"
)
"""An endpoint of a provider's API at the end of a path; not what might be a name there."""

_NEARLY_VERSION = re.compile(r"(?i)/v{1,2}[-_.]?(?:[il|!]|\d{1,3})(?:alpha|beta)?\d*[.,;]?(?=/|$)")
_LONE = re.compile(r"(?i)^/(?:v|\d)$")
_TWICE = re.compile(rf"({VERSION.pattern})({VERSION.pattern})$")


def fault_of(base_url: str) -> str | None:
    """Return what is wrong with a base URL and what to write instead, None when nothing is."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if _serves_models(parts.hostname or "", path):
        return None
    if endpoint := _ENDPOINT.search(path):
        return _instead(
            base_url,
            f"the base URL ends in '{endpoint[0]}', which clients add to it",
            path[: endpoint.start()],
        )
    if twice := _TWICE.search(path):
        return _instead(
            base_url, f"the base URL ends in two versions, '{twice[0]}'", path[: twice.start(2)]
        )
    for segment in (*_NEARLY_VERSION.finditer(path), *_LONE.finditer(path)):
        if not VERSION.match(segment[0]):
            right = path[: segment.start()] + _version_in(segment[0]) + path[segment.end() :]
            return _instead(base_url, f"'{segment[0]}' in the base URL is no version", right)
    return None


def _serves_models(host: str, path: str) -> bool:
    """True for Azure's catalogue of models, whose root has that name."""
    return path == "/models" and host.lower().endswith(".azure.com")


def _version_in(segment: str) -> str:
    """Return the version that was most likely meant."""
    number = re.search(r"\d+", segment)
    kind = re.search(r"(?i)(?:alpha|beta)\d*$", segment.rstrip(".,;"))
    return f"/v{number[0] if number else 1}{kind[0].lower() if kind else ''}"


def _instead(base_url: str, what: str, path: str) -> str:
    parts = urlsplit(base_url)
    host = parts.netloc.rpartition("@")[2]
    return f"{what}; is it {parts.scheme}://{host}{path}?"
