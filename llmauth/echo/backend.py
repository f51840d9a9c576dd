"""The echo backend: finds the API that a request is for, and has that API's module answer it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import unquote

from . import anthropic, gemini, openai
from .question import MODELS, BadRequestError, Question
from .reply import EchoReply, error_reply, json_reply, not_found

TOKEN_DELAY = 0.03
"""Seconds between two words of a stream, so that it can be seen to be one."""

_VERSION = re.compile(r"^/v\d+(?:alpha|beta)?\d*(?=/)")

_ROUTES: Mapping[str, Callable[[Question], EchoReply]] = openai.ROUTES | anthropic.ROUTES


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
        try:
            reply = _answer(Question(method, rest, query, headers, body, beta))
        except BadRequestError as exc:
            return error_reply(400, str(exc), "invalid_request_error", "INVALID_ARGUMENT")
        return EchoReply(reply.status, reply.headers, self._paced(reply.chunks))

    def _paced(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for number, chunk in enumerate(chunks):
            if number and self._delay:
                time.sleep(self._delay)
            yield chunk


def _answer(question: Question) -> EchoReply:
    if called := gemini.PATH.match(unquote(question.path)):
        return gemini.answer(question, called["model"], called["method"])
    if answer := _ROUTES.get(question.path):
        return answer(question) if question.method == "POST" else _wrong_method("POST")
    if question.path == "/models" or question.path.startswith("/models/"):
        return _models(question)
    return not_found("The echo backend does not know this path.")


def _models(question: Question) -> EchoReply:
    """List the models, or describe one, as the API does whose client asks."""
    if question.method not in ("GET", "HEAD"):
        return _wrong_method("GET")
    if question.beta or "pageSize" in question.query or question.header("x-goog-api-client"):
        api = gemini.model, gemini.model_list
    elif question.header("anthropic-version") is not None:
        api = anthropic.model, anthropic.model_list
    else:
        api = openai.model, openai.model_list
    describe, as_list = api
    name = unquote(question.path).removeprefix("/models").strip("/")
    if name and name not in MODELS:
        return not_found("There is no such model.")
    return json_reply(describe(name) if name else as_list([describe(one) for one in MODELS]))


def _wrong_method(right: str) -> EchoReply:
    return error_reply(405, f"Use {right}.", "invalid_request_error", "INVALID_ARGUMENT")
