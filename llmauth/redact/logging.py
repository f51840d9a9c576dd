"""Keeping secrets out of everything that is logged; `Redactor` does the masking.

A record is redacted as a whole, message, arguments, extras and tracebacks, or it is withheld.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from .controls import visible, visible_prose
from .redactor import Redactor, is_credential, masked_entirely
from .shapes import MASK

__all__ = ["WITHHELD", "RedactingFilter", "Redactor", "install"]

WITHHELD = "log record withheld: it could not be redacted"

# What `logging` itself puts in a record, and which the code that logs cannot choose.
_OWN = frozenset({
    "msg", "args", "exc_info", "exc_text", "stack_info", "levelname", "levelno", "pathname",
    "filename", "module", "lineno", "funcName", "created", "msecs", "relativeCreated", "thread",
    "process",
})
_NAMES = frozenset({"name", "threadName", "processName", "taskName"})

_ATOM = re.compile(r"\{(.*)\}[ioe]")
"""Headers and variables of the environment among the arguments of an access log, as in Apache's."""

_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_STYLED = "color_message"
"""uvicorn's message once more, with the colours that a terminal gets."""


class _Rendered(str):
    """A message that holds its arguments, which stay beside it for formatters that want them."""

    def __str__(self) -> str:
        return self

    def __mod__(self, arguments: Any) -> str:
        return str.__str__(self)


class CleanRecord(logging.LogRecord):
    """A record whose message is made of parts that were masked one by one: not done once more.

    What anybody else puts into it is masked as in every record.

    :param clean: further attributes, of which the same holds
    """

    def __init__(self, name: str, level: int, msg: str, args: Any, **clean: Any) -> None:
        super().__init__(name, level, "", 0, msg, args, None)
        vars(self).update(clean)
        self._clean = {"msg": self.msg, "args": self.args, **clean}

    def is_clean(self, name: str) -> bool:
        """True for an attribute that is as it was."""
        return name == "_clean" or (
            name in self._clean and self._clean[name] is getattr(self, name)
        )


class RedactingFilter(logging.Filter):
    """Masks secrets in every part of a record; refuses none.

    The message is rendered, and stays on one line. Its arguments stay as well, masked one by one:
    formatters of servers make their lines of them. A traceback is rendered into ``exc_text``, so
    that no formatter renders it again. When anything fails, the record says so and nothing else.
    """

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        # Whatever goes wrong, in `__str__` of an argument too: the record must not pass as it is.
        try:
            self._redact(record)
        except Exception:
            _withhold(record)
        return True

    def _redact(self, record: logging.LogRecord) -> None:
        text = self._redactor.text
        self._redact_attributes(record)
        message, exception = record.getMessage(), record.exc_text
        if record.exc_info:
            exception = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        is_clean = isinstance(record, CleanRecord) and all(map(record.is_clean, ("msg", "args")))
        if not is_clean:
            masked = text(message)
            if record.args:
                record.args = self._arguments(record.msg, record.args, masked != message)
            message = visible(masked)
        record.msg = _Rendered(message) if record.args else message
        record.exc_info = None
        record.exc_text = visible_prose(text(exception)) if exception else None
        record.stack_info = visible_prose(text(record.stack_info)) if record.stack_info else None

    def _arguments(self, template: Any, arguments: Any, hidden: bool) -> Any:
        """Return a message's arguments masked, in the shape that they have.

        :param hidden: there is a secret in the message, of which each one may hold a part
        """
        masked: Any
        if isinstance(arguments, Mapping):
            masked = self._mapping(arguments)
        else:
            masked = tuple(map(self._argument, arguments))
        if hidden:
            try:
                rendered = str(template) % masked
            except Exception:  # an argument became text
                return _withheld(masked)
            if self._redactor.text(rendered) != rendered:
                return _withheld(masked)
        return masked

    def _mapping(self, arguments: Mapping[Any, Any]) -> Any:
        together = "\x1f".join(one for pair in arguments.items() for one in map(str, pair))
        clean = self._redactor.text(together) == together
        masked: dict[Any, Any] = {}
        for name, value in arguments.items():
            atom = _ATOM.fullmatch(name) if isinstance(name, str) else None
            if atom and isinstance(value, str) and is_credential(atom[1]):
                masked[name] = masked_entirely(value)
            elif clean and isinstance(value, str) and not is_credential(str(name)):
                masked[name] = visible(value)
            else:
                for key, item in self._redactor.mapping({name: value}).items():
                    masked[key] = visible(item) if isinstance(item, str) else item
        return _like(arguments, masked)

    def _argument(self, value: Any) -> Any:
        masked = self._redactor.mapping(value)
        return visible(masked) if isinstance(masked, str) else masked

    def _redact_attributes(self, record: logging.LogRecord) -> None:
        attributes = vars(record)
        names = [name for name in attributes if name not in _OWN]
        if isinstance(record, CleanRecord):
            names = [name for name in names if not record.is_clean(name)]
        # Mostly the names of logger, thread and process: asking for them together is cheaper.
        values = [attributes[name] for name in names if name in _NAMES]
        together = "\x1f".join(value for value in values if isinstance(value, str))
        clean = self._redactor.text(together) == together
        for name in names:
            if clean and name in _NAMES and isinstance(attributes[name], (str, type(None))):
                continue
            masked = self._redactor.mapping({name: attributes[name]})
            del attributes[name]
            for key, item in masked.items():
                show = _visible_styled if key == _STYLED else visible
                attributes[key] = show(item) if isinstance(item, str) else item


