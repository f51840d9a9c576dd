"""The echo backend: answers like the providers do, in process, with the words of the question.

For the demo, for trying clients and for tests; it needs no network and no key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from . import echo_formats as formats
from .echo_formats import CREATED, Answer, Json
from .echo_questions import asked_text, chosen_tool, example_arguments
from .exceptions import error_body

MODELS = ("echo-1", "echo-1-mini")
DIMENSIONS = 16
TOKEN_DELAY = 0.03
"""Seconds between two words of a stream, so that it can be seen to be one."""

_VERSION = re.compile(r"^/v\d+(?:alpha|beta)?\d*(?=/)")
_GEMINI = re.compile(r"^/models/([^/:]+):(\w+)$")


@dataclass(frozen=True)
class EchoReply:
    """An answer; a stream has no ``Content-Length`` and its chunks come slowly."""

    status: int
    headers: list[tuple[str, str]]
    chunks: Iterable[bytes]


class _BadRequest(Exception):
    """What is wrong with the request."""


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    query: str
    header: Callable[[str], str | None]
    body: bytes
    beta: bool

    def json(self) -> Json:
        try:
            value = json.loads(self.body)
        except ValueError:
            raise _BadRequest("The request body is not JSON.") from None
        if not isinstance(value, dict):
            raise _BadRequest("The request body is not a JSON object.")
        return value


class Echo:
    """Answers requests to any of the APIs.

    :param token_delay: seconds between two words of a stream
    """

    def __init__(self, *, token_delay: float = TOKEN_DELAY) -> None:
        self._delay = token_delay

    def respond(
        self,
        method: str,
        path: str,
        query: str,
        headers: Callable[[str], str | None],
        body: bytes,
    ) -> EchoReply:
        """Return the answer to a request.

        :param path: raw, with or without its version segment
        :param headers: returns a header's value by its lower-case name
        """
        version = _VERSION.match(path)
        rest = path[version.end() :] if version else path
        beta = version is not None and "beta" in version[0]
        request = _Request(method, rest, query, headers, body, beta)
        try:
            return self._dispatch(request)
        except _BadRequest as exc:
            return _error(400, str(exc), "invalid_request_error", "INVALID_ARGUMENT")

    def _dispatch(self, request: _Request) -> EchoReply:
        if found := _GEMINI.match(unquote(request.path)):
            return self._gemini(request, found[1], found[2])
        answers = {
            "/chat/completions": self._chat,
            "/completions": self._completions,
            "/responses": self._responses,
            "/embeddings": _embeddings,
            "/messages": self._messages,
            "/messages/count_tokens": _count_tokens,
        }
        if answer := answers.get(request.path):
            if request.method != "POST":
                return _error(405, "Use POST.", "invalid_request_error", "INVALID_ARGUMENT")
            return answer(request)
        if request.path == "/models" or request.path.startswith("/models/"):
            return _models(request)
        if request.path == "/files" or request.path.startswith("/files/"):
            return _files(request)
        return _error(
            404, "The echo backend does not know this path.", "not_found_error", "NOT_FOUND"
        )

    def _chat(self, request: _Request) -> EchoReply:
        body = request.json()
        answer = _answer(body, _listed(body, "messages"))
        if not body.get("stream"):
            return _json(formats.chat_whole(answer))
        usage = (body.get("stream_options") or {}).get("include_usage")
        return self._stream(_data(formats.chat_events(answer, include_usage=bool(usage))), done=True)

    def _completions(self, request: _Request) -> EchoReply:
        body = request.json()
        prompt = body.get("prompt", "")
        text = " ".join(map(str, prompt)) if isinstance(prompt, list) else str(prompt)
        answer = _answer(body, [{"role": "user", "content": text}])
        if not body.get("stream"):
            return _json(formats.completion_whole(answer))
        usage = (body.get("stream_options") or {}).get("include_usage")
        events = formats.completion_events(answer, include_usage=bool(usage))
        return self._stream(_data(events), done=True)

    def _responses(self, request: _Request) -> EchoReply:
        body = request.json()
        given = body.get("input", "")
        messages = given if isinstance(given, list) else [{"role": "user", "content": given}]
        answer = _answer(body, messages)
        if not body.get("stream"):
            return _json(formats.response_whole(answer))
        return self._stream(_named(formats.response_events(answer)))

    def _messages(self, request: _Request) -> EchoReply:
        body = request.json()
        answer = _answer(body, _listed(body, "messages"))
        if not body.get("stream"):
            return _json(formats.message_whole(answer))
        return self._stream(_named(formats.message_events(answer)))

    def _gemini(self, request: _Request, model: str, verb: str) -> EchoReply:
        if verb in ("embedContent", "batchEmbedContents"):
            return _gemini_embeddings(request, verb)
        answer = _answer(body := request.json(), _listed(body, "contents"), model)
        if verb == "countTokens":
            return _json({"totalTokens": answer.asked})
        if verb == "generateContent":
            return _json(formats.generate_whole(answer))
        if verb != "streamGenerateContent":
            return _error(404, f"The echo backend has no '{verb}'.", "not_found_error", "NOT_FOUND")
        events = formats.generate_events(answer)
        if parse_qs(request.query).get("alt") == ["sse"]:
            return self._stream(_data(events, end=b"\r\n\r\n"))
        return self._stream(_array(events), kind="application/json")

    def _stream(
        self, events: Iterator[bytes], *, done: bool = False, kind: str = "text/event-stream"
    ) -> EchoReply:
        return EchoReply(200, [("Content-Type", kind)], self._paced(events, done))

    def _paced(self, events: Iterator[bytes], done: bool) -> Iterator[bytes]:
        for number, event in enumerate(events):
            if number and self._delay:
                time.sleep(self._delay)
            yield event
        if done:
            yield b"data: [DONE]\n\n"


def _answer(body: Json, messages: list[Any], model: str | None = None) -> Answer:
    text = asked_text(messages)
    tool = chosen_tool(body, messages)
    return Answer(
        id=hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24],
        model=model or str(body.get("model") or MODELS[0]),
        asked=len(text.split()),
        text=f"echo: {text}",
        tool=tool[0] if tool else None,
        arguments=example_arguments(tool[1]) if tool else {},
    )


def _listed(body: Json, name: str) -> list[Any]:
    value = body.get(name)
    if isinstance(value, (str, dict)) and name == "contents":
        value = [{"role": "user", "parts": [value if isinstance(value, dict) else {"text": value}]}]
    if not isinstance(value, list) or not value:
        raise _BadRequest(f"'{name}' must be a list with at least one entry.")
    return value


def _data(events: Iterator[Json], end: bytes = b"\n\n") -> Iterator[bytes]:
    for event in events:
        yield b"data: " + json.dumps(event).encode() + end


def _named(events: Iterator[Json]) -> Iterator[bytes]:
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _array(events: Iterator[Json]) -> Iterator[bytes]:
    for number, event in enumerate(events):
        yield (b",\r\n" if number else b"[") + json.dumps(event).encode()
    yield b"]"


def _embedding(text: str, size: int) -> list[float]:
    stream = hashlib.shake_256(text.encode()).digest(size)
    return [round(byte / 127.5 - 1, 6) for byte in stream]


def _embeddings(request: _Request) -> EchoReply:
    body = request.json()
    given = body.get("input", "")
    texts = given if isinstance(given, list) and not _is_tokens(given) else [given]
    size = body.get("dimensions") or DIMENSIONS
    if not isinstance(size, int) or not 0 < size <= 8192:
        raise _BadRequest("'dimensions' must be a number from 1 to 8192.")
    data = []
    for index, text in enumerate(texts):
        vector: Any = _embedding(json.dumps(text), size)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    model = body.get("model") or MODELS[0]
    return _json({"object": "list", "data": data, "model": model, "usage": usage})


def _is_tokens(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(entry, int) for entry in given)


def _gemini_embeddings(request: _Request, verb: str) -> EchoReply:
    body = request.json()
    if verb == "embedContent":
        return _json({"embedding": {"values": _embedding(json.dumps(body), DIMENSIONS)}})
    asked = _listed(body, "requests")
    values = [{"values": _embedding(json.dumps(one), DIMENSIONS)} for one in asked]
    return _json({"embeddings": values})


def _count_tokens(request: _Request) -> EchoReply:
    body = request.json()
    return _json({"input_tokens": _answer(body, _listed(body, "messages")).asked})


def _models(request: _Request) -> EchoReply:
    anthropic = request.header("anthropic-version") is not None
    gemini = request.beta or "pageSize" in request.query or request.header("x-goog-api-client")
    describe = _gemini_model if gemini else _anthropic_model if anthropic else _openai_model
    name = unquote(request.path).removeprefix("/models").strip("/")
    if name:
        if name not in MODELS:
            return _error(404, "There is no such model.", "not_found_error", "NOT_FOUND")
        return _json(describe(name))
    described = [describe(model) for model in MODELS]
    if gemini:
        return _json({"models": described})
    pages = {"has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    return _json({"data": described} | (pages if anthropic else {"object": "list"}))


def _openai_model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "llmauth"}


def _anthropic_model(name: str) -> Json:
    created = "2026-01-01T00:00:00Z"
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


def _gemini_model(name: str) -> Json:
    methods = ["generateContent", "countTokens"]
    return {"name": f"models/{name}", "version": "1", "supportedGenerationMethods": methods}


def _files(request: _Request) -> EchoReply:
    file_id = request.path.removeprefix("/files").strip("/")
    if request.method == "POST" and not file_id:
        kind = request.header("content-type") or ""
        if "multipart/form-data" not in kind:
            raise _BadRequest("Upload a file as multipart/form-data.")
        named = re.search(rb'filename="([^"\r\n]*)"', request.body)
        return _json(_file(named[1].decode("utf-8", "replace") if named else "file", len(request.body)))
    if request.method == "GET" and not file_id:
        return _json({"object": "list", "data": [], "has_more": False})
    if request.method == "DELETE" and file_id:
        return _json({"id": file_id, "object": "file", "deleted": True})
    return _error(404, "The echo backend keeps no files.", "not_found_error", "NOT_FOUND")


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


def _json(value: Json) -> EchoReply:
    return _whole(200, json.dumps(value).encode())


def _error(status: int, message: str, type: str, google: str) -> EchoReply:
    return _whole(status, error_body(message, type=type, status=google, code=type))


def _whole(status: int, body: bytes) -> EchoReply:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return EchoReply(status, headers, [body])
