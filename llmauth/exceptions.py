"""Every error of llmauth, and the one body in which clients see them.

::

    LLMAuthError
    ├── ConfigurationError            refused at start: exit status 2
    ├── KeyNotFound, NameTaken        of the stored keys
    ├── ClientDisconnected            the client left; nobody is there to be answered
    ├── BrokenOff                     ends an answer that must not look complete
    └── RequestRefused                an answer of our own, also a werkzeug HTTPException
        ├── InvalidRequest            400
        ├── AuthenticationRequired    401  no credentials (RFC 6750 §3: no ``error=``)
        ├── InvalidKey                401  ``error="invalid_token"``
        │   └── KeyWithdrawn          401  it was one of this server's until lately
        ├── OriginRefused             403  a page that may not send requests
        ├── ClientRefused             403  without keys, only this machine is served
        ├── NotAllowed                403  a limit of the key: address, backend, model
        ├── UnknownRoute              404
        ├── MethodRefused             405
        ├── Conflict                  409
        ├── BodyTooLarge              413
        ├── UpgradeRefused            426  WebSocket
        ├── AddressLockedOut          429
        ├── LimitReached              429  a limit of the key: requests, tokens, dollars
        ├── ClientClosedRequest       499  in the log; nobody is there to read it
        ├── InternalError             500
        ├── UpstreamUnreachable       502
        │   └── RedirectRefused       502  to another host
        ├── Unavailable               503
        ├── UpstreamTimeout           504
        └── LoopDetected              508

The body is the union of the shapes that the SDKs of OpenAI, Anthropic and Google each classify,
so that every one of them raises its own exception class and shows the message.
"""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from werkzeug import exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from .redact.controls import visible

_ORIGIN = re.compile(r"[!-~]{1,256}")


class LLMAuthError(Exception):
    """Root of all errors that llmauth raises."""


class ConfigurationError(LLMAuthError):
    """Settings that cannot be used: which, from where, what to do.

    :param messages: one for each fault; the error's text has a line for each
    """

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages

    def __str__(self) -> str:
        return "\n".join(self.messages)


class KeyNotFound(LLMAuthError):
    """There is no stored key of this name, or no more."""


class NameTaken(LLMAuthError):
    """Another key has the name already."""


class ClientDisconnected(LLMAuthError):
    """The client closed its connection while its request was being served."""


class BrokenOff(LLMAuthError, ConnectionResetError):
    """Ends an answer that has begun, so that it does not look complete.

    Any exception makes a WSGI server close the connection. Of this one, which is what a client
    that leaves looks like, servers log no traceback.
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "an answer was broken off")


def error_body(
    message: str, *, type: str, status: str, code: str, request_id: str | None = None
) -> bytes:
    """Return the JSON body that OpenAI, Anthropic and Google clients all understand.

    :param message: what went wrong and what the user can do about it
    :param type: Anthropic's and OpenAI's ``error.type``
    :param status: Google's ``error.status``
    :param code: OpenAI's ``error.code``
    """
    shown = visible(message)  # it may name what a client or a provider sent
    error = {"message": shown, "type": type, "param": None, "code": code, "status": status}
    body: dict[str, Any] = {"type": "error", "error": error}
    if request_id:
        body["request_id"] = request_id
    return json.dumps(body).encode("ascii")


class RequestRefused(LLMAuthError, HTTPException):
    """An error answer of llmauth itself.

    A host application can restyle it with ``errorhandler``. Flask finds one for 401 by werkzeug's
    own class of that status, so each error is of that as well.

    :param description: the message for the user; never contains a credential
    :param headers: added to the answer
    """

    # None here, so that ``errorhandler(RequestRefused)`` is found for every one of them.
    code: int | None = None
    type: ClassVar[str] = "api_error"
    status: ClassVar[str] = "INTERNAL"
    error_code: str = "internal_error"

    def __init__(self, description: str, headers: list[tuple[str, str]] | None = None) -> None:
        HTTPException.__init__(self, description)
        self.extra_headers = headers or []
        self.request_id: str | None = None

    def __str__(self) -> str:
        return f"{self.code} {self.error_code}: {self.description}"

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        return error_body(
            self.description or "",
            type=self.type,
            status=self.status,
            code=self.error_code,
            request_id=self.request_id,
        ).decode("ascii")

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        return [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            *self.extra_headers,
        ]

    def get_response(self, *args: Any, **kwargs: Any) -> Response:
        return Response(self.get_body(), self.code, self.get_headers())


NO_RETRY = ("x-should-retry", "false")
"""The header by which the SDKs of OpenAI and Anthropic, and what is built on them, do not send the
same request again: it would get the same answer."""

INCOMPLETE = (
    "The request's body ended before its announced length, or the application has read it already."
)


class InvalidRequest(RequestRefused, exceptions.BadRequest):
    """400: the credentials are malformed (RFC 6750 §3.1 ``invalid_request``)."""

    code = 400
    type = "invalid_request_error"
    status = "INVALID_ARGUMENT"
    error_code = "invalid_request"

    def __init__(self, description: str) -> None:
        super().__init__(description, [challenge("invalid_request")])


class _Unauthorized(RequestRefused, exceptions.Unauthorized):
    """Command-line agents would try for minutes, and lock their address out with that."""

    code = 401
    type = "authentication_error"
    status = "UNAUTHENTICATED"
    error_code = "invalid_api_key"
    challenged_with: ClassVar[str | None] = None

    def __init__(self, description: str) -> None:
        super().__init__(description, [challenge(self.challenged_with), NO_RETRY])


class AuthenticationRequired(_Unauthorized):
    """401: no credentials, or some that this server cannot check."""


class InvalidKey(_Unauthorized):
    """401: the key is not one of this server's keys."""

    challenged_with = "invalid_token"


