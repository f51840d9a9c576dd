"""What a user with the right key notices of an attack: his latency beside that of a quiet server.

    python benchmarks/flood.py [--seconds 2.5] [--rounds 3] [--output docs/performance.md]

Takes about two minutes. He sends one request after the other over a kept-alive connection. The
attackers are on the same machine, and take its cores from him as well as from the server.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import secrets
import selectors
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from statistics import median

import load
import report
import run
import system
import wire
from servers import HERE, WRONG_KEY, Command, Running, Server, Setting, launch

BEGIN = "<!-- flood: begin, written by benchmarks/flood.py -->"
END = "<!-- flood: end -->"
CONNECTIONS = 8
SLOW = 200
WARM_UP = 1.0  # seconds from the start of an attack to the first measured request

ATTACKS = {
    "quiet": "nobody else",
    "locked": f"a locked-out address, {CONNECTIONS} connections, as fast as it is answered",
    "paced": "100 wrong keys a second, each from another address",
    "ipv4": f"wrong keys, each from another IPv4 address, {CONNECTIONS} connections",
    "ipv6": f"wrong keys, each from another IPv6 /64, {CONNECTIONS} connections",
    "costliest": f"the costliest request without a key ({{}}), {CONNECTIONS} connections",
    "slow": f"{SLOW} clients that send a byte of their head every half second",
    "deaf": f"{SLOW} clients with a key that read nothing of an endless answer",
}


GOAL = 3.0
"""The user's p50, of that on a quiet server, while anybody sends the costliest request."""

TRIAL = 0.3  # seconds for which each candidate is tried
PATIENCE = 3.0  # seconds for one answer; a request that takes longer is the costliest of all

_HEAD = 62_000  # bytes of a head that are filled: a server that takes 64 KiB answers


