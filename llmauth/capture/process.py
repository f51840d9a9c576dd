"""The process that writes the wire capture, as the proxy sees it: `child` is what runs in it.

Redacting and writing in the proxy's own process would take Python's one lock from the requests for
a third of the time. `subprocess` starts it rather than `multiprocessing`, which would run the
main module of whoever uses llmauth once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess  # nosec B404: starts this Python with a program of ours, no shell
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..redact.redactor import Redactor
from .pipe import WRITTEN, framed

# The package's own __init__ would import Flask and all, which takes ten times as long.
_PROGRAM = """\
import sys
sys.path[:] = sys.argv[2:]
import types
package = sys.modules["llmauth"] = types.ModuleType("llmauth")
package.__path__ = [sys.argv[1]]
from llmauth.capture.child import main
main()
"""

_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "4194304"}
"""Bytes: has glibc return large pieces of memory as soon as they are free, see mallopt(3)."""

_LAST_WORDS = 300  # characters
_DYING = 1.0  # seconds
_STUCK = b"Timeout ("  # says faulthandler, before it ends the process


class WriterProcess:
    """Starts it, sends it events and the secrets to mask, and reads its reports.

    :param arguments: of `CaptureWriter`
    :param patience: seconds after which it ends itself when it is stuck with one message
    :param on_report: called by another thread with the arguments of `child.send_report`
    :param on_written: called by that thread when the oldest message that was sent is written
    :param on_end: called by that thread with the reason when the process has ended
    :raises OSError: it cannot be started
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        redactor: Redactor,
        *,
        patience: float,
        on_report: Callable[..., None],
        on_written: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.ended = False
        self._first_message = arguments, patience
        self._redactor = redactor
        self._on_report = on_report
        self._on_written = on_written
        self._on_end = on_end
        self._known = 0
        self._begun = threading.Event()
        self._process = _start()
        reading = self._read_reports
        self._thread = threading.Thread(target=reading, name="capture-reports", daemon=True)
        self._thread.start()

    @property
    def begun(self) -> bool:
        """True once it has said something, or has ended."""
        return self._begun.is_set()

    def send(self, events: Sequence[bytes], dropped: int) -> None:
        """Send packed events, after all secrets that were known when they happened.

        :raises OSError: the process has ended, and has not had these events
        """
        if not self._begun.is_set():
            self._write(self._first_message)
            self._begun.wait()
        if self.ended or self._process.stdin.closed:  # type: ignore[union-attr]
            raise BrokenPipeError
        self._known, added, observed = self._redactor.learned_since(self._known)
        self._write((added, observed, events, dropped))

    def finish(self, timeout: float) -> bool:
        """Let it write what it has, for at most so many seconds; True when it did."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._thread.join(max(0.0, timeout))
        in_time = self.ended
        self.kill()
        return in_time and self._process.returncode == 0

    def kill(self) -> None:
        """End it at once; what waits in a `send` fails."""
        self._process.kill()
        self._thread.join(_DYING)  # longer if it hangs in a write to a dead disk

    def _write(self, message: Any) -> None:
        pipe: Any = self._process.stdin
        rest = memoryview(framed(message))
        while rest:
            rest = rest[pipe.raw.write(rest) :]

    def _read_reports(self) -> None:
        """Read what it writes until it has ended."""
        last_words = ""
        with self._process.stdout as stdout:  # type: ignore[union-attr]
            for line in stdout:
                if line.endswith(WRITTEN):
                    self._on_written()
                elif line.startswith(b'{"failures"'):
                    self._on_report(**json.loads(line))
                    self._begun.set()
                elif line.startswith(_STUCK):
                    last_words = "it was stuck with an event"
                    break
                else:
                    last_words = line.decode("utf-8", "replace").strip()[:_LAST_WORDS] or last_words
        status = self._process.wait()
        self.ended = True
        how = f"signal {-status}" if status < 0 else f"status {status}"
        how += f": {self._redactor.text(last_words)}" if last_words else ""
        self._on_end(f"has ended ({how})")
        self._begun.set()


def _start() -> subprocess.Popen[bytes]:
    """Start a process that nothing but its own end and the end of its input ends."""
    if not sys.executable:
        raise OSError("it is not known where Python is")
    folder = str(Path(__file__).resolve().parent.parent)
    path = [one for one in sys.path if isinstance(one, str)]
    # It finds what this process finds, without the time that `site` takes.
    command = [sys.executable, "-S", "-c", _PROGRAM, folder, *path]
    flags = 0
    if sys.platform == "win32":
        # Without a window, and out of reach of Ctrl-C.
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    return subprocess.Popen(  # nosec B603
        command,
        env={**_MEMORY, **os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        creationflags=flags,
    )
