"""What becomes of a target that is no URL's, under servers that read more leniently than ours."""

from __future__ import annotations

import json
import threading

import pytest
from attack import request, send, statuses
from servers import KEY, PROVIDER_KEY
from waitress import wasyncore
from waitress.server import create_server

from llmauth import create_app
from llmauth.config.loading import Given, load
from llmauth.exceptions import InvalidRequest
from llmauth.proxy.upstream import Outgoing


@pytest.fixture(params=["openai", "echo"])
def hosted(request, upstream):
    """The application under plain waitress, as ``waitress-serve`` runs it: its port."""
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "OPENAI_API_BASE_URL": upstream.url,
        "OPENAI_API_KEY": PROVIDER_KEY,
        "LLM_BACKEND": request.param,
    }
    app = create_app(load(Given({}), environ))
    sockets, ended = {}, threading.Event()
    server = create_server(app.wsgi_app, host="127.0.0.1", port=0, map=sockets)

    def serve():
        while not ended.is_set():
            wasyncore.loop(timeout=0.05, count=1, map=sockets)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.effective_port
    ended.set()
    thread.join()
    server.task_dispatcher.shutdown()
    wasyncore.close_all(sockets)
    app.extensions["llmauth"].close()


NO_TARGETS = {
    "a tab": b"/v1/a\tb",
    "a tab in the query": b"/v1/a?x=\ty",
    "a vertical tab": b"/v1/a\x0bb",
    "an escape": b"/v1/a\x1bb",
    "DEL": b"/v1/a\x7fb",
    "NUL": b"/v1/a\0b",
    "UTF-8": "/v1/ü".encode(),
    "Latin-1": b"/v1/a?x=\xfc",
    "a C1 control": b"/v1/a\x85b",
    "a no-break space": b"/v1/a\xa0b",
}


@pytest.mark.parametrize("case", NO_TARGETS)
def test_it_is_refused_and_reaches_no_upstream(hosted, upstream, case):
    answer = send(hosted, request(line=b"GET " + NO_TARGETS[case] + b" HTTP/1.1"))
    assert statuses(answer) == [400]
    if b"application/json" in answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"
    assert upstream.requests == []


@pytest.mark.parametrize(
    "target", ["/v1/a?include[]=x", "/v1/{a}|b^c`\"<>", "/v1/a\\b", "/v1/%ff%00"]
)
def test_visible_ascii_is_sent_as_it_is_since_clients_send_it(proxy, upstream, target):
    reply = send(proxy.port, request(line=f"GET {target} HTTP/1.1"))
    assert statuses(reply) == [200]
    assert upstream.requests[0].target == target


@pytest.mark.parametrize("target", ["", "/v1/ a", "/v1\r\n", "/v1/a#b", "/ü"])
def test_no_request_can_be_made_with_what_is_no_target(target):
    with pytest.raises(InvalidRequest):
        Outgoing("GET", target, {})


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\0b", "a\x1bb", "a\x7f", "ā", "🙂"])
def test_nor_with_what_is_no_header(value):
    """Some WSGI servers let these pass, and none of them is Latin-1 that could be encoded."""
    for headers in ({"X-A": value}, {f"X-{value}": "a"}):
        with pytest.raises(InvalidRequest):
            Outgoing("GET", "/", headers)


def test_a_header_in_latin_1_goes_out_as_it_came(proxy, upstream):
    send(proxy.port, request("X-Own: caf\xe9\t\xff"))
    assert upstream.requests[0].header("x-own") == "caf\xe9\t\xff"
