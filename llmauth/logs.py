"""Logging of the command line: handlers, formats and redaction."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from .exceptions import ConfigurationError
from .redaction import Redactor, install
from .settings import Settings

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _TextFormatter(logging.Formatter):
    """ISO 8601 with the offset from UTC, so that logs of several machines can be merged."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        at = time.localtime(record.created)
        seconds, offset = time.strftime("%Y-%m-%dT%H:%M:%S", at), time.strftime("%z", at)
        return f"{seconds}.{int(record.msecs):03d}{offset}"


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
            ) from exc
    else:
        handler = logging.StreamHandler(sys.stderr)
    json_wanted = settings.log_format == "json"
    handler.setFormatter(JSONFormatter() if json_wanted else _TextFormatter(TEXT_FORMAT))
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