def _candidate(*headers: str, line: str = "GET /v1/x", key: str | None = WRONG_KEY) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: proxy", *headers]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _filled(piece: str, size: int = _HEAD) -> str:
    return piece * (size // len(piece))


def _numbered(form: str, count: int) -> str:
    return "".join(form.format(number) for number in range(count))


_COOKIES = "Cookie: " + _numbered("c{0}=secret-{0:09}; ", 2300)

CANDIDATES = {
    "a wrong key": _candidate(),
    "no key": _candidate(key=None),
    "nonsense": _candidate(line="GET"),
    "a preflight": _candidate(
        "Origin: https://a.example", "Access-Control-Request-Method: POST", line="OPTIONS /v1/x"
    ),
    "the documentation": _candidate(line="GET /docs"),
    "the description of the API": _candidate(line="GET /openapi.json"),
    "the dashboard": _candidate(line="GET /dashboard"),
    "thousands of cookies": _candidate(_COOKIES),
    "thousands of cookies, not ASCII": _candidate(_COOKIES.replace("secret-", "s\xe9cret-")),
    "thousands of cookies and no token": _candidate(_COOKIES, "Authorization: Bearer", key=None),
    "a hundred headers": _candidate(*(f"X-Header-{n}: {'v' * 600}" for n in range(90))),
    "a hundred keys": _candidate(*(f"X-Secret-Key-{n}: secret-{n:09}" for n in range(90))),
    "one header of words": _candidate("X-Api-Key: " + _filled("key-0 ")),
    "thousands of tokens": _candidate("Proxy-Authorization: " + _numbered("t{0:08}, ", 5000)),
    "a list of addresses": _candidate("X-Forwarded-For: " + _filled("192.0.2.1, ")),
    "a path of escapes": _candidate(line="GET /" + _filled("%41")),
    "a path of slashes": _candidate(line="GET " + _filled("/")),
    "a path of 'basic+'": _candidate(line="GET /" + _filled("basic+")),
    "a path of 'sk-'": _candidate(line="GET /" + _filled("sk-")),
    "a path of 'password='": _candidate(line="GET /" + _filled("pwd=pwd")),
    "a query of keys": _candidate(line="GET /v1beta/x?" + _numbered("key=secret{0:06}&", 3000)),
    "a body": _candidate("Content-Length: 60000", line="POST /v1/x") + bytes(60_000),
}


class Attacker(load.Client):
    """One connection of a reverse proxy, through which wrong keys come from any address."""

    addresses: Iterator[str]
    data = b""

    def ask(self) -> None:
        data = self.data or wire.request(self.spec.port, WRONG_KEY)
        self.request = _forwarded(data, next(self.addresses))
        super().ask()


def _forwarded(data: bytes, address: str, *headers: str) -> bytes:
    """Return the request as the reverse proxy hands it on: last comes what it says itself."""
    more = "\r\n".join(("", f"X-Forwarded-For: {address}", *headers, "", "")).encode()
    return data.replace(b"\r\n\r\n", more, 1)


def costliest(port: int, pids: list[int]) -> str:
    """Return the name of the request without a key on which the server spends most of its time."""
    addresses = (str(IPv4Address(0x0C000000 + n)) for n in itertools.count())
    costs: dict[str, float] = {}
    for name, data in CANDIDATES.items():
        began, cpu, count = time.perf_counter(), system.cpu_seconds(pids), 0
        while not count or time.perf_counter() - began < TRIAL:
            if not _answered(port, data, next(addresses)):
                return name
            count += 1
        now = system.cpu_seconds(pids)
        spent = time.perf_counter() - began if now is None or cpu is None else now - cpu
        costs[name] = spent / count
    return max(costs, key=lambda name: costs[name])


def _answered(port: int, data: bytes, address: str) -> bool:
    """Send a request from an address; False when the answer takes too long."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        try:
            sock.sendall(_forwarded(data, address, "Connection: close"))
            while sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:  # closed before all of it was sent, which is an answer as well
            pass
    return True


def attack(kind: str, port: int, key: str) -> None:
    """Attack until standard input ends; print the number of answers and the seconds."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    kind, _, name = kind.partition(":")
    began = time.perf_counter()
    if kind in ("slow", "deaf"):
        answers = _slow(port, key if kind == "deaf" else None, stop)
    else:
        Attacker.data = CANDIDATES.get(name, b"")
        answers = _flood(kind, port, stop)
    print(json.dumps(answers / (time.perf_counter() - began)))


def _flood(kind: str, port: int, stop: threading.Event) -> int:
    first = secrets.randbelow(2**24)
    numbers = itertools.count(first)
    Attacker.addresses = {
        "locked": itertools.repeat("203.0.113.1"),
        "paced": (str(IPv4Address(0x0B000000 + n)) for n in numbers),
        "ipv4": (str(IPv4Address(0x0B000000 + n)) for n in numbers),
        "costliest": (str(IPv4Address(0x0D000000 + n)) for n in numbers),
        "ipv6": (str(IPv6Address(0x20010DB8 << 96 | n << 64 | 1)) for n in numbers),
    }[kind]
    spec = load.Spec(port, WRONG_KEY, [], CONNECTIONS, status="401")
    selector = selectors.DefaultSelector()
    clients = [Attacker(spec, selector) for _ in range(1 if kind == "paced" else CONNECTIONS)]
    while not stop.is_set():
        for found, _ in selector.select(0.1):
            if kind == "paced":
                stop.wait(0.01)
            found.data()
    return sum(len(client.tally.latencies) for client in clients)


def _slow(port: int, key: str | None, stop: threading.Event) -> int:
    head = b"POST /endless/v1/x HTTP/1.1\r\nHost: proxy\r\nContent-Length: 0\r\n"
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(SLOW)]
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.sendall(head + (f"X-Api-Key: {key}\r\n\r\n".encode() if key else b"X: "))
        while not stop.wait(0.5):
            for sock in () if key else socks:
                sock.sendall(b"x")
    return 0


