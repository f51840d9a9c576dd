"""Stored keys: made, changed and withdrawn in the database, and recognised from memory."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config.keys import not_a_name
from ..exceptions import KeyNotFound, NameTaken
from ..redact.messages import hidden
from ..redact.stored_key import new_key
from .store import Database, KeyRow, SecretRow
from .terms import Terms, iso

HINT = 4
"""Characters of a key's end that are kept, by which its owner recognises it."""

_PATIENCE = 10.0
"""Seconds that a command waits for other writers."""


@dataclass(frozen=True)
class StoredKey:
    """A key and what it may do.

    :param hint: the last characters of its newest secret
    :param created: Unix time, as all moments here
    :param last_used: to within seconds
    """

    name: str
    hint: str
    created: float
    paused: float | None
    revoked: float | None
    last_used: float | None
    terms: Terms

    def state(self, now: float) -> str:
        """Return ``active``, ``paused``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        if self.terms.expires is not None and self.terms.expires <= now:
            return "expired"
        return "active" if self.paused is None else "paused"

    def record(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """Return the key as JSON has it.

        :param used: how much of its limits, by their names
        """
        return {
            "name": self.name,
            "state": self.state(time.time()),
            "hint": self.hint,
            "created": iso(self.created),
            "last_used": iso(self.last_used),
            **self.terms.shown(),
            "used": dict(used),
        }

    def fault(self, now: float) -> str | None:
        """Say why the key lets nobody in, None when it does."""
        state = self.state(now)
        if state == "active":
            return None
        since = {"revoked": self.revoked, "expired": self.terms.expires, "paused": self.paused}
        verb = "expired" if state == "expired" else f"was {state}"
        return f"The key '{self.name}' {verb} on {iso(since[state])}. Ask who gave it to you."


@dataclass(frozen=True)
class Secret:
    """What is known of one secret: whose it is, and until when.

    :param digest: what is kept of it
    :param ends: Unix time, None while it is its key's newest
    """

    digest: bytes
    key: StoredKey
    ends: float | None

    def fault(self, now: float) -> str | None:
        """Say why it lets nobody in, None when it does."""
        if fault := self.key.fault(now):
            return fault
        if self.ends is None or self.ends > now:
            return None
        return (
            f"This key of '{self.key.name}' was replaced on {iso(self.ends)}: use the new one, "
            f"which ends in {self.key.hint}."
        )


class Directory:
    """All stored keys as they were read last: recognising one asks no file."""

    def __init__(self) -> None:
        self.keys: dict[str, StoredKey] = {}
        self._secrets: dict[bytes, Secret] = {}

    def load(self, database: Database) -> list[str]:
        """Read all keys anew; return what has changed, for the log."""
        rows = database.all_secrets()
        newest = {row.name.lower(): row.hint for row in rows}
        before = self.keys
        stored = (_stored(row, newest.get(row.name.lower(), "")) for row in database.all_keys())
        after = {key.name: key for key in stored}
        named = {name.lower(): key for name, key in after.items()}
        self._secrets = {
            row.digest: Secret(row.digest, named[row.name.lower()], row.ends)
            for row in rows
            if row.name.lower() in named
        }
        self.keys = after
        return [
            change
            for name in sorted(before.keys() | after.keys())
            if (change := _change(name, before.get(name), after.get(name)))
        ]

    def find(self, token: bytes) -> Secret | None:
        """Return what is known of a secret, whether it lets in or not.

        It is looked up by its digest: how long that takes tells nothing of any key.
        """
        return self._secrets.get(digest_of(token)) if self._secrets else None

    def fault_of(self, digest: bytes, now: float) -> str | None:
        """Say why a secret that let in does so no more, None when it still does."""
        secret = self._secrets.get(digest)
        return secret.fault(now) if secret else "The key is gone."

    def name_of(self, token: bytes) -> str | None:
        """Return the name of a secret's key."""
        secret = self.find(token)
        return secret.key.name if secret else None


