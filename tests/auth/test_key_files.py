"""Files of keys that change while a real server runs."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from commands import environment
from files import settle, write
from programs import ROOT, wait_for
from servers import PROVIDER_KEY, read_all, request_bytes, running_proxy, whole
from streams import HEAD, Held, chunk, read_until

from llmauth import create_app
from llmauth.auth import credentials, key_files
from llmauth.auth.credentials import KeyRing
from llmauth.config.keys import read_keys
from llmauth.config.loading import load

OLD, NEW, OTHER = (f"{word}-key-0123456789abcdefghij" for word in ("old", "new", "other"))
VARIABLE = "LLM_INTERACTIVE_PROXY_API_KEY"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr("llmauth.auth.key_files.CHECK_INTERVAL", 0.05)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.txt"
    write(path, f"{OLD}\n")
    return path


@pytest.fixture
def proxy(upstream, file):
    environ = {VARIABLE: "", f"{VARIABLE}_FILE": str(file)}
    with running_proxy(upstream, environ, trusted_ips="127.0.0.1") as running:
        assert status(running, OLD) == 200
        yield running


def status(proxy, key: str) -> int:
    return proxy.request("GET", "/v1/models", key=key).status


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "llmauth-key-files"]


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "llmauth.auth.key_files"]


def becomes(proxy, key: str, expected: int) -> None:
    wait_for(lambda: status(proxy, key) == expected, f"{expected} for a key")


def test_keys_are_added_rotated_and_withdrawn_without_dropping_a_stream(
    proxy, upstream, file, caplog
):
    caplog.set_level("INFO", "llmauth.auth.key_files")
    upstream.answer = Held(HEAD + chunk(b"one"), chunk(b"two") + b"0\r\n\r\n")
    request = request_bytes("/v1/x", f"X-Api-Key: {OLD}").replace(b"Authorization", b"X-Other")
    with proxy.open(request) as sock:
        read_until(sock, b"one")
        stream, upstream.answer = upstream.answer, whole()
        write(file, f"{OLD}\nalice: {OTHER}\n")
        becomes(proxy, OTHER, 200)
        assert status(proxy, OLD) == 200
        write(file, f"{NEW}\nalice: {OTHER}\n")
        becomes(proxy, NEW, 200)
        assert status(proxy, OLD) == 401
        write(file, f"{NEW}\n")
        becomes(proxy, OTHER, 401)
        for _ in range(2):
            stream.go_on.release()
        assert read_all(sock).endswith(b"two\r\n0\r\n\r\n")
    assert said(caplog) == [
        "proxy keys were read again: added alice",
        "proxy keys were read again: changed default",
        "proxy keys were read again: withdrawn alice",
    ]
    shown = proxy.server.state.redactor.text(f"{OLD} {NEW} {OTHER}")
    assert not any(key in shown for key in (OLD, NEW, OTHER))


BROKEN = {
    "empty": b"",
    "only a comment": b"# none\n",
    "quotes": f'"{NEW}"\n'.encode(),
    "one name for two keys": f"bob: {NEW}\nbob: {OTHER}\n".encode(),
    "a space": b"new key with spaces\n",
    "not UTF-8": b"\xff\xfe\x00",
    "a name without a key": f"{NEW}\nanna:\n".encode(),
    "no space": f"{NEW}\nanna:{OTHER}\n".encode(),
    "an assignment": f"KEY={NEW}\n".encode(),
    "JSON": f'["{NEW}"]\n'.encode(),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_keeps_the_keys_and_says_so_once(proxy, file, caplog, content, monkeypatch):
    monkeypatch.setattr("llmauth.auth.key_files.AT_THE_LATEST", 0.2)  # for the empty one
    write(file, content)
    wait_for(lambda: said(caplog), "the complaint")
    time.sleep(0.1)  # until another look
    assert status(proxy, OLD) == 200
    (complaint,) = said(caplog)
    assert "stay as they are" in complaint
    assert str(file) in complaint
    assert NEW not in complaint
    write(file, f"{NEW}\n")
    becomes(proxy, NEW, 200)
    assert status(proxy, OLD) == 401


def test_a_file_that_is_gone_keeps_the_keys_until_it_is_back(proxy, file, caplog):
    file.unlink()
    wait_for(
        lambda: status(proxy, OLD) == 200 and "cannot read" in caplog.text, "the complaint"
    )
    write(file, f"{NEW}\n")
    becomes(proxy, NEW, 200)


def test_a_file_that_takes_the_place_of_another(proxy, file):
    other = file.with_suffix(".new")
    write(other, f"{NEW}\n")
    os.replace(other, file)
    becomes(proxy, NEW, 200)
    assert status(proxy, OLD) == 401


def test_a_mounted_secret_whose_link_is_swapped(upstream, tmp_path):
    """As Kubernetes does it: the file is a link into a folder that is a link, swapped as one."""
    for name, key in (("..1", OLD), ("..2", NEW)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "keys", key)
    try:
        (tmp_path / "..data").symlink_to("..1", target_is_directory=True)
        (tmp_path / "keys").symlink_to("..data/keys")
    except OSError:
        # On Windows only administrators and developers may make links; elsewhere it is a fault.
        if sys.platform != "win32":
            raise
        pytest.skip("this user may not make links on Windows")
    environ = {VARIABLE: "", f"{VARIABLE}_FILE": str(tmp_path / "keys")}
    with running_proxy(upstream, environ, trusted_ips="127.0.0.1") as proxy:
        assert status(proxy, OLD) == 200
        (tmp_path / "..next").symlink_to("..2", target_is_directory=True)
        os.replace(tmp_path / "..next", tmp_path / "..data")
        becomes(proxy, NEW, 200)
        assert status(proxy, OLD) == 401


def test_a_file_that_is_being_written_is_left_alone(proxy, file, monkeypatch):
    """Half a key must not become one."""
    monkeypatch.setattr("llmauth.auth.key_files.SETTLED", 3600)
    file.write_text(NEW[:10])
    for _ in range(3):
        assert status(proxy, NEW[:10]) == 401
        assert status(proxy, OLD) == 200
    file.write_text(NEW)
    at = time.time() - 7200
    os.utime(file, (at, at))
    becomes(proxy, NEW, 200)


def test_a_file_that_is_written_to_all_the_time_is_read_all_the_same(proxy, file, monkeypatch):
    """Or whoever touches it twice a second keeps a key alive that was withdrawn."""
    monkeypatch.setattr("llmauth.auth.key_files.SETTLED", 3600)
    monkeypatch.setattr("llmauth.auth.key_files.AT_THE_LATEST", 0.2)
    content = f"{OTHER}\n"

    def withdrawn(key: str) -> bool:
        file.write_text(content)
        return status(proxy, key) == 401

    wait_for(lambda: withdrawn(OLD), "the key is withdrawn")
    assert status(proxy, OTHER) == 200
    content = f"{NEW}\n"
    wait_for(lambda: withdrawn(OTHER), "and another, while the writing goes on")
    assert status(proxy, NEW) == 200


def test_the_key_of_a_provider_is_rotated(upstream, tmp_path, caplog):
    file = tmp_path / "provider"
    write(file, PROVIDER_KEY)
    environ = {"OPENAI_API_KEY": "", "OPENAI_API_KEY_FILE": str(file)}
    with running_proxy(upstream, environ) as proxy:

        def sent() -> str:
            proxy.request("GET", "/v1/models")
            return upstream.requests[-1].header("authorization")

        assert sent() == f"Bearer {PROVIDER_KEY}"
        rotated = PROVIDER_KEY[::-1]
        write(file, f"{rotated}\n{rotated}\n")
        wait_for(lambda: sent() and "stay as they are" in caplog.text, "the complaint")
        assert sent() == f"Bearer {PROVIDER_KEY}"
        write(file, rotated)
        wait_for(lambda: sent() == f"Bearer {rotated}", "the new key")
        assert rotated not in proxy.server.state.redactor.text(rotated)
    assert rotated not in caplog.text


def test_what_was_changed_between_the_start_and_the_first_request_is_not_missed(upstream, file):
    environ = {VARIABLE: "", f"{VARIABLE}_FILE": str(file)}
    with running_proxy(upstream, environ) as proxy:
        write(file, f"{NEW}\n")
        becomes(proxy, NEW, 200)


# A thread of its own


def test_a_changed_file_is_read_though_nobody_asks(proxy, upstream, file, caplog):
    caplog.set_level("INFO", "llmauth.auth.key_files")
    asked = len(upstream.requests)
    write(file, f"{NEW}\n")
    wait_for(lambda: said(caplog), "the line in the log")
    assert said(caplog) == ["proxy keys were read again: changed default"]
    assert len(upstream.requests) == asked
    assert status(proxy, NEW) == 200


def test_within_two_seconds(monkeypatch):
    monkeypatch.undo()
    longest = max(key_files.SETTLED + key_files.CHECK_INTERVAL, key_files.AT_THE_LATEST)
    assert longest + key_files.CHECK_INTERVAL <= 2.0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that can be waited for")
def test_no_request_waits_for_a_file_that_cannot_be_read_to_its_end(proxy, file, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    settle(pipe)
    os.replace(pipe, file)
    writing = -1

    def is_being_read() -> bool:
        nonlocal writing
        try:
            writing = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    wait_for(is_being_read, "the thread that reads")
    assert status(proxy, OLD) == 200
    assert status(proxy, "wrong") == 401
    other = file.with_suffix(".new")
    write(other, f"{NEW}\n")
    os.replace(other, file)  # or the thread would begin to read the pipe again
    os.write(writing, f"{OLD}\n".encode())
    os.close(writing)
    becomes(proxy, NEW, 200)


@pytest.mark.parametrize("half", ["", f"{NEW[:20]}\n"], ids=["emptied", "half a key"])
def test_what_is_written_to_while_it_is_read_is_not_used(upstream, file, caplog, monkeypatch, half):
    """Nor complained of: an editor empties a file before it writes it."""
    halves = [half]

    def interrupted(sources):
        if halves and OTHER in file.read_text():
            file.write_text(halves.pop())
        return read_keys(sources)

    monkeypatch.setattr(key_files, "read_keys", interrupted)
    caplog.set_level("INFO", "llmauth.auth.key_files")
    with running_proxy(upstream, {VARIABLE: "", f"{VARIABLE}_FILE": str(file)}) as proxy:
        write(file, f"{OTHER}\n")
        wait_for(lambda: not halves, "it is read")
        write(file, f"{NEW}\n")
        becomes(proxy, NEW, 200)
    assert said(caplog) == ["proxy keys were read again: changed default"]


def test_the_thread_ends_with_the_server(upstream, file):
    before = threads()
    with running_proxy(upstream, {VARIABLE: "", f"{VARIABLE}_FILE": str(file)}):
        assert len(threads()) == len(before) + 1
    assert threads() == before


def test_the_thread_ends_with_an_application_that_nobody_has_any_more(file):
    before = threads()
    app = create_app(load(environ={f"{VARIABLE}_FILE": str(file)}))
    assert len(threads()) == len(before) + 1
    del app
    gc.collect()
    wait_for(lambda: threads() == before, "the end of the thread")


def test_without_files_there_is_no_thread():
    before = threads()
    app = create_app(load(environ={VARIABLE: OLD}))
    assert threads() == before
    del app


FORKING = """
import os, sys, time, pathlib
from llmauth import create_app
app = create_app()
ring = lambda: app.extensions["llmauth"].guard.keys
reading, writing = os.pipe()
if os.fork():
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    pathlib.Path(sys.argv[1]).write_text(sys.argv[2])
    os.utime(sys.argv[1], (1, 1))
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.write(writing, b"x")
until = time.monotonic() + 20
while ring().match(sys.argv[2].encode()) is None:
    assert time.monotonic() < until
    time.sleep(0.01)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork")
