"""Asking for a stream's usage: the client's request and its answer stay what they were."""

from __future__ import annotations

import json

import pytest
from answers import CHAT_USAGE, SAID, chunk, events
from hypothesis import given
from hypothesis import strategies as st

from llmauth.accounts.asking import MAX_HELD, PATHS_END, UsageFilter, ask

ASKED = {
    "nothing": (b'{"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
    "spaces": (
        b' {\r\n "stream" : true , "x": 1.0\n} ',
        b' {\r\n "stream_options":{"include_usage":true},"stream" : true , "x": 1.0\n} ',
    ),
    "null": (
        b'{"stream_options" : null, "stream": true}',
        b'{"stream_options" : {"include_usage":true}, "stream": true}',
    ),
    "empty": (
        b'{"stream":true,"stream_options":{ }}',
        b'{"stream":true,"stream_options":{ "include_usage":true}}',
    ),
    "other-options": (
        b'{"stream_options": {"include_obfuscation": false}, "stream": true}',
        b'{"stream_options": {"include_usage":true,"include_obfuscation": false}, "stream": true}',
    ),
    "untouched-rest": (
        '{"a": 1e400, "b": "\\u00e9 ü \\ud83d", "c": 10.00, "stream": true}'.encode(),
        '{"stream_options":{"include_usage":true},'
        '"a": 1e400, "b": "\\u00e9 ü \\ud83d", "c": 10.00, "stream": true}'.encode(),
    ),
    "said-elsewhere": (
        b'{"messages": [{"stream_options": {"include_usage": false}}], "stream": true}',
        b'{"stream_options":{"include_usage":true},'
        b'"messages": [{"stream_options": {"include_usage": false}}], "stream": true}',
    ),
    "escaped": (
        b'{"str\\u0065am": true}',
        b'{"stream_options":{"include_usage":true},"str\\u0065am": true}',
    ),
}

LEFT = {
    "false": b'{"stream": true, "stream_options": {"include_usage": false}}',
    "true": b'{"stream": true, "stream_options": {"include_usage": true}}',
    "null": b'{"stream": true, "stream_options": {"include_usage": null}}',
    "escaped": b'{"stream": true, "stream_opt\\u0069ons": {"include\\u005fusage": false}}',
    "no-stream": b'{"stream": false}',
    "not-true": b'{"stream": 1}',
    "text": b'{"stream": "true"}',
    "not-said": b'{"messages": []}',
    "elsewhere": b'{"messages": [{"stream": true}]}',
    "twice": b'{"stream": true, "stream": false}',
    "options-twice": b'{"stream": true, "stream_options": {}, "stream_options": null}',
    "option-twice": b'{"stream": true, "stream_options": {"a": 1, "a": 2}}',
    "no-options": b'{"stream": true, "stream_options": []}',
    "array": b'[{"stream": true}]',
    "cut": b'{"stream": true',
    "no-json": b"stream=true",
    "empty": b"",
    "no-name": b'{1: 2, "stream": true}',
    "array-as-name": b'{[]: 2, "stream": true}',
    "latin-1": '{"stream": true, "a": "ü"}'.encode("latin-1"),
    "utf-16": '{"stream": true}'.encode("utf-16"),
    "deep": b'{"stream": true, "a": ' + b"[" * 200_000 + b"}",
    "long-number": b'{"stream": true, "a": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize(("body", "asked"), ASKED.values(), ids=ASKED.keys())
def test_the_wish_is_added_where_the_client_left_it_open(body, asked):
    assert ask(body) == asked
    document = json.loads(asked)
    assert document.pop("stream_options")["include_usage"] is True
    assert ask(asked) is None


@pytest.mark.parametrize("body", LEFT.values(), ids=LEFT.keys())
def test_a_body_is_left_alone_otherwise(body):
    assert ask(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from([None, 1]), st.booleans())
def test_any_other_member_stays_as_it_is(document, indent, escaped):
    document |= {"stream": True}
    document.pop("stream_options", None)
    text = json.dumps(document, indent=indent, ensure_ascii=escaped)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    asked = ask(body)
    assert asked.replace(b'"stream_options":{"include_usage":true},', b"", 1) == body
    assert json.loads(asked) == document | {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        ("/v1/chat/completions", True),
        ("/v1/completions", True),
        ("/openai/deployments/d/chat/completions", True),
        ("/v1/responses", False),
        ("/v1/chat/completions/x", False),
        ("/v1/messages", False),
    ],
)
def test_it_is_asked_for_where_it_can_be(path, asks):
    assert path.endswith(PATHS_END) is asks


# The chunk is taken out.

USAGE = {"id": "c", "choices": [], "usage": CHAT_USAGE}
CONTENT = [chunk("", usage=None), chunk(SAID, usage=None)]
OUT = events(USAGE)
DONE = events("[DONE]")


def ended(stream: bytes, end: str) -> bytes:
    return stream.replace(b"\n", end.encode())


STREAMS = {
    "openai": (events(*CONTENT), OUT, DONE),
    "first": (b"", OUT, DONE),
    "last": (events(*CONTENT), OUT, b""),
    "alone": (b"", OUT, b""),
    "no-choices": (events(*CONTENT), events({"usage": CHAT_USAGE}), DONE),
    "null-choices": (events(*CONTENT), events({"usage": CHAT_USAGE, "choices": None}), DONE),
    "usage-first": (events(*CONTENT), events({"usage": {}, "choices": []}), DONE),
    "twice": (events(*CONTENT), OUT + OUT, DONE),
    "comments": (b": a\n\n: b\n" + events(*CONTENT) + b": c\n", OUT, b": d\n\n" + DONE),
    "no-space": (events(*CONTENT), OUT.replace(b"data: ", b"data:"), DONE),
    "lines": (events(*CONTENT, pretty=True), events(USAGE, pretty=True), DONE),
    "unended-line": (events(*CONTENT), OUT[:-2], b""),
    "unended-event": (events(*CONTENT), OUT[:-1], b""),
    "three-ends": (events(*CONTENT) + b"\n\n", OUT, b"\n" + DONE),
    "bom": (b"\xef\xbb\xbf" + events(*CONTENT), OUT, DONE),
    "azure": (
        events({"choices": [], "prompt_filter_results": [{"a": {}}], "usage": None}, *CONTENT),
        OUT,
        DONE,
    ),
    "after-name": (events(*CONTENT) + b"event: x\nid: 1\n", OUT[:-1], b"\n" + DONE),
    "before-id": (events(*CONTENT), OUT[:-1], b"id: 1\n\n" + DONE),
    "event-after": (events(*CONTENT), OUT, b"event: error\ndata: {}\n\n"),
}

KEPT = {
    "usage-in-content": events(chunk("a", usage=CHAT_USAGE), "[DONE]"),
    "usage-null": events(USAGE | {"usage": None}),
    "no-usage": events({"choices": []}),
    "usage-said": events(chunk('"usage": {"choices": []}')),
    "usage-nested": events({"choices": [], "x": {"usage": CHAT_USAGE}}),
    "usage-of-another-kind": events(USAGE | {"usage": 3}),
    "error": events({"error": {"message": "no"}}),
    "array": events(json.dumps([USAGE])),
    "no-json": b'data: {"choices": [], "usage": {"a": \n\n' + DONE,
    "long": events(USAGE | {"x": "x" * MAX_HELD}),
    "not-data": b"date: " + OUT[6:] + b"data\nda\ndata:\n\nid: 3\n\n",
    "comment": b": " + OUT,
    "second-line": b"data: x\n" + OUT,
    "lines-between": b"data: {\nid: 3\n" + OUT,
    "comment-between": b'data: {\n: x\ndata: "usage": {}}\n\n',
    "binary": bytes(range(256)) * 3,
    "json": json.dumps(USAGE).encode(),
}

ALL = {name: (one[0] + one[1] + one[2], one[0] + one[2]) for name, one in STREAMS.items()}
ALL |= {name: (stream, stream) for name, stream in KEPT.items()}
ALL = {
    f"{name}-{kind}": (ended(stream, end), ended(seen, end))
    for name, (stream, seen) in ALL.items()
    for kind, end in {"lf": "\n", "crlf": "\r\n", "cr": "\r"}.items()
    if kind == "lf" or name != "binary"
}
EVERY = pytest.mark.parametrize(("stream", "seen"), ALL.values(), ids=ALL.keys())


def filtered(pieces) -> bytes:
    usage = UsageFilter()
    return b"".join([usage.feed(piece) for piece in pieces]) + usage.end()


@EVERY
def test_the_client_sees_the_stream_without_the_chunk(stream, seen):
    assert filtered([stream]) == seen
    assert filtered(stream[at : at + 1] for at in range(len(stream))) == seen


@EVERY
def test_the_stream_may_be_cut_anywhere(stream, seen):
    for cut in range(0, len(stream), 1 if len(stream) < 2000 else 19):
        assert filtered([stream[:cut], stream[cut:]]) == seen


@given(st.sampled_from(list(ALL.values())), st.lists(st.integers(0, 200), max_size=40))
def test_the_stream_may_come_in_any_pieces(case, sizes):
    (rest, seen), pieces = case, []
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert filtered([*pieces, rest]) == seen


LINES = [b"data: {", b'"usage": {}', b'"choices": []', b"}", b": x", b"id: 1", b"data: {}", b", "]
PARTS = st.sampled_from([*LINES, b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", OUT, DONE, b"data: "])


@given(st.lists(PARTS, max_size=25), st.lists(st.integers(0, 30), max_size=20))
def test_what_is_taken_out_does_not_depend_on_the_pieces(parts, sizes):
    rest = b"".join(parts)
    whole, pieces = filtered([rest]), []
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert filtered([*pieces, rest]) == whole


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_event_leaves_when_it_is_there(end):
    """No event waits for the next one, and no bytes but an event's that may be the usage."""
    usage = UsageFilter()
    for one in [*CONTENT, {"error": {}}, "[DONE]"]:
        data = ended(events(one), end)
        assert usage.feed(data) == data
    for comment in (b": ping", ended(b"\n\n", end), b"event: x", ended(b"\n", end), b"id: 1"):
        assert usage.feed(comment) == comment


def test_a_line_is_held_back_only_while_it_may_be_the_usage():
    usage = UsageFilter()
    assert usage.feed(b'data: {"id": "c", "choices": [') == b""
    assert usage.feed(b'{"delta"') == b'data: {"id": "c", "choices": [{"delta"'
    assert usage.feed(b': "x') == b': "x'
    assert usage.feed(b'"}]}\n') == b'"}]}\n'
    assert usage.feed(b"\n") == b"\n"
    assert usage.feed(b"data: [") == b"data: ["
    assert usage.feed(b"DONE]\n\n") == b"DONE]\n\n"
    assert usage.feed(b'data: {"x": "' + b"x" * MAX_HELD).endswith(b"xxx")


def test_what_is_held_when_a_stream_breaks_off_is_sent():
    usage = UsageFilter()
    assert (usage.feed(OUT[:30]), usage.end()) == (b"", OUT[:30])
    usage = UsageFilter()
    assert (usage.feed(OUT[:-2]), usage.end()) == (b"", b"")
