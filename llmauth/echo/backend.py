"""The echo backend: answers like the providers do, in process, with the words of the question.

For the demo, for trying clients and for tests; it needs no network and no key.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote

from . import formats
from .catalogue import MODELS, embeddings, files, gemini_embeddings, models
from .formats import Answer, Json
from .questions import asked_text, chosen_tool, example_arguments
from .reply import BadRequestError, EchoReply, Question, error_reply, json_reply, listed

TOKEN_DELAY = 0.03
"""Seconds between two words of a stream, so that it can be seen to be one."""

_VERSION = re.compile(r"^/v\d+(?:alpha|beta)?\d*(?=/)")
_GEMINI = re.compile(r"^/models/([^/:]+):(\w+)$")


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
        request = Question(method, rest, query, headers, body, beta)
        try:
            return self._dispatch(request)
        except BadRequestError as exc:
            return error_reply(400, str(exc), "invalid_request_error", "INVALID_ARGUMENT")

    def _dispatch(self, request: Question) -> EchoReply:
        if found := _GEMINI.match(unquote(request.path)):
            return self._gemini(request, found[1], found[2])
        answers = {
            "/chat/completions": self._chat,
            "/completions": self._completions,
            "/responses": self._responses,
            "/embeddings": embeddings,
            "/messages": self._messages,
            "/messages/count_tokens": self._count_tokens,
        }
        if answer := answers.get(request.path):
            if request.method != "POST":
                return error_reply(405, "Use POST.", "invalid_request_error", "INVALID_ARGUMENT")
            return answer(request)
        if request.path == "/models" or request.path.startswith("/models/"):
            return models(request)
        if request.path == "/files" or request.path.startswith("/files/"):
            return files(request)
        return error_reply(
            404, "The echo backend does not know this path.", "not_found_error", "NOT_FOUND"
        )

    def _chat(self, request: Question) -> EchoReply:
        body = request.json()
        answer = _answer(body, listed(body, "messages"))
        if not body.get("stream"):
            return json_reply(formats.chat_whole(answer))
        usage = _wants_usage(body)
        events = formats.chat_events(answer, include_usage=usage)
        return self._stream(_data(events), done=True)

    def _completions(self, request: Question) -> EchoReply:
        body = request.json()
        prompt = body.get("prompt", "")
        text = " ".join(map(str, prompt)) if isinstance(prompt, list) else str(prompt)
        answer = _answer(body, [{"role": "user", "content": text}])
        if not body.get("stream"):
            return json_reply(formats.completion_whole(answer))
        usage = _wants_usage(body)
        events = formats.completion_events(answer, include_usage=usage)
        return self._stream(_data(events), done=True)

    def _responses(self, request: Question) -> EchoReply:
        body = request.json()
        given = body.get("input", "")
        messages = given if isinstance(given, list) else [{"role": "user", "content": given}]
        answer = _answer(body, messages)
        if not body.get("stream"):
            return json_reply(formats.response_whole(answer))
        return self._stream(_named(formats.response_events(answer)))

    def _messages(self, request: Question) -> EchoReply:
        body = request.json()
        answer = _answer(body, listed(body, "messages"))
        if not body.get("stream"):
            return json_reply(formats.message_whole(answer))
        return self._stream(_named(formats.message_events(answer)))

    def _count_tokens(self, request: Question) -> EchoReply:
        body = request.json()
        return json_reply({"input_tokens": _answer(body, listed(body, "messages")).asked})

    def _gemini(self, request: Question, model: str, verb: str) -> EchoReply:
        if verb in ("embedContent", "batchEmbedContents"):
            return gemini_embeddings(request, verb)
        answer = _answer(body := request.json(), listed(body, "contents"), model)
        if verb == "countTokens":
            return json_reply({"totalTokens": answer.asked})
        if verb == "generateContent":
            return json_reply(formats.generate_whole(answer))
        if verb != "streamGenerateContent":
            return error_reply(
                404, f"The echo backend has no '{verb}'.", "not_found_error", "NOT_FOUND"
            )
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


def _wants_usage(body: Json) -> bool:
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequestError("'stream_options' must be an object.")
    return bool(options.get("include_usage"))


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
