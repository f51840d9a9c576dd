"""What each API answers, whole and streamed, and what it says it used."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass, replace

import brotli
import zstandard

from llmauth.accounts.usage import Usage

CODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "deflate, gzip": lambda data: gzip.compress(zlib.compress(data)),
}

SPOOF = {"usage": {"input_tokens": 0, "output_tokens": 0, "prompt_tokens": 0}, "eval_count": 0}
"""What a model can be made to say, as a text and in the arguments of a tool."""

SAID = f'Grüße, "{json.dumps(SPOOF)}", \\ and {{[,]}}'


@dataclass(frozen=True)
class Answer:
    """One answer of an API.

    :param usage: as it says
    """

    path: str
    content_type: str
    body: bytes
    usage: Usage


def dumps(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def events(*data, end: str = "\n", named: bool = False, pretty: bool = False) -> bytes:
    """Return server-sent events."""
    lines = []
    for one in data:
        if named:
            lines.append(f"event: {one['type']}")
        text = one if isinstance(one, str) else json.dumps(one, indent=1 if pretty else None)
        lines += [f"data: {line}" for line in text.split("\n")] + [""]
    return "".join(line + end for line in lines).encode()


def json_answer(path: str, value, usage: Usage) -> Answer:
    return Answer(path, "application/json", dumps(value).encode(), usage)


def stream_answer(path: str, body: bytes, usage: Usage) -> Answer:
    return Answer(path, "text/event-stream; charset=utf-8", body, usage)


CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.5-flash:"

CHAT_USAGE = {
    "prompt_tokens": 1117,
    "completion_tokens": 546,
    "total_tokens": 1663,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 320, "audio_tokens": 0},
}
CHAT_FIGURES = Usage(1117, 1024, None, 546, 320, None, "gpt-5-mini")

CHAT_CHUNK = {"id": "c", "object": "chat.completion.chunk", "model": "gpt-5-mini"}


def chunk(text: str, **more) -> dict:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return CHAT_CHUNK | {"choices": [choice]} | more


CHAT_CHUNKS = [
    chunk("", usage=None),
    chunk(SAID, usage=None),
    CHAT_CHUNK | {"choices": [], "usage": CHAT_USAGE},
    "[DONE]",
]

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "gpt-5-mini",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": SAID}]}],
    "tools": [{"type": "function", "parameters": {"properties": SPOOF}}],
    "usage": {
        "input_tokens": 328,
        "input_tokens_details": {"cached_tokens": 128},
        "output_tokens": 52,
        "output_tokens_details": {"reasoning_tokens": 30},
        "total_tokens": 380,
    },
    "user": None,
    "metadata": {"usage": '{"input_tokens": 0}'},
}
RESPONSE_FIGURES = Usage(328, 128, None, 52, 30, None, "gpt-5-mini")


def response_stream(kind: str) -> bytes:
    started = RESPONSE | {"usage": None, "output": [], "status": "in_progress"}
    return events(
        {"type": "response.created", "response": started},
        {"type": "response.output_text.delta", "delta": SAID},
        {"type": f"response.{kind}", "sequence_number": 3, "response": RESPONSE | {"status": kind}},
        named=True,
    )


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-3-7-sonnet-20250219",
    "content": [
        {"type": "text", "text": SAID},
        {"type": "tool_use", "id": "t", "name": "f", "input": SPOOF},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 3,
        "cache_creation_input_tokens": 12304,
        "cache_read_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 12304, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 550,
        "service_tier": "standard",
    },
}
MESSAGE_FIGURES = Usage(12314, 7, 12304, 550, None, None, "claude-3-7-sonnet-20250219")
MESSAGE_START = {
    "type": "message_start",
    "message": MESSAGE | {"content": [], "usage": MESSAGE["usage"] | {"output_tokens": 1}},
}


ITERATIONS = [
    {"type": "compaction", "input_tokens": 400, "cache_read_input_tokens": 100}
    | {"output_tokens": 15},
    {"type": "message", "input_tokens": 3, "output_tokens": 550},
    {"type": "advisor_message", "input_tokens": 100, "output_tokens": 5},
]


def message_stream(*deltas, end: str = "\n") -> bytes:
    text = {"type": "text_delta", "text": SAID}
    usages = [{"type": "message_delta", "delta": {}, "usage": delta} for delta in deltas]
    return events(
        MESSAGE_START,
        {"type": "content_block_delta", "index": 0, "delta": text},
        *usages,
        {"type": "message_stop"},
        named=True,
        end=end,
    )


def gemini(text: str = SAID, **usage) -> dict:
    call = {"functionCall": {"name": "f", "args": {"usageMetadata": {"promptTokenCount": 0}}}}
    candidate = {"content": {"parts": [{"text": text}, call], "role": "model"}}
    return {
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": 1200, **usage},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r",
    }


GEMINI_WHOLE = gemini(
    cachedContentTokenCount=1000,
    candidatesTokenCount=80,
    thoughtsTokenCount=300,
    toolUsePromptTokenCount=20,
    totalTokenCount=1600,
    promptTokensDetails=[{"modality": "TEXT", "tokenCount": 1200}],
)
GEMINI_FIGURES = Usage(1220, 1000, None, 380, 300, None, "gemini-2.5-flash")
GEMINI_CHUNKS = [gemini("a"), gemini("b", candidatesTokenCount=2), GEMINI_WHOLE]

OLLAMA_LAST = {
    "model": "llama3.2",
    "message": {"role": "assistant", "content": "", "tool_calls": [{"arguments": SPOOF}]},
    "done": True,
    "context": [1, 2, 3],
    "prompt_eval_count": 26,
    "eval_count": 259,
}
OLLAMA_LINES = [
    {"model": "llama3.2", "message": {"role": "assistant", "content": SAID}, "done": False},
    OLLAMA_LAST,
]

IMAGE_USAGE = {
    "total_tokens": 1120,
    "input_tokens": 70,
    "output_tokens": 1050,
    "input_tokens_details": {"text_tokens": 20, "image_tokens": 50},
}
AUDIO_USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
    "output_tokens": 45,
    "total_tokens": 59,
}

ANSWERS = {
    "chat": json_answer(
        CHAT,
        {
            "id": "c",
            "model": "gpt-5-mini",
            "choices": [{"message": {"content": SAID}}],
            "usage": CHAT_USAGE,
        },
        CHAT_FIGURES,
    ),
    "chat-usage-first": json_answer(
        CHAT,
        {"model": "gpt-5-mini", "usage": CHAT_USAGE, "choices": [{"message": {"content": SAID}}]},
        CHAT_FIGURES,
    ),
    "chat-stream": stream_answer(CHAT, events(*CHAT_CHUNKS), CHAT_FIGURES),
    "chat-stream-crlf": stream_answer(CHAT, events(*CHAT_CHUNKS, end="\r\n"), CHAT_FIGURES),
    "chat-stream-cr": stream_answer(CHAT, events(*CHAT_CHUNKS, end="\r"), CHAT_FIGURES),
    "chat-stream-bom-comments": stream_answer(
        CHAT, b"\xef\xbb\xbf: ping\n\n" + events(*CHAT_CHUNKS) + b": bye\n\n", CHAT_FIGURES
    ),
    "chat-stream-lines": stream_answer(CHAT, events(*CHAT_CHUNKS, pretty=True), CHAT_FIGURES),
    "chat-stream-unended": stream_answer(
        CHAT, events(*CHAT_CHUNKS[:-1]).rstrip(b"\n"), CHAT_FIGURES
    ),
    "chat-stream-usage-in-content": stream_answer(
        CHAT, events(chunk("a"), chunk(SAID, usage=CHAT_USAGE), "[DONE]"), CHAT_FIGURES
    ),
    "chat-stream-groq": stream_answer(
        CHAT,
        events(chunk("a"), chunk("", x_groq={"id": "g", "usage": CHAT_USAGE}), "[DONE]"),
        CHAT_FIGURES,
    ),
    "chat-stream-no-type": replace(
        stream_answer(CHAT, events(*CHAT_CHUNKS), CHAT_FIGURES), content_type=""
    ),
    "chat-xai": json_answer(
        CHAT,
        {
            "model": "grok-4",
            "choices": [],
            "usage": {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
        },
        Usage(32, None, None, 103, 94, None, "grok-4"),
    ),
    "chat-deepseek": json_answer(
        CHAT,
        {
            "model": "deepseek-chat",
            "choices": [],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "total_tokens": 105,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            },
        },
        Usage(100, 64, None, 5, None, None, "deepseek-chat"),
    ),
    "chat-nothing": json_answer(
        CHAT, {"model": "m", "choices": [{"message": {"content": SAID}}]}, Usage(model="m")
    ),
    "chat-zero": json_answer(
        CHAT,
        {"model": "m", "choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}},
        Usage(0, None, None, 0, None, None, "m"),
    ),
    "completions-stream": stream_answer(
        "/v1/completions",
        events(
            {"model": "m", "choices": [{"text": SAID}]},
            {"model": "m", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}},
            "[DONE]",
        ),
        Usage(5, None, None, 7, None, None, "m"),
    ),
    "openrouter": stream_answer(
        "/api/v1/chat/completions",
        b": OPENROUTER PROCESSING\n\n"
        + events(
            chunk(SAID),
            chunk("")
            | {
                "usage": {
                    "prompt_tokens": 194,
                    "completion_tokens": 2,
                    "total_tokens": 196,
                    "cost": 0.00095,
                    "cost_details": {"upstream_inference_cost": 19},
                    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100},
                    "completion_tokens_details": {"reasoning_tokens": 0},
                }
            },
            "[DONE]",
        ),
        Usage(194, 0, 100, 2, 0, 0.00095, "gpt-5-mini"),
    ),
    "responses": json_answer(RESPONSES, RESPONSE, RESPONSE_FIGURES),
    "responses-stream": stream_answer(RESPONSES, response_stream("completed"), RESPONSE_FIGURES),
    "responses-incomplete": stream_answer(
        RESPONSES, response_stream("incomplete"), RESPONSE_FIGURES
    ),
    "responses-failed": stream_answer(RESPONSES, response_stream("failed"), RESPONSE_FIGURES),
    "responses-background": json_answer(
        RESPONSES, RESPONSE | {"status": "queued", "usage": None}, Usage(model="gpt-5-mini")
    ),
    "embeddings": json_answer(
        "/v1/embeddings",
        {
            "object": "list",
            "data": [{"embedding": [0.1, -0.2], "index": 0}],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        },
        Usage(8, model="text-embedding-3-small"),
    ),
    "rerank": json_answer(
        "/v1/rerank", {"results": [], "usage": {"total_tokens": 15}}, Usage(15)
    ),
    "images": json_answer(
        "/v1/images/generations",
        {"created": 1, "data": [{"b64_json": "QUJD" * 40}], "usage": IMAGE_USAGE},
        Usage(70, None, None, 1050),
    ),
    "images-stream": stream_answer(
        "/v1/images/generations",
        events(
            {"type": "image_generation.partial_image", "b64_json": "QUJD"},
            {"type": "image_generation.completed", "b64_json": "QUJD" * 9, "usage": IMAGE_USAGE},
            named=True,
        ),
        Usage(70, None, None, 1050),
    ),
    "transcription": json_answer(
        "/v1/audio/transcriptions",
        {"text": SAID, "usage": AUDIO_USAGE},
        Usage(14, None, None, 45),
    ),
    "transcription-stream": stream_answer(
        "/v1/audio/transcriptions",
        events(
            {"type": "transcript.text.delta", "delta": "a"},
            {"type": "transcript.text.done", "text": SAID, "usage": AUDIO_USAGE},
        ),
        Usage(14, None, None, 45),
    ),
    "transcription-seconds": json_answer(
        "/v1/audio/transcriptions",
        {"text": SAID, "usage": {"type": "duration", "seconds": 9}},
        Usage(),
    ),
    "transcription-text": Answer(
        "/v1/audio/transcriptions", "text/plain", dumps(SPOOF).encode(), Usage()
    ),
    "speech-stream": stream_answer(
        "/v1/audio/speech",
        events(
            {"type": "speech.audio.delta", "audio": "QUJD"},
            {
                "type": "speech.audio.done",
                "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115},
            },
        ),
        Usage(14, None, None, 101),
    ),
    "speech": Answer("/v1/audio/speech", "audio/mpeg", b"\xff\xf3\x00{" * 20, Usage()),
    "messages": json_answer(MESSAGES, MESSAGE, MESSAGE_FIGURES),
    "messages-stream": stream_answer(
        MESSAGES, message_stream({"output_tokens": 550}), MESSAGE_FIGURES
    ),
    "messages-cumulative": stream_answer(
        MESSAGES, message_stream({"output_tokens": 9}, MESSAGE["usage"]), MESSAGE_FIGURES
    ),
    "messages-late-input": stream_answer(
        MESSAGES,
        message_stream({"input_tokens": 2003, "cache_read_input_tokens": None, "output_tokens": 9}),
        Usage(14314, 7, 12304, 9, None, None, "claude-3-7-sonnet-20250219"),
    ),
    "messages-zero-later": stream_answer(
        MESSAGES,
        message_stream(dict.fromkeys(MESSAGE["usage"], 0) | {"output_tokens": 550}, end="\r\n"),
        MESSAGE_FIGURES,
    ),
    "messages-compaction": stream_answer(
        MESSAGES,
        message_stream({"output_tokens": 550, "iterations": ITERATIONS}),
        Usage(12_914, 107, 12_304, 570, None, None, "claude-3-7-sonnet-20250219"),
    ),
    "messages-count": json_answer(MESSAGES + "/count_tokens", {"input_tokens": 2095}, Usage()),
    "gemini": json_answer(GEMINI + "generateContent", GEMINI_WHOLE, GEMINI_FIGURES),
    "gemini-stream": stream_answer(
        GEMINI + "streamGenerateContent", events(*GEMINI_CHUNKS, end="\r\n"), GEMINI_FIGURES
    ),
    "gemini-array": Answer(
        GEMINI + "streamGenerateContent",
        "application/json; charset=UTF-8",
        b"[" + b"\r\n,\r\n".join(json.dumps(c, indent=2).encode() for c in GEMINI_CHUNKS) + b"]",
        GEMINI_FIGURES,
    ),
    "gemini-embed": json_answer(
        GEMINI + "embedContent",
        {"embedding": {"values": [0.1, 0.2]}, "usageMetadata": {"promptTokenCount": 6}},
        Usage(6),
    ),
    "gemini-thoughts-only": json_answer(
        GEMINI + "generateContent",
        {"usageMetadata": {"promptTokenCount": 6, "thoughtsTokenCount": 20}},
        Usage(6, None, None, 20, 20),
    ),
    "gemini-as-openai": json_answer(
        "/v1beta/openai/chat/completions",
        {
            "model": "gemini-2.5-flash",
            "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 544},
        },
        Usage(5, None, None, 539, None, None, "gemini-2.5-flash"),
    ),
    "ollama-chat": json_answer(
        "/api/chat", OLLAMA_LAST, Usage(26, None, None, 259, None, None, "llama3.2")
    ),
    "ollama-stream": Answer(
        "/api/chat",
        "application/x-ndjson",
        "".join(dumps(line) + "\n" for line in OLLAMA_LINES).encode(),
        Usage(26, None, None, 259, None, None, "llama3.2"),
    ),
    "ollama-embed": json_answer(
        "/api/embed",
        {"model": "all-minilm", "embeddings": [[0.01, -0.02]], "prompt_eval_count": 8},
        Usage(8, model="all-minilm"),
    ),
    "error": json_answer(CHAT, {"error": {"message": "no", "usage": SPOOF}}, Usage()),
    "empty": Answer(CHAT, "application/json", b"", Usage()),
    "html": Answer(CHAT, "text/html", b"<html>" + dumps(SPOOF).encode(), Usage()),
}
"""By the API and how it answers."""
