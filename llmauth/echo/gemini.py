"""Google's Gemini API: the methods of ``/models/NAME:METHOD``, and its list of models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from .question import ANY_OBJECT, Answer, Json, Question, answer_to, embedding, nonempty_list
from .reply import EchoReply, data_events, json_reply, not_found, stream_reply

PATH = re.compile(r"^/models/(?P<model>[^/:]+):(?P<method>\w+)$")


def answer(question: Question, model: str, method: str) -> EchoReply:
    """Answer a call of one of the methods of a model."""
    body = question.json()
    if method == "embedContent":
        return json_reply({"embedding": _embedding(body)})
    if method == "batchEmbedContents":
        requests = nonempty_list(body, "requests")
        return json_reply({"embeddings": [_embedding(one) for one in requests]})
    config = _config(body)
    answer = answer_to(body, _contents(body), model, schema=_schema(config))
    if config.get("responsemimetype") == "text/x.enum" and answer.tool is None:
        answer = replace(answer, text=str(json.loads(answer.text)))
    if method == "countTokens":
        return json_reply({"totalTokens": answer.asked})
    if method == "generateContent":
        return json_reply(_whole(answer))
    if method != "streamGenerateContent":
        return not_found(f"The echo backend has no '{method}'.")
    if parse_qs(question.query).get("alt") == ["sse"]:
        return stream_reply(data_events(_events(answer), end="\r\n\r\n"))
    return stream_reply(_array(_events(answer)), kind="application/json")


def model(name: str) -> Json:
    methods = ["generateContent", "countTokens"]
    return {"name": f"models/{name}", "version": "1", "supportedGenerationMethods": methods}


def model_list(models: list[Json]) -> Json:
    return {"models": models}


def _embedding(request: object) -> Json:
    return {"values": embedding(json.dumps(request))}


def _contents(body: Json) -> list[Any]:
    # One content may stand without a list around it, a text without its parts.
    given = body.get("contents")
    if isinstance(given, (str, dict)):
        return [{"role": "user", "parts": [{"text": given} if isinstance(given, str) else given]}]
    return nonempty_list(body, "contents")


def _config(body: Json) -> Json:
    """Return how the answer is to be, by names in one of the spellings that Google takes."""
    config = body.get("generationConfig") or body.get("generation_config")
    named = config.items() if isinstance(config, dict) else ()
    return {name.replace("_", "").lower(): value for name, value in named}


def _schema(config: Json) -> Any:
    """Return the schema that the answer is to fit, None for text."""
    for name in ("responsejsonschema", "responseschema"):
        if config.get(name) is not None:
            return config[name]
    return None if config.get("responsemimetype") in (None, "text/plain") else ANY_OBJECT


def _array(events: Iterator[Json]) -> Iterator[bytes]:
    for number, event in enumerate(events):
        yield (b",\r\n" if number else b"[") + json.dumps(event).encode()
    yield b"]"


def _response(answer: Answer, part: Json, *, last: bool) -> Json:
    candidate: Json = {"content": {"parts": [part], "role": "model"}, "index": 0}
    said = {"modelVersion": answer.model, "responseId": answer.id}
    if not last:
        return {"candidates": [candidate]} | said
    usage = {
        "promptTokenCount": answer.asked,
        "candidatesTokenCount": answer.said,
        "totalTokenCount": answer.asked + answer.said,
    }
    return {"candidates": [candidate | {"finishReason": "STOP"}], "usageMetadata": usage} | said


def _whole(answer: Answer) -> Json:
    if answer.tool is None:
        return _response(answer, {"text": answer.text}, last=True)
    call = {"id": f"call_{answer.id}", "name": answer.tool, "args": answer.arguments}
    return _response(answer, {"functionCall": call}, last=True)


def _events(answer: Answer) -> Iterator[Json]:
    if answer.tool:
        yield _whole(answer)
        return
    for word in answer.pieces:
        yield _response(answer, {"text": word}, last=False)
    yield _response(answer, {"text": ""}, last=True)
