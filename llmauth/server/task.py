"""Answers as waitress sends them: their environment, their head, and when they close."""

from __future__ import annotations

import sys
from typing import Any

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.task import ErrorTask, WSGITask

from ..exceptions import UpgradeRefused

_WITHOUT_PREFIX = ("CONTENT_LENGTH", "CONTENT_TYPE")


def connection_environment(server: Any, address: tuple[Any, ...]) -> dict[str, Any]:
    """Return what all requests of a connection have in their environment (PEP 3333).

    :param server: waitress's
    :param address: the client's
    """
    return {
        "REMOTE_ADDR": address[0],
        "REMOTE_HOST": address[0],
        "REMOTE_PORT": str(address[1]),
        "SERVER_PORT": str(server.effective_port),
        "SERVER_NAME": server.server_name,
        "SERVER_SOFTWARE": server.adj.ident,
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": ReadOnlyFileBasedBuffer,
        "wsgi.input_terminated": True,
    }


class Task(WSGITask):
    """Has the application answer a request."""

    channel: Any
    request: Any
    status: str
    response_headers: list[tuple[str, str]]

    def get_environment(self) -> dict[str, Any]:
        """Return the environment that was made when the head was there, with the body."""
        request = self.request
        environ: dict[str, Any] = request.environ
        environ["wsgi.input"] = request.get_body_stream()
        if request.chunked and not request.is_refused:
            environ["CONTENT_LENGTH"] = request.headers["CONTENT_LENGTH"]
        return environ

    def early_environment(self) -> dict[str, Any]:
        """Return the environment of a request whose body is not there yet."""
        request, channel = self.request, self.channel
        environ: dict[str, Any] = {
            **channel.environment,
            "REQUEST_METHOD": request.command,
            "SERVER_PROTOCOL": f"HTTP/{request.version}",
            "PATH_INFO": request.raw_path,  # the application has it as it was sent
            "REQUEST_URI": request.request_uri,
            "QUERY_STRING": request.query,
            "wsgi.url_scheme": request.url_scheme,
            "waitress.client_disconnected": channel.check_client_disconnected,
        }
        for name, value in request.headers.items():
            environ[name if name in _WITHOUT_PREFIX else f"HTTP_{name}"] = value
        return environ

    def build_response_header(self) -> bytes:
        # waitress knows it as the only option; some clients name others, too (RFC 9112 §9.6).
        asked = self.request.connection_close
        if asked or self.request.closes or self.channel.is_at_last_request:
            self.request.headers["CONNECTION"] = "close"
        if self._refuses_upgrade():
            closes = self.request.headers.get("CONNECTION") == "close"
            connection = "close, Upgrade" if closes else "Upgrade"
            self.response_headers += [("Upgrade", "HTTP/1.1"), ("Connection", connection)]
        # Of a body that is not received, bytes may still come, and would reset the connection.
        is_unread = self.request.is_refused and self.request.body_rcv is not None
        self.channel.lingers = self.request.closes or is_unread
        return bytes(super().build_response_header())

    def _refuses_upgrade(self) -> bool:
        """True for a 426 of our own, which names what is spoken here (RFC 9110 §15.5.22)."""
        if not self.status.startswith("426"):
            return False
        info = self.channel.state.guard.info(self.request.environ)
        return bool(info.error == UpgradeRefused.error_code)

    def write(self, data: bytes) -> None:
        """Send the head together with the first bytes, if there are any; nothing else on HEAD."""
        if is_head := self.request.command == "HEAD":
            data = b""
        if not self.wrote_header:
            self.channel.holds_head = bool(data) and self.has_body and self.content_length != 0
        super().write(data)
        if is_head:
            self.chunked_response = False  # there is no end to mark (RFC 9112 §6.3)


class RefusalTask(ErrorTask):
    """Answers what is not a request."""

    channel: Any

    def build_response_header(self) -> bytes:
        self.channel.lingers = True
        return bytes(super().build_response_header())
