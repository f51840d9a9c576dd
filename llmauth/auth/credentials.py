"""Which key a request carries, and whether it is one of ours.

No Flask in here: a request is its header getter, its raw path and its raw query.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from ..config.keys import MAX_KEY_BYTES
from ..exceptions import AuthenticationRequired, InvalidRequest, RequestRefused
from ..providers.table import KEY_HEADERS, PROXY_KEY_HEADER, QUERY_KEY_PATH
from ..redact.memory import MAX_OBSERVED
from ..redact.redactor import is_credential
from .advice import about_tokens

_OWS = " \t"
"""What HTTP calls white space (RFC 9110 §5.6.3); ``str.strip`` takes more than that."""

MAX_QUERY_KEYS = 16
"""Different keys that are read in a query: whoever sends two has sent too many."""

MAX_CREDENTIALS = 16
"""Credentials of one request that are remembered, so that they are masked wherever they stand."""

_SESSION = 12
"""Characters from which on a cookie is taken for a session rather than a preference."""

_COOKIE = re.compile(rf"(?:^|;)([^;]{{{_SESSION},}})")
_WORD = re.compile(r"[^\s,]+")
_QUERY_KEY = re.compile(r"(?:^|&)key=([^&]*)")

CARRIERS = frozenset({"authorization", PROXY_KEY_HEADER, *KEY_HEADERS})
"""Headers that may carry the proxy key; none of them reaches an upstream as it came."""

_UNSAFE_PARAMETER = re.compile(
    r".*(?:key|secret|passw(?:or)?d|authorization|credentials?|signature|cookie|jwt)s?"
    r"|.*(?:auth|access|api|bearer|id|refresh|session|user|proxy|x)token|token|.*auth|sig|pwd"
    r"|httpheaders|(?:x?http)?method(?:override)?"
)
"""Query parameters that are a credential, or stand for a method or headers (Google's
``$httpMethod``), by their names in lower case and without signs; ``pageToken`` is none."""


@dataclass(frozen=True)
class Presented:
    """The key that a request carries.

    :param token: as the client sent it; compare it, never log it
    :param own_credentials: the client's other credentials belong to the provider
    """

    token: bytes = field(repr=False)
    own_credentials: bool = False


class BadCredentials(Exception):
    """Credentials that are none of ours, or cannot be checked.

    :param refusal: the answer for the client
    :param guesses: what it carried that may have been meant as a key; empty: not an attempt
    """

    def __init__(self, refusal: RequestRefused, *guesses: str) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.guesses = tuple(filter(None, guesses))


def find_key(header: Callable[[str], str | None], path: str, query: str) -> Presented | None:
    """Return the key that the request carries, None when it carries none.

    :param header: returns a header's value by its lower-case name, None when it is absent
    :param path: the raw path
    :param query: the raw query
    :raises BadCredentials: for credentials that cannot be checked
    """
    own = header(PROXY_KEY_HEADER)
    if own is not None:
        return Presented(_checked(own), own_credentials=True)
    values = [value for name in KEY_HEADERS if (value := header(name)) is not None]
    if query and "key=" in query and QUERY_KEY_PATH.search(path):
        values += query_keys(query)
    authorization = header("authorization")
    if authorization is not None and authorization.strip(_OWS):
        values.append(_bearer(authorization))
    candidates = {value.strip(_OWS) for value in values} - {""}
    if len(candidates) > 1:
        raise BadCredentials(
            InvalidRequest(
                "The request carries several different keys. Send one proxy key; "
                f"a provider key of your own needs the proxy key in {PROXY_KEY_HEADER}."
            ),
            *candidates,
        )
    return Presented(_checked(candidates.pop())) if candidates else None


def tokens_in(value: str) -> Iterator[str]:
    """Yield the secrets in the value of a header that carries credentials: without its scheme.

    Of a longer value than `MAX_KEY_BYTES`, those in its beginning.
    """
    value = value[:MAX_KEY_BYTES]
    scheme, _, token = value.strip().partition(" ")
    token = token.strip()
    yield token or scheme
    if "," in value or " " in token:
        yield from (word.group() for word in _WORD.finditer(value))
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            pair = base64.b64decode(token + "==", validate=False)
            yield pair.decode("utf-8", "surrogateescape").partition(":")[2]


def query_keys(query: str) -> list[str]:
    """Return the decoded values of ``key=`` in a raw query, `MAX_QUERY_KEYS` different ones."""
    values: dict[str, None] = {}
    for match in _QUERY_KEY.finditer(query):
        values[match[1]] = None
        if len(values) == MAX_QUERY_KEYS:
            break
    return [unquote_to_bytes(value).decode("latin-1") for value in values]


def credentials_in(
    environ: Mapping[str, Any], query: str, guesses: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return what in a request is a credential, right or wrong: in headers, cookies, ``key=``.

    At most `MAX_CREDENTIALS` of `MAX_OBSERVED` characters, those first that may be meant as a key.

    :param query: raw
    :param guesses: credentials that are known already
    """
    credentials: dict[str, None] = {}
    for credential in itertools.chain(guesses, _credentials_in(environ, query)):
        if credential:
            credentials[credential[:MAX_OBSERVED]] = None
        if len(credentials) == MAX_CREDENTIALS:
            break
    return tuple(credentials)


