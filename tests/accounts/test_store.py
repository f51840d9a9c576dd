"""The database file, and what may be wrong with it."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from programs import wait_for

from llmauth.accounts.accounts import Accounts
from llmauth.accounts.keys import Directory, KeyBook
from llmauth.accounts.store import BUSY_SECONDS, VERSION, Database
from llmauth.exceptions import ConfigurationError, InvalidKey


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        Database(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of files")
def test_only_its_owner_reads_it(path):
    database = Database(path)
    KeyBook(database).add("alice", {})
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    database.close()


def test_what_is_written_is_there_when_it_is_opened_again(path):
    database = Database(path)
    KeyBook(database).add("alice", {"parallel": 3})
    database.close()
    database = Database(path)
    assert [key.name for key in database.all_keys()] == ["alice"]
    database.close()


def test_without_the_folder(tmp_path):
    assert "there is no folder" in refusal(tmp_path / "none" / "keys.db")


def test_a_folder_in_its_place(tmp_path):
    assert "cannot be used" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + 2000 * b"x"])
def test_a_file_that_is_no_database(path, content):
    path.write_bytes(content)
    assert "no SQLite database, or damaged" in refusal(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    assert "of another program" in refusal(path)


def test_a_newer_schema_is_left_alone(path):
    Database(path).close()
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    newer.close()
    assert "written by a newer llmauth" in refusal(path)
    assert "pip install --upgrade llmauth" in refusal(path)


AS_ANOTHER = """
import os, sys
from pathlib import Path
from llmauth.accounts.store import Database
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.seteuid(65534)
Database(Path("keys.db"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of files")
def test_a_file_that_may_not_be_written(path):
    Database(path).close()
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER, str(path.parent)], capture_output=True, text=True
        )
    finally:
        path.parent.chmod(0o755)
    assert "Check its owner and mode, and those of its folder" in done.stderr


BEGIN = """
import sys
from pathlib import Path
from llmauth.accounts.store import Database
database = Database(Path(sys.argv[1]))
assert database.revision() == 0
print("fine")
"""


