"""Who takes this server for something else is told so in words."""

from __future__ import annotations

import json
import subprocess

import pytest
from attack import WRONG, request, statuses
from servers import TIMEOUT, running_proxy

from llmauth.exceptions import NO_FORWARD_PROXY


def message_of(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"])


@pytest.mark.parametrize("target", ["api.openai.com:443", "[::1]:443", "/v1/models", "*"])
def test_connect_is_told_that_this_is_no_forward_proxy(proxy, upstream, target):
    answer = proxy.exchange(request(line=f"CONNECT {target} HTTP/1.1"))
    assert statuses(answer) == [405]
    assert message_of(answer) == NO_FORWARD_PROXY
    assert b"\r\nAllow: " in answer
    answer = proxy.exchange(request(line=f"CONNECT {target} HTTP/1.1", key=None))
    assert statuses(answer) == [401]  # curl -x has no key for it
    assert NO_FORWARD_PROXY in message_of(answer)
    assert statuses(proxy.exchange(request(line=f"CONNECT {target} HTTP/1.1", key=WRONG))) == [401]
    assert upstream.requests == []


@pytest.mark.parametrize(
    "data",
    [
        request(line="GET http://api.openai.com/v1/models HTTP/1.1", key=None),
        request("Proxy-Connection: Keep-Alive", line="GET http://a/ HTTP/1.1", key=None),
        request("Proxy-Authorization: Basic eDp5", line="GET /v1/models HTTP/1.1", key=None),
    ],
    ids=["URL", "curl", "password"],
)
def test_a_request_for_another_host_is_told_so(proxy, data):
    answer = proxy.exchange(data)
    assert statuses(answer) == [401]
    assert NO_FORWARD_PROXY in message_of(answer)


def test_who_is_at_the_right_door_is_not_told_of_proxies(proxy):
    assert NO_FORWARD_PROXY not in proxy.request("GET", "/v1/models", key=None).error["message"]


@pytest.mark.parametrize("data", [b"\5\1\0", b"\4\1\1\xbb\x7f\0\0\1\0"], ids=["5", "4"])
def test_socks_is_answered_at_once(proxy, data):
    """A client of SOCKS sends three bytes, and waits."""
    answer = proxy.exchange(data)
    assert statuses(answer) == [400]
    assert message_of(answer) == NO_FORWARD_PROXY


@pytest.mark.parametrize("url", ["https://api.example.com/v1", "http://api.example.com/v1"])
def test_curl_shows_why(proxy, url):
    command = ["curl", "-sv", "--max-time", f"{TIMEOUT:g}", "--proxy", proxy.url, url]
    done = subprocess.run(command, capture_output=True, check=False)
    assert b"HTTP/1.1 401" in done.stderr or NO_FORWARD_PROXY.encode() in done.stdout


@pytest.mark.parametrize("target", [
    "/v1/models/m\xc3\xb6del", "/v1/models?q=\xe4\xb8\xad", "/v1/a b", "/\xff", "/v1/a\tb",
    "http://a/\xc3\xa9",
])  # fmt: skip
def test_what_has_to_be_escaped_in_a_path_is_named(proxy, upstream, target):
    answer = proxy.exchange(request(line=f"GET {target} HTTP/1.1".encode("latin-1")))
    assert statuses(answer) == [400]
    assert "must be percent-encoded there, as %20" in message_of(answer)
    assert upstream.requests == []


def test_escaped_it_arrives_as_it_was_sent(proxy, upstream):
    assert proxy.request("GET", "/v1/models/m%C3%B6del?q=%E4%B8%AD").status == 200
    assert upstream.requests[0].target == "/v1/models/m%C3%B6del?q=%E4%B8%AD"


def test_with_authentication_off_it_is_no_forward_proxy_either():
    with running_proxy(None, default_backend="echo", disable_auth=True) as proxy:
        data = request(line="CONNECT a:443 HTTP/1.1", host="Host: localhost", key=None)
        answer = proxy.exchange(data)
    assert statuses(answer) == [405]
    assert message_of(answer) == NO_FORWARD_PROXY