class KeyWithdrawn(InvalidKey):
    """401: the key was one of this server's, and was withdrawn while it runs."""

    def __init__(self) -> None:
        super().__init__("This key was withdrawn. Ask the operator of this server for its new one.")


class OriginRefused(RequestRefused, exceptions.Forbidden):
    """403: a web page whose origin is not in ``server.cors_origins``.

    It asks whether it may send a request, or sends one while authentication is off.

    :param origin: as the browser sent it
    """

    code = 403
    type = "permission_error"
    status = "PERMISSION_DENIED"
    error_code = "origin_not_allowed"

    def __init__(self, origin: str | None) -> None:
        shown = f"of {origin} " if origin and _ORIGIN.fullmatch(origin) else ""
        super().__init__(
            f"Web pages {shown}may not use this server. "
            "Its operator can let them: add the origin to CORS_ORIGINS."
        )


class ClientRefused(RequestRefused):
    """403: without keys, only this machine is served."""

    code = 403
    type = "permission_error"
    status = "PERMISSION_DENIED"
    error_code = "client_refused"


class NotAllowed(RequestRefused, exceptions.Forbidden):
    """403: the key is a right one, and may not do this.

    :param what: ``address``, ``backend`` or ``model``
    """

    code = 403
    type = "permission_error"
    status = "PERMISSION_DENIED"

    def __init__(self, what: str, description: str) -> None:
        self.error_code = f"{what}_not_allowed"
        super().__init__(description)


class UnknownRoute(RequestRefused, exceptions.NotFound):
    """404: no backend serves the path."""

    code = 404
    type = "not_found_error"
    status = "NOT_FOUND"
    error_code = "not_found"


NO_FORWARD_PROXY = (
    "This server is no forward proxy, and opens no way to other hosts: it is asked itself. Do not "
    "name it as a proxy (curl -x, HTTPS_PROXY), but as the base URL of your client, such as "
    "http://HOST:PORT/v1."
)
"""For who takes it for one."""


class MethodRefused(RequestRefused, exceptions.MethodNotAllowed):
    """405: a method that is never forwarded; ``allowed`` are those that are (RFC 9110 §15.5.6)."""

    code = 405
    type = "invalid_request_error"
    status = "INVALID_ARGUMENT"
    error_code = "method_not_allowed"

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        methods = ", ".join(sorted(allowed))
        such = method if method.isalpha() and len(method) < 10 else "such"  # may be anything
        message = f"This path does not take {such} requests. It takes {methods}."
        if method == "CONNECT":
            message = NO_FORWARD_PROXY
        super().__init__(message, [("Allow", methods)])


class Conflict(RequestRefused, exceptions.Conflict):
    """409: there is something of this name already."""

    code = 409
    type = "invalid_request_error"
    status = "ALREADY_EXISTS"
    error_code = "already_exists"


class BodyTooLarge(RequestRefused, exceptions.RequestEntityTooLarge):
    """413: the request body is over the configured limit."""

    code = 413
    type = "request_too_large"
    status = "INVALID_ARGUMENT"
    error_code = "request_too_large"


