"""Answers as waitress sends them: their environment, their head, and when they close."""

from __future__ import annotations

from typing import Any

from waitress.task import ErrorTask, WSGITask


class Task(WSGITask):
    """Has the application answer a request."""

    channel: Any
    request: Any

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
        self.request.path = self.request.raw_path  # the application has it as it was sent
        environ: dict[str, Any] = super().get_environment()
        return environ

    def build_response_header(self) -> bytes:
        if self.request.closes or self.channel.is_at_last_request:
            self.request.headers["CONNECTION"] = "close"
        self.channel.lingers = self.request.closes
        return bytes(super().build_response_header())

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
