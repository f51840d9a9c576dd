"""A soak: everything at once, for as long as you like, on this machine alone.

::

    python tests/soak.py                  # three minutes
    python tests/soak.py --seconds 3600   # an hour
    python tests/soak.py --rate 20        # fewer actions a second

Starts llmauth as its users do, an upstream that does good and bad, and clients of every kind.
Prints memory, threads and sockets of llmauth as it goes; at the end it says whether they stayed
flat, and what was not as expected. Its exit status is 1 when something was not. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from answers import ANSWERS, CODINGS
from servers import KEY, PROVIDER_KEY, Received, Upstream, read_all, request_bytes

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database
from llmauth.http.chunks import encode as chunk

WRONG = "soak-wrong-key-0123456789abcdef"
TIMEOUT = 30.0
STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = json.dumps({"choices": [{"message": {"content": "x" * 700}}]}).encode()
EVENTS = [b'data: {"n": %d}\n\n' % number for number in range(20)]
LARGE = [b"data: large\n\n" * 5000] * 128  # some 8 MB

BROKEN = {
    "nothing": (b"", 502),
    "nonsense": (b"nonsense\r\n\r\n", 502),
    "two-lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 502),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 502),
    "headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 502),
    "short": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc", None),
    "chunk": (STREAM.encode() + b"5\r\nabcde\r\nzz\r\n", None),
    "cut": (STREAM.encode() + b"5\r\nabcde\r\n", None),
}
"""What the upstream says, and the status; None: an answer that must not look complete."""

MALFORMED = [
    request_bytes("/v1/ok", "Transfer-Encoding: chunked"),
    request_bytes("/v1/ok", "Content-Length: 3"),
    request_bytes("/v1/ok", "X: a\r\n b"),
    request_bytes("/v1/ok", "X: " + " " * 9000 + "\0"),
    b"GET /v1/ok HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
]


TOLD = "told"
"""The model of all answers that say what they used."""

FIGURES = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")


class Told:
    """What the upstream has said that was used."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        usage = ANSWERS[name].usage
        with self._lock:
            self.sums["requests"] += 1
            for figure in FIGURES:
                self.sums[figure] += getattr(usage, figure) or 0

    def problems(self, database: Path) -> list[str]:
        """Compare with what `llmauth usage` says of it."""
        command = [sys.executable, "-m", "llmauth", "usage", "--by", "model", "--format", "json"]
        done = subprocess.run(
            [*command, "--database", str(database)], capture_output=True, check=True
        )
        rows = {row["model"]: row for row in json.loads(done.stdout)}
        print(f"of {sum(row['requests'] for row in rows.values())} requests that were counted, "
              f"{self.sums['requests']} told their usage: {dict(self.sums)}")
        counted = rows.get(TOLD, {})
        return [
            f"{figure}: the upstream said {said}, and {counted.get(figure)} is counted"
            for figure, said in self.sums.items()
            if said != counted.get(figure)
        ]


TOLD_BY_UPSTREAM = Told()


def tell(request: Received, name: str, coding: str) -> None:
    """Answer as an API does, in chunks of any size."""
    one = ANSWERS[name]
    body = CODINGS[coding](one.body) if coding else one.body
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {one.content_type}\r\nTransfer-Encoding: chunked\r\n"
    head += f"Content-Encoding: {coding}\r\n" if coding else ""
    request.sock.sendall(f"{head}\r\n".encode())
    while body:
        size = random.randint(1, 1000)
        request.sock.sendall(chunk(body[:size]))
        body = body[size:]
    TOLD_BY_UPSTREAM.add(name)
    request.sock.sendall(b"0\r\n\r\n")


