"""Which thread answers a request: waitress hands each to one that is free, but for one kind.

An address that is locked out is answered where its request was read. Waking a thread for it costs
several times as much as the answer, and an attacker would pay for neither.
"""

from __future__ import annotations

import threading
from typing import Any

from waitress.channel import HTTPChannel
from waitress.task import ThreadedTaskDispatcher, WSGITask

from .guard import Guard
from .intake import Parser

AT_ONCE = "llmauth.at_once"
"""In a WSGI environ: the answer must not wait for anything, for it holds up all connections."""


class _Task(WSGITask):
    channel: Channel

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[AT_ONCE] = self.channel.answers_at_once
        return environ


class _Server:
    """The server as one connection sees it: its reading thread is woken only if there is a reason.

    waitress wakes it after every answer, to look at all connections, though it waits for the next
    request of this one anyway.
    """

    def __init__(self, server: Any, channel: Channel) -> None:
        self._server = server
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def pull_trigger(self) -> None:
        channel = self._channel
        unsent, closing = channel.total_outbufs_len, channel.close_when_flushed
        if unsent or closing or channel.will_close or channel.requests:
            self._server.pull_trigger()


class Channel(HTTPChannel):
    """A client's connection: its requests are read strictly, and some are answered at once."""

    parser_class = Parser
    task_class = _Task
    answers_at_once = False

    def __init__(self, server: Any, *args: Any, **kwargs: Any) -> None:
        quieter: Any = _Server(server, self)
        super().__init__(quieter, *args, **kwargs)
        self.reader = threading.get_ident()
        self.is_due = False

    def received(self, data: bytes) -> bool:
        taken = super().received(data)
        # Not before: it holds the lock that answering needs.
        while self.is_due:
            self.is_due = False
            self.answers_at_once = True
            self.service()
            self.answers_at_once = False
        return bool(taken)


class Dispatcher(ThreadedTaskDispatcher):
    """Hands requests to threads, but leaves addresses that are locked out to the reader.

    :param guard: knows who is locked out
    :param threads: how many there are
    """

    def __init__(self, guard: Guard, threads: int) -> None:
        super().__init__()
        self._guard = guard
        self.set_thread_count(threads)

    def add_task(self, task: Any) -> None:
        if task.reader == threading.get_ident() and self._is_refused(task):
            task.is_due = True
        else:
            super().add_task(task)

    def _is_refused(self, channel: Channel) -> bool:
        request: Any = channel.requests[0]
        if request.error or request.command == "OPTIONS" or self._guard.may_be_public(request.path):
            return False
        forwarded = request.headers.get("X_FORWARDED_FOR")
        return self._guard.is_locked_out(channel.addr[0], forwarded)
