"""The process that writes the wire capture. It ends when the proxy does, not before."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
from typing import Any

from .pipe import DONE, messages, unpacked
from .writer import CaptureWriter

NICENESS = 5
"""Where processors are short, requests go first; the capture is written a little later."""


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
