"""No secret in what is logged, by anyone, in any part of a record."""

from __future__ import annotations

import gc
import io
import json
import logging
import pickle
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from llmauth.redact.logging import WITHHELD, RedactingFilter, Redactor, install

SECRET = "Zk3vQ9Yw7Tt5Rq"


class EveryField(logging.Formatter):
    """Renders all there is in a record, as the formatters of JSON logs do."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line + "\nFIELDS " + json.dumps(vars(record), default=repr)


@pytest.fixture
def installed() -> Iterator[Redactor]:
    redactor = Redactor([SECRET])
    uninstall = install(redactor)
    yield redactor
    uninstall()


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with a handler that shows everything, and what it wrote."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(EveryField("%(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield logging.getLogger("third.party"), written
    root.removeHandler(handler)
    root.setLevel(level)


class Leaky:
    def __str__(self) -> str:
        return f"<Leaky {SECRET}>"

    __repr__ = __str__


class Broken:
    def __str__(self) -> str:
        raise RuntimeError(f"cannot show {SECRET}")

    __repr__ = __str__


def failing() -> None:
    try:
        try:
            raise ValueError(f"inner {SECRET}")
        except ValueError as exc:
            raise KeyError(SECRET) from exc
    except KeyError:
        raise RuntimeError(f"outer {SECRET}")  # noqa: B904  (an implicit chain is one to cover)


RECORDS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "message": ((f"key {SECRET}",), {}),
    "argument": (("key %s", SECRET), {}),
    "argument, repr": (("key %r", SECRET), {}),
    "arguments by name": (("key %(key)s", {"key": SECRET}), {}),
    "bytes": (("key %s", SECRET.encode()), {}),
    "object": (("key %s", Leaky()), {}),
    "exception as argument": (("failed: %s", ValueError(SECRET)), {}),
    "message is an object": ((Leaky(),), {}),
    "extra": (("x",), {"extra": {"url": f"https://u:{SECRET}@host"}}),
    "extra, nested": (("x",), {"extra": {"request": {"headers": [("x-api-key", SECRET)]}}}),
    "extra, name": (("x",), {"extra": {"request": {SECRET: 1}}}),
    "extra, own name": (("x",), {"extra": {SECRET: 1}}),
    "extra, object": (("x",), {"extra": {"request": Leaky()}}),
    "extra, header": (("x",), {"extra": {"authorization": "Bearer unknown"}}),
    "stack": (("x",), {"stack_info": True, "extra": {}}),
    "split over arguments": (("%s%s", SECRET[:6], SECRET[6:]), {}),
}


@pytest.mark.parametrize(("args", "options"), RECORDS.values(), ids=RECORDS)
def test_no_part_of_a_record_shows_a_secret(
    installed: Redactor,
    log: tuple[logging.Logger, io.StringIO],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    logger, written = log
    logger.warning(*args, **options)
    assert SECRET not in written.getvalue()
    assert "unknown" not in written.getvalue()
    assert written.getvalue().startswith("third.party: ")


def test_tracebacks_are_kept_with_their_chain_but_without_the_secret(
    installed: Redactor, log: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, written = log
    try:
        failing()
    except RuntimeError:
        logger.exception("failed")
    shown = written.getvalue()
    assert SECRET not in shown
    assert "RuntimeError: outer ****" in shown
    assert "ValueError: inner ****" in shown
    assert "in failing\n" in shown


@pytest.mark.parametrize(
    ("args", "extra"),
    [
        (("key %s", Broken()), {}),
        (("key %d", SECRET), {}),
        ((f"{SECRET} %s %s", "one"), {}),
        ((Broken(),), {}),
        (("x",), {"request": Broken()}),
    ],
    ids=["argument", "format", "count", "message", "extra"],
)
def test_a_record_that_cannot_be_redacted_is_withheld(
    installed: Redactor,
    log: tuple[logging.Logger, io.StringIO],
    capsys: pytest.CaptureFixture[str],
    args: tuple[Any, ...],
    extra: dict[str, Any],
) -> None:
    logger, written = log
    logger.error(*args, extra={**extra, "other": SECRET}, exc_info=ValueError(SECRET))
    assert written.getvalue().startswith(f"third.party: {WITHHELD}\n")
    assert SECRET not in written.getvalue()
    assert capsys.readouterr().err == ""


def test_a_message_cannot_forge_a_second_line_or_drive_the_terminal(
    installed: Redactor, log: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, written = log
    logger.info("user %s", "x\nINFO forged\r\x1b[2J\x00\x85\u2028\u2029 é")
    first = written.getvalue().split("\nFIELDS")[0]
    shown = r"user x\nINFO forged\r\x1b[2J\x00\x85\u2028\u2029 é"
    assert first == f"third.party: {shown}"


@pytest.mark.parametrize("when", ["before", "after"])
def test_handlers_of_any_time_are_covered(when: str) -> None:
    written = io.StringIO()
    logger = logging.getLogger("own.handler")
    handler = logging.StreamHandler(written)
    if when == "before":
        logger.addHandler(handler)
    uninstall = install(Redactor([SECRET]))
    if when == "after":
        logger.addHandler(handler)
    logger.error("key %s", SECRET)
    uninstall()
    assert written.getvalue() == "key ****\n"
    logger.error("key %s", SECRET)
    logger.removeHandler(handler)
    assert written.getvalue().endswith(f"key {SECRET}\n")


def test_what_a_filter_of_a_handler_adds_is_covered(installed: Redactor) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(message)s %(added)s"))

    def add(record: logging.LogRecord) -> bool:
        record.added = SECRET
        return True

    handler.addFilter(add)
    logger = logging.getLogger("adding")
    logger.addHandler(handler)
    logger.error("x")
    logger.removeHandler(handler)
    assert written.getvalue() == "x ****\n"


def test_a_filter_that_refuses_a_record_is_still_obeyed(installed: Redactor) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(lambda record: "no" not in record.getMessage())
    logger = logging.getLogger("refusing")
    logger.addHandler(handler)
    logger.error("no")
    logger.error("yes")
    logger.removeHandler(handler)
    assert written.getvalue() == "yes\n"


def test_the_filter_alone_serves_one_handler() -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (SECRET,), "name": "x"})
    redacting = RedactingFilter(Redactor([SECRET]))
    assert redacting.filter(record)
    assert redacting.filter(record)
    assert record.getMessage() == "****"


def test_warnings_are_logged_and_redacted(
    installed: Redactor, log: tuple[logging.Logger, io.StringIO]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn(f"bad key {SECRET}", stacklevel=1)
        logging.captureWarnings(False)
    assert "bad key ****" in log[1].getvalue()
    assert SECRET not in log[1].getvalue()


def test_uncaught_exceptions_are_logged_and_redacted(
    installed: Redactor,
    log: tuple[logging.Logger, io.StringIO],
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        failing()
    except RuntimeError as exc:
        sys.excepthook(type(exc), exc, exc.__traceback__)
    shown = log[1].getvalue() + capsys.readouterr().err
    assert "RuntimeError: outer ****" in shown
    assert SECRET not in shown


def test_uncaught_exceptions_of_threads_are_logged_and_redacted(
    log: tuple[logging.Logger, io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.excepthook
    uninstall = install(Redactor([SECRET]))
    thread = threading.Thread(target=failing, name=f"worker {SECRET}")
    thread.start()
    thread.join()
    uninstall()
    assert threading.excepthook is before
    shown = log[1].getvalue() + capsys.readouterr().err
    assert "RuntimeError: outer ****" in shown
    assert "Uncaught in worker ****" in shown
    assert SECRET not in shown


def test_exceptions_nobody_can_raise_are_logged_and_redacted(
    log: tuple[logging.Logger, io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying:
        def __del__(self) -> None:
            failing()

    uninstall = install(Redactor([SECRET]))
    Dying()
    gc.collect()
    uninstall()
    shown = log[1].getvalue() + capsys.readouterr().err
    assert "RuntimeError: outer ****" in shown
    assert SECRET not in shown


def test_the_handler_of_last_resort_is_covered(
    installed: Redactor, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("nobody.listens")
    logger.propagate = False
    logger.warning("key %s", SECRET)
    assert capsys.readouterr().err == "key ****\n"


# Formatters that make their lines of the arguments, as those of servers do


class Atoms(dict):
    """As gunicorn and hypercorn have them: some answer for each name."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name.lower()) if name.lower() in self else "-"


