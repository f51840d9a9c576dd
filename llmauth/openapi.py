"""The OpenAPI description of this server's own endpoints and errors."""

from __future__ import annotations

from typing import Any

from .exceptions import (
    AddressLockedOut,
    AuthenticationRequired,
    BodyTooLarge,
    ClientClosedRequest,
    InternalError,
    InvalidRequest,
    LoopDetected,
    MethodRefused,
    NotSupported,
    OriginRefused,
    RequestRefused,
    Unavailable,
    UnknownRoute,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from .version import __version__

Json = dict[str, Any]

_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
_REFUSALS: tuple[tuple[type[RequestRefused], str], ...] = (
    (InvalidRequest, "Malformed credentials, or several that differ"),
    (AuthenticationRequired, "The proxy key is missing or wrong"),
    (OriginRefused, "The preflight of a web page whose origin may not use this server"),
    (UnknownRoute, "No backend serves the path; the message names those there are"),
    (MethodRefused, "A method that is never forwarded"),
    (BodyTooLarge, "The request body is too large"),
    (AddressLockedOut, "Too many wrong keys from this address; the right one is refused, too"),
    (ClientClosedRequest, "Only in the log: the client left before the answer began"),
    (InternalError, "This server failed"),
    (NotSupported, "A protocol that is not spoken here, such as WebSocket"),
    (UpstreamUnreachable, "The backend cannot be reached"),
    (Unavailable, "Every slot is taken, or the server is being stopped"),
    (UpstreamTimeout, "The backend did not answer in time"),
    (LoopDetected, "The request has been here before: a backend leads back to this server"),
)
_SECONDS: Json = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait"}
_CHALLENGE: Json = {"schema": {"type": "string"}, "description": "RFC 6750, section 3"}
_NO_RETRY: Json = {"schema": {"const": "false"}, "description": "Keeps SDKs from trying again"}
_HEADERS: dict[int | None, Json] = {
    400: {"WWW-Authenticate": _CHALLENGE},
    401: {"WWW-Authenticate": _CHALLENGE},
    429: {"Retry-After": _SECONDS, "x-should-retry": _NO_RETRY},
    503: {"Retry-After": _SECONDS},
}

_ERROR: Json = {
    "type": "object",
    "description": "One body that the clients of OpenAI, Anthropic and Google all understand.",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "status"],
            "properties": {
                "message": {"type": "string", "description": "What to do about it."},
                "type": {"type": "string", "examples": ["authentication_error"]},
                "param": {"type": "null"},
                "code": {"type": "string", "examples": ["invalid_api_key"]},
                "status": {"type": "string", "examples": ["UNAUTHENTICATED"]},
            },
        },
        "request_id": {"type": "string", "description": "The same as in x-request-id."},
    },
}
_STATUS: Json = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"enum": ["ok", "ready", "stopping"]},
        "checks": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def document() -> Json:
    """Return the description, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmauth",
            "version": __version__,
            "summary": "Lets in to LLM APIs only those who hold the key",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        # Relative to where this document is: right below any prefix of a reverse proxy.
        "servers": [{"url": "./"}],
        "paths": _public_paths() | {"/{path}": _proxied()},
        "components": {
            "headers": {"RequestId": {"schema": {"type": "string"}, "description": "In the log"}},
            "schemas": {"Error": _ERROR, "Status": _STATUS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "xApiKey": _carrier("x-api-key", "Anthropic's"),
                "xGoogApiKey": _carrier("x-goog-api-key", "Google's"),
                "apiKey": _carrier("api-key", "Azure's"),
                "xProxyApiKey": _carrier("X-Proxy-Api-Key", "beside a provider's key of one's own"),
                "queryKey": _carrier("key", "on Gemini paths only", where="query"),
            },
        },
    }


def _carrier(name: str, whose: str, where: str = "header") -> Json:
    return {"type": "apiKey", "in": where, "name": name, "description": f"The key, {whose}"}


def _public_paths() -> Json:
    status = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
    html: Json = {"text/html": {"schema": {"type": "string"}}}
    any_json: Json = {"application/json": {"schema": {"type": "object"}}}
    alive = {"200": "It does"}
    return {
        "/health": _page("health", "The process answers", alive, status),
        "/healthz": _page("healthz", "The same as /health", alive, status),
        "/readyz": _page(
            "readyz",
            "Ready for requests",
            {"200": "It is", "503": "It is being stopped"},
            status,
        ),
        "/docs": _page("docs", "How to use this server", {"200": "A page for people"}, html),
        "/openapi.json": _page("openapi", "This description", {"200": "OpenAPI 3.1"}, any_json),
    }


def _page(name: str, summary: str, answers: dict[str, str], content: Json) -> Json:
    responses = {
        code: {"description": text, "content": content, "headers": _request_id()}
        for code, text in answers.items()
    }
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "security": [],
            "responses": responses,
        }
    }


def _proxied() -> Json:
    carriers = ("bearer", "xApiKey", "xGoogApiKey", "apiKey", "xProxyApiKey", "queryKey")
    operation = {
        "summary": "Forwarded to a backend as it is",
        "description": (
            "Every path that is not one of the others, with as many segments as it has. "
            "`/<backend>/...` picks a backend by name; requests that are Anthropic's or Gemini's "
            "by their path or headers find it by themselves; the rest goes to the default one."
        ),
        "security": [{carrier: []} for carrier in carriers],
        "responses": {
            "default": {"description": "The backend's answer", "headers": _request_id()},
            **_refusals(),
        },
    }
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    operations = {method: operation | {"operationId": f"{method}Proxied"} for method in _METHODS}
    return {"parameters": [path], **operations}


def _refusals() -> Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        str(refusal.code): {
            "description": text,
            "content": content,
            "headers": _request_id() | _HEADERS.get(refusal.code, {}),
        }
        for refusal, text in _REFUSALS
    }


def _request_id() -> Json:
    return {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
