"""The leak hunt: no secret in anything that a real server writes, wherever clients put secrets.

The server is a process of its own, with a wire capture, every logger at DEBUG, its failures
counted in a Redis that wants a password, and a backend whose URL holds a user and a password.
Its upstream repeats whatever it is told, in every way an upstream can.
"""

from __future__ import annotations

import contextlib
import gzip
import html
import importlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import brotli
import pytest
import zstandard
from leaks import LONG_FORMS, Hunt
from programs import Redis
from servers import Received, Upstream, raw, read_all, whole

import llmauth
from llmauth.redact.logging import Redactor

OURS = {
    "proxy key": "pk-Vt9mQx4LrWz7NdKy2HsB",
    "proxy key of alice": "qU3+/w=e\"7\\z&<%41Tg8~?~?~Pj;5R",
    "provider key": "sk-proj-Hm4XcQz8WvTn2RkLpB6y",
    "opaque provider key": "Jd7fGq2ZsXw9CbNv4MtR",
    "password of the store": "St0re/p@ss w%rd#Kx8Zq3",
    "password of a backend": "Bk9!vQ%3Dz7&xWé+r'L2mT",
}
OWN = {
    "own key": "Ow6nKy9TrZx3QpLm8VbD",
    "own key with a shape": "sk-ant-api03-Zp5TnWq8XrJc4VbMy7Lk",
    "own key in the query": "Qy4Lm9ZtXw2NkRv7PcJd",
    "cookie": "Ck8WzTq3XvRn6LmPy2Bs",
}
WRONG = {
    "almost the proxy key": "pk-Vt9mQx4LrWz7NdKy2HsC",
    "proxy key and more": "pk-Vt9mQx4LrWz7NdKy2HsBB",
    "most of the proxy key": "pk-Vt9mQx4LrWz7NdKy2Hs",
    "proxy key in capitals": "PK-VT9MQX4LRWZ7NDKY2HSB",
    # With letters everywhere: the digits of a time of day would pass for a part of it.
    "wrong and long": "".join(f"{'KQVXZ'[n % 5]}{n * n + 7:05x};" for n in range(400)),
    "wrong basic": "Bs5NqXz8TwVr2KmLy7Pc",
}
SECRETS = OURS | OWN | WRONG
PREFIXES = ("sk-proj-", "sk-ant-api03-")
SEED = 4


def bare(secret: str) -> str:
    """Return a secret without the prefix that may be shown."""
    return next((secret[len(p) :] for p in PREFIXES if secret.startswith(p)), secret)


HUNT = Hunt({name: bare(secret) for name, secret in SECRETS.items()})


# What the upstream does with what it is told


def told(request: Received) -> bytes:
    """Return all of a request but the framing."""
    lines = [f"{request.method} {request.target}", *(f"{n}: {v}" for n, v in request.headers)]
    return "\n".join(lines).encode("latin-1") + b"\n\n" + request.body


def as_json(request: Received) -> bytes:
    text = told(request).decode("utf-8", "replace")
    return json.dumps({"error": {"message": text, "headers": dict(request.headers)}}).encode()


def compressed(coding: str, compress: Callable[[bytes], bytes]) -> Callable[[Received], None]:
    headers = (f"Content-Encoding: {coding}", "Content-Type: application/json")
    return lambda request: whole(compress(as_json(request)), headers=headers)(request)


def chunks(request: Received, pieces: list[bytes], kind: str, *headers: str) -> None:
    head = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", "Transfer-Encoding: chunked", *headers]
    request.sock.sendall(("\r\n".join(head) + "\r\n\r\n").encode("latin-1"))
    for piece in filter(None, pieces):
        request.sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    request.sock.sendall(b"0\r\n\r\n")


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def split_events(request: Received) -> None:
    data = b"".join(b"data: " + line + b"\n\n" for line in told(request).splitlines())
    chunks(request, cut(data, 7), "text/event-stream")


def zipped_events(request: Received) -> None:
    data = gzip.compress(b"data: " + as_json(request) + b"\n\n")
    chunks(request, cut(data, 11), "text/event-stream", "Content-Encoding: gzip")


def token_events(request: Received) -> None:
    """Repeat the request's body as a model does: a few characters in each event."""
    text = request.body.decode("utf-8", "replace")
    tokens = [text[start : start + 3] for start in range(0, len(text), 3)]
    events = [{"choices": [{"index": 0, "delta": {"content": token}}]} for token in tokens]
    chunks(request, [f"data: {json.dumps(e)}\n\n".encode() for e in events], "text/event-stream")


