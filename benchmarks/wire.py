"""The bytes of the benchmark: one request, one answer, one stream, and how each is checked.

The request carries the headers of the `openai` Python client, the answers carry those of a
provider, so that parsing and copying headers costs what it costs in use.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from typing import NamedTuple

PATH = "/v1/chat/completions"
END_OF_CHUNKS = b"0\r\n\r\n"
HEADERS_END = b"\r\n\r\n"

_CLIENT_HEADERS = (
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate",
    "Connection: keep-alive",
    "Content-Type: application/json",
    "User-Agent: OpenAI/Python 3.54.0",
    "X-Stainless-Arch: x64",
    "X-Stainless-Async: false",
    "X-Stainless-Lang: python",
    "X-Stainless-OS: Linux",
    "X-Stainless-Package-Version: 3.54.0",
    "X-Stainless-Runtime: CPython",
    "X-Stainless-Runtime-Version: 3.11.7",
    "X-Stainless-Read-Timeout: 600",
    "X-Stainless-Retry-Count: 0",
)
_PROVIDER_HEADERS = (
    "Date: Mon, 24 Nov 2026 05:00:00 GMT",
    "Server: upstream",
    "openai-organization: org-benchmark",
    "openai-processing-ms: 312",
    "openai-version: 2020-10-01",
    "x-ratelimit-limit-requests: 10000",
    "x-ratelimit-limit-tokens: 2000000",
    "x-ratelimit-remaining-requests: 9999",
    "x-ratelimit-remaining-tokens: 1999744",
    "x-ratelimit-reset-requests: 6ms",
    "x-ratelimit-reset-tokens: 7ms",
    "x-request-id: req_0123456789abcdef0123456789abcdef",
)


def request(port: int, key: str, stream: tuple[int, float] | None = None) -> bytes:
    """A request of about 1 KB; `stream` asks for that many chunks that many seconds apart."""
    question = "Explain how a proxy relays a response without holding it back. "
    body: dict[str, object] = {
        "model": "benchmark",
        "messages": [{"role": "user", "content": (question * 17)[:900]}],
        "temperature": 0.7,
    }
    if stream:
        body |= {"stream": True, "chunks": stream[0], "gap": stream[1]}
    payload = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        *_CLIENT_HEADERS,
        f"Authorization: Bearer {key}",
        f"Content-Length: {len(payload)}",
    )
    return "\r\n".join(head).encode() + HEADERS_END + payload


def answer() -> bytes:
    """The answer to a request that does not stream: head and 1 KB of JSON."""
    body = answer_body()
    framing = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    return _head(framing) + body


def answer_body() -> bytes:
    """1,024 bytes of JSON in the shape of a chat completion."""
    message = {"role": "assistant", "content": ""}
    completion = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1764000000,
        "model": "benchmark",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 180, "total_tokens": 380},
    }
    message["content"] = "x" * (1024 - len(json.dumps(completion)))
    return json.dumps(completion).encode()


def stream_head() -> bytes:
    return _head(("Content-Type: text/event-stream", "Transfer-Encoding: chunked"))


def event(number: int, now: float) -> bytes:
    """One chunk of a stream, about 200 bytes, with the time of its sending in it."""
    return (
        b'data: {"id":"chatcmpl-benchmark","object":"chat.completion.chunk","created":1764000000,'
        b'"model":"benchmark","choices":[{"index":0,"delta":{"content":" token"},'
        b'"finish_reason":null}],"n":%d,"t":%.7f}\n\n' % (number, now)
    )


USAGE = (
    b'data: {"id":"chatcmpl-benchmark","object":"chat.completion.chunk","created":1764000000,'
    b'"model":"benchmark","choices":[],"usage":{"prompt_tokens":200,"completion_tokens":50,'
    b'"total_tokens":250}}\n\n'
)
"""What a stream used, in one chunk more."""


def last_event(sent: bytes) -> bytes:
    """The end of a stream: the digest of all that was sent before it."""
    return b'data: {"sha256":"%s"}\n\ndata: [DONE]\n\n' % hashlib.sha256(sent).hexdigest().encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(framing: tuple[str, ...]) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *_PROVIDER_HEADERS, *framing)).encode() + HEADERS_END


class Arrival(NamedTuple):
    """What a finished stream tells: whether it came whole, and how late each chunk was."""

    complete: bool
    delays: list[float]


_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)\r\n")
_TIME = re.compile(rb'"t":([0-9.]+)')
_DIGEST = re.compile(rb'data: \{"sha256":"([0-9a-f]+)"\}\n\ndata: \[DONE\]\n\n\Z')


def check_stream(parts: list[tuple[float, bytes]], chunks: int) -> Arrival:
    """Take the chunked framing apart and compare the bytes with the upstream's own digest.

    `parts` are the reads of one connection with their times. A chunk's delay is the time of the
    read that brought its last byte, less the time that the upstream wrote into it.
    """
    raw = b"".join(data for _, data in parts)
    times = [when for when, _ in parts]
    ends, total = [], 0
    for _, data in parts:
        total += len(data)
        ends.append(total)

    head, _, _ = raw.partition(HEADERS_END)
    body = bytearray()
    spans: list[tuple[int, int]] = []  # where each piece of the body ends: in it, in the raw bytes
    position = len(head) + len(HEADERS_END)
    while True:
        line = _CHUNK_SIZE.match(raw, position)
        if not line:
            return Arrival(False, [])  # cut off, or another answer than a stream
        size = int(line[1], 16)
        if not size:
            break
        start = line.end()
        body += raw[start : start + size]
        spans.append((len(body), start + size))
        position = start + size + 2

    delays = []
    for found in _TIME.finditer(body):
        end = found.end() + 3  # the closing brace and the blank line
        body_end, raw_end = spans[bisect_left(spans, (end, 0))]
        arrived = times[bisect_left(ends, raw_end - (body_end - end))]
        delays.append(arrived - float(found[1]))

    digest = _DIGEST.search(body)
    whole = (
        raw.startswith(b"HTTP/1.1 200")
        and len(delays) == chunks
        and digest is not None
        and hashlib.sha256(body[: digest.start()]).hexdigest().encode() == digest[1]
    )
    return Arrival(whole, delays)