def _visible_styled(text: str) -> str:
    parts = _STYLE.split(text)
    return "".join(part if number % 2 else visible(part) for number, part in enumerate(parts))


def _like(arguments: Mapping[Any, Any], masked: dict[Any, Any]) -> Any:
    """Return masked arguments as what they were: some answer for names that are not there."""
    if type(arguments) is dict or not isinstance(arguments, dict):
        return masked
    same = copy.copy(arguments)
    same.clear()
    same.update(masked)
    return same


def _withheld(masked: Any) -> Any:
    """Return nothing but the shape of masked arguments, and their numbers."""
    if isinstance(masked, Mapping):
        return _like(masked, dict.fromkeys(masked, MASK))
    return tuple(one if type(one) in (int, float, bool) else MASK for one in masked)


def _withhold(record: logging.LogRecord) -> None:
    record.msg = WITHHELD
    record.args = ()
    record.exc_info = record.exc_text = record.stack_info = None
    attributes = vars(record)
    for name in [name for name in attributes if name not in _OWN and name != "name"]:
        attributes[name] = "-" if name in _NAMES else WITHHELD
    attributes.setdefault("name", "-")


def install(redactor: Redactor) -> Callable[[], None]:
    """Redact whatever this process logs, through any handler of any library, now or later.

    Warnings and uncaught exceptions, in any thread, are logged instead of printed. It changes the
    whole process: for a program, not for a library.

    :return: undoes it
    """
    undo = [
        _cover_handlers(RedactingFilter(redactor)),
        _cover_warnings(),
        _cover_hooks(logging.getLogger("llmauth")),
    ]

    def uninstall() -> None:
        while undo:
            undo.pop()()

    return uninstall


def _cover_handlers(redacting: RedactingFilter) -> Callable[[], None]:
    # `Handler.handle` asks `filter` last, after which the record goes to `emit`: what the
    # handler's own filters add is covered as well, and so is `logging.lastResort`.
    inherited = logging.Handler.filter
    overridden = "filter" in vars(logging.Handler)

    def filter(handler: logging.Handler, record: logging.LogRecord) -> Any:
        passed: Any = inherited(handler, record)
        if passed:
            redacting.filter(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def uninstall() -> None:
        if overridden:
            logging.Handler.filter = inherited  # type: ignore[method-assign]
        else:
            del logging.Handler.filter

    logging.Handler.filter = filter  # type: ignore[method-assign,assignment]
    return uninstall


def _cover_warnings() -> Callable[[], None]:
    before = warnings.showwarning
    logging.captureWarnings(True)
    captured_before = warnings.showwarning is before

    def uninstall() -> None:
        if not captured_before:
            logging.captureWarnings(False)

    return uninstall


def _cover_hooks(logger: logging.Logger) -> Callable[[], None]:
    before = sys.excepthook, threading.excepthook, sys.unraisablehook

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        logger.critical("Uncaught exception", exc_info=(kind, error, trace))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            where = args.thread.name if args.thread else "a thread"
            error = args.exc_value or args.exc_type()
            trace = args.exc_traceback
            logger.critical("Uncaught in %s", where, exc_info=(args.exc_type, error, trace))

    def unraisable(args: Any) -> None:
        error = args.exc_value or args.exc_type()
        logger.error(
            "%s: %r",
            args.err_msg or "Exception ignored in",
            args.object,
            exc_info=(args.exc_type, error, args.exc_traceback),
        )

    def uninstall() -> None:
        sys.excepthook, threading.excepthook, sys.unraisablehook = before

    sys.excepthook, threading.excepthook = uncaught, uncaught_in_thread
    sys.unraisablehook = unraisable
    return uninstall
