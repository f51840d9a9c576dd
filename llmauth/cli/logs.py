"""Logging of the command line: handlers, formats and redaction."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from ..config.settings import Settings
from ..exceptions import ConfigurationError
from ..redact.logging import Redactor, install
from ..web.backlog import Backlog

_BAD, _DOUBTFUL, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"

MAX_WAITING = 10_000
"""Lines that wait to be written; those on top of them are dropped, and their number is logged."""

FLUSH_SECONDS = 2.0
"""Time that the end of the program has for lines that wait."""

_GATHERING = 0.005

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _TextFormatter(logging.Formatter):
    """ISO 8601 with the offset from UTC, so that logs of several machines can be merged."""

    def format(self, record: logging.LogRecord) -> str:
        # What an exception says may look like a line of its own.
        return super().format(record).replace("\n", "\n  ")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        at = time.localtime(record.created)
        seconds, offset = time.strftime("%Y-%m-%dT%H:%M:%S", at), time.strftime("%z", at)
        return f"{seconds}.{int(record.msecs):03d}{offset}"


class _TerminalFormatter(logging.Formatter):
    """For somebody who watches: the time of day, the level when it matters, whole words.

    :param colour: mark warnings and errors by colour, too
    """

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def formatMessage(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        if record.levelno < logging.WARNING:
            return f"{at} {record.message}"
        text = f"{at} {record.levelname} {record.message}"
        width = shutil.get_terminal_size().columns
        lines = textwrap.wrap(text, width, subsequent_indent=" " * 9, break_long_words=False)
        wrapped = "\n".join(lines)
        if not self._colour:
            return wrapped
        style = _BAD if record.levelno >= logging.ERROR else _DOUBTFUL
        return wrapped.replace(record.levelname, f"{style}{record.levelname}{_PLAIN}", 1)


class JSONFormatter(_TextFormatter):
    """One JSON object a line; a line of the access log has its fields at the top."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
        }
        entry |= _access(record) or _message(record)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry)


def _access(record: logging.LogRecord) -> dict[str, Any] | None:
    try:
        fields = json.loads(getattr(record, "access", ""))
    except ValueError:  # no line of the access log, or one that masking has broken
        return None
    return fields if isinstance(fields, dict) else None


def _message(record: logging.LogRecord) -> dict[str, Any]:
    request_id = getattr(record, "request_id", None)
    message = {"message": record.getMessage()}
    return message | {"request_id": request_id} if isinstance(request_id, str) else message


def colourful() -> bool:
    """Whether a terminal may get colours: not where ``NO_COLOR`` is set or it takes none."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _formatter(settings: Settings) -> logging.Formatter:
    if settings.log_format == "json":
        return JSONFormatter()
    if settings.log_file or not sys.stderr.isatty():
        return _TextFormatter(TEXT_FORMAT)
    # Older consoles of Windows show the escape sequences as they are.
    return _TerminalFormatter(colour=colourful() and sys.platform != "win32")


class _LineWriter(logging.Handler):
    """Writes lines in a thread of its own: no request waits for a slow disk or a full pipe.

    It writes past Python's own buffers, whose locks a thread that is stuck would still hold when
    the program ends.

    :param file: takes bytes
    :param path: of the file, which is followed when it is moved or removed
    """

    def __init__(self, file: Any, *, encoding: str = "utf-8", path: str | None = None) -> None:
        super().__init__()
        self._file = file
        self._encoding = encoding
        self._path = os.path.abspath(path) if path else None
        self._identity = _identity(os.fstat(file.fileno())) if path else None
        self._torn = False
        self._backlog: Backlog[str | None] = Backlog(
            "llmauth-log",
            limit=MAX_WAITING,
            work=self._write,
            tell=self._tell_of_dropped,
            gathering=_GATHERING,
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._backlog.put(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self._backlog.flush(FLUSH_SECONDS)

    def close(self) -> None:
        left = self._backlog.close(FLUSH_SECONDS)
        if self._path and not left:  # or the thread is stuck in the middle of it
            self._file.close()
        super().close()

    def reopen(self) -> None:
        """Make the file anew if it was moved or removed, without waiting for the next line."""
        self._backlog.put(None)

    def _write(self, lines: Iterable[str | None]) -> None:
        if self._path:
            self._follow(self._path)
        text = "".join([f"{line}\n" for line in lines if line is not None])
        text = text.replace("\n", os.linesep)
        data = text.encode(self._encoding, "backslashreplace")
        # An error may have left half a line.
        rest = memoryview(b"\n" + data if self._torn else data)
        size = len(rest)
        try:
            while rest:
                written = self._file.write(rest)
                if written is None:  # a terminal that another program told not to block
                    time.sleep(_GATHERING)
                else:
                    rest = rest[written:]
            self._file.flush()
        finally:
            self._torn = bool(rest) and (self._torn or len(rest) < size)

    def _follow(self, path: str) -> None:
        """Go on in the file that has the path now: ``logrotate`` moves the one before."""
        with contextlib.suppress(OSError):  # it is gone
            if _identity(os.stat(path)) == self._identity:
                return
        with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
            os.dup2(file.fileno(), self._file.fileno(), inheritable=False)
            self._identity = _identity(os.fstat(file.fileno()))
            self._torn = False

    def _tell_of_dropped(self, number: int) -> None:
        message = "%d lines of the log were dropped: they could not be written in time."
        arguments = (__name__, logging.WARNING, "", 0, message, (number,), None)
        self._write([self.format(logging.LogRecord(*arguments))])


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def reopen() -> None:
    """Have the log go on in the file that its path leads to."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LineWriter):
            handler.reopen()


def _unbuffered(stream: TextIO) -> Any:
    """Return what a text stream writes to in the end, None for one that keeps its text."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _handler(settings: Settings) -> logging.Handler:
    if settings.log_file:
        try:
            file = open(settings.log_file, "ab", buffering=0)  # noqa: SIM115
        except OSError as exc:
            raise ConfigurationError(
                f"The log file {settings.log_file} cannot be written: {exc.strerror}."
            ) from None  # which names the file again
        return _LineWriter(file, path=settings.log_file)
    stderr = _unbuffered(sys.stderr)
    if stderr is None:
        return logging.StreamHandler(sys.stderr)
    return _LineWriter(stderr, encoding=sys.stderr.encoding or "utf-8")


def configure(settings: Settings, redactor: Redactor) -> Callable[[], None]:
    """Send the log where the settings say, with every handler's records redacted.

    :returns: undoes it, and closes the file
    :raises ConfigurationError: when the log file cannot be written
    """
    handler = _handler(settings)
    handler.setFormatter(_formatter(settings))
    root = logging.getLogger()
    before = root.level
    root.setLevel(settings.log_level)
    root.addHandler(handler)
    if settings.log_level != "DEBUG":
        # Clients that leave are in the access log, and a queue is no cause for alarm.
        logging.getLogger("waitress").setLevel(logging.WARNING)
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    uninstall = install(redactor)

    def undo() -> None:
        uninstall()
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()

    return undo
