"""The sockets that are listened on: of an address, of a path, or given by systemd."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from ipaddress import ip_address
from typing import Any

from ..exceptions import ConfigurationError

BACKLOG = 1024
"""Connections that wait to be accepted, as far as the system allows."""

UNIX_MODE = 0o660
"""Of a Unix socket: its owner and its group may connect, which takes the right to write."""

_FIRST_GIVEN = 3
"""The first descriptor that systemd gives, after the three of every process (sd_listen_fds(3))."""

_UNIX_PREFIX = "unix:"
_AF_UNIX = getattr(socket, "AF_UNIX", None)


class PortTakenError(ConfigurationError):
    """Another program listens on the port, or on the path."""


class Sockets(list[socket.socket]):
    """The sockets of a server; the path of a Unix socket of its own goes with them.

    :param host: an address or a name, or ``unix:`` and a path
    :param local: there must be none that others can reach
    :raises ConfigurationError: when the address cannot be listened on
    """

    def __init__(self, host: str, port: int, *, local: bool) -> None:
        self._path: str | None = None
        self._inode: tuple[int, int] | None = None
        self.were_given = bool(given := _given())
        if given:
            if local:
                _refuse_strangers(given)
            super().__init__(given)
        elif host.startswith(_UNIX_PREFIX):
            path = host.removeprefix(_UNIX_PREFIX)
            super().__init__([_on_path(path)])
            self._path, self._inode = path, _inode(path)
        else:
            super().__init__(_on_addresses(host, port))

    @property
    def port(self) -> int:
        """The port of the first one, 0 for a Unix socket."""
        return 0 if is_unix(self[0]) else int(self[0].getsockname()[1])

    @property
    def where(self) -> str:
        """The first one as people write it: a URL, or ``unix:`` and a path."""
        name = self[0].getsockname()
        if is_unix(self[0]):
            return f"{_UNIX_PREFIX}{os.fsdecode(name)}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"http://{host}:{name[1]}"

    def remove_path(self) -> None:
        """Remove the path, unless it is another server's by now."""
        if self._path and self._inode == _inode(self._path):
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def is_unix(sock: socket.socket) -> bool:
    """True for a Unix socket, whose peers have no address."""
    return _AF_UNIX is not None and sock.family == _AF_UNIX


def _given() -> list[socket.socket]:
    """Return the sockets that systemd listens on for this process (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    given = []
    for number in range(_FIRST_GIVEN, _FIRST_GIVEN + (int(count) if count.isdigit() else 0)):
        sock = socket.socket(fileno=number)
        sock.set_inheritable(False)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise ConfigurationError(
                "A socket that systemd gives is not one to accept connections on: "
                "use ListenStream=, and no Accept=yes."
            )
        given.append(sock)
    return given


def _refuse_strangers(given: list[socket.socket]) -> None:
    """Refuse to serve others without a key; the setting of the address says nothing here."""
    for sock in given:
        if not is_unix(sock) and not ip_address(sock.getsockname()[0]).is_loopback:
            raise ConfigurationError(
                f"disable_auth: others can reach the socket that systemd gives, "
                f"{sock.getsockname()[0]}, and nobody would need a key."
            )


def _on_path(path: str) -> socket.socket:
    """Return a Unix socket; one that nobody listens on any more is replaced."""
    if _AF_UNIX is None or sys.platform == "win32":
        raise ConfigurationError("There are no Unix sockets on this system: name an address.")
    sock = socket.socket(_AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, UNIX_MODE)  # before anybody can connect
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        reason = exc.strerror or str(exc)
        raise ConfigurationError(
            f"Cannot listen on {_UNIX_PREFIX}{path}: {reason}. The folder must be there, and this "
            "user's to write to."
        ) from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(
            f"Cannot listen on {_UNIX_PREFIX}{path}: there is something else than a socket."
        )
    assert _AF_UNIX is not None
    with socket.socket(_AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:  # it was left behind
            os.unlink(path)
            return
        except OSError:
            pass  # it may be busy
    raise PortTakenError(
        f"Cannot listen on {_UNIX_PREFIX}{path}: another program listens there. Stop it, or choose "
        "another path."
    )


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _on_addresses(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for every address that the host name stands for."""
    try:
        addresses = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as exc:
        raise ConfigurationError(
            f"Cannot listen on {host}: no such address. Choose one of this machine with --host."
        ) from exc
    sockets: list[socket.socket] = []
    try:
        for family, *_, address in dict.fromkeys(addresses):
            # localhost is two addresses; a port that the system picked is for both.
            where = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
            sockets.append(_bound(family, where))
    except OSError as exc:
        for sock in sockets:
            sock.close()
        reason = exc.strerror or "it cannot be used"
        if exc.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(
                f"Cannot listen on {host}: {reason}. Choose an address of this machine with --host."
            ) from exc
        raise PortTakenError(
            f"Cannot listen on {host}, port {port}: {reason}. "
            "Choose another with --port, or stop the program that has it."
        ) from exc
    return sockets


def _bound(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # SO_REUSEADDR on Windows would let another program take the port as well.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
