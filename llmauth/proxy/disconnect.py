"""Whether the client of a request has left, as far as the WSGI server lets us know.

- waitress says so, when it looks ahead for further requests.
- gunicorn, and the server behind ``flask run``, hand out the client's socket.
- Others, granian among them, give no sign: their next write to the client fails, and they close
  the response.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from urllib3.util.wait import wait_for_read

_HUNG_UP = getattr(select, "POLLRDHUP", None)
"""Linux tells of the end also behind data that nobody has read, such as the last record of TLS."""


def client_disconnected(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Return a function that is true once the client has left."""
    if waitress := environ.get("waitress.client_disconnected"):
        return waitress  # type: ignore[no-any-return]
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return partial(_hung_up, sock) if sock else _never


def _hung_up(sock: socket.socket) -> bool:
    try:
        if sys.platform != "win32" and _HUNG_UP is not None:
            poll = select.poll()
            poll.register(sock, _HUNG_UP)
            return bool(poll.poll(0))
        # Past a socket's own method, which takes no flags over TLS.
        return wait_for_read(sock, 0) and not socket.socket.recv(sock, 1, socket.MSG_PEEK)
    except (OSError, ValueError):
        return True


def _never() -> bool:
    return False