class OfArguments(logging.Formatter):
    """As uvicorn's: five arguments, of which the last is a number."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        arguments: Any = record.args
        client, method, path, version, status = arguments
        return f'{client} "{method} {path} HTTP/{version}" {int(status)}'


class OfAtoms(logging.Formatter):
    """As of whoever makes JSON of gunicorn's lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        atoms: Any = record.args
        names = ("h", "r", "s", "{Authorization}i", "{x-api-key}i", "{x-none}i", "{home}e")
        return " ".join(str(atoms[name]) for name in names)


@pytest.fixture
def formatted(installed: Redactor) -> Iterator[Any]:
    """Return a function that logs with a formatter, and returns what was written."""
    logger = logging.getLogger("server.access")
    handlers = []

    def log_with(formatter: logging.Formatter, *args: Any, **options: Any) -> str:
        written = io.StringIO()
        for _ in range(2):  # a second handler has the same record
            handlers.append(logging.StreamHandler(written))
            handlers[-1].setFormatter(formatter)
            logger.addHandler(handlers[-1])
        logger.warning(*args, **options)
        while handlers:
            logger.removeHandler(handlers.pop())
        first, second = written.getvalue().splitlines()
        assert first == second
        return first

    logger.propagate = False
    yield log_with
    logger.propagate = True