class KeyBook:
    """Makes keys, changes and withdraws them.

    :param database: where they are kept
    :param reserved: names of keys that are configured elsewhere
    """

    def __init__(self, database: Database, reserved: Iterable[str] = ()) -> None:
        self._database = database
        self._reserved = {name.lower() for name in reserved}

    def add(self, name: str, values: Mapping[str, Any]) -> str:
        """Make a key and return it: it is nowhere else to be had.

        :param values: of its terms, by the names of options
        :raises ValueError: saying which of them cannot be used
        :raises NameTaken: by another key, or by usage that stays
        """
        if wrong := not_a_name(name):
            raise ValueError(f"name: cannot name a key: {wrong}")
        if hidden(name) != name:
            raise ValueError("name: cannot name a key: it looks like one itself")
        terms, now = self._terms(Terms(), values), time.time()
        key = new_key()
        with self._database.transaction(busy=_PATIENCE):
            if taken := self._database.key(name):
                raise NameTaken(
                    f"There is a key '{taken.name}' already"
                    + (", which was revoked: its usage stays." if taken.revoked else ".")
                )
            if name.lower() in self._reserved:
                raise NameTaken(f"A key of the environment, or of a key file, is named '{name}'.")
            row = KeyRow(name, now, terms.expires, None, None, None, terms.dumps())
            self._database.add_key(row)
            self._database.add_secret(_secret_row(name, key, now))
        return key

    def change(self, name: str, values: Mapping[str, Any]) -> None:
        """Change some of a key's terms; ``paused`` stops it, or lets it go on.

        :raises KeyNotFound: for a name without a key
        :raises ValueError: saying which value cannot be used
        """
        values = dict(values)
        paused = values.pop("paused", None)
        if paused is not None and not isinstance(paused, bool):
            raise ValueError(f"paused: '{paused}' is neither true nor false")

        def changed(row: KeyRow) -> KeyRow:
            terms = self._terms(Terms.loads(row.terms), values)
            row = row._replace(expires=terms.expires, terms=terms.dumps())
            if paused is None:
                return row
            return row._replace(paused=(row.paused or time.time()) if paused else None)

        self._change(name, changed)

    def revoke(self, name: str) -> None:
        """Withdraw a key for good; its name and its usage stay.

        :raises KeyNotFound: for a name without a key
        """
        self._change(name, lambda row: row._replace(revoked=time.time()))

    def rotate(self, name: str, overlap: float = 0.0) -> str:
        """Make a new secret for a key, and return it.

        :param overlap: seconds for which the old one works as well
        :raises KeyNotFound: for a name without a key
        """
        key, now = new_key(), time.time()
        with self._database.transaction(busy=_PATIENCE):
            row = self._row(name)
            self._database.end_secrets(row.name, now + overlap)
            self._database.add_secret(_secret_row(row.name, key, now))
        return key

    def _change(self, name: str, change: Callable[[KeyRow], KeyRow]) -> None:
        with self._database.transaction(busy=_PATIENCE):
            self._database.change_key(change(self._row(name)))

    def _row(self, name: str) -> KeyRow:
        row = self._database.key(name)
        if row is None:
            raise KeyNotFound(f"There is no key '{name}'.")
        if row.revoked is not None:
            raise KeyNotFound(f"The key '{row.name}' was revoked, for good. Make another.")
        return row

    def _terms(self, terms: Terms, values: Mapping[str, Any]) -> Terms:
        new = terms.changed(values)
        if "expires" in values and new.expires is not None and new.expires <= time.time():
            raise ValueError(f"expires: {iso(new.expires)} is past")
        return new


def digest_of(token: bytes) -> bytes:
    """Return what is kept of a secret. It has 256 bits, so no slow hash is needed."""
    return hashlib.sha256(token).digest()


def _secret_row(name: str, key: str, now: float) -> SecretRow:
    return SecretRow(digest_of(key.encode()), name, key[-HINT:], now, None)


def _stored(row: KeyRow, hint: str) -> StoredKey:
    try:
        terms = replace(Terms.loads(row.terms), expires=row.expires)
    except ValueError as exc:
        raise sqlite3.DataError(f"what '{row.name}' may do cannot be read: {exc}") from None
    return StoredKey(row.name, hint, row.created, row.paused, row.revoked, row.last_used, terms)


def _change(name: str, before: StoredKey | None, after: StoredKey | None) -> str | None:
    """Say what has changed of a key."""
    if after is None or before is None:
        return f"{name} {'removed' if after is None else 'added'}"
    changes = [
        f"{field} {'lifted' if value in (None, [], '', False) else value}"
        for field, value in after.terms.shown().items()
        if value != before.terms.shown()[field]
    ]
    for state in ("paused", "revoked"):
        was, now_is = getattr(before, state), getattr(after, state)
        if (was is None) != (now_is is None):
            changes.append(state if was is None else "resumed")
    if before.hint != after.hint:
        changes.append("rotated")
    return f"{name} {', '.join(changes)}" if changes else None
