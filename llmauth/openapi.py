"""The OpenAPI description of this server's own endpoints and errors."""

from __future__ import annotations

from typing import Any

from .version import __version__

_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "status"],
            "properties": {
                "message": {"type": "string", "description": "What to do about it."},
                "type": {"type": "string"},
                "param": {"type": "null"},
                "code": {"type": "string"},
                "status": {"type": "string"},
            },
        },
        "request_id": {"type": "string"},
    },
}
_STATUS: dict[str, Any] = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string"}, "checks": {"type": "object"}},
}


def document() -> dict[str, Any]:
    """Return the description, OpenAPI 3.1."""
    proxied = {
        "summary": "Forwarded to a backend as it is",
        "description": "/<backend>/… picks a backend by name; see the README for the rest.",
        "parameters": [
            {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
        "security": [{"bearer": []}, {"xApiKey": []}, {"xGoogApiKey": []}, {"apiKey": []}],
        "responses": {"default": {"description": "The backend's answer"}, **_refusals()},
    }
    operations = {method: proxied | {"operationId": f"{method}Proxied"} for method in _METHODS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmauth", "version": __version__, "license": {"name": "MIT"}},
        "paths": {
            "/health": {"get": _page("health", "The process answers", {"200": "It does"})},
            "/readyz": {
                "get": _page(
                    "readyz", "Ready for requests", {"200": "It is", "503": "It is being stopped"}
                )
            },
            "/{path}": operations,
        },
        "components": {
            "schemas": {"Error": _ERROR, "Status": _STATUS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "xGoogApiKey": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


_METHODS = ("get", "post", "put", "patch", "delete")


def _page(name: str, summary: str, answers: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {
            code: {"description": text, "content": content} for code, text in answers.items()
        },
    }


def _refusals() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    after = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    described = {
        "400": "Malformed credentials",
        "401": "The proxy key is missing or wrong",
        "404": "No backend serves the path",
        "413": "The request body is too large",
        "429": "Too many wrong keys from this address",
        "502": "The backend cannot be reached",
        "503": "Every slot is taken, or the server is being stopped",
        "504": "The backend did not answer in time",
        "508": "The request has been here before",
    }
    return {
        code: {"description": text, "content": content}
        | ({"headers": after} if code in ("429", "503") else {})
        for code, text in described.items()
    }
