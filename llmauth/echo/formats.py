"""How each provider writes an answer: whole, and as the events of a stream.

Every format is a pair: ``*_whole`` returns the JSON object of a plain reply, ``*_events`` yields
the objects of a streamed one. How events are framed on the wire is decided in ``echo``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

CREATED = 1_767_225_600
"""Seconds; 2026-01-01. A fixed date, so that an answer depends on nothing but its request."""


@dataclass(frozen=True)
class Answer:
    """What the echo says, before a provider's format is put around it.

    :param id: hexadecimal, the stem of every identifier in the reply
    :param model: as the client named it
    :param asked: tokens of the question; a word counts as a token
    :param text: the echo; not sent when a tool is called
    :param tool: the tool to call instead
    :param arguments: for the tool
    """

    id: str
    model: str
    asked: int
    text: str
    tool: str | None = None
    arguments: Json = field(default_factory=dict)

    @property
    def pieces(self) -> list[str]:
        """What is streamed: words with the space that follows them, or JSON of the arguments."""
        spoken = json.dumps(self.arguments) if self.tool else self.text
        return re.findall(r"\S+\s*", spoken)

    @property
    def said(self) -> int:
        return len(self.pieces)


# OpenAI, chat completions


def _openai_usage(answer: Answer) -> Json:
    return {
        "prompt_tokens": answer.asked,
        "completion_tokens": answer.said,
        "total_tokens": answer.asked + answer.said,
    }


def _chat_call(answer: Answer, arguments: str) -> Json:
    function = {"name": answer.tool, "arguments": arguments}
    return {"id": f"call_{answer.id}", "type": "function", "function": function}


def chat_whole(answer: Answer) -> Json:
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
        "usage": _openai_usage(answer),
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


def chat_events(answer: Answer, *, include_usage: bool) -> Iterator[Json]:
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
        yield chunk | {"choices": [], "usage": _openai_usage(answer)}


# OpenAI, completions


def _completion(answer: Answer, text: str, reason: str | None) -> Json:
    return {
        "id": f"cmpl-{answer.id}",
        "object": "text_completion",
        "created": CREATED,
        "model": answer.model,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}],
    }


def completion_whole(answer: Answer) -> Json:
    return _completion(answer, answer.text, "stop") | {"usage": _openai_usage(answer)}


def completion_events(answer: Answer, *, include_usage: bool) -> Iterator[Json]:
    for word in answer.pieces:
        yield _completion(answer, word, None)
    yield _completion(answer, "", "stop")
    if include_usage:
        yield completion_whole(answer) | {"choices": []}


# OpenAI, responses


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


def response_whole(answer: Answer) -> Json:
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


def _unnumbered_response_events(answer: Answer) -> Iterator[Json]:
    begun = _response(answer, "in_progress", [])
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    started = _output_item(answer, done=False)
    yield {"type": "response.output_item.added", "output_index": 0, "item": started}
    yield from _response_item_events(answer)
    finished = _output_item(answer, done=True)
    yield {"type": "response.output_item.done", "output_index": 0, "item": finished}
    yield {"type": "response.completed", "response": response_whole(answer)}


def response_events(answer: Answer) -> Iterator[Json]:
    for number, event in enumerate(_unnumbered_response_events(answer)):
        yield event | {"sequence_number": number}


# Anthropic, messages


def message_whole(answer: Answer) -> Json:
    block: Json = {"type": "text", "text": answer.text}
    if answer.tool:
        block = {"type": "tool_use", "id": f"toolu_{answer.id}", "name": answer.tool}
        block["input"] = answer.arguments
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [block],
        "stop_reason": "tool_use" if answer.tool else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": answer.asked, "output_tokens": answer.said},
    }


def message_events(answer: Answer) -> Iterator[Json]:
    whole = message_whole(answer)
    usage = {"input_tokens": answer.asked, "output_tokens": 1}
    begun = whole | {"content": [], "stop_reason": None, "usage": usage}
    yield {"type": "message_start", "message": begun}
    empty: Json = {"input": {}} if answer.tool else {"text": ""}
    block = whole["content"][0] | empty
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "ping"}
    kind, key = ("input_json_delta", "partial_json") if answer.tool else ("text_delta", "text")
    for piece in answer.pieces:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: piece}}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": answer.said}}
    yield {"type": "message_stop"}


# Gemini


def _generated(answer: Answer, part: Json, *, last: bool) -> Json:
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


def _gemini_call(answer: Answer) -> Json:
    return {
        "functionCall": {"id": f"call_{answer.id}", "name": answer.tool, "args": answer.arguments}
    }


def generate_whole(answer: Answer) -> Json:
    part = _gemini_call(answer) if answer.tool else {"text": answer.text}
    return _generated(answer, part, last=True)


def generate_events(answer: Answer) -> Iterator[Json]:
    if answer.tool:
        yield generate_whole(answer)
        return
    for word in answer.pieces:
        yield _generated(answer, {"text": word}, last=False)
    yield _generated(answer, {"text": ""}, last=True)
