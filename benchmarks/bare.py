"""The bare limit of the stack: waitress and one `HTTPAdapter.send`, no Flask, no authentication.

It relays method, path, headers and body, and the answer's raw bytes as they come; nothing else.
What a proxy on these packages adds to this figure is its own.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from waitress import serve

THREADS = 264
WAITRESS: dict[str, Any] = {
    "threads": THREADS,
    "connection_limit": 1000,
    "channel_request_lookahead": 1,
    "asyncore_use_poll": hasattr(select, "poll"),
}
TIMEOUT = (5.0, 600.0)
READ_SIZE = 65536
# Fields between two neighbours (RFC 9110 §7.6.1), and the one for the next host.
DROPPED = frozenset({"HTTP_CONNECTION", "HTTP_KEEP_ALIVE", "HTTP_TE", "HTTP_UPGRADE", "HTTP_HOST"})
DROPPED_BACK = frozenset({"connection", "keep-alive", "transfer-encoding"})

adapter = HTTPAdapter(pool_maxsize=THREADS)
upstream = sys.argv[2] if len(sys.argv) > 2 else ""


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    prepared = PreparedRequest()
    prepared.method = environ["REQUEST_METHOD"]
    prepared.url = upstream + environ["REQUEST_URI"]
    headers = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and name not in DROPPED
    }
    headers["Content-Type"] = environ.get("CONTENT_TYPE", "")
    headers["Content-Length"] = environ.get("CONTENT_LENGTH", "0")
    prepared.headers = headers  # type: ignore[assignment]
    prepared.body = environ["wsgi.input"].read()

    answer = adapter.send(prepared, stream=True, timeout=TIMEOUT)
    back = [item for item in answer.raw.headers.items() if item[0].lower() not in DROPPED_BACK]
    start_response(f"{answer.status_code} {answer.reason}", back)
    return relay(answer)


def relay(answer: Response) -> Iterator[bytes]:
    """The body as it comes: chunk by chunk, or what the socket has when there are no chunks."""
    raw = answer.raw
    try:
        if raw.chunked:
            yield from raw.stream(READ_SIZE, decode_content=False)
        else:
            while data := raw.read1(READ_SIZE, decode_content=False):
                yield data
    finally:
        answer.close()


if __name__ == "__main__":
    serve(application, host="127.0.0.1", port=int(sys.argv[1]), **WAITRESS)
