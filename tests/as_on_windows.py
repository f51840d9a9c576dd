"""Runs a module without what Windows does not have: ``python as_on_windows.py -m pytest …``.

It takes away before anybody can look: most programs ask once, at import.
"""

from __future__ import annotations

import _signal
import _socket
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
    select.select = _NarrowSelect()
    _windows_waitress()


def _take_away_file_modes() -> None:
    real = os.open

    def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
        return real(path, flags, 0o666, dir_fd=dir_fd)

    os.open = open  # type: ignore[assignment]
    os.chmod = lambda *args, **kwargs: None


class _NarrowSelect:
    """``select`` for sockets alone, and few of them.

    An object, since ``selectors`` makes the builtin an attribute of a class, where a function
    would become a method.
    """

    real = select.select

    def __call__(self, *lists: Any) -> Any:
        for one in lists[:3]:
            if len(one) > SELECT_MAX:
                raise ValueError("too many file descriptors in select()")
            for item in one:
                number = item if isinstance(item, int) else item.fileno()
                if not stat.S_ISSOCK(os.fstat(number).st_mode):
                    raise OSError(10038, "An operation was attempted on something not a socket")
        return type(self).real(*lists)


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
