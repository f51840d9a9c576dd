"""The echo backend answers as each provider does, whole and in streams."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from echoes import (
    CHAT,
    GENERATE,
    MESSAGES,
    RESPONSES,
    STREAM,
    ask,
    events,
    text_of_chat,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st

WORDS = "two  words\nof ünïcode 🙂"
SAID = f"echo: {WORDS}"
ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": WORDS}]
CONTENTS = [{"role": "user", "parts": [{"text": WORDS}]}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "days": {"type": "integer"},
        "where": {"type": "object", "properties": {"sure": {"type": "boolean"}}},
        "tags": {"type": "array"},
    },
}
ARGUMENTS = {"city": "city", "unit": "C", "days": 1, "where": {"sure": True}, "tags": []}


def test_chat_completions_stream_the_whole_answer():
    body = {"model": "m", "messages": ASKED}
    answer = whole(CHAT, body)
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (SAID, "stop")
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(CHAT, streamed, done=True)
    assert text_of_chat(chunks) == SAID
    assert [c["choices"][0]["finish_reason"] for c in chunks[-2:]] == [None, "stop"]
    assert (last["choices"], last["usage"]) == ([], answer["usage"])
    assert {c["model"] for c in chunks} == {"m"}


def test_chat_completions_tell_no_usage_unasked():
    chunks = events(CHAT, {"messages": ASKED, "stream": True}, done=True)
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("given", [WORDS, ASKED], ids=["text", "messages"])
def test_responses_stream_the_whole_answer(given):
    answer = whole(RESPONSES, {"input": given})
    assert answer["output"][0]["content"][0]["text"] == SAID
    streamed = events(RESPONSES, {"input": given, "stream": True})
    deltas = [e["delta"] for e in streamed if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == SAID
    assert [e["sequence_number"] for e in streamed] == list(range(len(streamed)))
    assert streamed[0]["type"] == "response.created"
    assert streamed[-1]["type"] == "response.completed"
    (item,) = streamed[-1]["response"]["output"]
    assert item["content"] == answer["output"][0]["content"]


def test_messages_stream_the_whole_answer():
    answer = whole(MESSAGES, {"messages": ASKED})
    assert answer["content"] == [{"type": "text", "text": SAID}]
    streamed = events(MESSAGES, {"messages": ASKED, "stream": True})
    kinds = [e["type"] for e in streamed if e["type"] not in ("ping", "content_block_delta")]
    assert kinds == [
        "message_start", "content_block_start", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    deltas = [e["delta"]["text"] for e in streamed if e["type"] == "content_block_delta"]
    assert "".join(deltas) == SAID
    assert streamed[-2]["delta"]["stop_reason"] == answer["stop_reason"] == "end_turn"
    assert streamed[-2]["usage"]["output_tokens"] == answer["usage"]["output_tokens"]


@pytest.mark.parametrize("query", ["alt=sse", ""], ids=["events", "array"])
def test_gemini_streams_the_whole_answer(query):
    answer = whole(GENERATE, {"contents": CONTENTS})
    assert answer["candidates"][0]["content"]["parts"] == [{"text": SAID}]
    if query:
        chunks = events(STREAM, {"contents": CONTENTS}, query=query)
    else:
        chunks = whole(STREAM, {"contents": CONTENTS})
    parts = [c["candidates"][0]["content"]["parts"][0]["text"] for c in chunks]
    assert "".join(parts) == SAID
    assert ["finishReason" in c["candidates"][0] for c in chunks] == [False] * (len(chunks) - 1) + [
        True
    ]
    assert chunks[-1]["usageMetadata"] == answer["usageMetadata"]


@given(st.text())
def test_any_words_come_back_whole_and_streamed(words):
    body = {"messages": [{"role": "user", "content": words}]}
    assert whole(CHAT, body)["choices"][0]["message"]["content"] == f"echo: {words}"
    chunks = events(CHAT, body | {"stream": True}, done=True)
    assert text_of_chat(chunks) == f"echo: {words}"


# Tools

OPENAI_TOOLS = {"tools": [{"type": "function", "function": {"name": "t", "parameters": SCHEMA}}]}
RESPONSES_TOOLS = {"tools": [{"type": "function", "name": "t", "parameters": SCHEMA}]}
ANTHROPIC_TOOLS = {"tools": [{"name": "t", "input_schema": SCHEMA}]}
GEMINI_TOOLS = {"tools": [{"functionDeclarations": [{"name": "t", "parameters": SCHEMA}]}]}


def test_chat_completions_call_a_tool():
    body = {"messages": ASKED} | OPENAI_TOOLS
    choice = whole(CHAT, body)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], choice["finish_reason"]) == ("t", "tool_calls")
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS
    chunks = events(CHAT, body | {"stream": True}, done=True)
    calls = [one for c in chunks for one in c["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "t"
    assert calls[0]["id"].startswith("call_")
    streamed = "".join(one["function"]["arguments"] for one in calls)
    assert streamed == call["function"]["arguments"]


def test_responses_call_a_tool():
    body = {"input": WORDS} | RESPONSES_TOOLS
    (item,) = whole(RESPONSES, body)["output"]
    assert (item["type"], item["name"]) == ("function_call", "t")
    assert json.loads(item["arguments"]) == ARGUMENTS
    streamed = events(RESPONSES, body | {"stream": True})
    name = "response.function_call_arguments"
    deltas = [e["delta"] for e in streamed if e["type"] == f"{name}.delta"]
    (done,) = [e["arguments"] for e in streamed if e["type"] == f"{name}.done"]
    assert "".join(deltas) == done == item["arguments"]


def test_messages_call_a_tool():
    body = {"messages": ASKED} | ANTHROPIC_TOOLS
    answer = whole(MESSAGES, body)
    (block,) = answer["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "t", ARGUMENTS)
    assert answer["stop_reason"] == "tool_use"
    streamed = events(MESSAGES, body | {"stream": True})
    deltas = [e["delta"]["partial_json"] for e in streamed if e["type"] == "content_block_delta"]
    assert json.loads("".join(deltas)) == ARGUMENTS


def test_gemini_calls_a_tool():
    body = {"contents": CONTENTS} | GEMINI_TOOLS
    (part,) = whole(GENERATE, body)["candidates"][0]["content"]["parts"]
    assert (part["functionCall"]["name"], part["functionCall"]["args"]) == ("t", ARGUMENTS)
    (chunk,) = events(STREAM, body, query="alt=sse")
    assert chunk["candidates"][0]["content"]["parts"] == [part]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": ASKED, "tool_choice": "none"} | OPENAI_TOOLS),
        (CHAT, {"messages": [*ASKED, {"role": "tool", "content": "42"}]} | OPENAI_TOOLS),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "42"}]}]}
            | ANTHROPIC_TOOLS,
        ),
        (CHAT, {"messages": ASKED, "tools": [1]}),
    ],
    ids=["not-wanted", "result-openai", "result-anthropic", "no-tool"],
)
def test_no_tool_is_called_after_its_result_or_unwanted(path, body):
    answer = json.dumps(whole(path, body))
    assert "echo: " in answer
    assert "tool_calls" not in answer
    assert "tool_use" not in answer


# Whole answers only


def test_tokens_are_counted_by_words():
    words = len(WORDS.split())
    assert whole(f"{MESSAGES}/count_tokens", {"messages": ASKED}) == {"input_tokens": words}
    count = "/v1beta/models/m:countTokens"
    assert whole(count, {"contents": CONTENTS}) == {"totalTokens": words}


def test_embeddings_depend_on_the_text_alone_and_agree_in_both_encodings():
    body = {"input": ["a", "b", "a"]}
    a, b, again = (e["embedding"] for e in whole("/v1/embeddings", body)["data"])
    assert a == again != b
    encoded = whole("/v1/embeddings", body | {"encoding_format": "base64"})["data"][0]
    assert struct.unpack(f"<{len(a)}f", base64.b64decode(encoded["embedding"])) == pytest.approx(a)
    tokens = whole("/v1/embeddings", {"input": [1, 2, 3]})
    assert len(tokens["data"]) == 1


def test_gemini_embeddings():
    one = {"content": {"parts": [{"text": "a"}]}}
    single = whole("/v1beta/models/m:embedContent", one)["embedding"]
    batch = whole("/v1beta/models/m:batchEmbedContents", {"requests": [one, {}]})["embeddings"]
    assert batch[0] == single != batch[1]


@pytest.mark.parametrize(
    ("path", "headers", "listed", "key"),
    [
        ("/v1/models", {}, "data", "id"),
        ("/models", {}, "data", "id"),
        ("/v1/models", {"anthropic-version": "1"}, "data", "id"),
        ("/v1beta/models", {}, "models", "name"),
    ],
    ids=["openai", "no-version", "anthropic", "gemini"],
)
def test_models_are_listed_and_found(path, headers, listed, key):
    models = whole(path, method="GET", headers=headers)[listed]
    assert [m[key].removeprefix("models/") for m in models] == ["echo-1", "echo-1-mini"]
    assert whole(f"{path}/echo-1", method="GET", headers=headers) == models[0]


# Errors


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", CHAT, b"", 400, "invalid_request_error"),
        ("POST", CHAT, b"\xff", 400, "invalid_request_error"),
        ("POST", CHAT, [], 400, "invalid_request_error"),
        ("POST", CHAT, {}, 400, "invalid_request_error"),
        ("POST", CHAT, {"messages": []}, 400, "invalid_request_error"),
        ("POST", CHAT, {"messages": "hi"}, 400, "invalid_request_error"),
        ("POST", MESSAGES, {"messages": None}, 400, "invalid_request_error"),
        ("POST", GENERATE, {}, 400, "invalid_request_error"),
        ("POST", "/v1/files", b"x", 404, "not_found_error"),
        ("POST", "/v1/completions", {"prompt": WORDS}, 404, "not_found_error"),
        ("GET", CHAT, None, 405, "invalid_request_error"),
        ("DELETE", MESSAGES, None, 405, "invalid_request_error"),
        ("GET", "/v1/responses", None, 405, "invalid_request_error"),
        ("GET", "/v1/nothing", None, 404, "not_found_error"),
        ("POST", "/", {}, 404, "not_found_error"),
        ("GET", "/v1/models/nothing", None, 404, "not_found_error"),
        ("POST", "/v1beta/models/m:nothing", {"contents": "hi"}, 404, "not_found_error"),
        ("POST", "/v1/chat/completions/", {"messages": ASKED}, 404, "not_found_error"),
    ],
)
def test_errors_have_the_one_body(method, path, body, status, kind):
    answered, content_type, content = ask(path, body, method=method)
    assert (answered, content_type) == (status, "application/json")
    said = json.loads(content)
    assert (said["type"], said["error"]["type"]) == ("error", kind)
    assert said["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": ASKED, "stream": True, "stream_options": "x"}),
        (CHAT, {"messages": ASKED, "stream": True, "stream_options": [1]}),
        (CHAT, b"[" * 200_000),
    ],
    ids=["text-for-options", "list-for-options", "nested"],
)
def test_what_makes_no_sense_is_the_clients_error(path, body):
    assert ask(path, body)[0] == 400


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + b"1" + closing * depth


DEEP = [
    nested(900),
    nested(200_000),
    nested(900, b'{"a":', b"}"),
    nested(200_000, b'{"content":', b"}"),
    nested(900, b'[{"parts":', b"}]"),
    b"[" * 900,
]
ROUTES = [
    (CHAT, b'{"messages": [{"role": "user", "content": %b}]}'),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "tools": [%b]}'),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "stream": true, "tools": ['
     b'{"function": {"name": "f", "parameters": {"properties": {"a": {"enum": [%b]}}}}}]}'),
    (RESPONSES, b'{"input": %b, "stream": true}'),
    (MESSAGES, b'{"messages": [%b]}'),
    (f"{MESSAGES}/count_tokens", b'{"messages": [{"content": %b}]}'),
    (GENERATE, b'{"contents": %b}'),
    (STREAM, b'{"contents": [{"parts": %b}]}'),
    ("/v1beta/models/m:embedContent", b'{"content": %b}'),
    ("/v1beta/models/m:batchEmbedContents", b'{"requests": [%b]}'),
    ("/v1/embeddings", b'{"input": %b}'),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "unknown": %b}'),
]  # fmt: skip


@pytest.mark.parametrize("deep", DEEP, ids=lambda deep: f"{deep[:10]!r} {len(deep)}")
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {len(route[1])}")
def test_what_is_nested_too_deeply_is_the_clients_error(route, deep):
    status, _, content = ask(route[0], route[1] % deep)
    assert status == 400
    assert "request body" in json.loads(content)["error"]["message"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {len(route[1])}")
def test_what_clients_nest_is_answered(route):
    assert ask(route[0], route[1] % nested(80))[0] in (200, 400)
    depth = nested(80, b'[{"content":', b"}]")
    assert "within each other" in json.loads(ask(route[0], route[1] % depth)[2])["error"]["message"]


@pytest.mark.parametrize(
    "odd",
    [b"1" * 5000, b"-" + b"9" * 4400, b"NaN", b"-Infinity", b"1e999999", b"\xff", b"\xed\xa0\x80",
     b"\"\xc0\"", b"\0", b"01", b",", b"{", b"'x'"],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {len(route[1])}")
def test_what_is_no_json_is_the_clients_error(route, odd):
    assert ask(route[0], route[1] % odd)[0] == 400


@pytest.mark.parametrize("odd", [rb'"\ud800"', rb'{"\udfff": 1, "a": 1, "a": 2}', b"1e308", b"-0"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {len(route[1])}")
def test_what_is_odd_but_json_is_answered(route, odd):
    assert ask(route[0], route[1] % odd)[0] in (200, 400)


def test_no_client_gets_a_traceback(echo):
    body = ROUTES[0][1] % nested(900)
    reply = echo.request("POST", CHAT, {"Content-Type": "application/json"}, body)
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
FIELDS = (
    "messages", "input", "contents", "tools", "tool_choice", "model", "stream",
    "encoding_format", "requests", "stream_options", "content",
)  # fmt: skip
MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content", "parts", "type", "text", "output", "functionResponse"]),
    st.sampled_from(["user", "assistant", "tool_result"]) | JSON,
)
SCHEMA_LIKE = st.fixed_dictionaries(
    {}, optional={"type": JSON, "enum": JSON, "properties": st.dictionaries(st.text(), JSON) | JSON}
)
TOOL = st.fixed_dictionaries({}, optional={
    "name": JSON, "parameters": SCHEMA_LIKE | JSON, "input_schema": SCHEMA_LIKE | JSON,
    "functionDeclarations": st.lists(st.fixed_dictionaries({"name": JSON}) | JSON) | JSON,
    "function": st.fixed_dictionaries({"name": JSON, "parameters": SCHEMA_LIKE}) | JSON,
})  # fmt: skip


@given(
    st.sampled_from([CHAT, RESPONSES, MESSAGES, GENERATE, STREAM, "/v1/embeddings"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON),
)
def test_any_json_is_answered(path, body):
    assert ask(path, body)[0] in (200, 400)


@given(
    st.sampled_from([CHAT, RESPONSES, MESSAGES, f"{MESSAGES}/count_tokens", GENERATE, STREAM]),
    st.lists(MESSAGE | JSON, max_size=3),
    st.lists(TOOL | JSON, max_size=2),
    st.booleans(),
)
def test_any_messages_and_tools_are_answered_with_json(path, messages, tools, stream):
    body = {"tools": tools, "stream": stream}
    body |= dict.fromkeys(("messages", "input", "contents"), messages)
    status, kind, content = ask(path, body)
    assert status in (200, 400)
    if kind == "application/json":
        json.loads(content, parse_constant=pytest.fail)
