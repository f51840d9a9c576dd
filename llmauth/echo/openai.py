"""OpenAI's API: ``/chat/completions``, ``/responses``, ``/embeddings``, and its list of models."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Any

from .question import (
    MODELS,
    Answer,
    BadRequestError,
    Json,
    Question,
    answer_to,
    embedding,
    nonempty_list,
    schema_of,
)
from .reply import EchoReply, data_events, json_reply, named_events, stream_reply

CREATED = 1_767_225_600
"""Seconds; 2026-01-01. A fixed date, so that an answer depends on nothing but its request."""


def chat_completions(question: Question) -> EchoReply:
    body = question.json()
    schema = schema_of(body.get("response_format"))
    answer = answer_to(body, nonempty_list(body, "messages"), schema=schema)
    if not body.get("stream"):
        return json_reply(_chat_whole(answer))
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequestError("'stream_options' must be an object.")
    events = _chat_events(answer, include_usage=bool(options.get("include_usage")))
    return stream_reply(chain(data_events(events), [b"data: [DONE]\n\n"]))


def responses(question: Question) -> EchoReply:
    body = question.json()
    given = body.get("input", "")
    messages = given if isinstance(given, list) else [{"role": "user", "content": given}]
    text = body.get("text")
    schema = schema_of(text.get("format")) if isinstance(text, dict) else None
    answer = answer_to(body, messages, schema=schema)
    if not body.get("stream"):
        return json_reply(_response_whole(answer))
    return stream_reply(named_events(_response_events(answer)))


def embeddings(question: Question) -> EchoReply:
    body = question.json()
    given = body.get("input", "")
    is_list = isinstance(given, list) and not (given and all(isinstance(n, int) for n in given))
    texts = given if is_list else [given]  # a list of numbers is one text, as tokens
    data = []
    for index, text in enumerate(texts):
        vector: Any = embedding(json.dumps(text))
        if body.get("encoding_format") == "base64":  # the SDK for JavaScript wants nothing else
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    model = body.get("model") or MODELS[0]
    return json_reply({"object": "list", "data": data, "model": model, "usage": usage})


ROUTES = {
    "/chat/completions": chat_completions,
    "/responses": responses,
    "/embeddings": embeddings,
}


def model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "llmauth"}


def model_list(models: list[Json]) -> Json:
    return {"object": "list", "data": models}


def _chat_usage(answer: Answer) -> Json:
    return {
        "prompt_tokens": answer.asked,
        "completion_tokens": answer.said,
        "total_tokens": answer.asked + answer.said,
    }


def _chat_call(answer: Answer, arguments: str) -> Json:
    function = {"name": answer.tool, "arguments": arguments}
    return {"id": f"call_{answer.id}", "type": "function", "function": function}


def _chat_whole(answer: Answer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool:
        calls = [_chat_call(answer, json.dumps(answer.arguments))]
        message |= {"content": None, "tool_calls": calls}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "tool_calls" if answer.tool else "stop",
    }
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": CREATED,
        "model": answer.model,
        "choices": [choice],
        "usage": _chat_usage(answer),
    }


def _chat_deltas(answer: Answer) -> Iterator[tuple[Json, str | None]]:
    if answer.tool is None:
        yield {"role": "assistant", "content": ""}, None
        for word in answer.pieces:
            yield {"content": word}, None
        yield {}, "stop"
        return
    first = {"index": 0, **_chat_call(answer, "")}
    yield {"role": "assistant", "content": None, "tool_calls": [first]}, None
    for part in answer.pieces:
        yield {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}, None
    yield {}, "tool_calls"


def _chat_events(answer: Answer, *, include_usage: bool) -> Iterator[Json]:
    chunk: Json = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": answer.model,
    }
    if include_usage:
        chunk["usage"] = None
    for delta, reason in _chat_deltas(answer):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        yield chunk | {"choices": [choice]}
    if include_usage:
        yield chunk | {"choices": [], "usage": _chat_usage(answer)}


def _response(answer: Answer, status: str, output: list[Json]) -> Json:
    usage = {
        "input_tokens": answer.asked,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": answer.said,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.asked + answer.said,
    }
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }


def _output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _output_item(answer: Answer, *, done: bool) -> Json:
    status = "completed" if done else "in_progress"
    if answer.tool:
        arguments = json.dumps(answer.arguments) if done else ""
        call = {"call_id": f"call_{answer.id}", "name": answer.tool, "arguments": arguments}
        return {"id": f"fc_{answer.id}", "type": "function_call", "status": status} | call
    content = [_output_text(answer.text)] if done else []
    message = {"role": "assistant", "content": content}
    return {"id": f"msg_{answer.id}", "type": "message", "status": status} | message


def _response_whole(answer: Answer) -> Json:
    return _response(answer, "completed", [_output_item(answer, done=True)])


def _response_item_events(answer: Answer) -> Iterator[Json]:
    item = _output_item(answer, done=True)
    here: Json = {"item_id": item["id"], "output_index": 0}
    if answer.tool:
        event = "response.function_call_arguments"
        for part in answer.pieces:
            yield {"type": f"{event}.delta", **here, "delta": part}
        yield {"type": f"{event}.done", **here, "name": answer.tool} | {
            "arguments": item["arguments"]
        }
        return
    here["content_index"] = 0
    yield {"type": "response.content_part.added", **here, "part": _output_text("")}
    for word in answer.pieces:
        yield {"type": "response.output_text.delta", **here, "delta": word, "logprobs": []}
    yield {"type": "response.output_text.done", **here, "text": answer.text, "logprobs": []}
    yield {"type": "response.content_part.done", **here, "part": _output_text(answer.text)}


def _unnumbered_events(answer: Answer) -> Iterator[Json]:
    begun = _response(answer, "in_progress", [])
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    started = _output_item(answer, done=False)
    yield {"type": "response.output_item.added", "output_index": 0, "item": started}
    yield from _response_item_events(answer)
    finished = _output_item(answer, done=True)
    yield {"type": "response.output_item.done", "output_index": 0, "item": finished}
    yield {"type": "response.completed", "response": _response_whole(answer)}


def _response_events(answer: Answer) -> Iterator[Json]:
    for number, event in enumerate(_unnumbered_events(answer)):
        yield event | {"sequence_number": number}
