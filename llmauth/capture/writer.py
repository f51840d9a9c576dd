"""Makes lines of the events of the wire capture, and writes them: the work of its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..redact.redactor import Redactor
from .file import RotatingFile
from .payloads import Budget
from .recorder import Event
from .rendering import ExchangeRenderer
from .safe_json import SafeJSON

RETRY_INTERVAL = 0.5
"""Seconds between attempts to write to a failing disk."""


class CaptureWriter:
    """Writes the wire capture. Not for several threads.

    :param path: of the file
    :param max_bytes: size at which it is rotated
    :param max_files: files in all
    :param report: as `child.send_report`, with which the proxy is told what an operator should know
    """

    def __init__(
        self, path: str, *, max_bytes: int, max_files: int, report: Callable[..., bool]
    ) -> None:
        self._redactor = Redactor()
        self._json = SafeJSON(self._redactor)
        self._budget = Budget()
        self._file = RotatingFile(path, max_bytes=max_bytes, max_files=max_files)
        self._report = report
        self._exchanges: dict[int, ExchangeRenderer] = {}

    def learn(self, added: Sequence[str], observed: Sequence[str]) -> None:
        """Mask these secrets from now on."""
        if added:
            self._redactor.add(*added)
        self._redactor.observe(*observed)

    def write(self, events: Iterable[Event], dropped: int = 0) -> None:
        """Write events.

        :param dropped: events that are missing before these
        :raises ConnectionError: as `end` does
        """
        self._file.follow()
        if dropped:
            self._write_line(self._remark("stream_end", time.time(), dropped_events=dropped))
        for event in events:
            for line in self._lines(*event):
                self._write_line(line)

    def end(self) -> None:
        """Write what is left of exchanges that have no end, and close the file.

        :raises ConnectionError: it cannot be written, and nobody is left who waits for it
        """
        for number in list(self._exchanges):
            event = (number, None, "outbound_response", time.time(), ("the proxy ended",))
            self.write([event])
        self._file.close()

    def _lines(
        self, number: int, about: Any, direction: str, at: float, rest: tuple[Any, ...]
    ) -> list[str]:
        if about is not None:
            self._exchanges[number] = ExchangeRenderer(self._json, self._budget, *about)
        exchange = self._exchanges.get(number)
        if exchange is None:
            self._report(failures=1)  # it began in a process that is no more
            return []
        if direction == "outbound_response":
            del self._exchanges[number]
        try:
            return exchange.lines(direction, at, *rest)
        except Exception:
            # What cannot be redacted is not written, and the rest goes on.
            error = "An event of the wire capture is withheld: it could not be redacted."
            self._report(failures=1, error=error)
            return [self._remark(direction, at, note="withheld: it could not be redacted")]

    def _remark(self, direction: str, at: float, **metadata: Any) -> str:
        """Return an event that says only that something is missing, and holds nothing else."""
        return ExchangeRenderer(self._json, self._budget).remark(direction, at, **metadata)

    def _write_line(self, line: str) -> None:
        """Write a line, again and again until it succeeds or the proxy has ended."""
        data = line.encode("utf-8", "replace") + b"\n"
        failed = False
        while True:
            try:
                self._file.write(data)
            except OSError as exc:
                reason = exc.strerror or type(exc).__name__
                error = f"The wire capture cannot be written: {reason}. Trying again."
                if not self._report(failures=1, writes=False, error="" if failed else error):
                    raise ConnectionError("nobody waits for it") from exc
                failed = True
                time.sleep(RETRY_INTERVAL)
            else:
                break
        if failed:
            self._report(warning="The wire capture is being written again.")
