"""Anthropic's Messages API: ``/messages``, ``/messages/count_tokens``, and its list of models."""

from __future__ import annotations

from collections.abc import Iterator

from .question import MODELS, Answer, Json, Question, answer_to, nonempty_list, schema_of
from .reply import EchoReply, json_reply, named_events, stream_reply


def messages(question: Question) -> EchoReply:
    body = question.json()
    config = body.get("output_config")
    form = config.get("format") if isinstance(config, dict) else None
    schema = schema_of(form or body.get("output_format"))  # the latter in its beta
    answer = answer_to(body, nonempty_list(body, "messages"), schema=schema)
    if not body.get("stream"):
        return json_reply(_message(answer))
    return stream_reply(named_events(_events(answer)))


def count_tokens(question: Question) -> EchoReply:
    body = question.json()
    answer = answer_to(body, nonempty_list(body, "messages"))
    return json_reply({"input_tokens": answer.asked})


ROUTES = {"/messages": messages, "/messages/count_tokens": count_tokens}


def model(name: str) -> Json:
    created = "2026-01-01T00:00:00Z"
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


def model_list(models: list[Json]) -> Json:
    return {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}


def _message(answer: Answer) -> Json:
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


def _events(answer: Answer) -> Iterator[Json]:
    whole = _message(answer)
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
