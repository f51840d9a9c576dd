"""Writes the access log's lines, off the request path.

Hundreds of threads that each format, redact and write a line would mostly wait for each other's
turn with the log file. They leave their figures here; one thread makes lines of them.
"""

from __future__ import annotations

import atexit
import json
import logging
import re
import time
from typing import Any, NamedTuple

from ..auth.request import RequestInfo
from ..redact.controls import visible
from ..redact.logging import CleanRecord
from ..redact.redactor import Redactor
from .backlog import Backlog

logger = logging.getLogger("llmauth.access")

INTERVAL = 0.1
"""Seconds that a line waits at most, unless there are more of them than can be written."""

MAX_WAITING = 10_000
"""Lines, a few megabytes; those on top of them are dropped, and their number is logged."""

MAX_PATH = 256
"""Characters of a path that are logged; of a longer one, the beginning and a mark."""

CUT = "...(cut)"

FLUSH_SECONDS = 2.0

_WHITE = re.compile(r"\s")
"""What would make two words of a model's name, in a line of words."""

_FORMAT = (
    '%(client)s %(key)s "%(method)s %(path)s" %(backend)s %(status)s %(bytes)dB '
    "first=%(first_byte_ms)sms total=%(total_ms)sms %(request_id)s model=%(model)s error=%(error)s"
)


class Line(NamedTuple):
    """What is logged of a request that has ended.

    :param at: Unix time of its end
    :param first: milliseconds to the first byte
    :param total: milliseconds in all
    """

    at: float
    client: str
    key: str | None
    method: str
    path: str
    backend: str | None
    model: str | None
    status: int | None
    sent: int
    first: float
    total: float
    request_id: str
    error: str | None

    @classmethod
    def of(
        cls, info: RequestInfo, method: str, status: str, sent: int, first: float, total: float
    ) -> Line:
        """Return the line of a request, which holds no more of it than is written."""
        method, path = method[: MAX_PATH + 1], info.path[: MAX_PATH + 1]
        asked = (info.client, info.key_name, method, path, info.backend, info.model)
        code = int(status) if status.isdecimal() else None
        return cls(time.time(), *asked, code, sent, first, total, info.id, info.error)


class AccessLog:
    """Collects what is to be logged.

    :param redactor: masks secrets in what clients have chosen
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._backlog: Backlog[Line] = Backlog(
            "llmauth-access-log",
            limit=MAX_WAITING,
            work=self._write,
            tell=_tell_of_dropped,
            gathering=INTERVAL,
        )
        self._closes_at_exit = False

    def put(self, line: Line) -> None:
        """Have a line written."""
        if not self._closes_at_exit:
            self._closes_at_exit = True
            atexit.register(self.close)
        self._backlog.put(line)

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Wait until all lines are written, for so many seconds; True when they are."""
        return self._backlog.flush(timeout)

    def close(self, timeout: float = FLUSH_SECONDS) -> None:
        """Write what waits, as far as there is time for it, and take no more lines."""
        atexit.unregister(self.close)
        if left := self._backlog.close(timeout):
            logger.error("The access log is incomplete: %d lines were not written in time.", left)

    def _write(self, lines: list[Line]) -> None:
        for line in lines:
            self._write_one(line)

    def _write_one(self, line: Line) -> None:
        fields: dict[str, Any] = {
            "client": line.client,
            "key": line.key,
            "method": self._masked(line.method),
            "path": self._masked(line.path),
            "backend": line.backend,
            "model": self._masked(line.model) if line.model else None,
            "status": line.status,
            "bytes": line.sent,
            "first_byte_ms": round(line.first, 1),
            "total_ms": round(line.total, 1),
            "request_id": line.request_id,
            "error": line.error,
        }
        # The rest of the fields is our own.
        words = {name: "-" if value is None else value for name, value in fields.items()}
        if line.model:
            words["model"] = _WHITE.sub("%20", words["model"])
        record = CleanRecord(
            logger.name, logging.INFO, _FORMAT, (words,), access=json.dumps(fields)
        )
        record.created, record.msecs = line.at, line.at % 1 * 1000
        logger.handle(record)

    def _masked(self, text: str) -> str:
        """Return what a client has chosen without secrets, and of a sane length."""
        is_long = len(text) > MAX_PATH
        # Half of a key would not be recognised without being told that it is cut off.
        masked = self._redactor.text(text[:MAX_PATH], cut=is_long)
        return visible(masked + CUT if is_long else masked)


def _tell_of_dropped(number: int) -> None:
    logger.warning("%d lines of the access log were dropped: they came too fast.", number)