def in_headers(request: Received) -> None:
    value = request.body.decode("latin-1").replace("\r", " ").replace("\n", " ")
    names = "Location", "Set-Cookie", "X-Echo", "WWW-Authenticate", "X-Vault-Token", "Content-Type"
    whole(b"", "302 Found", tuple(f"{name}: {value}" for name in names))(request)


def redirect(request: Received) -> None:
    token = quote(request.body.decode("utf-8", "replace"), safe="")
    whole(b"", "307 Temporary Redirect", (f"Location: https://u:{token}@host/?key={token}",))(request)


def broken_off(request: Received) -> None:
    raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + told(request))(request)


ANSWERS: dict[str, Callable[[Received], None]] = {
    "json": lambda r: whole(as_json(r), "401 Unauthorized", ("Content-Type: application/json",))(r),
    "text": lambda r: whole(told(r), "500 Internal Server Error")(r),
    "html": lambda r: whole(html.escape(told(r).decode("utf-8", "replace")).encode())(r),
    "not-text": lambda r: whole(b"\xff\xfe\x00\x80" + told(r) + b"\xff")(r),
    "utf-16": lambda r: whole(told(r).decode("utf-8", "replace").encode("utf-16"))(r),
    "gzip": compressed("gzip", gzip.compress),
    "deflate": compressed("deflate", zlib.compress),
    "br": compressed("br", brotli.compress),
    "zstd": compressed("zstd", zstandard.compress),
    "unknown-coding": lambda r: raw(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: " + r.body + b"\r\n\r\n" + told(r))(r),
    "wrong-coding": lambda r: whole(told(r), headers=("Content-Encoding: gzip",))(r),
    "split-text": lambda r: chunks(r, cut(told(r), 5), "text/plain"),
    "split-events": split_events,
    "zipped-events": zipped_events,
    "token-events": token_events,
    "headers": in_headers,
    "redirect": redirect,
    "broken-off": broken_off,
    "broken-events": lambda r: raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999\r\n\r\n"
        b"data: " + told(r))(r),
    "not-http": lambda r: raw(told(r))(r),
    "bad-header": lambda r: raw(b"HTTP/1.1 200 OK\r\n" + told(r).replace(b": ", b" "))(r),
    "bad-length": lambda r: raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + r.body + b"\r\n\r\n")(r),
    "bad-chunk": lambda r: raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + r.body + b"\r\n")(r),
    "no-answer": raw(b""),
}  # fmt: skip


def answer(request: Received) -> None:
    name = request.target.partition("?")[0].rpartition("/")[2]
    ANSWERS.get(name, ANSWERS["text"] if request.body else whole())(request)


# What clients send


def requests(draw: random.Random) -> Iterator[bytes]:
    """Yield requests that together put every secret into every place, in one form or another."""
    forms = list(LONG_FORMS.values())
    for about in WRONG:
        yield from refused(about, WRONG[about], draw)
    for about in OWN:
        yield forwarded("json", about, OWN[about], OWN[about], draw)
    for name in ANSWERS:
        for about, secret in draw.sample(list(SECRETS.items()), 10):
            yield forwarded(name, about, draw.choice(forms)(secret), secret, draw)
    for about in OURS:
        yield from refused(about, OURS[about], draw)


def forwarded(name: str, about: str, shown: str, secret: str, draw: random.Random) -> bytes:
    """Return a request that passes, with a secret of its own or somebody else's in it."""
    prefix = draw.choice(["", "/opaque", "/local"])
    headers = {"X-Proxy-Api-Key": OURS["proxy key"], "Cookie": f"a=b; session={OWN['cookie']}"}
    query = f"?q={quote(shown, safe='')}"
    if about.startswith("own key"):
        carrier = draw.choice(["Authorization", "x-api-key", "x-goog-api-key", "api-key"])
        headers[carrier] = f"Bearer {secret}" if carrier == "Authorization" else secret
    elif about == "own key in the query":
        query += f"&key={quote(secret)}"
        prefix = "/gemini"
    body = draw.choice([shown, json.dumps({"model": shown, "messages": [{"content": shown}]})])
    if draw.random() < 0.5:
        headers["X-" + re.sub("[^A-Za-z0-9-]", "", secret)] = shown
    headers["User-Agent"] = shown
    headers["Content-Type"] = draw.choice(["application/json", "text/plain", shown])
    data = body.encode("utf-8")
    if draw.random() < 0.2:
        headers["Content-Encoding"] = "gzip"
        data = gzip.compress(data)
    return message("POST", f"{prefix}/v1/{name}{query}", headers, data)