def test_two_that_begin_with_a_new_file_at_once(path):
    command = [sys.executable, "-c", BEGIN, str(path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in started] == 4 * ["fine\n"]


KILLED = """
import os, sys
from pathlib import Path
from llmauth.accounts.keys import Directory, KeyBook
from llmauth.accounts.store import Database
database = Database(Path(sys.argv[1]))
KeyBook(database).add("whole", {})
with database.transaction():
    database.spend([("whole", "total", 1, 1)])
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_leaves_nothing_half_done(path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline().strip() == b"begun"
    process.kill()
    process.wait(20)
    process.stdout.close()
    process.stdin.close()
    database = Database(path)
    assert [key.name for key in database.all_keys()] == ["whole"]
    assert database.spent("whole", "total") == (0, 0)
    with sqlite3.connect(path) as check:
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
    database.close()


def test_a_name_in_both_places_is_refused_at_the_start(path):
    database = Database(path)
    KeyBook(database).add("alice", {})
    database.close()
    with pytest.raises(ConfigurationError, match="'alice' is in the database"):
        Accounts(path, reserved=["Alice"])


@pytest.fixture
def accounts(path):
    opened = Accounts(path)
    yield opened
    opened.close()


def other_database(path: Path, name: str) -> str:
    """Put another database in the place of one, and return a key in it."""
    made = path.with_name("other.db")
    database = Database(made)
    key = KeyBook(database).add(name, {})
    database.close()
    for file in path.parent.glob("keys.db*"):
        file.unlink()
    made.rename(path)
    return key


@pytest.mark.skipif(sys.platform == "win32", reason="Windows replaces no open file")
def test_a_file_that_is_replaced_is_followed(accounts, path, caplog):
    accounts.name_of(b"x")
    key = other_database(path, "bob")
    wait_for(lambda: accounts.name_of(key.encode()) == "bob", "it is read")
    wait_for(lambda: accounts.state == "ok", "it is written to")
    assert "the file is another one" in caplog.text
    assert "the database works again" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no open file")
def test_while_the_file_is_gone_keys_stay_as_they_were(accounts, path, caplog):
    database = Database(path)
    key = KeyBook(database).add("alice", {})
    database.close()
    wait_for(lambda: accounts.name_of(key.encode()) == "alice", "it is read")
    content = {file: file.read_bytes() for file in path.parent.glob("keys.db*")}
    for file in content:
        file.unlink()
    wait_for(lambda: accounts.state != "ok", "it is noticed")
    assert "the file is gone" in caplog.text
    assert accounts.admit(key.encode(), "10.0.0.1").key.name == "alice"
    assert not path.exists()


def test_a_new_key_counts_without_a_restart_and_its_end_as_well(accounts, path):
    accounts.name_of(b"x")
    database = Database(path)
    book = KeyBook(database)
    key = book.add("alice", {})
    wait_for(lambda: accounts.name_of(key.encode()) == "alice", "it is read")
    book.change("alice", {"paused": True})

    def withdrawn() -> bool:
        try:
            accounts.admit(key.encode(), "10.0.0.1")
        except InvalidKey:
            return True
        return False

    wait_for(withdrawn, "it is withdrawn")
    database.close()


def test_who_waits_for_a_file_that_another_holds_does_not_wait_in_turn(path):
    """However many wait, the last one is told as soon as the first."""
    database, other = Database(path), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    granted: list[int] = []

    def note(statement: str) -> None:
        if statement.startswith("PRAGMA busy_timeout = "):
            granted.append(int(statement.rpartition(" ")[2]))

    database._connection.set_trace_callback(note)
    barrier, failed = threading.Barrier(5), []

    def begin() -> None:
        barrier.wait()
        try:
            with database.transaction(busy=0.4):
                pass
        except sqlite3.OperationalError as exc:
            failed.append(str(exc))

    threads = [threading.Thread(target=begin) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    database.close()
    assert failed == ["database is locked"] * 5
    assert sum(granted) < 2 * 400


def test_a_name_that_is_taken_while_the_server_runs_is_warned_of(path, caplog):
    """By a command in another environment, which does not know of the other key."""
    accounts = Accounts(path, reserved=["office"])
    try:
        accounts.name_of(b"x")
        database = Database(path)
        KeyBook(database).add("Office", {})
        database.close()
        wait_for(lambda: "'Office' is in the database" in caplog.text, "it is said")
    finally:
        accounts.close()


TERMS = [
    ("{", "cannot be read"),
    ('{"of_another_version": 1}', "of_another_version: unknown"),
]


@pytest.mark.parametrize(("terms", "said"), TERMS)
def test_terms_that_cannot_be_read_let_nobody_in(path, terms, said):
    """A key whose limits are not understood must not be one without limits."""
    database = Database(path)
    key = KeyBook(database).add("alice", {})
    database.close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE keys SET terms = ?", (terms,))
    other.close()
    with pytest.raises(ConfigurationError, match=said):
        Accounts(path)
    assert key


def test_an_answer_that_is_collected_while_the_writer_is_woken_wakes_it_again(accounts):
    """The garbage collection may end a request anywhere, also in the middle of that."""
    ended = []

    def collect(frame, event, argument):
        if not ended and frame.f_code.co_name == "notify_all":  # an Event's lock is held
            ended.append(frame.f_code.co_name)
            accounts._woken.set()
        return collect

    def wake() -> None:
        sys.settrace(collect)
        try:
            accounts._woken.set()
        finally:
            sys.settrace(None)

    waking = threading.Thread(target=wake, daemon=True)
    waking.start()
    waking.join(10)
    assert not waking.is_alive()


def test_a_key_that_is_withdrawn_while_keys_are_read_stays_withdrawn(accounts, path, monkeypatch):
    """The thread that follows changes has read the file, and has not told of it yet."""
    database = Database(path)
    key = KeyBook(database).add("bob", {})
    wait_for(lambda: accounts.name_of(key.encode()), "bob is known")
    read, go_on, loaded = threading.Event(), threading.Event(), threading.Event()
    secrets, load = Database.all_secrets, Directory.load

    def is_writer() -> bool:
        return threading.current_thread().name == "llmauth-accounts"

    def slow(self: Database):
        rows = secrets(self)
        if is_writer():
            read.set()
            go_on.wait(10)
        return rows

    def noted(self: Directory, database: Database):
        changes = load(self, database)
        if is_writer():
            loaded.set()
        return changes

    monkeypatch.setattr(Database, "all_secrets", slow)
    monkeypatch.setattr(Directory, "load", noted)
    KeyBook(database).change("bob", {"note": "is read now"})
    assert read.wait(10)
    KeyBook(database).rotate("bob")
    follows = threading.Thread(target=accounts.reload)
    follows.start()
    follows.join(0.2)
    go_on.set()
    follows.join(10)
    assert loaded.wait(10)
    with pytest.raises(InvalidKey, match="was replaced"):
        accounts.admit(key.encode(), "127.0.0.1")
    database.close()


def test_a_connection_that_is_opened_anew_waits_as_long_as_it_is_told(path):
    database, other = Database(path), sqlite3.connect(path, isolation_level=None)
    with database.transaction(busy=10):
        pass
    database.close()
    other.execute("BEGIN IMMEDIATE")
    done = threading.Event()

    def use() -> None:
        with database.transaction(busy=10):
            done.set()

    thread = threading.Thread(target=use)
    thread.start()
    assert not done.wait(BUSY_SECONDS + 0.5)
    other.execute("ROLLBACK")
    other.close()
    thread.join(10)
    assert done.is_set()
    database.close()
