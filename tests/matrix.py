"""Every client against the real proxy: what it says, what it raises, how often it asks.

``python tests/matrix.py`` writes what it finds into ``docs/clients.md``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from programs import SDKS, node_modules
from servers import KEY, Answer, Received, Upstream, raw, whole

from llmauth import create_app
from llmauth.accounts.keys import Directory, KeyBook
from llmauth.accounts.limits import Limits
from llmauth.accounts.store import Database
from llmauth.accounts.terms import period_name
from llmauth.config.loading import Given, load
from llmauth.echo.backend import Echo
from llmauth.exceptions import error_body
from llmauth.server.server import Server

DOCS = Path(__file__).parent.parent / "docs" / "clients.md"
BEGIN, END = "<!-- matrix -->", "<!-- /matrix -->"
STORED = {
    "a_minute": {"requests_per_minute": 10},
    "exhausted": {"tokens_per_day": 10},
    "expired": {"expires": "1s"},
    "other_model": {"models": ["gpt-4o*"]},
}
"""Keys in the database by the name of their case, and their terms."""

SERVERS_KEY = "servers-provider-key-0123456789"
OWN_KEY = "persons-provider-key-0123456789"
WRONG_KEY = "wrong-key-0123456789"
RETRY_AFTER = 1
AGO = 57
"""Seconds since the requests of a minute were sent: nobody is told to wait for long."""

TIMEOUT = 60

_MAKING = threading.Lock()
"""One application at a time: werkzeug has Python parse code for each, at which several threads at
once fail now and then in 3.11 ("AST constructor recursion depth mismatch")."""


@dataclass(frozen=True)
class Client:
    """A client as its users know it.

    :param name: of the package, or the command
    :param script: that drives it, in ``sdks``
    :param lacks: what it does not do
    """

    name: str
    script: str
    lacks: tuple[str, ...] = ()


CLIENTS = (
    Client("openai (Python)", "openai_sync.py"),
    Client("openai (Python, async)", "openai_async.py"),
    Client("openai (npm)", "openai_sdk.mjs"),
    Client("anthropic (Python)", "anthropic_sdk.py"),
    Client("@anthropic-ai/sdk (npm)", "anthropic_sdk.mjs"),
    Client("google-genai (Python)", "google_genai.py"),
    Client("@google/genai (npm)", "google_genai.mjs"),
    Client("langchain-openai", "langchain_sdk.py", lacks=("models", "file")),
    Client("llm", "llm_command.py", lacks=("models", "file")),
    Client("curl", "curl_command.py"),
)

FEATURES = ("chat", "stream", "tool", "image", "models", "file")
FAILURES = {
    "wrong_key": "wrong key",
    "no_key": "no key",
    "lockout": "locked out",
    "limited": f"provider's 429, `Retry-After: {RETRY_AFTER}`",
    "failing": "provider's 500",
    "down": "provider is down",
    "broken": "the stream breaks off",
}
REFUSALS = {
    "a_minute": "10 a minute, used up",
    "exhausted": "tokens of the day, used up",
    "expired": "expired",
    "other_model": "another model",
}
"""Of stored keys."""


@dataclass(frozen=True)
class Outcome:
    """What came of one call.

    :param attempts: requests that reached the proxy
    """

    said: str | None
    error: str | None
    message: str
    attempts: int


class Driven:
    """A client's own process, which makes one call after the other."""

    def __init__(self, client: Client) -> None:
        interpreter = "node" if client.script.endswith(".mjs") else sys.executable
        unwanted = ("API_KEY", "BASE_URL", "_PROXY", "_proxy", "AUTH_TOKEN")
        environ = {k: v for k, v in os.environ.items() if not k.endswith(unwanted)}
        self._process = subprocess.Popen(
            [interpreter, client.script],
            cwd=SDKS,
            # Without a key, Google's client for JavaScript would look for a cloud around it.
            env=environ | {"PYTHONUNBUFFERED": "1", "METADATA_SERVER_DETECTION": "none"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def call(self, do: str, base: str, key: str | None, headers: dict[str, str]) -> dict[str, str]:
        assert self._process.stdin
        assert self._process.stdout
        order = {"do": do, "base": base, "key": key, "headers": headers}
        killer = threading.Timer(TIMEOUT, self._process.kill)
        killer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            killer.cancel()
        assert line, f"{do}: {self._process.communicate()[1]}"
        answer: dict[str, str] = json.loads(line)
        return answer


class Bench:
    """The proxy, with an upstream for each mishap, and a count of what reaches it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        upstreams = {name: Upstream() for name in ("limited", "failing", "broken", "recorded")}
        for upstream in upstreams.values():
            stack.callback(upstream.stop)
        self.recorded = upstreams.pop("recorded")
        self.recorded.answer = echoing(self.recorded.url)
        upstreams["limited"].answer = _error(429, "rate_limit_error", "RESOURCE_EXHAUSTED")
        upstreams["failing"].answer = _error(500, "api_error", "INTERNAL")
        upstreams["broken"].answer = _breaking_off
        urls = {name: upstream.url for name, upstream in upstreams.items()}
        urls["down"] = "http://127.0.0.1:1"
        self.attempts = 0
        self._lock = threading.Lock()
        database = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.db"
        self._database = database
        self.stored = _stored_keys(database)
        given = {"max_failed_attempts": 1000, "database": str(database)}
        self.url = self._serve(stack, urls, **given)
        self.locked_url = self._serve(stack, urls, max_failed_attempts=1, initial_block_seconds=900)

    def use_up_the_minute(self) -> None:
        """Have sent ten requests with the key that may send as many a minute."""
        database, now = Database(self._database), time.time()
        with contextlib.closing(database):
            directory = Directory()
            directory.load(database)
            # The server has counted in memory; now that another process counts, it is in the file.
            Limits(database, "another").enter(directory.keys["a_minute"], None)
            with database.transaction():
                database.tidy(now + 60, 60)  # as if a minute had passed
                database.add_entries([("llmauth/requests/a_minute", now - AGO)] * 10)

    def _serve(self, stack: contextlib.ExitStack, urls: dict[str, str], **values: Any) -> str:
        environ = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}
        for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
            environ[f"{name}_API_BASE_URL"] = self.recorded.url
            environ[f"{name}_API_KEY"] = SERVERS_KEY
        given = Given({"port": 0, "threads": 8, "shutdown_timeout": 0.0, **values}, urls)
        app = create_app(load(given, environ))
        inner = app.wsgi_app

        def counted(environ: Any, start_response: Any) -> Any:
            with self._lock:
                self.attempts += 1
            return inner(environ, start_response)

        app.wsgi_app = counted  # type: ignore[method-assign]
        server = Server(app)
        stack.callback(server.stop)
        return f"http://127.0.0.1:{server.port}"


def _stored_keys(path: Path) -> dict[str, str]:
    """Make the keys of `STORED`, with what each of them has used."""
    database, now = Database(path), time.time()
    book = KeyBook(database)
    keys = {name: book.add(name, terms) for name, terms in STORED.items()}
    with database.transaction():
        database.spend([("exhausted", period_name("day", now), 10, 0)])
        row = database.key("expired")
        assert row
        database.change_key(row._replace(expires=now))
    database.close()
    return keys


def echoing(url: str) -> Answer:
    """Answer as the echo does, over a real connection, and take files, which it does not."""
    echo = Echo(token_delay=0)

    def answer(request: Received) -> None:
        path, _, query = request.target.partition("?")
        if path.startswith("/upload/"):
            _google_upload(request, url)
            return
        if path == "/v1/files":
            _send(request, 200, {"Content-Type": "application/json"}, _uploaded(request.body))
            return
        reply = echo.respond(request.method, path, query, request.header, request.body)
        _send(request, reply.status, dict(reply.headers), b"".join(reply.chunks))

    return answer


def _uploaded(form: bytes) -> bytes:
    """Return what OpenAI and Anthropic say to a file."""
    name = re.search(rb'filename="([^"]*)"', form)
    assert name
    file = {
        "id": "file-1", "object": "file", "type": "file", "filename": name[1].decode(),
        "bytes": len(form), "size_bytes": len(form), "created_at": 0, "purpose": "user_data",
    }  # fmt: skip
    return json.dumps(file).encode()


def _google_upload(request: Received, url: str) -> None:
    if request.header("x-goog-upload-command") == "start":
        where = f"{url}/upload/v1beta/files?upload_id=1"
        _send(request, 200, {"X-Goog-Upload-Status": "active", "X-Goog-Upload-URL": where}, b"")
    else:
        body = b'{"file": {"name": "files/1", "displayName": "a.txt"}}'
        _send(request, 200, {"X-Goog-Upload-Status": "final"}, body)


def _send(request: Received, status: int, headers: dict[str, str], body: bytes) -> None:
    headers.pop("Content-Length", None)
    lines = tuple(f"{name}: {value}" for name, value in headers.items())
    whole(body, f"{status} Said", lines)(request)


def _error(status: int, kind: str, google: str) -> Answer:
    body = error_body("The provider says no.", type=kind, status=google, code=kind)
    retry = (f"Retry-After: {RETRY_AFTER}",) if status == 429 else ()
    return whole(body, f"{status} No", ("Content-Type: application/json", *retry))


def _breaking_off(request: Received) -> None:
    """Begin a stream as the echo does, and close the connection in the middle."""
    path, _, query = request.target.partition("?")
    reply = Echo(token_delay=0).respond(
        request.method, path, query, request.header, request.body
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
    sent = f"HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode()
    for chunk, _ in zip(reply.chunks, range(4)):  # noqa: B905
        sent += b"%x\r\n%s\r\n" % (len(chunk), chunk)
    raw(sent)(request)


def orders(bench: Bench) -> dict[str, tuple[str, str, str | None, dict[str, str]]]:
    """Return what is asked of a client, by the name of the case: call, address, key, headers."""
    url = bench.url
    made: dict[str, tuple[str, str, str | None, dict[str, str]]] = {
        name: (name, f"{url}/echo", KEY, {}) for name in FEATURES
    }
    # The echo takes no files; Google's client sends one to an address that the provider gives it.
    made["file"] = ("file", url, KEY, {})
    for name in ("limited", "failing", "down"):
        made[name] = ("chat", f"{url}/{name}", KEY, {})
    made |= {name: ("chat", url, key, {}) for name, key in bench.stored.items()}
    return made | {
        "wrong_key": ("chat", url, WRONG_KEY, {}),
        "no_key": ("chat", url, None, {}),
        "lockout": ("chat", bench.locked_url, KEY, {}),
        "broken": ("stream", f"{url}/broken", KEY, {}),
        "server_key": ("chat", url, KEY, {}),
        "own_key": ("chat", url, OWN_KEY, {"X-Proxy-Api-Key": KEY}),
        "server_key_again": ("chat", url, KEY, {}),
    }


@dataclass
class Found:
    """What one client did: outcomes by case, and the requests that reached the provider."""

    outcomes: dict[str, Outcome]
    received: dict[str, list[Received]]


def run(client: Client) -> Found:
    """Run every case of one client."""
    found = Found({}, {})
    with contextlib.ExitStack() as stack:
        driven = stack.enter_context(Driven(client))
        with _MAKING:
            bench = Bench(stack)
        _lock_out(bench)
        for case, (do, base, key, headers) in orders(bench).items():
            if do in client.lacks:
                continue
            if case == "a_minute":
                bench.use_up_the_minute()
            bench.attempts, already = 0, len(bench.recorded.requests)
            answer = driven.call(do, base, key, headers)
            found.outcomes[case] = Outcome(
                answer.get("said"), answer.get("error"), answer.get("message", ""), bench.attempts
            )
            found.received[case] = bench.recorded.requests[already:]
    return found


def _lock_out(bench: Bench) -> None:
    command = ["curl", "-s", f"{bench.locked_url}/v1/models", "-H", f"x-api-key: {WRONG_KEY}"]
    subprocess.run(command, capture_output=True, check=True)


def run_all() -> dict[Client, Found]:
    node_modules()
    with ThreadPoolExecutor(len(CLIENTS)) as pool:  # they wait more than they work
        return dict(zip(CLIENTS, pool.map(run, CLIENTS), strict=True))


def versions() -> str:
    """Return the name and the version of each package that was run."""
    names = ("openai", "anthropic", "google-genai", "langchain-openai", "llm")
    found = [f"{name} {version(name)}" for name in names]
    for name in ("openai", "@anthropic-ai/sdk", "@google/genai"):
        package = json.loads((SDKS / "node_modules" / name / "package.json").read_text())
        found.append(f"{name} (npm) {package['version']}")
    return ", ".join(found)


def report(found: dict[Client, Found]) -> str:
    """Return what was found, as the tables of ``docs/clients.md``."""
    lines = [f"Run with {versions()}.", ""]
    lines += _table(("", *FEATURES), (_features(client, found[client]) for client in found))
    lines += ["", "What they raise, and how many requests that takes:", ""]
    lines += _table(("", *FAILURES.values()), (_failures(c, found[c], FAILURES) for c in found))
    lines += ["", "With a stored key ([keys.md](keys.md)) that may not, or not now:", ""]
    lines += _table(("", *REFUSALS.values()), (_failures(c, found[c], REFUSALS) for c in found))
    return "\n".join(lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = tuple(head)
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _features(client: Client, found: Found) -> Iterator[str]:
    yield client.name
    for name in FEATURES:
        outcome = found.outcomes.get(name)
        if outcome is None:
            yield "–"
        else:
            yield "no" if outcome.said is None else "yes"


def _failures(client: Client, found: Found, cases: Iterable[str]) -> Iterator[str]:
    yield client.name
    for name in cases:
        outcome = found.outcomes[name]
        times = f", {outcome.attempts} requests" if outcome.attempts > 1 else ""
        what = f"`{outcome.error}`" if outcome.said is None else "waits, and works"
        yield f"{what}{times if outcome.attempts else ', not sent'}"


def written(text: str, block: str) -> str:
    """Return the page with the tables replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


if __name__ == "__main__":
    DOCS.write_text(written(DOCS.read_text(encoding="utf-8"), report(run_all())), encoding="utf-8")