def test_the_child_of_a_fork_reads_as_well(file):
    """As gunicorn's workers with --preload, before anybody asks them."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(file), NEW]
    variables = environment(**{f"{VARIABLE}_FILE": str(file)})
    assert subprocess.run(command, env=variables, cwd=ROOT, timeout=60).returncode == 0


def test_all_files_are_read_again_when_somebody_says_so(proxy, file, caplog):
    caplog.set_level("INFO", "llmauth.auth.key_files")
    proxy.server.state.key_files.reload()
    wait_for(lambda: said(caplog), "the line in the log")
    assert said(caplog) == ["proxy keys were read again: as they were"]
    assert status(proxy, OLD) == 200


def test_a_fault_that_nobody_thought_of_does_not_end_the_thread(proxy, file, caplog, monkeypatch):
    faults = iter([RuntimeError(OLD)])
    good = KeyRing.replaced_by

    def faulty(ring, keys):
        for fault in faults:
            raise fault
        return good(ring, keys)

    monkeypatch.setattr(KeyRing, "replaced_by", faulty)
    write(file, f"{NEW}\n")
    becomes(proxy, NEW, 200)
    assert "unexpected RuntimeError" in said(caplog)[0]
    assert OLD not in caplog.text


# Keys that were withdrawn


@pytest.fixture
def strict(upstream, file):
    """A server that locks out after two wrong keys, and trusts nobody."""
    write(file, f"{OLD}\nalice: {OTHER}\n")
    environ = {VARIABLE: "", f"{VARIABLE}_FILE": str(file)}
    with running_proxy(upstream, environ, max_failed_attempts=2) as running:
        yield running


WITHDRAWN = {
    "taken out": (f"{OLD}\n", OTHER, "alice"),
    "replaced": (f"{OLD}\nalice: {NEW}\n", OTHER, "alice"),
    "replaced, without a name": (f"{NEW}\nalice: {OTHER}\n", OLD, "default"),
}


@pytest.mark.parametrize(("content", "key", "name"), WITHDRAWN.values(), ids=WITHDRAWN)
def test_a_key_that_was_withdrawn_is_told_so_and_is_no_guess(
    strict, file, caplog, content, key, name
):
    caplog.set_level("INFO")
    write(file, content)
    wait_for(lambda: said(caplog), "the files are read again")
    for header in ("Authorization", "x-api-key", "x-goog-api-key", "X-Proxy-Api-Key") * 2:
        value = f"Bearer {key}" if header == "Authorization" else key
        reply = strict.request("GET", "/v1/models", {header: value}, key=None)
        assert reply.status == 401
        assert "was withdrawn" in reply.error["message"]
        assert name not in reply.error["message"].split()
    strict.server.state.access_log.flush()
    told = [r.getMessage() for r in caplog.records if "still sends it" in r.getMessage()]
    assert told == [f"the key '{name}' was withdrawn, and 127.0.0.1 still sends it"]
    lines = [json.loads(r.access) for r in caplog.records if r.name == "llmauth.access"]
    assert {(fields["key"], int(fields["status"])) for fields in lines} == {(name, 401)}
    assert key not in caplog.text


def test_a_key_that_comes_back_is_right_again(strict, file):
    write(file, f"{OLD}\n")
    becomes(strict, OTHER, 401)
    write(file, f"{OLD}\nbob: {OTHER}\n")
    becomes(strict, OTHER, 200)


def test_a_wrong_key_counts_beside_withdrawn_ones(strict, file):
    write(file, f"{OLD}\n")
    wait_for(lambda: "withdrawn" in str(strict.request("GET", "/v1/x", key=OTHER).body), "the news")
    assert [status(strict, f"wrong-{number}") for number in range(3)] == [401, 401, 429]


def test_a_withdrawn_key_beside_another_wrong_one_is_no_guess_either(strict, file):
    write(file, f"{OLD}\n")
    wait_for(lambda: "withdrawn" in str(strict.request("GET", "/v1/x", key=OTHER).body), "the news")
    for _ in range(3):
        assert status(strict, OLD) == 200
        both = {"Authorization": f"Bearer {OTHER}", "x-api-key": "one-and-the-same"}
        assert strict.request("GET", "/v1/x", both, key=None).status in (400, 401)
    assert status(strict, OTHER) == 401  # not 429: it was one guess, again and again


def test_what_is_kept_of_withdrawn_keys_is_little_and_not_the_keys(monkeypatch):
    monkeypatch.setattr(credentials, "MAX_WITHDRAWN", 10)
    ring = KeyRing([("a", "key-0")])
    for number in range(1, 100):
        ring = ring.replaced_by([("a", f"key-{number}")])
    known = [n for n in range(100) if ring.withdrawn(b"key-%d" % n)]
    assert known == list(range(89, 99))
    assert ring.match(b"key-99") == "a"
    gc.collect()
    kept = [repr(one) for one in gc.get_referents(ring, *gc.get_referents(ring))]
    assert not any("key-" in one for one in kept)
