"""Keys in the database: made once, kept as digests, recognised from memory."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from llmauth.accounts.keys import Directory, KeyBook, digest_of
from llmauth.accounts.store import Database
from llmauth.exceptions import KeyNotFound, NameTaken
from llmauth.redact.stored_key import LENGTH, PATTERN, is_stored_key, new_key


@pytest.fixture
def database(tmp_path: Path):
    opened = Database(tmp_path / "keys.db")
    yield opened
    opened.close()


@pytest.fixture
def book(database: Database) -> KeyBook:
    return KeyBook(database, ["Default", "office"])


def loaded(database: Database) -> Directory:
    directory = Directory()
    directory.load(database)
    return directory


def fault(database: Database, key: str, now: float | None = None) -> str | None:
    secret = loaded(database).find(key.encode())
    assert secret is not None
    return secret.fault(time.time() if now is None else now)


def test_a_key_is_recognised_by_its_checksum() -> None:
    key = new_key()
    assert len(key) == LENGTH == 57
    assert re.fullmatch(PATTERN, key)
    assert is_stored_key(key)
    assert new_key() != key


@pytest.mark.parametrize("at", range(0, 57, 7))
def test_one_character_makes_another_word_of_it(at: int) -> None:
    key = new_key()
    other = "a" if key[at] != "a" else "b"
    assert not is_stored_key(key[:at] + other + key[at + 1 :])


@pytest.mark.parametrize("text", ["", "llmauth_", "x" * 57, "llmauth_" + "é" * 49])
def test_other_words_are_no_keys(text: str) -> None:
    assert not is_stored_key(text)


def test_the_checksum_stays_what_scanners_expect() -> None:
    """The base62 CRC-32 of what stands before, digits first, as docs/keys.md has it."""
    assert is_stored_key("llmauth_" + 43 * "0" + "3zxbEa")


def test_a_key_lets_in_and_is_nowhere_in_the_file(database, book, tmp_path):
    key = book.add("alice", {"note": "for Alice"})
    secret = loaded(database).find(key.encode())
    assert secret.key.name == "alice"
    assert secret.key.hint == key[-4:]
    assert secret.fault(time.time()) is None
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key[8:-4].encode() not in files
    assert key[8:20].encode() not in files


@pytest.mark.parametrize("name", ["default", "OFFICE", "Default"])
def test_a_name_of_the_environment_is_taken(book, name):
    with pytest.raises(NameTaken, match="environment"):
        book.add(name, {})


def test_a_name_is_taken_once_whatever_its_case(book):
    book.add("Alice", {})
    with pytest.raises(NameTaken, match="'Alice' already"):
        book.add("alice", {})
    book.revoke("ALICE")
    with pytest.raises(NameTaken, match="revoked: its usage stays"):
        book.add("alice", {})


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-a", "a/b", "a" * 65, "é", "a\n", "..", "a,", "sk-" + 12 * "a1B", new_key()],
    ids=lambda name: name[:8],
)
def test_names_that_cannot_be(book, name):
    with pytest.raises(ValueError, match="cannot name a key") as error:
        book.add(name, {})
    assert len(name) < LENGTH or name not in str(error.value)


NAMES = ["a", "alice@example.com", "ci.runner-2", "A_b+c", "7", "a_", "a" * 64]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_can_be(database, book, name):
    book.add(name, {})
    assert list(loaded(database).keys) == [name]


def test_a_key_that_is_past_already_is_refused(book):
    with pytest.raises(ValueError, match=r"expires: 2020-01-01T00:00:00Z is past"):
        book.add("alice", {"expires": "2020-01-01"})


def test_pausing_and_resuming(database, book):
    key = book.add("alice", {})
    book.change("alice", {"paused": True})
    assert "The key 'alice' was paused on 20" in fault(database, key)
    book.change("alice", {"paused": False})
    assert fault(database, key) is None


def test_expiring(database, book):
    key = book.add("alice", {"expires": "1h"})
    assert fault(database, key) is None
    assert "The key 'alice' expired on 20" in fault(database, key, time.time() + 3601)


def test_revoking_is_for_good(database, book):
    key = book.add("alice", {})
    book.revoke("alice")
    assert "The key 'alice' was revoked on 20" in fault(database, key)
    for change in (
        lambda: book.change("alice", {"paused": False}),
        lambda: book.rotate("alice"),
        lambda: book.revoke("alice"),
    ):
        with pytest.raises(KeyNotFound, match="revoked, for good"):
            change()


def test_rotating_keeps_the_name_and_ends_the_old_key(database, book):
    old = book.add("alice", {"parallel": 2})
    new = book.rotate("alice")
    assert fault(database, new) is None
    assert "replaced on 20" in fault(database, old)
    assert f"ends in {new[-4:]}" in fault(database, old)
    assert loaded(database).find(new.encode()).key.terms.parallel == 2


def test_an_overlap_lets_both_in_until_it_ends(database, book):
    old = book.add("alice", {})
    new = book.rotate("alice", overlap=3600)
    for key in (old, new):
        assert fault(database, key) is None
    assert fault(database, old, time.time() + 3601)
    assert fault(database, new, time.time() + 3601) is None


def test_an_overlap_does_not_prolong_an_earlier_one(database, book):
    first = book.add("alice", {})
    book.rotate("alice", overlap=60)
    book.rotate("alice", overlap=7200)
    assert fault(database, first, time.time() + 61)


@pytest.mark.parametrize(
    "change",
    [
        lambda book: book.change("bob", {}),
        lambda book: book.rotate("bob"),
        lambda book: book.revoke("bob"),
    ],
    ids=["change", "rotate", "revoke"],
)
def test_a_name_without_a_key(book, change):
    with pytest.raises(KeyNotFound, match="no key 'bob'"):
        change(book)


def test_what_has_changed_is_said_without_the_key(database, book):
    directory = Directory()
    directory.load(database)
    key = book.add("alice", {"budget": "20/month"})
    book.add("bob", {})
    assert directory.load(database) == ["alice added", "bob added"]
    book.change("alice", {"budget": "30/month", "parallel": 2, "paused": True})
    new = book.rotate("bob")
    changes = directory.load(database)
    assert changes == ["alice parallel 2, budget 30/month, paused", "bob rotated"]
    book.change("alice", {"budget": None, "paused": False})
    book.revoke("bob")
    changes += directory.load(database)
    assert changes[2:] == ["alice budget lifted, resumed", "bob revoked"]
    assert directory.load(database) == []
    for secret in (key, new):
        assert secret[8:] not in " ".join(changes)


def test_any_change_but_use_changes_the_revision(database, book):
    revisions = [database.revision()]

    def is_new() -> bool:
        revisions.append(database.revision())
        return revisions[-1] != revisions[-2]

    book.add("alice", {})
    assert is_new()
    book.change("alice", {"parallel": 1})
    assert is_new()
    book.rotate("alice", overlap=10)
    assert is_new()
    with database.transaction():
        database.note_used([("alice", time.time())])
    assert not is_new()
    book.revoke("alice")
    assert is_new()


def test_an_unknown_token_is_no_key(database, book):
    book.add("alice", {})
    assert loaded(database).find(new_key().encode()) is None
    assert loaded(database).find(b"") is None


def test_a_guess_is_looked_up_whole_and_like_any_other(database, book, monkeypatch):
    """How much of a key is right has no part in how long it takes: nothing compares the two."""
    key = book.add("alice", {})
    directory = loaded(database)
    hashed = []

    def digest(token: bytes) -> bytes:
        hashed.append(token)
        return digest_of(token)

    monkeypatch.setattr("llmauth.accounts.keys.digest_of", digest)
    tokens = [key.encode(), key[:-1].encode() + b"!", new_key().encode(), b"", b"x" * 4096]
    assert [directory.name_of(token) for token in tokens] == ["alice", None, None, None, None]
    assert hashed == tokens
