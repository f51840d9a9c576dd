"""The echo backend's embeddings, models and files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from typing import Any
from urllib.parse import unquote

from .formats import CREATED, Json
from .reply import BadRequestError, EchoReply, Question, error_reply, json_reply, listed

MODELS = ("echo-1", "echo-1-mini")
DIMENSIONS = 16


def _embedding(text: str, size: int) -> list[float]:
    stream = hashlib.shake_256(text.encode()).digest(size)
    return [round(byte / 127.5 - 1, 6) for byte in stream]


def embeddings(request: Question) -> EchoReply:
    body = request.json()
    given = body.get("input", "")
    texts = given if isinstance(given, list) and not _is_tokens(given) else [given]
    size = body.get("dimensions")
    size = DIMENSIONS if size is None else size
    if not isinstance(size, int) or not 0 < size <= 8192:
        raise BadRequestError("'dimensions' must be a number from 1 to 8192.")
    data = []
    for index, text in enumerate(texts):
        vector: Any = _embedding(json.dumps(text), size)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    model = body.get("model") or MODELS[0]
    return json_reply({"object": "list", "data": data, "model": model, "usage": usage})


def _is_tokens(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(entry, int) for entry in given)


def gemini_embeddings(request: Question, verb: str) -> EchoReply:
    body = request.json()
    if verb == "embedContent":
        return json_reply({"embedding": {"values": _embedding(json.dumps(body), DIMENSIONS)}})
    asked = listed(body, "requests")
    values = [{"values": _embedding(json.dumps(one), DIMENSIONS)} for one in asked]
    return json_reply({"embeddings": values})


def models(request: Question) -> EchoReply:
    if request.method not in ("GET", "HEAD"):
        return error_reply(405, "Use GET.", "invalid_request_error", "INVALID_ARGUMENT")
    anthropic = request.header("anthropic-version") is not None
    gemini = request.beta or "pageSize" in request.query or request.header("x-goog-api-client")
    describe = _gemini_model if gemini else _anthropic_model if anthropic else _openai_model
    name = unquote(request.path).removeprefix("/models").strip("/")
    if name:
        if name not in MODELS:
            return error_reply(404, "There is no such model.", "not_found_error", "NOT_FOUND")
        return json_reply(describe(name))
    described = [describe(model) for model in MODELS]
    if gemini:
        return json_reply({"models": described})
    pages = {"has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    return json_reply({"data": described} | (pages if anthropic else {"object": "list"}))


def _openai_model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "llmauth"}


def _anthropic_model(name: str) -> Json:
    created = "2026-01-01T00:00:00Z"
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


def _gemini_model(name: str) -> Json:
    methods = ["generateContent", "countTokens"]
    return {"name": f"models/{name}", "version": "1", "supportedGenerationMethods": methods}


def files(request: Question) -> EchoReply:
    file_id = request.path.removeprefix("/files").strip("/")
    if request.method == "POST" and not file_id:
        kind = request.header("content-type") or ""
        if "multipart/form-data" not in kind:
            raise BadRequestError("Upload a file as multipart/form-data.")
        named = re.search(rb'filename="([^"\r\n]*)"', request.body)
        name = named[1].decode("utf-8", "replace") if named else "file"
        return json_reply(_file(name, len(request.body)))
    if request.method == "GET" and not file_id:
        return json_reply({"object": "list", "data": [], "has_more": False})
    if request.method == "DELETE" and file_id:
        return json_reply({"id": file_id, "object": "file", "deleted": True})
    return error_reply(404, "The echo backend keeps no files.", "not_found_error", "NOT_FOUND")


def _file(name: str, size: int) -> Json:
    return {
        "id": "file-echo",
        "type": "file",
        "object": "file",
        "bytes": size,
        "size_bytes": size,
        "created_at": CREATED,
        "filename": name,
        "purpose": "user_data",
        "status": "processed",
    }
