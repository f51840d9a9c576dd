"""The secrets that a process knows: those it was given, and those it has seen in requests."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from ..providers.table import PROVIDERS
from .forms import Form, forms
from .index import FormIndex

OBSERVED = 512
"""Credentials seen in requests that are remembered; the oldest is forgotten first. One that comes
again counts as new once an eighth as many others have come."""

MAX_OBSERVED = 256
"""Characters of such a credential that are compared; of a longer one, all that follows, too, is
masked."""

_LONGEST_WORD = 64  # characters of what the log says by itself
_WORD = 8  # characters under which an observed credential is masked only as a word of its own

_PUBLIC_WORDS = frozenset({
    "debug", "info", "warning", "error", "critical", "get", "head", "post", "put", "patch",
    "delete", "options", "trace", "connect", "http", "https", "llmauth", "address", "blocked",
    "block", "lockout", "locked", "failed", "failure", "failures", "attempt", "attempts",
    "seconds", "client", "request", "response", "wrong", "invalid", "unauthorized", "bearer",
    "basic", "none", "null", "undefined", "dummy", "test", "token", *PROVIDERS,
})
# An address is no secret, and whoever sends his own as a key must not vanish from the log.
_ADDRESS = re.compile(r"(?:\d{1,3}\.){2,3}\d{1,3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}")


class _Observed(NamedTuple):
    at: int
    forms: tuple[Form, ...] = ()


class SecretMemory:
    """Remembers secrets, and keeps an index of their forms.

    What was observed is put into the index when something is searched for the next time: to make
    the forms of a key takes five times as long as to refuse it, and the thread that refuses serves
    all clients. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self.version = 0
        """Grows with each secret that is learned or forgotten."""

        self._index = FormIndex()
        self._moment = 0  # counts what was added or observed
        self._permanent: dict[str, int] = {}
        self._observed: OrderedDict[str, _Observed] = OrderedDict()
        self._not_indexed: dict[str, None] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {len(self._permanent)} secrets>"

    def add(self, *secrets: str) -> None:
        """Mask these from now on, for good."""
        with self._lock:
            self._moment += 1
            for secret in filter(None, (secret.strip() for secret in secrets)):
                if secret not in self._permanent:
                    self._permanent[secret] = self._moment
                    for form in forms(secret, word=4 if len(secret) < 4 else 0):
                        self._index.add(form)
            self.version += 1

    def observe(self, *credentials: str) -> None:
        """Mask what a request carried as a credential, right or wrong, for as long as it matters.

        Under eight characters it is masked only as a word of its own. Not remembered are fewer
        than four characters, addresses, and the words our own log lines are made of: a client
        could blank those out of the log by sending them as keys. The shapes still cover these in
        their headers.
        """
        for credential in credentials:
            if credential not in self._permanent:
                credential = credential[:MAX_OBSERVED]
                known = self._observed.get(credential)
                if known is None or self._moment - known.at >= OBSERVED // 8:
                    self._observe(credential)

    def _observe(self, credential: str) -> None:
        with self._lock:
            self._moment += 1
            if known := self._observed.pop(credential, None):
                self._observed[credential] = _Observed(self._moment, known.forms)
                return
            if not _is_telling(credential):
                return
            self._observed[credential] = _Observed(self._moment)
            self._not_indexed[credential] = None
            if len(self._observed) > OBSERVED:
                oldest, known = self._observed.popitem(last=False)
                self._not_indexed.pop(oldest, None)
                for form in known.forms:
                    self._index.discard(form)
            self.version += 1

    def _index_observed(self) -> None:
        """Have the index hold all that was observed until now; before every search in it."""
        if not self._not_indexed:
            return
        with self._lock:
            credentials = list(self._not_indexed)
        for credential in credentials:  # one at a time: whoever observes another waits no longer
            with self._lock:
                if credential not in self._not_indexed:
                    continue
                found = tuple(_forms(credential))
                for form in found:
                    self._index.add(form)
                self._observed[credential] = self._observed[credential]._replace(forms=found)
                # Last: whoever finds none left may search without waiting.
                del self._not_indexed[credential]

    def learned_since(self, moment: int) -> tuple[int, list[str], list[str]]:
        """Return what was added and what was observed since a moment, and the present moment.

        A memory to which all of it is added, again and again and in order, holds the same secrets.

        :param moment: as returned before; 0 for the beginning
        """
        with self._lock:
            added = [secret for secret, at in self._permanent.items() if at > moment]
            observed = []
            for credential in reversed(self._observed):
                if self._observed[credential].at <= moment:
                    break
                observed.append(credential)
            return self._moment, added, observed[::-1]


def _forms(credential: str) -> Iterator[Form]:
    """Yield the forms of a credential in which a client cannot say words of the log."""
    for form in forms(credential, word=_WORD, longer=len(credential) == MAX_OBSERVED):
        is_word = len(form.text) <= _LONGEST_WORD and not _is_telling(form.text)
        if not is_word and not (form.base64 and len(credential) < _WORD):
            yield form


def _is_telling(credential: str) -> bool:
    return (
        len(credential) >= 4
        and credential.lower() not in _PUBLIC_WORDS
        and _ADDRESS.search(credential) is None
    )
