"""Which key a request carries, and whether it is one of ours.

No Flask in here: a request is its header getter, its raw path and its raw query.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from ..config.key_shape import MINIMUM_LENGTH
from ..config.keys import MAX_KEY_BYTES
from ..exceptions import AuthenticationRequired, InvalidKey, InvalidRequest, RequestRefused
from ..providers.table import KEY_HEADERS, PROXY_KEY_HEADER, QUERY_KEY_PATH
from ..redact.forms import has_escapes, levels
from ..redact.key_mask import SHORTEST, WORD
from ..redact.memory import MAX_OBSERVED
from ..redact.redactor import is_credential
from .advice import about_tokens

_OWS = " \t"
"""What HTTP calls white space (RFC 9110 §5.6.3); ``str.strip`` takes more than that."""

MAX_QUERY_KEYS = 16
"""Different keys that are read in a query: whoever sends two has sent too many."""

MAX_CREDENTIALS = 16
"""Credentials of one request that may be its key, and as many that are remembered, so that they are
masked wherever they stand."""

MAX_WITHDRAWN = 1024
"""Keys that were withdrawn while the process runs and are still known, by their digests."""

_TELLING = 60.0
"""Seconds between two times that the log tells of a withdrawn key that is still sent."""

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


def find_key(
    header: Callable[[str], str | None], path: str, query: str, keys: KeyRing
) -> Presented | None:
    """Return the key that the request carries, None when it carries none.

    Of several different ones that which is ours: SDKs and agents for which two variables are set
    send both, and browsers and curl add passwords of their own.

    :param header: returns a header's value by its lower-case name, None when it is absent
    :param path: the raw path
    :param query: the raw query
    :param keys: ours
    :raises BadCredentials: for credentials none of which can be ours, and for two keys of ours
    """
    values = [header(name) or "" for name in (PROXY_KEY_HEADER, *KEY_HEADERS)]
    candidates, faults = [], []
    try:
        values.append(_bearer(header("authorization") or ""))
    except BadCredentials as fault:
        faults.append(fault)
    if query and "key=" in query and QUERY_KEY_PATH.search(path):
        values += query_keys(query)
    different = dict.fromkeys(filter(None, (value.strip(_OWS) for value in values)))
    for value in itertools.islice(different, MAX_CREDENTIALS):
        try:
            candidates.append(_token(value))
        except BadCredentials as fault:
            faults.append(fault)
    guesses = [guess for fault in faults for guess in fault.guesses]
    if len(candidates) + len(guesses) > 1:
        candidates = _ours(candidates, keys, guesses)
    if candidates:
        (token,) = candidates
        own = (header(PROXY_KEY_HEADER) or "").strip(_OWS).encode("latin-1", "replace")
        return Presented(token, own_credentials=own == token)
    if header(PROXY_KEY_HEADER) is not None:
        faults.append(
            BadCredentials(InvalidRequest(f"'{PROXY_KEY_HEADER}' came without a key."))
        )
    if faults:
        raise BadCredentials(faults[0].refusal, *guesses)
    return None


def _ours(candidates: list[bytes], keys: KeyRing, guesses: list[str]) -> list[bytes]:
    """Return the one of several different credentials that is a key of ours.

    :param candidates: what may be one
    :param guesses: what was sent as one, and cannot be
    :returns: nothing where there is no candidate
    :raises BadCredentials: when it is none of them, or more than one
    """
    ours = [token for token in candidates if keys.match(token) is not None]
    if len(ours) > 1:
        raise BadCredentials(
            InvalidRequest("The request carries two different keys of this server. Send one.")
        )
    if candidates and not ours:
        raise BadCredentials(
            InvalidKey(
                "The request carries several different keys, and none of them is this server's. "
                "Send the proxy key as 'Authorization: Bearer <key>', or beside a provider key of "
                f"your own in {PROXY_KEY_HEADER}."
            ),
            *(token.decode("latin-1") for token in candidates),
            *guesses,
        )
    return ours


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
    """Return the token in ``Authorization``, nothing for a header without a value."""
    scheme, _, token = value.strip(_OWS).partition(" ")
    token = token.strip(_OWS)
    if not scheme:
        return ""
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


def _token(value: str) -> bytes:
    token = value.encode("latin-1", "replace")
    if len(token) > MAX_KEY_BYTES:
        raise BadCredentials(InvalidRequest(f"The key is over {MAX_KEY_BYTES} bytes long."), value)
    return token


@dataclass
class Withdrawn:
    """A key that was one of ours.

    :param name: of the key
    """

    name: str
    _tell_again: float = -math.inf

    def is_to_be_told(self) -> bool:
        """True once in a while: clients that have not heard of it go on for days."""
        now = time.monotonic()
        due = now >= self._tell_again
        if due:
            self._tell_again = now + _TELLING
        return due


class KeyRing:
    """The proxy keys, as digests.

    :param keys: pairs of a name, which may be logged, and the key
    :param stored: returns the name of a key that is kept elsewhere
    """

    def __init__(
        self,
        keys: Iterable[tuple[str, str]],
        stored: Callable[[bytes], str | None] = lambda token: None,
    ) -> None:
        self._digests = [(name, _digest(key.encode())) for name, key in keys]
        self._stored = stored
        self._withdrawn: dict[bytes, Withdrawn] = {}

    def replaced_by(self, keys: Iterable[tuple[str, str]]) -> KeyRing:
        """Return a ring of other keys that knows which ones were withdrawn."""
        ring = KeyRing(keys, self._stored)
        gone = self._withdrawn | {digest: Withdrawn(name) for name, digest in self._digests}
        for _, digest in ring._digests:
            gone.pop(digest, None)
        ring._withdrawn = dict(list(gone.items())[-MAX_WITHDRAWN:])
        return ring

    def withdrawn(self, token: bytes) -> Withdrawn | None:
        """Return what is known of a token that is no key any more, None when it never was one."""
        return self._withdrawn.get(_digest(token)) if self._withdrawn else None

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
        stored = self._stored(token)  # always, as the comparisons
        return names[0] if names else stored


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class ShownKey:
    """The key that let a request in, found wherever else in its head the client has put it.

    As it is, in the escapes of URLs, JSON and HTML, and in base64.

    :param key: one under `WORD` characters is found as a word of its own, and one that may well be
        a part of something else (under `SHORTEST`) at the end of a value
    """

    def __init__(self, key: str) -> None:
        self._word: re.Pattern[str] | None = None
        self._forms: tuple[str, ...] = (key, *_base64_middles(key.encode("latin-1", "replace")))
        if has_escapes(key):  # which are undone with others
            undone = (level.text for level in levels(key))
            self._forms += tuple(text for text in undone if len(text) >= WORD)
        if len(key) < WORD:
            ends = r"(?m)(?:^|[ =])%s$" if len(key) < SHORTEST else r"(?<![^\W_])%s(?![^\W_])"
            self._word = re.compile(ends % re.escape(key))
        self._name = "" if self._word else key.lower().replace("_", "-")
        self.is_weak = len(key) < MINIMUM_LENGTH

    def is_in(self, text: str) -> bool:
        """True for a text that holds the key; in a time in proportion to its length."""
        return any(self._is_in(level.text) for level in levels(text))

    def without(self, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers that do not hold it, neither in their values nor in their names."""
        text = "\n".join(headers.values())
        named = self._name and self._name in "\n".join(headers).lower()
        if not (named or has_escapes(text) or self._is_in(text)):
            return headers  # nearly all
        return {
            name: value
            for name, value in headers.items()
            if not (self.is_in(value) or (named and self._name in name.lower()))
        }

    def without_in_query(self, query: str) -> str:
        """Return a raw query without the parameters that hold it."""
        if not self.is_in(query):
            return query
        kept = []
        for part in query.split("&"):
            if self.is_in(part):  # some servers split at semicolons, too
                part = ";".join(one for one in part.split(";") if not self.is_in(one))
                if not part or self.is_in(part):
                    continue
            kept.append(part)
        return "&".join(kept)

    def _is_in(self, text: str) -> bool:
        if self._word:
            return self._word.search(text) is not None
        return any(form in text for form in self._forms)


def _base64_middles(data: bytes) -> Iterator[str]:
    """Yield what the base64 of all that holds the data has in common, at each alignment."""
    for alignment, foreign in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"\0" * alignment + data).decode("ascii")
        yield encoded[foreign : (alignment + len(data)) * 8 // 6]


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
