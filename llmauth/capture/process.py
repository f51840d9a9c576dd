"""The process that writes the wire capture, as the proxy sees it: `writer` is what runs in it.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..redact.redactor import Redactor
from .pipe import DONE, packed

# The package's own __init__ would import Flask and all, which takes ten times as long.
_PROGRAM = """\
import sys
sys.path[:] = sys.argv[2:]
import types
package = sys.modules["llmauth"] = types.ModuleType("llmauth")
package.__path__ = [sys.argv[1]]
from llmauth.capture.writer import main
main()
"""

_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "4194304"}
"""Bytes: has glibc return large pieces of memory as soon as they are free, see mallopt(3)."""

_LAST_WORDS = 300  # characters
_STUCK = b"Timeout ("  # says faulthandler, before it ends the process


class WriterProcess:
    """Starts it, sends it events and the secrets to mask, and reads its reports.

    For one thread, but for `kill`, on which the other methods return.

    :param on_report: called with the arguments of `writer.send_report`
    :raises OSError: it cannot be started
    """

    def __init__(self, redactor: Redactor, on_report: Callable[..., None]) -> None:
        self.begun = False
        """True once it has said that it is ready."""

        self._redactor = redactor
        self._on_report = on_report
        self._known = 0
        self._last_words = ""
        self._process = _start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def begin(self, arguments: dict[str, Any], patience: float) -> bool:
        """Wait until it is ready; False if it has ended.

        :param arguments: of `CaptureWriter`
        :param patience: seconds after which it ends itself when it is stuck with one message
        """
        with contextlib.suppress(OSError):
            self._send((arguments, patience))
        self.begun = self._is_done()
        return self.begun

    def write(self, events: Sequence[bytes], dropped: int) -> bool:
        """Send packed events, after all secrets that were known when they happened.

        :return: True when they are written; False if it ended before
        :raises OSError: it has ended, and has not had these events
        """
        self._known, added, observed = self._redactor.learned_since(self._known)
        self._send((added, observed, events, dropped))
        return self._is_done()

    def finish(self) -> bool:
        """Let it write what it has; True when it did."""
        self.end()
        return self._process.returncode == 0

    def end(self) -> str:
        """Wait until it has ended, for it gets no more; return how it did."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        with self._process.stdout:  # type: ignore[union-attr]
            self._is_done()
        status = self._process.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        how += f": {self._redactor.text(self._last_words)}" if self._last_words else ""
        return f"has ended ({how})"

    def kill(self) -> None:
        """End it at once, unless it hangs in a write to a dead disk."""
        self._process.kill()

    def _send(self, message: Any) -> None:
        pipe: Any = self._process.stdin
        rest = memoryview(packed(message))
        while rest:
            rest = rest[pipe.raw.write(rest) :]

    def _is_done(self) -> bool:
        """Read its reports until it is done with what it was sent; False if it has ended before."""
        stdout: Any = self._process.stdout
        for line in stdout:
            if line.endswith(DONE):
                return True
            if line.startswith(b'{"failures"'):
                self._on_report(**json.loads(line))
            elif line.startswith(_STUCK):
                self._last_words = "it was stuck with an event"
                stdout.read()  # where it was
            elif words := line.decode("utf-8", "replace").strip():
                self._last_words = words[:_LAST_WORDS]
        return False


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
