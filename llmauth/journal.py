"""Writes the access log's lines, off the request path.

Hundreds of threads that each format, redact and write a line would mostly wait for each other's
turn with the log file. They leave their figures here; one thread makes lines of them.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
from collections import deque

from .guard import RequestInfo

logger = logging.getLogger("llmauth.access")

INTERVAL = 0.1
"""Seconds that a line waits at most."""

MAX_WAITING = 10_000
"""Lines; with more waiting, a request writes all of them itself before it goes on."""

Entry = tuple[float, RequestInfo, str, str, int, float, float]
"""Unix time, request, method, status, bytes, milliseconds to the first byte and in all."""

_FORMAT = (
    '%(client)s %(key)s "%(method)s %(path)s" %(backend)s %(status)s %(bytes)dB '
    "first=%(first_byte_ms)sms total=%(total_ms)sms %(request_id)s error=%(error)s"
)


class Journal:
    """Collects what is to be logged; its thread starts with the first entry."""

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._writing = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, entry: Entry) -> None:
        """Have a line written for a request that has ended."""
        self._waiting.append(entry)
        if self._thread is None:
            self._start()
        if len(self._waiting) > MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Write all lines that wait."""
        with self._writing:
            while self._waiting:
                _write(*self._waiting.popleft())

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                # Started late: a server may fork after the application was made.
                thread = threading.Thread(target=self._run, name="llmauth-journal", daemon=True)
                self._thread = thread
                atexit.register(self.flush)
                thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL)
            if self._waiting:
                self.flush()


def _write(
    at: float,
    info: RequestInfo,
    method: str,
    status: str,
    sent: int,
    first: float,
    total: float,
) -> None:
    fields = {
        "client": info.client,
        "key": info.key_name or "-",
        "method": method,
        "path": info.path,
        "backend": info.backend or "-",
        "status": status,
        "bytes": sent,
        "first_byte_ms": round(first, 1),
        "total_ms": round(total, 1),
        "request_id": info.id,
        "error": info.error or "-",
    }
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, _FORMAT, (fields,), None)
    record.created, record.msecs = at, at % 1 * 1000
    # As text: what redacts records need not look at each field.
    record.access = json.dumps(fields)
    logger.handle(record)
