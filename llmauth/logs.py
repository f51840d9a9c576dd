"""Logging of the command line: handlers, formats and redaction."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

from .exceptions import ConfigurationError
from .redaction import Redactor, install
from .settings import Settings

_BAD, _DOUBTFUL, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"

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
        shown = "\n".join(lines)
        if not self._colour:
            return shown
        style = _BAD if record.levelno >= logging.ERROR else _DOUBTFUL
        return shown.replace(record.levelname, f"{style}{record.levelname}{_PLAIN}", 1)


class JSONFormatter(_TextFormatter):
    """One JSON object a line; a line of the access log has its fields at the top."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
        }
        access = getattr(record, "access", None)
        entry |= json.loads(access) if access else {"message": record.getMessage()}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry)


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


def configure(settings: Settings, redactor: Redactor) -> Callable[[], None]:
    """Send the log where the settings say, with every handler's records redacted.

    :returns: undoes it, and closes the file
    :raises ConfigurationError: when the log file cannot be written
    """
    handler: logging.Handler
    if settings.log_file:
        try:
            handler = logging.FileHandler(settings.log_file, encoding="utf-8")
        except OSError as exc:
            raise ConfigurationError(
                f"The log file {settings.log_file} cannot be written: {exc.strerror}."
            ) from None  # which names the file again
    else:
        handler = logging.StreamHandler(sys.stderr)
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
