"""Runs a module without what Windows does not have: ``python as_on_windows.py -m pytest …``.

It takes away before anybody can look: most programs ask once, at import.
"""

from __future__ import annotations

import _signal
import _socket
import ctypes
import importlib
import os
import runpy
import select
import stat
import sys
from typing import Any

MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
ATTRIBUTES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("fork", "forkpty", "register_at_fork", "fchmod", "fchown", "chown", "O_CLOEXEC")),
    (os, ("sendfile", "O_NOFOLLOW", "getloadavg")),
    (select, ("poll", "epoll", "POLLRDHUP")),
    (_socket, ("AF_UNIX", "SO_REUSEPORT", "socketpair")),
    (_signal, ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGQUIT", "pthread_kill")),
)
SELECT_MAX = 512
"""Sockets that Python's ``select`` takes on Windows."""


def take_away() -> None:
    """Make this process look like one on Windows."""
    for module in MODULES:
        sys.modules[module] = None  # type: ignore[assignment]  # an import raises ImportError
    for owner, names in ATTRIBUTES:
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    _take_away_file_modes()
    _take_away_the_process_as_a_library()
    select.select = _NarrowSelect()  # type: ignore[assignment]
    _windows_waitress()


def _take_away_file_modes() -> None:
    real = os.open

    def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
        return real(path, flags, 0o666, dir_fd=dir_fd)

    os.open = open  # type: ignore[assignment]
    os.chmod = lambda *args, **kwargs: None


def _take_away_the_process_as_a_library() -> None:
    real = ctypes.CDLL.__init__

    def load(self: Any, name: Any, *args: Any, **kwargs: Any) -> None:
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")
        real(self, name, *args, **kwargs)

    ctypes.CDLL.__init__ = load  # type: ignore[assignment]


class _NarrowSelect:
    """``select`` for sockets alone, and few of them, but whatever their numbers, as on Windows.

    An object, since ``selectors`` makes the builtin an attribute of a class, where a function
    would become a method.
    """

    _poll = select.poll
    _readable = select.POLLIN | select.POLLHUP | select.POLLERR
    _writable = select.POLLOUT | select.POLLERR

    def __call__(self, *lists: Any) -> Any:
        readers, writers, others, *timeout = lists
        poll, wanted = type(self)._poll(), dict.fromkeys([*readers, *writers, *others], 0)
        for items, event in ((readers, select.POLLIN), (writers, select.POLLOUT), (others, 0)):
            if len(items) > SELECT_MAX:
                raise ValueError("too many file descriptors in select()")
            for item in items:
                wanted[item] |= event
        for item, events in wanted.items():
            if not stat.S_ISSOCK(os.fstat(_number(item)).st_mode):
                raise OSError(10038, "An operation was attempted on something not a socket")
            poll.register(item, events)
        seconds = timeout[0] if timeout else None
        found = dict(poll.poll(None if seconds is None else max(0, seconds) * 1000))
        return (
            [item for item in readers if found.get(_number(item), 0) & self._readable],
            [item for item in writers if found.get(_number(item), 0) & self._writable],
            [item for item in others if found.get(_number(item), 0) & select.POLLERR],
        )


def _number(item: Any) -> int:
    return item if isinstance(item, int) else int(item.fileno())


def _windows_waitress() -> None:
    """Have waitress choose its code for Windows: a trigger of sockets, since pipes do not wake."""
    for module in ("logging", "socket", "tempfile", "threading"):
        importlib.import_module(module)  # these shall see the real name
    os.name = "nt"
    try:
        import waitress.trigger
    finally:
        os.name = "posix"
    assert "socket" in waitress.trigger.trigger.__init__.__code__.co_names


if __name__ == "__main__":
    take_away()
    assert sys.argv[1] == "-m", "usage: as_on_windows.py -m MODULE ARGUMENT…"
    sys.argv = sys.argv[2:]
    sys.path[0] = os.getcwd()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