def refused(about: str, secret: str, draw: random.Random) -> Iterator[bytes]:
    """Yield requests that do not pass, or are none at all."""
    form = draw.choice(list(LONG_FORMS.values()))
    shown, path = form(secret), quote(form(secret), safe="%")
    ours = {"Authorization": f"Bearer {OURS['proxy key']}"}
    if about not in OURS or not about.startswith("proxy key"):
        for carrier in ("x-api-key", "x-goog-api-key", "api-key", "X-Proxy-Api-Key"):
            yield message("POST", f"/v1/{path}", {carrier: secret})
        yield message("POST", f"/v1/{path}", {"Authorization": f"Bearer {secret}"})
        yield message("GET", f"/v1beta/models?key={quote(secret)}", {})
        yield message("GET", f"/v1/x?key={quote(secret)}&api_key={quote(secret)}", {})
    basic = LONG_FORMS["base64 of me:key"](secret)
    yield message("POST", "/v1/x", {"Authorization": f"Basic {basic}"})
    yield message("POST", "/v1/x", {"Authorization": f"Bearer {secret} {secret}"})
    yield message("POST", "/v1/x", ours | {"x-api-key": secret})
    yield message("GET", f"/{path}", ours)
    yield message("GET", f"/{path}/../{path}", ours)
    yield message("GET", f"/v1/{path}", ours | {"Upgrade": "websocket", "X-Echo": shown})
    yield message("GET", "/health", {"Authorization": f"Bearer {secret}", "X-Echo": shown})
    yield message("GET", f"/readyz?key={path}", {"Cookie": shown})
    if re.fullmatch("[A-Za-z0-9-]+", secret):
        yield message(secret.upper(), f"/v1/{path}", ours)
    absolute = f"http://user:{path}@host/v1/{path}"
    yield message("GET", absolute, ours | {"Host": shown})
    yield f"{shown} {shown}\r\n{shown}\r\n\r\n".encode()
    yield message("POST", "/v1/x", ours | {"Content-Length": shown, "X-Forwarded-For": shown})


def message(method: str, target: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    headers = {"Host": "proxy", "Content-Length": str(len(body)), **headers, "Connection": "close"}
    lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items()), "", ""]
    return re.sub("[^\r\n\t -\xff]", "?", "\r\n".join(lines)).encode("latin-1") + body


# The server, and what it wrote


class Hunted:
    """A server in a directory of its own, where everything that it writes is kept."""

    def __init__(self, directory: Path, upstream: Upstream, store: str, log_format: str) -> None:
        self.directory = directory / "written"
        self.directory.mkdir()
        self._package = directory  # where a copy of the package may be
        user = quote(OURS["password of a backend"], safe="")
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.endswith(("_KEY", "_TOKEN"))},
            "LLM_INTERACTIVE_PROXY_API_KEY": OURS["proxy key"],
            "LLM_INTERACTIVE_PROXY_API_KEY_ALICE": OURS["proxy key of alice"],
            "OPENAI_API_BASE_URL": upstream.url,
            "OPENAI_API_KEY": OURS["provider key"],
            "GEMINI_API_BASE_URL": upstream.url,
            "OPAQUE_API_BASE_URL": upstream.url,
            "OPAQUE_API_KEY": OURS["opaque provider key"],
            "LOCAL_API_BASE_URL": upstream.url.replace("//", f"//robot:{user}@"),
            "BRUTE_FORCE_STORAGE_URI": store,
            "BRUTE_FORCE_MAX_FAILED_ATTEMPTS": "1000000",
            "APP_PORT": "0",
            "APP_SHUTDOWN_TIMEOUT": "1",
            "LOG_LEVEL": "DEBUG",
            "LOG_FORMAT": log_format,
            "LOG_FILE": str(self.directory / "log"),
            "CAPTURE_FILE": str(self.directory / "capture.jsonl"),
            "CAPTURE_MAX_BYTES": "150K",
            "CAPTURE_MAX_FILES": "10",
            "PYTHONWARNINGS": "always",
        }

    def run(self, *arguments: str, into: str) -> int:
        """Run a command to its end; its output is kept."""
        with (self.directory / into).open("wb") as file:
            command = [sys.executable, "-m", "llmauth", *arguments]
            done = subprocess.run(
                command, stdout=file, stderr=file, env=self._environ, cwd=self._package, timeout=30
            )
            return done.returncode

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """Run the server; yields its port."""
        out, err = self.directory / "stdout", self.directory / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "llmauth"],
                stdout=stdout,
                stderr=stderr,
                env=self._environ,
                cwd=self._package,
            )
            try:
                yield _port(err)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            finally:
                process.kill()
                process.wait()

    def written(self) -> dict[str, str]:
        """Return all that was written, by file."""
        files = sorted(self.directory.iterdir())
        return {file.name: file.read_text("utf-8", "surrogateescape") for file in files}


