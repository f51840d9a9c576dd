"""What an answer says it used: of every API, whatever the pieces, the coding, and what is lost."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from dataclasses import replace

import pytest
from answers import (
    ANSWERS,
    CHAT,
    CODINGS,
    SAID,
    chunk,
    dumps,
    events,
    message_stream,
    response_stream,
)
from hypothesis import given
from hypothesis import strategies as st

from llmauth.accounts.meter import BATCH, Meter
from llmauth.accounts.usage import HEAD, TAIL, Usage, estimate_output, read_usage

EVERY = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())


def metered(answer, pieces, encoding="", complete=True, **settings):
    meter = Meter(answer.path, answer.content_type, encoding, **settings)
    for piece in pieces:
        meter.feed(piece)
    return meter.usage(complete=complete)


def assert_true_or_none(name: str, usage: Usage) -> None:
    """Streams of some say their figures several times, cumulative: those may be lower."""
    grows = name.startswith(("messages-", "gemini-"))
    for field, true in ANSWERS[name].usage._asdict().items():
        said = getattr(usage, field)
        assert said in (true, None) or (grows and 0 < said < true), field


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@EVERY
@pytest.mark.parametrize("coding", ["", *CODINGS])
def test_figures_are_those_of_the_answer(answer, coding):
    data = CODINGS[coding](answer.body) if coding else answer.body
    assert metered(answer, [data], coding) == answer.usage
    assert metered(answer, bytewise(data), coding) == answer.usage


@EVERY
def test_gzip_cut_after_every_byte_says_the_same(answer):
    data = CODINGS["gzip"](answer.body)
    for cut in range(0, len(data), 3):
        assert metered(answer, [data[:cut], data[cut:]], "gzip") == answer.usage


@given(
    st.sampled_from(list(ANSWERS.values())),
    st.lists(st.integers(1, 4000), max_size=30),
    st.sampled_from(["", "gzip", "br"]),
)
def test_figures_are_the_same_in_any_pieces(answer, sizes, coding):
    data = CODINGS[coding](answer.body) if coding else answer.body
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    assert metered(answer, [*pieces, data], coding) == answer.usage


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_breaks_off_says_the_truth_or_nothing(name):
    answer = ANSWERS[name]
    for end in range(len(answer.body)):
        assert_true_or_none(name, metered(answer, [answer.body[:end]], complete=False))


def test_messages_cut_before_their_end_say_their_input_and_no_output():
    """What message_start counts is the first word of the answer."""
    body = message_stream({"output_tokens": 550})
    cut = body[: body.index(b"event: message_delta")]
    usage = read_usage(b"", cut, path="/v1/messages", complete=False)
    assert (usage.input_tokens, usage.output_tokens) == (12314, None)


# What is lost of a long answer.


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "messages-zero-later"])
def test_no_part_that_is_lost_changes_a_figure(name):
    """The tail begins anywhere, also in a text that says what a usage looks like."""
    answer = ANSWERS[name]
    kind = {"path": answer.path, "content_type": answer.content_type}
    for lost in range(1, len(answer.body)):
        assert_true_or_none(name, read_usage(answer.body[:1], answer.body[lost:], **kind))


@pytest.mark.parametrize("name", ["messages", "responses", "chat", "ollama-chat", "gemini"])
def test_neither_end_of_an_answer_that_breaks_off_is_believed_in(name):
    """Who leaves just after a model repeated figures would else write the bill."""
    answer = ANSWERS[name]
    for lost in range(1, len(answer.body), 7):
        for end in range(lost, len(answer.body), 5):
            tail = answer.body[lost:end]
            usage = read_usage(answer.body[:1], tail, path=answer.path, complete=False)
            assert usage == Usage(model=usage.model)


def test_neither_is_that_of_an_event():
    event = ANSWERS["gemini-stream"].body.partition(b"\r\n\r\n")[0]
    path = ANSWERS["gemini-stream"].path
    for lost in range(7, len(event)):
        for end in range(lost, len(event), 3):
            usage = read_usage(event[:7], event[lost:end], path=path, complete=False)
            assert usage == Usage()


CUT = ['"', '"a, b', '"}, {', '"\\\\", "\\"', '["a", "b", {"c', "{", "[1, "]


@pytest.mark.parametrize("text", CUT)
def test_what_stands_before_the_cut_is_read(text):
    head = b'{"model": "m", "usage": {"prompt_tokens": 5}, "choices": ' + text.encode()
    usage = read_usage(head, b"", path="/v1/chat/completions", complete=False)
    assert usage == Usage(5, model="m")


SAYING = b"{[\\\"usage\\\": {}, "  # within a text

LONG = {
    "chat": ("chat", b'"content": "', SAYING),
    "messages": ("messages", b'"text": "', SAYING),
    "messages-arguments": ("messages", b'"input": {', b'"usage": {"output_tokens": 1}, '),
    "images": ("images", b'"b64_json": "', b"QUJD"),
    "embeddings": ("embeddings", b'"embedding": [', b"-0.123, "),
    "gemini": ("gemini", b'"parts": [{"text": "', SAYING),
    "gemini-one-of-array": ("gemini-array", b'"text": "Gr', SAYING),
    "ollama": ("ollama-chat", b'"context": [', b"128000, "),
    "ollama-line": ("ollama-stream", b'"context": [', b"128000, "),
    "responses": ("responses", b'"output_text", "text": "', SAYING),
    "responses-event": ("responses-stream", b'"output_text", "text": "', SAYING),
    "images-event": ("images-stream", b'completed", "b64_json": "', b"QUJD"),
    "chat-stream": ("chat-stream", b'"content": "Gr', SAYING),
    "messages-stream": ("messages-stream", b'text_delta", "text": "', SAYING),
    "transcription-stream": ("transcription-stream", b'"text": "', SAYING),
}


@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize(("name", "mark", "more"), LONG.values(), ids=LONG.keys())
def test_a_long_answer_says_the_same(name, mark, more, coding):
    """A megabyte in one document or one event, of which the beginning and the end are kept."""
    answer = ANSWERS[name]
    before, found, after = answer.body.partition(mark)
    assert found
    body = before + mark + more * (2**20 // len(more)) + after
    data = CODINGS[coding](body) if coding else body
    usage = metered(
        answer, [data[at : at + 16_000] for at in range(0, len(data), 16_000)], coding
    )
    assert usage == answer.usage._replace(model=usage.model)
    assert usage.model == answer.usage.model or name == "chat"


def test_an_event_longer_than_the_tail_is_read_from_its_end():
    body = response_stream("completed").replace(SAID.encode()[:5], b"x" * 3 * TAIL)
    assert metered(ANSWERS["responses"], [body]) == ANSWERS["responses"].usage


def test_what_is_kept_is_bounded():
    """Both ends, and never more than a batch of what is to be decoded."""
    meter = Meter("/v1/images/generations")
    for _ in range(100):
        meter.feed(b"x" * 50_000)
        assert sum(map(len, meter._ends())) <= HEAD + TAIL + 16 * 1024


def test_an_answer_in_tiny_pieces_takes_no_more_memory():
    meter = Meter(CHAT)
    tracemalloc.start()
    for number in range(60_000):
        meter.feed(b"%02d" % (number % 100))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used < 3 * TAIL
    assert meter._ends()[1].endswith(b"9899")


# Compressed answers are decoded elsewhere, in batches.


NOISE = random.Random(1).randbytes(200_000).hex().encode()
LARGE = replace(ANSWERS["images"], body=ANSWERS["images"].body.replace(b"QUJD" * 40, NOISE))


def test_compressed_bytes_are_handed_over_in_batches_and_decoded_in_their_order():
    queue: list[Meter] = []
    meter = Meter(LARGE.path, LARGE.content_type, "gzip", lambda one: queue.append(one) or True)
    data = CODINGS["gzip"](LARGE.body)
    for start in range(0, len(data), 1000):
        meter.feed(data[start : start + 1000])
    assert queue == [meter] * (len(data) // (BATCH + 1000))
    for one in queue:
        one.decode()
    assert meter.usage(complete=True) == LARGE.usage


@pytest.mark.parametrize("taken", [[False], [True, False], [True, True, False, True]])
def test_batches_that_are_not_taken_are_decoded_where_they_come(taken):
    """Measured before: 43 of 501 answers of 100 KB, in a second, were not read."""
    answers = itertools.cycle(taken)
    meter = Meter(LARGE.path, LARGE.content_type, "gzip", lambda _: next(answers))
    data = CODINGS["gzip"](LARGE.body)
    for start in range(0, len(data), 1000):
        meter.feed(data[start : start + 1000])
    assert meter.usage(complete=True) == LARGE.usage


@pytest.mark.parametrize("encoding", ["compress", "gzip, dcb", "gzip, gzip, gzip, gzip, gzip"])
def test_what_cannot_be_decoded_is_unknown(encoding):
    answer = ANSWERS["chat"]
    meter = Meter(answer.path, answer.content_type, encoding, lambda *_: pytest.fail("kept"))
    meter.feed(b"x" * 2 * BATCH)
    assert (meter.usage(complete=True), meter.estimate()) == (Usage(), None)


def test_what_is_no_gzip_is_unknown():
    answer = ANSWERS["chat"]
    assert metered(answer, [answer.body], "gzip") == Usage()


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_plain_answer_is_kept_as_it_comes(encoding):
    assert metered(ANSWERS["chat"], [ANSWERS["chat"].body], encoding) == ANSWERS["chat"].usage


# Hostile and odd figures.


@pytest.mark.parametrize(
    "number", ["-1", "1e400", "NaN", "true", '"7"', "null", "[7]", "9007199254740992", "1" * 5000]
)
def test_what_is_no_number_of_tokens_is_not_said(number):
    body = b'{"usage": {"prompt_tokens": 3, "completion_tokens": %b}}' % number.encode()
    usage = read_usage(b"", body, path="/v1/chat/completions")
    assert usage.output_tokens is None
    assert usage.input_tokens in (3, None)


@pytest.mark.parametrize(
    "body",
    [b"[" * 70_000, b'{"a":' * 14_000, b'"' * 70_000, b"\\" * 70_000, b"data: " + b"[" * 70_000],
    ids=["arrays", "objects", "quotes", "escapes", "event"],
)
@pytest.mark.parametrize("begins", [b"", b"{", b"data: {"])
def test_no_answer_stops_the_reader(body, begins):
    usage = metered(replace(ANSWERS["chat"], body=b""), [begins + body])
    assert usage == Usage()
    assert read_usage(b"{", body, path="/") == Usage()


# Estimates, where an answer broke off.


SPEECH = "Ein Text von etwas Länge. " * 16  # 432 bytes

SPOKEN = {
    "chat": ("/v1/chat/completions", events(chunk(SPEECH, usage=None))),
    "reasoning": (
        "/v1/chat/completions",
        events({"choices": [{"delta": {"reasoning_content": SPEECH, "content": None}}]}),
    ),
    "reasoning-twice": (
        "/v1/chat/completions",
        events({"choices": [{"delta": {"reasoning": SPEECH, "reasoning_details": [SPEECH]}}]}),
    ),
    "tool": (
        "/v1/chat/completions",
        events({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": SPEECH}}]}}]}),
    ),
    "responses": (
        "/v1/responses",
        events(
            {"type": "response.output_text.delta", "delta": SPEECH},
            {"type": "response.output_text.done", "text": SPEECH},
        ),
    ),
    "messages": (
        "/v1/messages",
        events(
            {"type": "message_start", "message": {"model": "m", "content": []}},
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": SPEECH}},
        ),
    ),
    "gemini": (
        "/v1beta/models/m:streamGenerateContent",
        events({"candidates": [{"content": {"parts": [{"text": SPEECH}]}}]}),
    ),
    "gemini-array": (
        "/v1beta/models/m:streamGenerateContent",
        b"[" + dumps({"candidates": [{"content": {"parts": [{"text": SPEECH}]}}]}).encode() + b",",
    ),
    "ollama": (
        "/api/generate",
        dumps({"model": "m", "response": SPEECH, "done": False}).encode() + b"\n",
    ),
}


@pytest.mark.parametrize(("path", "body"), SPOKEN.values(), ids=SPOKEN.keys())
def test_what_came_of_a_stream_is_estimated_by_its_texts(path, body):
    assert estimate_output(b"", body, len(body), path=path) == 108


def test_the_middle_that_is_lost_is_estimated_like_the_rest():
    meter = Meter("/v1/chat/completions", "text/event-stream")
    for _ in range(1000):
        meter.feed(events(chunk(SPEECH)))
    assert meter.estimate() == pytest.approx(108_000, rel=0.02)


def test_of_a_document_that_is_cut_every_byte_counts():
    body = ANSWERS["messages"].body
    assert estimate_output(b"", body[:120], 120, path="/v1/messages") == 30


@pytest.mark.parametrize("name", ["images", "images-stream", "speech", "embeddings", "empty"])
def test_what_is_no_text_is_not_estimated(name):
    answer = ANSWERS[name]
    assert estimate_output(b"", answer.body, len(answer.body), path=answer.path) is None


def test_figures_have_no_zero_where_nothing_was_said():
    assert Usage() == (None,) * 7
    assert (Usage().is_known, Usage(0).is_known, Usage(model="m").is_known) == (False, True, False)


# What breaks off, and what a client could make of it.


def array_of_gemini(number: int, size: int) -> bytes:
    """Return a stream of Gemini's without SSE, whose figures grow."""
    elements = "\n,\r\n".join(
        dumps({
            "candidates": [{"content": {"parts": [{"text": "word " * (size // 5)}]}}],
            "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 700 * each},
        })
        for each in range(1, number + 1)
    )  # fmt: skip
    return f"[{elements}]".encode()


GEMINI = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"


def test_the_first_figures_of_an_array_that_breaks_off_are_not_the_last_word():
    body = array_of_gemini(40, 3000)
    meter = Meter(GEMINI, "application/json")
    meter.feed(body)
    assert meter.usage(complete=True).output_tokens == 28_000
    meter = Meter(GEMINI, "application/json")
    meter.feed(body[:100_000])
    assert meter.usage(complete=False) == Usage(input_tokens=10)
    # 100,000 bytes, nearly all of them text; a part of an element counts nothing.
    assert 18_000 < meter.estimate() < 25_000


def test_a_stream_of_lines_that_breaks_off_is_estimated_by_all_that_came():
    body = "\n".join([dumps({"response": "word " * 100})] * 300).encode()
    meter = Meter("/api/generate", "application/x-ndjson")
    meter.feed(body)
    assert 35_000 < meter.estimate() < 38_000


def test_thoughts_alone_are_the_answer_only_when_it_is_whole():
    body = events({"usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 7}})
    said = {"path": GEMINI, "content_type": "text/event-stream"}
    assert read_usage(b"", body, **said).output_tokens == 7
    cut = read_usage(b"", body, complete=False, **said)
    assert (cut.output_tokens, cut.reasoning_tokens) == (None, 7)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_events_that_are_streams_of_their_own_are_all_read(coding):
    answer = ANSWERS["messages-stream"]
    each = [event + b"\n\n" for event in answer.body.split(b"\n\n") if event]
    data = b"".join(map(CODINGS[coding], each))
    assert metered(answer, [data], coding) == answer.usage
    assert metered(answer, bytewise(data), coding) == answer.usage


def test_what_is_decoded_in_part_is_not_taken_for_all():
    answer = replace(ANSWERS["gemini-array"], body=array_of_gemini(40, 3000))
    data = bytearray(CODINGS["gzip"](answer.body))
    assert metered(answer, [bytes(data)], "gzip").output_tokens == 28_000
    assert metered(answer, [bytes(data[:-8])], "gzip").output_tokens is None
    data[-300:-50] = b"\0" * 250
    assert metered(answer, [bytes(data)], "gzip") == Usage()


DICTATED = b'{"usage": {"prompt_tokens": 0, "completion_tokens": 0}, "model": "spoofed"}'


@pytest.mark.parametrize("kind", ["text/plain", "", "text/vtt; charset=utf-8", "application/x-srt"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/audio/transcriptions", "/v1/%61udio/transcriptions", "/v1/Audio/transcriptions",
        "/v1/audio%2Ftranscriptions", "/inference", "/foo", "/v1/audio/translations",
        "/v1/completions/../audio/transcriptions",
    ],
)  # fmt: skip
def test_a_text_does_not_write_the_bill_whatever_its_path(path, kind):
    assert read_usage(b"", DICTATED, path=path, content_type=kind) == Usage()
    said = read_usage(b"", DICTATED, path=path, content_type="application/json")
    assert said.model == "spoofed"


@EVERY
def test_answers_that_are_always_json_may_have_any_type(answer):
    usage = read_usage(b"", answer.body, path=answer.path, content_type="text/plain")
    assert usage == (Usage() if "/audio/" in answer.path else answer.usage)


def test_empty_lines_before_an_answer_are_no_part_of_it():
    answer = ANSWERS["chat"]
    large = b"\n" * 3 * TAIL + answer.body
    assert metered(answer, [large[:5000], large[5000:]]) == answer.usage
    assert metered(answer, bytewise(b"\r\n\n" + answer.body)) == answer.usage


def test_moonshots_streams_tell_it_in_a_choice():
    usage = {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]}
    body = events({"choices": [{"delta": {"content": SAID}}]}, last, "[DONE]")
    found = read_usage(b"", body, path=CHAT, content_type="text/event-stream")
    assert (found.input_tokens, found.output_tokens) == (19, 21)


def test_details_do_not_overrule_the_figures_themselves():
    usage = {
        "prompt_tokens": 10, "cost": 0.5, "cost_details": {"cost": 55},
        "completion_tokens_details": {"total_tokens": 999, "reasoning_tokens": 3},
        "completion_tokens": 50, "total_tokens": 60,
    }  # fmt: skip
    body = dumps({"usage": usage}).encode()
    found = read_usage(b"", body, path=CHAT, content_type="application/json")
    assert (found.output_tokens, found.cost_usd, found.reasoning_tokens) == (50, 0.5, 3)


def test_what_was_counted_before_is_not_counted_again():
    whole = Usage(100, 80, None, 200, 50, None, "m")
    assert whole.without(Usage()) == whole
    assert whole.without(Usage(input_tokens=30, output_tokens=180)) == Usage(
        70, 70, None, 20, 20, None, "m"
    )
    assert whole.without(Usage(input_tokens=300, output_tokens=300))[:5] == (0, 0, None, 0, 0)