class Endless(socketserver.BaseRequestHandler):
    """An upstream whose answers never end."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                self.request.sendall(bytes(65536))


def _llmauth(endless: int) -> Command:
    def command(setting: Setting, port: int) -> tuple[list[str], dict[str, str]]:
        argv = [sys.executable, "-m", "llmauth", "serve", "--port", str(port)]
        argv += ["--trusted-proxy", "127.0.0.1", "--backend", f"endless=http://127.0.0.1:{endless}"]
        environ = {
            "LLM_INTERACTIVE_PROXY_API_KEY": setting.key,
            "OPENAI_API_BASE_URL": f"http://127.0.0.1:{setting.upstream}/v1",
            "LOG_FILE": str(setting.directory / "llmauth.log"),
        }
        return argv, environ

    return command


def measure(
    one: Running, kind: str, key: str, seconds: float, costly: str
) -> dict[str, float]:
    """Return the user's figures while the attack goes on."""
    with contextlib.ExitStack() as stack:
        if kind != "quiet":
            kind += f":{costly}" if kind == "costliest" else ""
            command = [sys.executable, __file__, "--attack", kind, str(one.port), key]
            attacker = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(lambda: attacker.stdin and attacker.stdin.close())
        spec = {"port": one.port, "key": key, "pids": one.pids, "connections": 1}
        spec |= {"seconds": seconds, "warm_up": WARM_UP}
        command = [sys.executable, str(HERE / "load.py"), json.dumps(spec)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
        figures: dict[str, float] = json.loads(done.stdout)
        if figures["unexpected"]:
            raise SystemExit(f"{kind}: {figures['unexpected']} requests of the user were refused")
        if kind != "quiet":
            figures["attack"] = float(attacker.communicate()[0])
    return figures


def table(found: dict[str, list[dict[str, float]]], costly: str) -> str:
    """Return the medians of the rounds, and of their ratios to the quiet of the same round."""
    columns = ["meanwhile", "its requests/s", "p50 ms", "× quiet", "p99 ms", "× quiet", "RSS MB"]
    lines = [columns, ["---", *["---:"] * 6]]
    for kind, rounds in found.items():
        rate = median(one.get("attack", 0) for one in rounds)
        cells = [ATTACKS[kind].format(costly), f"{rate:,.0f}" if rate else "–"]
        for metric in ("p50_ms", "p99_ms"):
            middle = median(one[metric] for one in rounds)
            cells += [f"{middle:.2f}", f"{_ratio(found, kind, metric):.1f}"]
        lines.append([*cells, f"{median(one['resident_mb'] for one in rounds):.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(found: dict[str, list[dict[str, float]]], kind: str, metric: str) -> float:
    pairs = zip(found[kind], found["quiet"], strict=True)
    return median(one[metric] / quiet[metric] for one, quiet in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "performance.md")
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        attack(given.attack[0], int(given.attack[1]), given.attack[2])
        return
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in ATTACKS}
    with contextlib.ExitStack() as stack:
        endless = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Endless))
        endless.daemon_threads = True
        threading.Thread(target=endless.serve_forever, daemon=True).start()
        stack.callback(endless.shutdown)
        up = stack.enter_context(run.upstream())
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        key = secrets.token_urlsafe(32)
        setting = Setting(Path(directory), up.port, key)
        server = Server("llmauth", "llmauth", _llmauth(endless.server_address[1]), ())
        one = launch(server, setting)
        stack.callback(one.stop)
        costly = costliest(one.port, one.pids)
        for _ in range(given.rounds):
            for kind, rounds in found.items():
                rounds.append(measure(one, kind, key, given.seconds, costly))
        time.sleep(1)
        idle, after = one.start["idle_resident_mb"], system.resident_mb(one.pids)
    text = f"{system.description()}; {time.strftime('%Y-%m-%d')}; median of {given.rounds} rounds. "
    text += f"Memory: {idle:.0f} MB before, {after:.0f} MB after all of it.\n\n"
    ratio = _ratio(found, "costliest", "p50_ms")
    verdict = "met" if ratio <= GOAL else "**not met**"
    text += f"{table(found, costly)}\n\nGoal: while anybody sends the costliest request, a p50 of "
    text += f"at most {GOAL:.0f} × quiet. Measured: {ratio:.1f}, {verdict}."
    report.put(text, given.output, BEGIN, END)
    print(text)


if __name__ == "__main__":
    main()