def _port(banner: Path) -> int:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if found := re.search(r"listening on:\s+http://[^\s:]+:(\d+)", banner.read_text()):
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(banner.read_text())


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=8) as sock:
        sock.sendall(data)
        return read_all(sock)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The URI of a real Redis that wants a password."""
    password = OURS["password of the store"]
    redis = Redis("--requirepass", password)
    yield f"redis://:{quote(password, safe='')}@127.0.0.1:{redis.port}/0"
    redis.close()


def leaks(
    hunted: Hunted, asked: Iterable[bytes], commands: Sequence[str] = ("check", "show", "har")
) -> dict[str, set[str]]:
    """Serve the requests and return what leaked, by file, the server's own answers included."""
    own_words: list[str] = []
    with hunted.serving() as port:
        for request in asked:
            reply = exchange(port, request).decode("utf-8", "replace")
            if '"type": "error", "error"' in reply:
                own_words.append(reply)
        for page in ("/readyz", "/docs", "/openapi.json", "/health"):
            own_words.append(exchange(port, message("GET", page, {})).decode())
        if "check" in commands:
            assert hunted.run("check", "--all", into="check") == 0
    captured = sorted(hunted.directory.glob("capture.jsonl*"), reverse=True)
    together = hunted.directory / "whole capture"
    together.write_bytes(b"".join(file.read_bytes() for file in captured))
    assert 1 < len(captured) < 10  # it was rotated, and nothing is gone
    for file in captured:
        file.unlink()
    for command in {"show", "har"} & {*commands}:
        assert hunted.run("capture", command, str(together), into=command) == 0
    written = hunted.written() | {"answers": "\n".join(own_words)}
    assert all(len(written[name]) > 3000 for name in ("log", "answers", *commands))
    return {name: found for name, text in written.items() if (found := HUNT.search(text))}


@pytest.mark.parametrize(("log_format", "share"), [("text", 1), ("json", 3)])
def test_no_secret_is_written_anywhere(
    tmp_path: Path, upstream: Upstream, store: str, log_format: str, share: int
) -> None:
    upstream.answer = answer
    hunted = Hunted(tmp_path, upstream, store, log_format)
    assert leaks(hunted, list(requests(random.Random(SEED)))[::share]) == {}


# Would a leak be found? The same hunts, on copies of the package that each lack something.

