"""The process that writes the wire capture. It ends when the proxy does, not before."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..redact.redactor import Redactor
from .file import RotatingFile
from .payloads import Budget
from .pipe import DONE, messages, unpacked
from .recorder import Event
from .rendering import ExchangeRenderer
from .safe_json import SafeJSON

RETRY_INTERVAL = 0.5
"""Seconds between attempts to write to a failing disk."""

NICENESS = 5
"""Where processors are short, requests go first; the capture is written a little later."""


class CaptureWriter:
    """Writes the wire capture. Not for several threads.

    :param path: of the file
    :param max_bytes: size at which it is rotated
    :param max_files: files in all
    :param report: as `send_report`
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
        return ExchangeRenderer(self._json, self._budget).line(direction, at, metadata)

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


def main() -> None:
    """Write what comes on standard input until its end; reports go to the output.

    The first message is the arguments of `CaptureWriter`, and the seconds that any other message
    may take; each further one those of its methods `learn` and `write`.
    """
    _ignore_signals()
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):  # a service manager may forbid it
            os.nice(NICENESS)
    arriving = messages(sys.stdin.buffer)
    arguments, patience = next(arriving)

    def report(**said: Any) -> bool:
        _end_after(patience)  # a disk that fails is no event that takes for ever
        return send_report(**said)

    try:
        writer = CaptureWriter(**arguments, report=report)
        send_report()
        _send(DONE)
        for added, observed, events, dropped in arriving:
            _end_after(patience)
            writer.learn(added, observed)
            writer.write(map(unpacked, events), dropped)
            faulthandler.cancel_dump_traceback_later()
            _send(DONE)
        _end_after(patience)
        writer.end()
    except ConnectionError:
        sys.exit(1)


def _end_after(seconds: float) -> None:
    """End the process when what follows takes longer: one event must not keep all from the file."""
    # It needs no lock of Python's, which a regular expression keeps as long as it searches.
    faulthandler.dump_traceback_later(seconds, exit=True)


def send_report(
    *, failures: int = 0, writes: bool = True, warning: str = "", error: str = ""
) -> bool:
    """Send the proxy a line; False when it has ended.

    :param failures: events that were withheld or lost, and failed writes, since the last time
    :param writes: lines are being written at the moment
    """
    said = {"failures": failures, "writes": writes, "warning": warning, "error": error}
    return _send(json.dumps(said).encode("ascii") + b"\n")


def _send(line: bytes) -> bool:
    try:
        os.write(1, line)
    except OSError:
        return False
    return True


def _ignore_signals() -> None:
    """A service manager and Ctrl-C signal all processes of a server; this one ends after it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
