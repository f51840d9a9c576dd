"""What kept an upstream from answering, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .connector import TOO_LATE

# What an exception's text holds; the words for whoever asked, without addresses or internals; and
# what the operator can do, which is for ``llmauth check`` alone. The first that fits counts.
_REASONS = (
    ("ProxyError", "the proxy that leads to it does not let through", "Look at its http_proxy."),
    (
        "gaierror",
        "its name cannot be resolved",
        "Check the base URL, and that this machine has DNS.",
    ),
    (
        "certificate has expired",
        "its TLS certificate has expired",
        "Its operator must renew it; is the clock of this machine right?",
    ),
    (
        "self-signed certificate",
        "its TLS certificate is self-signed",
        "If it is yours, name its authority's file in REQUESTS_CA_BUNDLE.",
    ),
    (
        "unable to get local issuer",
        "its TLS certificate is from an unknown authority",
        "If it is yours, name the authority's file in REQUESTS_CA_BUNDLE.",
    ),
    (
        "CertificateError",
        "its TLS certificate is for another name",
        "Use the name in the certificate in the base URL.",
    ),
    (
        "certificate is not valid for",
        "its TLS certificate is for another name",
        "Use the name in the certificate in the base URL.",
    ),
    ("CERTIFICATE_VERIFY_FAILED", "its TLS certificate is not trusted", ""),
    (
        "WRONG_VERSION_NUMBER",
        "it does not speak TLS",
        "Does the base URL mean http:// in place of https://?",
    ),
    (
        "SSLEOFError",
        "it closed the connection without an answer",
        "Does it speak TLS at this port?",
    ),
    ("SSLError", "the TLS handshake failed", ""),
    ("ConnectionRefusedError", "it refuses connections", "Does it run, and at this port?"),
    ("refused", "it refuses connections", "Does it run, and at this port?"),
    (TOO_LATE, TOO_LATE, "Does a firewall stand in between?"),
    ("Connection timed out", TOO_LATE, "Does a firewall stand in between?"),
    ("No route", "no connection could be made", "Is there a route to it?"),
    ("unreachable", "no connection could be made", "Is there a route to it?"),
    (
        "BadResponseError",
        "it did not answer with valid HTTP",
        "Does the base URL mean https:// in place of http://?",
    ),
    (
        "NoResponseError",
        "it closed the connection without an answer",
        "Does the base URL mean https:// in place of http://?",
    ),
    (
        "ConnectionResetError",
        "it closed the connection without an answer",
        "Does the base URL mean https:// in place of http://?",
    ),
)


_TAIL = re.compile(
    r"\w*(?:Pool|Connection|Error)\((?:host=)[^)]*\):? ?|<[^<>]* object at 0x[0-9a-f]+>:? ?"
    r"| ?\(_ssl\.c:\d+\)"
)
"""What says nothing to an operator: addresses of objects, lines of C."""


def detail(exc: BaseException) -> str:
    """Return what the system says of it, for the log."""
    text = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    return _TAIL.sub("", text).strip() or type(exc).__name__


def why(exc: BaseException) -> str:
    """Say what went wrong; no addresses, no internals."""
    return _found(exc)[0]


def remedy(exc: BaseException) -> str:
    """Say what the operator can do about it; empty when nothing can be said."""
    return _found(exc)[1]


def _found(exc: BaseException) -> tuple[str, str]:
    text = " ".join(map(repr, _chain(exc)))
    found = ((words, advice) for sign, words, advice in _REASONS if sign in text)
    return next(found, ("the connection failed", ""))


def _chain(exc: BaseException) -> Iterator[BaseException]:
    yield exc
    for other in (exc.__context__, exc.__cause__):
        if other is not None:
            yield other