def answer(request: Received) -> None:
    """Be the upstream: do what the path says."""
    if name := request.header("X-Answer"):
        tell(request, name, request.header("X-Coding") or "")
        return
    kind, _, detail = request.target.removeprefix("/v1/").partition("/")
    say = request.sock.sendall
    if kind == "stream":
        say(STREAM.encode())
        for event in EVENTS:
            say(chunk(event))
            time.sleep(0.1)
        say(b"0\r\n\r\n")
    elif kind == "endless":
        say(STREAM.encode())
        while True:
            say(chunk(EVENTS[0]))
            time.sleep(0.1)
    elif kind == "silent":
        request.sock.settimeout(TIMEOUT)
        request.sock.recv(1)  # until the proxy closes
        raise OSError
    elif kind == "large":
        say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(map(len, LARGE)))
        for piece in LARGE:
            say(piece)
    elif kind == "broken":
        say(BROKEN[detail][0])
        request.sock.shutdown(socket.SHUT_RDWR)
    elif kind == "packed":
        body = gzip.compress(ANSWER)
        say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n")
        say(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    else:
        body = b"%d" % len(request.body) if kind == "upload" else ANSWER
        say(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        say(b"Content-Length: %d\r\n\r\n" % len(body) + body)


class Clients:
    """Clients of every kind; each method is one of them, and raises when it is not served well."""

    def __init__(self, port: int, *keys: str) -> None:
        self.port = port
        self.keys = keys

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        sock.sendall(data.replace(KEY.encode(), random.choice(self.keys).encode()))
        return sock

    def ask(self, path: str, body: bytes = b"{}", *, key: str | None = KEY, **headers: str):
        key = random.choice(self.keys) if key == KEY else key
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            own = {name.replace("_", "-"): value for name, value in headers.items()}
            bearer = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request("POST", path, body, bearer | own)
            response = connection.getresponse()
            return response.status, response.read()

    def plain(self) -> None:
        assert self.ask("/v1/ok") == (200, ANSWER)

    def kept_alive(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            for _ in range(5):
                connection.request("POST", "/v1/ok", b"{}", {"x-api-key": KEY})
                received = connection.getresponse().read()
                assert received == ANSWER, received[:300]

    def health(self) -> None:
        with self.connect(b"GET /health HTTP/1.0\r\n\r\n") as sock:
            assert b" 200 OK" in read_all(sock)

    def packed(self) -> None:
        status, body = self.ask("/v1/packed", Accept_Encoding="gzip")
        assert (status, gzip.decompress(body)) == (200, ANSWER)

    def told(self) -> None:
        name = random.choice([name for name, one in ANSWERS.items() if one.usage.is_known])
        coding = random.choice(["", *CODINGS])
        path = f"{ANSWERS[name].path}?model={TOLD}".replace("gemini-2.5-flash", TOLD)
        headers = {"X_Answer": name, "X_Coding": coding} if coding else {"X_Answer": name}
        status, body = self.ask(path, **headers)
        assert status == 200
        assert coding or body == ANSWERS[name].body

    def upload(self) -> None:
        assert self.ask("/v1/upload", bytes(2**21)) == (200, b"%d" % 2**21)

    def stream(self) -> None:
        assert self.ask("/v1/stream") == (200, b"".join(EVENTS))

    def cancelled_stream(self) -> None:
        with self.connect(request_bytes("/v1/endless")) as sock:
            received = b""
            while EVENTS[0] not in received:
                data = sock.recv(4096)
                assert data, "the stream ended"
                received += data

    def cancelled_wait(self) -> None:
        with self.connect(request_bytes("/v1/silent")):
            time.sleep(0.2)

    def slow_reader(self) -> None:
        with self.connect(request_bytes("/v1/large")) as sock:
            for _ in range(5):
                assert sock.recv(2**16)
                time.sleep(0.3)

    def slow_sender(self) -> None:
        data = request_bytes("/v1/ok", "Connection: close")
        with self.connect() as sock:
            for at in range(0, len(data), 20):
                sock.sendall(data[at : at + 20])
                time.sleep(0.1)
            received = read_all(sock)
            assert received.endswith(ANSWER), received[-300:]

    def half_request(self) -> None:
        with self.connect(request_bytes("/v1/ok", "Content-Length: 99")[:-30]):
            time.sleep(0.2)

    def malformed(self) -> None:
        with self.connect(random.choice(MALFORMED)) as sock:
            assert re.match(rb"HTTP/1.1 (400|505) ", read_all(sock))

    def broken(self) -> None:
        kind, (_, status) = random.choice(list(BROKEN.items()))
        with self.connect(request_bytes(f"/v1/broken/{kind}", "Connection: close")) as sock:
            received = read_all(sock)
        assert received.startswith(b"HTTP/1.1 %d " % (status or 200)), received[:80]
        assert status or not received.endswith((b"0\r\n\r\n", b"x" * 99))

    def no_key(self) -> None:
        assert self.ask("/v1/ok", key=None)[0] == 401

    def attacker(self) -> None:
        network = f"2001:db8:{random.randrange(2**16):x}:{random.randrange(2**16):x}::"
        for number in range(8):
            status, _ = self.ask("/v1/ok", key=WRONG, X_Forwarded_For=f"{network}{number + 1:x}")
            assert status == (401 if number < 5 else 429), (number, status)


WEIGHTS = {
    "told": 20, "plain": 30, "kept_alive": 10, "health": 10, "packed": 5, "upload": 3, "stream": 12,
    "cancelled_stream": 8, "cancelled_wait": 5, "slow_reader": 3, "slow_sender": 2,
    "half_request": 3, "malformed": 8, "broken": 12, "no_key": 5, "attacker": 4,
}  # fmt: skip


ALLOWED = {
    "rss": 16.0, "rss of the capture": 64.0, "threads": 16.0, "sockets": 40.0, "files": 40.0,
}  # fmt: skip
"""By how much each may grow, beyond a tenth."""


class Tally:
    """What was done, and what was not as expected."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, name: str, action: Callable[[], None]) -> None:
        problem = None
        try:
            action()
        except Exception as exc:
            problem = f"{name}: {type(exc).__name__} {str(exc)[:200]}"
        with self._lock:
            self.done[name] += 1
            if problem:
                self.unexpected[problem] += 1


def resident(pid: int) -> float:
    """Return a process's memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def measured(pid: int) -> dict[str, float]:
    """Return memory in MB, threads, descriptors, sockets, and seconds of CPU time.

    The process that writes the wire capture is a child of the thread that started it.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for one in lists for child in one.read_text().split()]
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    links = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(entry.path))
    return {
        "rss": resident(pid),
        "rss of the capture": sum(map(resident, children)),
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        "files": len(links),
        "sockets": sum(link.startswith("socket:") for link in links),
        "cpu": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
    }


LIMITS = {
    "requests_per_minute": 10**6, "tokens_per_minute": 10**9, "tokens_per_day": 10**11,
    "parallel": 1000, "budget": "1000000/month",
}  # fmt: skip
"""None of them is ever reached."""


def make_key(folder: Path) -> str:
    """Make a key with limits, beside the one without."""
    database = Database(folder / "usage.db")
    key = KeyBook(database).add("limited", LIMITS)
    database.close()
    return key


def held(folder: Path) -> list[str]:
    """Say what is still held, or counted in memory, of a server that has ended."""
    database = Database(folder / "usage.db")
    left, lease = database.held("limited"), database.lease()
    database.close()
    return [f"still held: {left}"] * any(left) + [f"a lease is left: {lease}"] * bool(lease)


def start(
    upstream: Upstream, folder: Path, *, capture: bool
) -> tuple[subprocess.Popen[bytes], int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if "API_KEY" not in name} | {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "OPENAI_API_BASE_URL": upstream.url,
        "OPENAI_API_KEY": PROVIDER_KEY,
        "ANTHROPIC_API_BASE_URL": upstream.url,
        "GEMINI_API_BASE_URL": upstream.url,
        "LLMAUTH_DATABASE": str(folder / "usage.db"),
        "TRUSTED_PROXIES": "127.0.0.1",
        "CAPTURE_FILE": str(folder / "capture.jsonl") if capture else "",
        "LOG_FILE": str(folder / "llmauth.log"),
    }
    command = [sys.executable, "-m", "llmauth", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        time.sleep(0.05)
    raise SystemExit("llmauth did not start")


def drive(clients: Clients, tally: Tally, rate: float, stop: threading.Event) -> None:
    """Begin as many actions a second, at most a hundred at a time."""
    places = threading.Semaphore(100)

    def act(name: str) -> None:
        tally.run(name, getattr(clients, name))
        places.release()

    while not stop.wait(random.expovariate(rate)):
        (name,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        places.acquire()
        threading.Thread(target=act, args=(name,), daemon=True).start()
    for _ in range(100):
        places.acquire(timeout=TIMEOUT)  # let those that are still at it finish


def verdict(
    samples: list[dict[str, float]], tally: Tally, log: str, keys: list[str]
) -> list[str]:
    """Return what is wrong; the samples' first fifth is for warming up."""
    problems = [f"{count} times {what}" for what, count in tally.unexpected.items()]
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth] or samples[:1], samples[-fifth:]
    for name, allowed in ALLOWED.items():
        before = statistics.median(one[name] for one in early)
        after = statistics.median(one[name] for one in late)
        print(f"{name}: {before:.0f} early, {after:.0f} late")
        if after > before * 1.1 + allowed:
            problems.append(f"{name} grew from {before:.0f} to {after:.0f}")
    problems += ["a traceback in the log"] * ("Traceback" in log or "uncaptured" in log)
    problems += [line for line in log.splitlines() if " ERROR " in line][:20]
    problems += ["a key in the log"] * any(key in log for key in keys)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--no-capture", action="store_true", help="without a wire capture")
    parser.add_argument("--rate", type=float, default=25.0, help="actions a second")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two lines")
    options = parser.parse_args()

    upstream = Upstream()
    upstream.answer = answer
    tally, stop, samples = Tally(), threading.Event(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = make_key(folder)
        process, port = start(upstream, folder, capture=not options.no_capture)
        began, before = time.monotonic(), 0.0
        clients = Clients(port, KEY, key)
        driver = threading.Thread(target=drive, args=(clients, tally, options.rate, stop))
        driver.start()
        try:
            while time.monotonic() - began < options.seconds and process.poll() is None:
                if not driver.is_alive():
                    tally.unexpected["the driver ended"] += 1
                    break
                time.sleep(options.every)
                upstream.requests.clear()
                sample = measured(process.pid)
                samples.append(sample)
                busy, before = (sample["cpu"] - before) / options.every * 100, sample["cpu"]
                print(
                    f"{time.monotonic() - began:6.0f} s  {sample['rss']:6.1f} + "
                    f"{sample['rss of the capture']:.1f} MB  "
                    f"{sample['threads']:4.0f} threads  {sample['sockets']:4.0f} sockets  "
                    f"{busy:3.0f}% of a core  {sum(tally.done.values())} actions, "
                    f"{sum(tally.unexpected.values())} unexpected",
                    flush=True,
                )
        finally:
            stop.set()
            driver.join()
            process.terminate()
            code = process.wait(60)
        log = (folder / "llmauth.log").read_text(encoding="utf-8")
        uncounted = TOLD_BY_UPSTREAM.problems(folder / "usage.db") + held(folder)
    print(", ".join(f"{count} {name}" for name, count in sorted(tally.done.items())))
    problems = verdict(samples, tally, log, [KEY, PROVIDER_KEY, WRONG, key]) + uncounted
    problems += [f"llmauth ended with status {code}"] * (code != 0)
    print("\n".join(problems) or "nothing unexpected")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