class UpgradeRefused(RequestRefused):
    """426: WebSocket. Agents that try it first fall back to HTTP at once, unlike on 501.

    The ``Upgrade`` header that belongs to it (RFC 9110 §15.5.22) no WSGI application may send.
    """

    code = 426
    type = "invalid_request_error"
    status = "UNIMPLEMENTED"
    error_code = "upgrade_required"

    def __init__(self) -> None:
        super().__init__(
            "This server carries no WebSocket. Send the same request over HTTP, "
            'with "stream": true for an answer that comes piece by piece.',
            [NO_RETRY],
        )


class AddressLockedOut(RequestRefused, exceptions.TooManyRequests):
    """429: too many wrong keys from this address.

    Without `NO_RETRY`, SDKs would sleep through the block and try again.

    :param seconds: until the block ends; rounded up for ``Retry-After`` (RFC 9110 §10.2.3)
    """

    code = 429
    type = "rate_limit_error"
    status = "RESOURCE_EXHAUSTED"
    error_code = "too_many_failed_attempts"

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(
            "Too many requests with a wrong key from your address. "
            f"Wait {self.retry_after} seconds, then check the key before you try again.",
            [("Retry-After", str(self.retry_after)), NO_RETRY],
        )


class LimitReached(RequestRefused, exceptions.TooManyRequests):
    """429: a limit of the key.

    :param error_code: ``rate_limit_exceeded``, ``too_many_parallel_requests`` or
        ``insufficient_quota``
    :param retry_after: seconds, None where waiting does not help
    :param headers: what OpenAI's clients read about limits
    """

    code = 429
    type = "rate_limit_error"
    status = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        error_code: str,
        description: str,
        *,
        retry_after: float | None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.error_code = error_code
        added = list(headers)
        if retry_after is not None:
            added.append(("Retry-After", str(max(1, math.ceil(retry_after)))))
        if error_code == "insufficient_quota":
            added.append(("x-should-retry", "false"))
        super().__init__(description, added)


class ClientClosedRequest(RequestRefused):
    """499: the client left before its answer began.

    For the log alone, where nginx writes the same; Google's CANCELLED stands for it, too.
    """

    code = 499
    status = "CANCELLED"
    error_code = "client_disconnected"

    def __init__(self) -> None:
        super().__init__("The connection was closed before the answer began.")


class InternalError(RequestRefused, exceptions.InternalServerError):
    """500: a defect of this server; with another code, a refusal of Flask's own."""

    code = 500


class NotInstalled(RequestRefused):
    """501: this needs a package that is not there."""

    code = 501
    status = "UNIMPLEMENTED"
    error_code = "not_installed"

    def __init__(self, description: str) -> None:
        super().__init__(description, [NO_RETRY])


class UpstreamUnreachable(RequestRefused, exceptions.BadGateway):
    """502: the backend could not be reached or answered with something that is not HTTP."""

    code = 502
    status = "UNAVAILABLE"
    error_code = "upstream_unreachable"


class RedirectRefused(UpstreamUnreachable):
    """502: the backend sends the client, with the proxy's key in its hands, to another host.

    :param host: None when it cannot be told
    """

    error_code = "redirect_refused"

    def __init__(self, backend: str, host: str | None) -> None:
        super().__init__(
            f"The backend '{backend}' redirects to {host or 'what is no plain URL'}, and clients "
            "would take this server's key along. Its operator can have such redirects handed on: "
            f"backends.{backend}.redirects: hand-on.",
            [NO_RETRY],
        )


class Unavailable(RequestRefused, exceptions.ServiceUnavailable):
    """503: every stream slot is taken, or the server is shutting down.

    :param retry_after: seconds
    """

    code = 503
    type = "overloaded_error"
    status = "UNAVAILABLE"
    error_code = "overloaded"

    def __init__(self, description: str, *, retry_after: int) -> None:
        super().__init__(description, [("Retry-After", str(retry_after))])


class UpstreamTimeout(RequestRefused, exceptions.GatewayTimeout):
    """504: the backend did not answer in time."""

    code = 504
    type = "timeout_error"
    status = "DEADLINE_EXCEEDED"
    error_code = "upstream_timeout"


class LoopDetected(RequestRefused):
    """508: the request has been through this server before."""

    code = 508
    error_code = "loop_detected"

    def __init__(self, description: str) -> None:
        super().__init__(description, [NO_RETRY])


def challenge(error: str | None = None) -> tuple[str, str]:
    """Return the ``WWW-Authenticate`` header of RFC 6750 §3."""
    value = 'Bearer realm="llmauth"'
    return ("WWW-Authenticate", f'{value}, error="{error}"' if error else value)