PACKAGE = Path(llmauth.__file__).parent
SERVER_MUTATIONS = {
    "the access log is not redacted": (
        "web/access_log.py", "self._redactor.text(text[:MAX_PATH], cut=is_long)",
        "text[:MAX_PATH]", "log"),
    "the capture is not redacted": (
        "capture/safe_json.py", "self.redactor.text(line)", "line", "whole capture"),
    "credentials of requests are not observed": (
        "auth/credentials.py", "is_credential(key[5:])", "False", "whole capture"),
    "what is said in pieces is not joined": (
        "capture/streams.py", "    if spoken := ", "    if False and ", "show"),
}  # fmt: skip
FORM_MUTATIONS = {
    "plain": ("redact/forms.py", "    yield from texts\n", "    yield from texts[1:]\n"),
    "quoted": ("redact/forms.py", "%[0-7]{_HEX}|", ""),
    "json \\\\u": ("redact/forms.py", r"|\\u{_HEX}{{4}}", ""),
    "repr \\\\x": ("redact/forms.py", r"|\\x{_HEX}{{2}}", ""),
    "backslashes": ("redact/forms.py", r"""|\\[\\\"'/]""", ""),
    "html": ("redact/forms.py", "&(?:amp|lt|gt|quot|apos|", "&(?:"),
    "encodings in encodings": ("redact/forms.py", "MAX_DEPTH = 4", "MAX_DEPTH = 1"),
    "spaces as plus": ("redact/forms.py", 'secret.replace(" ", "+")', "secret"),
    "latin-1 of utf-8": ("redact/forms.py", "if text.isascii():", "if True:"),
    "base64": ("redact/forms.py", "yield Form(text, MASK, base64=True", "Form(text, MASK"),
    "base64 after a user": ("redact/forms.py", "((0, 0), (1, 2), (2, 3))", "((0, 0), (1, 2))"),
    "base64 for urls": (
        "redact/forms.py", 'yield middle.replace("+", "-").replace("/", "_")', "pass"),
    "lower case": ("redact/forms.py", "text.lower(), text.upper(), ", "text.upper(), "),
    "upper case": ("redact/forms.py", "text.lower(), text.upper(), ", "text.lower(), "),
    "title case": ("redact/forms.py", ", text.title()", ""),
    "environ": ("redact/forms.py", 'text.upper().replace("-", "_"), ', ""),
    "the rest of long ones": ("redact/forms.py", "if self.longer else end", "if False else end"),
    "observed ones": (
        "redact/memory.py", "for credential in credentials:\n", "for credential in ():\n"),
    "hex": ("redact/forms.py", "yield Form(digits, MASK", "Form(digits, MASK"),
    "hex in capitals": ("redact/forms.py", "yield Form(digits.upper()", "Form(digits.upper()"),
    "base64 of utf-16": ("redact/forms.py", 'secret.encode("utf-16-le", "surrogatepass")', "b''"),
    "over line breaks": ("redact/redactor.py", "*over_breaks(text, known, find), ", ""),
    "lists of codes": ("redact/redactor.py", ", *as_codes(text, find)", ""),
}  # fmt: skip


def mutated(directory: Path, file: str, old: str, new: str) -> Path:
    """Return a copy of the package in which one thing is different."""
    copy = directory / "llmauth"
    shutil.copytree(PACKAGE, copy)
    for compiled in (copy / file).parent.glob(f"__pycache__/{Path(file).stem}.*"):
        compiled.unlink()
    source = (copy / file).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} is not once in {file}"
    (copy / file).write_text(source.replace(old, new), encoding="utf-8")
    return copy


@pytest.mark.parametrize("mutation", SERVER_MUTATIONS.values(), ids=SERVER_MUTATIONS)
def test_the_hunt_finds_the_leaks_of_a_server_that_has_some(
    tmp_path: Path, upstream: Upstream, store: str, mutation: tuple[str, str, str, str]
) -> None:
    *change, where = mutation
    mutated(tmp_path, *change)
    upstream.answer = answer
    hunted = Hunted(tmp_path, upstream, store, "text")
    assert where in leaks(hunted, list(requests(random.Random(SEED)))[::3], ["show"])


def survivors(redactor: type[Any]) -> Iterator[str]:
    """Yield what is left of secrets when each of them has been masked in each form."""
    for secret in SECRETS.values():
        for teach in ("add", "observe"):
            taught = redactor()
            getattr(taught, teach)(secret)
            texts = [f'a "{form(secret)}" b' for form in LONG_FORMS.values()]
            yield from HUNT.search("\n".join(map(taught.text, texts)))


def test_no_form_survives() -> None:
    assert list(survivors(Redactor)) == []


@pytest.mark.parametrize("mutation", FORM_MUTATIONS.values(), ids=FORM_MUTATIONS)
def test_the_hunt_finds_each_form_that_a_redactor_does_not_know(
    tmp_path: Path, mutation: tuple[str, str, str]
) -> None:
    copy = mutated(tmp_path, *mutation)
    (copy / "__init__.py").write_text("")
    with imported(copy, "llmauth_mutant") as name:
        mutant = importlib.import_module(f"{name}.redact.redactor")
        assert next(survivors(mutant.Redactor), None)


@contextlib.contextmanager
def imported(directory: Path, name: str) -> Iterator[str]:
    """Import a package under another name, and forget it afterwards."""
    spec = importlib.util.spec_from_file_location(
        name, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        yield name
    finally:
        for module in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[module]
