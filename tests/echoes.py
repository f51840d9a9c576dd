"""What the echo backend answers, whole and as the objects of a stream."""

from __future__ import annotations

import json

from llmauth.echo.backend import Echo

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
MESSAGES = "/v1/messages"
GENERATE, STREAM = "/v1beta/models/m:generateContent", "/v1beta/models/m:streamGenerateContent"


def ask(path, body=None, *, method="POST", query="", headers=None):
    """Return status, content type and the whole body."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    reply = Echo(token_delay=0).respond(method, path, query, (headers or {}).get, raw)
    sent = dict(reply.headers)
    content = b"".join(reply.chunks)
    assert sent.get("Content-Length", str(len(content))) == str(len(content))
    return reply.status, sent["Content-Type"], content


def whole(path, body=None, **more):
    status, kind, content = ask(path, body, **more)
    assert (status, kind) == (200, "application/json")
    return json.loads(content)


def events(path, body, *, query="", done=False):
    """Return the objects of a stream of server-sent events, whose framing is checked."""
    status, kind, content = ask(path, body, query=query)
    assert (status, kind) == (200, "text/event-stream")
    blocks = content.decode().replace("\r\n", "\n").split("\n\n")
    assert blocks.pop() == ""
    if done:
        assert blocks.pop() == "data: [DONE]"
    found = []
    for block in blocks:
        *named, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert named in ([], [f"event: {found[-1].get('type')}"])
    return found


def text_of_chat(chunks):
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
