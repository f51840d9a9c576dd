"""The official OpenAI SDK for Python, unchanged, against the real server."""

from __future__ import annotations

import openai
import pytest
from servers import KEY, raw, running_proxy, whole

MESSAGES = [{"role": "user", "content": "one two three"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture
def client(echo):
    with openai.OpenAI(base_url=f"{echo.url}/v1", api_key=KEY) as client:
        yield client


def test_chat(client):
    reply = client.chat.completions.create(model="echo-1", messages=MESSAGES)
    assert reply.choices[0].message.content == "echo: one two three"


def test_streamed_chat(client):
    stream = client.chat.completions.create(model="echo-1", messages=MESSAGES, stream=True)
    words = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert words == ["echo: ", "one ", "two ", "three"]


def test_tool_call(client):
    reply = client.chat.completions.create(model="echo-1", messages=MESSAGES, tools=TOOLS)
    (call,) = reply.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "city"}')


def test_responses(client):
    assert client.responses.create(model="echo-1", input="hi").output_text == "echo: hi"
    with client.responses.stream(model="echo-1", input="hi there") as stream:
        assert stream.get_final_response().output_text == "echo: hi there"


def test_models(client):
    assert [model.id for model in client.models.list()] == ["echo-1", "echo-1-mini"]


def test_embeddings(client):
    reply = client.embeddings.create(model="echo-1", input=["a", "b"])
    assert [len(entry.embedding) for entry in reply.data] == [16, 16]


def test_what_the_echo_lacks_is_forwarded_as_everything_is(proxy, upstream):
    """Old completions, and files, which the upstream gets byte for byte."""
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY) as client:
        upstream.answer = whole(b'{"choices": [{"text": "hello"}]}')
        assert client.completions.create(model="m", prompt="hi").choices[0].text == "hello"
        upstream.answer = whole(b'{"id": "file-1", "filename": "a.txt"}')
        uploaded = client.files.create(file=("a.txt", b"hello"), purpose="user_data")
    assert uploaded.filename == "a.txt"
    completion, file = upstream.requests
    assert (completion.target, file.target) == ("/v1/completions", "/v1/files")
    assert b"\r\n\r\nhello\r\n" in file.body


def test_a_wrong_key_raises_authentication_error_and_is_not_retried(proxy, upstream, caplog):
    caplog.set_level("INFO", "llmauth.access")
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="wrong-key-012345") as client:
        for _ in range(5):
            with pytest.raises(openai.AuthenticationError, match="proxy key"):
                client.models.list()
        with pytest.raises(openai.RateLimitError, match="Wait"):
            client.models.list()
    proxy.server.stop()
    assert len([r for r in caplog.records if r.name == "llmauth.access"]) == 6
    assert upstream.requests == []


def test_a_broken_stream_raises(proxy, upstream):
    upstream.answer = raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n"
    )
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            list(stream)


@pytest.mark.parametrize(
    ("status", "error"),
    [("500 Oops", openai.InternalServerError), ("404 No", openai.NotFoundError)],
)
def test_errors_of_the_provider_are_the_providers(proxy, upstream, status, error):
    upstream.answer = whole(b'{"error": {"message": "provider says no"}}', status)
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(error, match="provider says no"):
            client.models.list()


def test_an_upstream_that_is_down_raises_with_what_to_know(upstream):
    upstream.stop()
    with running_proxy(upstream) as proxy:
        url = f"{proxy.url}/v1"
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            with pytest.raises(openai.InternalServerError, match="openai"):
                client.models.list()
