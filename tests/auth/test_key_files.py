"""Files of keys that change while a real server runs."""

from __future__ import annotations

import os
import sys
import time

import pytest
from files import write
from programs import wait_for
from servers import PROVIDER_KEY, read_all, request_bytes, running_proxy, whole
from streams import HEAD, Held, chunk, read_until

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
    said = [r.getMessage() for r in caplog.records if "read again" in r.getMessage()]
    assert said == [
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
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_keeps_the_keys_and_says_so_once(proxy, file, caplog, content):
    write(file, content)
    said = lambda: [r for r in caplog.records if "stay as they are" in r.getMessage()]  # noqa: E731
    wait_for(lambda: status(proxy, OLD) == 200 and said(), "the complaint")
    time.sleep(0.1)  # until another look
    assert status(proxy, OLD) == 200
    (record,) = said()
    assert str(file) in record.getMessage()
    assert NEW not in record.getMessage()
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
        if sys.platform != "win32":  # where not every user may make links
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
        assert status(proxy, NEW) == 200