ACCESS = '%s - "%s %s HTTP/%s" %d'
LINES: dict[str, tuple[tuple[Any, ...], str]] = {
    "plain": (("1.2.3.4:5", "GET", "/v1/x", "1.1", 200), '1.2.3.4:5 "GET /v1/x HTTP/1.1" 200'),
    "a secret": (
        ("1.2.3.4:5", "GET", f"/v1/x?key={SECRET}", "1.1", 401),
        '1.2.3.4:5 "GET /v1/x?key=**** HTTP/1.1" 401',
    ),
    "a key of a known shape": (
        ("1.2.3.4:5", "GET", "/v1/sk-proj-abcdefghijklmnopqrstuvwxyz012345", "1.1", 404),
        '1.2.3.4:5 "GET /v1/sk-proj-**** HTTP/1.1" 404',
    ),
    "a line break": (
        ("1.2.3.4:5", "GET", "/a\n\x1b[2J", "1.1", 200),
        r'1.2.3.4:5 "GET /a\n\x1b[2J HTTP/1.1" 200',
    ),
    "an object": ((Leaky(), "GET", "/x", "1.1", 200), '<Leaky ****> "GET /x HTTP/1.1" 200'),
}


@pytest.mark.parametrize(("args", "line"), LINES.values(), ids=LINES)
def test_formatters_that_unpack_the_arguments_go_on_working(
    formatted: Any, args: tuple[Any, ...], line: str
) -> None:
    assert formatted(OfArguments(), ACCESS, *args) == line


def test_arguments_that_hold_a_secret_together_show_none_of_it(formatted: Any) -> None:
    halves = ("1.2.3.4:5", SECRET[:7], SECRET[7:], "1.1", 200)
    assert formatted(OfArguments(), "%s %s%s %s %d", *halves) == '**** "**** **** HTTP/****" 200'


def test_formatters_that_ask_for_arguments_by_name_go_on_working(formatted: Any) -> None:
    atoms = Atoms({
        "h": "1.2.3.4", "r": f"GET /{SECRET} HTTP/1.1", "s": 200,
        "{authorization}i": "Bearer of-somebody-else", "{x-api-key}i": "of-somebody-else",
        "{home}e": f"/home/{SECRET}", SECRET: "x",
    })  # fmt: skip
    line = formatted(OfAtoms(), "%(h)s %(r)s %({x-none}i)s", atoms)
    assert line == "1.2.3.4 GET /**** HTTP/1.1 200 Bearer **** **** - /home/****"
    assert atoms["r"] == f"GET /{SECRET} HTTP/1.1"  # the caller's own


def test_the_message_is_that_of_the_whole(formatted: Any) -> None:
    plain = logging.Formatter("%(message)s")
    assert formatted(plain, "%s%s 100%%", SECRET[:6], SECRET[6:]) == "**** 100%"
    assert formatted(plain, "%(a)s %(a)r", {"a": f"{SECRET}\n"}) == r"****\n '****\n'"


def test_a_message_in_colour_keeps_them_and_nothing_else(formatted: Any) -> None:
    """uvicorn has each message twice, once for a terminal."""

    class Coloured(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:
            record.msg = vars(record)["color_message"]
            return record.getMessage()

    coloured = f"Started \x1b[36m%d\x1b[0m \x1b[2J {SECRET}"
    line = formatted(Coloured(), "Started %d", 7, extra={"color_message": coloured})
    assert line == "Started \x1b[36m7\x1b[0m \\x1b[2J ****"


def test_records_that_were_redacted_can_be_sent_to_other_processes(installed: Redactor) -> None:
    record = logging.makeLogRecord({"msg": "key %s", "args": (SECRET,), "name": "x"})
    assert RedactingFilter(installed).filter(record)
    assert pickle.loads(pickle.dumps(record)).getMessage() == "key ****"