def _credentials_in(environ: Mapping[str, Any], query: str) -> Iterator[str]:
    if "key=" in query:
        yield from query_keys(query)
    names = [key for key in environ if key.startswith("HTTP_") and is_credential(key[5:])]
    lists = [tokens_in(environ[key]) for key in names if key != "HTTP_COOKIE"]
    yield from (next(tokens, "") for tokens in lists)
    yield from itertools.chain.from_iterable(lists)
    for cookie in _COOKIE.finditer(environ.get("HTTP_COOKIE", "")):
        value = cookie[1].partition("=")[2].strip()
        if len(value) >= _SESSION:
            yield value


def _about_scheme(scheme: str, token: str) -> str:
    wanted = "This server takes the proxy key as 'Authorization: Bearer <key>'"
    if not token:
        return f"{wanted}; the request has one word there, without 'Bearer' or without the key."
    if scheme.lower() == "basic":
        return f"{wanted}, not with Basic, as 'curl -u' and a password in the URL send it."
    return f"{wanted}, not with another scheme."


def _bearer(value: str) -> str:
    scheme, _, token = value.strip(_OWS).partition(" ")
    token = token.strip(_OWS)
    if scheme.lower() != "bearer":
        raise BadCredentials(
            AuthenticationRequired(_about_scheme(scheme, token)),
            token or scheme,
        )
    if not token:
        raise BadCredentials(InvalidRequest("'Authorization: Bearer' came without a key."))
    if any(c in token for c in " \t"):
        raise BadCredentials(InvalidRequest(about_tokens(token)), token)
    return token


def _checked(value: str) -> bytes:
    token = value.strip(_OWS).encode("latin-1", "replace")
    if not token:
        raise BadCredentials(InvalidRequest(f"'{PROXY_KEY_HEADER}' came without a key."))
    if len(token) > MAX_KEY_BYTES:
        raise BadCredentials(InvalidRequest(f"The key is over {MAX_KEY_BYTES} bytes long."), value)
    return token


class KeyRing:
    """The proxy keys, as digests.

    :param keys: pairs of a name, which may be logged, and the key
    """

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        self._digests = [(name, _digest(key.encode())) for name, key in keys]

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """The names of the keys, in the order of the configuration."""
        return [name for name, _ in self._digests]

    def match(self, token: bytes) -> str | None:
        """Return the name of the key that equals the token, None when there is none.

        Digests of equal length are compared, each of them to its end, whatever the token.
        """
        digest = _digest(token)
        names = [name for name, known in self._digests if hmac.compare_digest(known, digest)]
        return names[0] if names else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def strip_query_keys(
    query: str, keys: KeyRing, *, keep: bool, any_value: bool
) -> tuple[str, bool]:
    """Remove ``key=`` from a raw query.

    :param keep: the query's key may belong to the provider, unless it is one of ours
    :param any_value: on a path where ``key=`` carries a key; elsewhere only our own is removed
    :returns: the query, and whether a key of the provider stays in it
    """
    kept, provider_key = [], False
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name == "key":
            ours = keys.match(unquote_to_bytes(value).strip()) is not None
            if ours or (any_value and not keep):
                continue
            provider_key = provider_key or any_value
        kept.append(part)
    return "&".join(kept), provider_key


def without_credentials(query: str) -> str:
    """Return a raw query without any parameter that is a credential, or may bring one, by its name.

    What is in them does not count: of a request that shows no key, nobody may learn from an answer
    whether a value in it is one.
    """
    return "&".join(part for part in query.split("&") if not _is_unsafe(part))


def _is_unsafe(part: str) -> bool:
    # Some servers split at semicolons, too.
    names = (unquote(one.partition("=")[0]).lower() for one in part.split(";"))
    plain = (re.sub("[^a-z0-9]", "", name) for name in names)
    return any(map(_UNSAFE_PARAMETER.fullmatch, plain))
