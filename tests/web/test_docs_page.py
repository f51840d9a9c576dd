"""The page at /docs in a real browser, as a person uses it, and CORS as a browser does it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from urllib.parse import urljoin

import pytest
from browser import FOREIGN_HOST, running_browser
from flask import Flask
from programs import SDKS, node_modules
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from servers import KEY, Upstream, running_proxy, whole
from waitress.server import create_server
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from llmauth import LLMAuth, create_app, proxy_blueprint
from llmauth.config.keys import KEY_VARIABLE
from llmauth.config.loading import Given, load

WRONG = "wrong-key-0123456789abcdefghij"
ECHO = {
    "LLM_BACKEND": "echo",
    "OPENAI_API_BASE_URL": "echo:",
    "ANTHROPIC_API_BASE_URL": "echo:",
    "GEMINI_API_BASE_URL": "echo:",
}
SCREENS = [(1200, False), (1200, True), (375, False), (375, True), (320, False)]


@pytest.fixture(scope="module")
def browser():
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def echo():
    with running_proxy(None, ECHO) as running:
        yield running


@pytest.fixture(scope="module")
def axe() -> str:
    return (node_modules() / "axe-core/axe.min.js").read_text(encoding="utf-8")


def send(browser, key: str | None = KEY, **fields: str) -> None:
    browser.fill(**fields)
    if key is not None:
        browser.fill(key=key)
    browser.find("#send").click()


def stream(*events: str, gate: threading.Event | None = None, end: bytes = b"0\r\n\r\n"):
    """Answer with events; wait at the gate after the first."""

    def answer(request) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked"
        request.sock.sendall(head + b"\r\n\r\n")
        for number, event in enumerate(events):
            if gate and number == 1:
                gate.wait(15)
            data = f"data: {event}\n\n".encode()
            request.sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        request.sock.sendall(end)
        if not end:
            request.sock.shutdown(socket.SHUT_RDWR)

    return answer


def word(text: str) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


@pytest.fixture(scope="module")
def doors():
    """An upstream, and a proxy before it that locks nobody out."""
    server = Upstream()
    with running_proxy(server, brute_force_enabled=False) as proxy:
        yield server, proxy
    server.stop()


# The page


def test_it_opens_without_a_complaint_and_asks_nobody_else(browser, echo):
    browser.open(f"{echo.url}/docs")
    assert browser.driver.title.startswith("llmauth")
    assert browser.text("#base-url") == f"{echo.url}/v1"
    assert browser.messages() == []
    requests = browser.requests()
    assert [url for url in requests if not url.startswith("data:")] == [f"{echo.url}/docs"]


def test_its_policy_forbids_what_is_not_its_own(browser, echo):
    reply = echo.request("GET", "/docs", key=None)
    policy = reply.header("content-security-policy")
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    for name, value in (
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ):
        assert reply.header(name) == value
    browser.open(f"{echo.url}/docs")
    browser.run(
        "window.ran = false; const s = document.createElement('script');"
        "try { s.textContent = 'window.ran = true'; document.body.append(s) } catch {}"
        "document.body.setAttribute('style', 'display: none')"
    )
    assert browser.run("return window.ran") is False
    assert browser.find("h1").is_displayed()
    assert browser.messages() != []


def test_without_scripts_everything_stands_there_and_the_form_is_off(browser, echo):
    browser.open(f"{echo.url}/docs", scripts=False)
    page = browser.find("body").text
    assert "The form below needs JavaScript" in page
    for title in ("curl", "LangChain", "Editors"):
        assert title in page
    assert not browser.find("#send").is_enabled()
    assert not browser.find("#key").is_enabled()


@pytest.mark.parametrize("host", ["127.0.0.1", FOREIGN_HOST])
def test_buttons_copy_what_stands_there(browser, echo, host):
    """A page over plain HTTP from another machine has no clipboard API, and copies as well."""
    url = f"http://{host}:{echo.port}"
    browser.open(f"{url}/docs")
    assert browser.run("return isSecureContext") is (host == "127.0.0.1")
    for name, code in (("base URL", "#base-url"), ("curl example", "#curl code")):
        button = browser.find(f'button[aria-label="Copy {name}"]')
        button.click()
        browser.wait_for("#copied", f"Copied: {name}")
        assert button.text == "Copied"
        assert pasted(browser) == browser.text(code)
    assert f"curl -N {url}/v1/chat/completions" in browser.text("#curl code")


def pasted(browser) -> str:
    """Paste into the field for the message, as a person would."""
    field = browser.find("#question")
    field.clear()
    field.send_keys(Keys.CONTROL, "v")
    return field.get_property("value")


def test_behind_a_prefix_the_address_and_the_links_hold(browser):
    inner = create_app(load(Given({}), ECHO | {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}))
    mounted = DispatcherMiddleware(lambda environ, start: [], {"/team/llm": inner.wsgi_app})
    server = create_server(mounted, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.effective_port}/team/llm"
        browser.open(f"{base}/docs")
        assert browser.text("#base-url") == f"{base}/v1"
        assert browser.find("a[href='openapi.json']").get_property("href") == f"{base}/openapi.json"
        described = browser.run_async(
            "return (await fetch(document.querySelector(\"a[href='openapi.json']\").href)).json()"
        )
        assert described["info"]["title"] == "llmauth"
        send(browser, question="Hello there")
        browser.wait_for("#answer", "echo: Hello there")
    finally:
        server.close()


SOME = {"OPENAI_API_KEY": "sk-x", "MY_VLLM_API_BASE_URL": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ["openai"]),
        ({"LLM_BACKEND": "echo"}, ["echo"]),
        (SOME, ["my-vllm", "openai"]),
        (SOME | {"LLM_BACKEND": "ollama"}, ["my-vllm", "ollama", "openai"]),
        ({"GROQ_API_KEY": "gsk_x", "LLM_BACKEND": "echo"}, ["echo", "groq"]),
    ],
    ids=["nothing", "echo", "two", "three", "built in"],
)
def test_it_offers_the_backends_that_this_server_has(browser, environ, names):
    with running_proxy(None, environ) as proxy:
        browser.open(f"{proxy.url}/docs")
        offered = browser.run("return [...document.querySelectorAll('#backends option')]"
                              ".map((option) => option.value)")
    assert sorted(offered) == names


def test_it_names_the_variable_of_the_key_as_the_readme_does(browser, echo):
    browser.open(f"{echo.url}/docs", scripts=False)
    page = browser.text("body")
    named = set(re.findall(r"\b[A-Z_]*KEY\b", page))
    assert named == {KEY_VARIABLE}
    # Zed makes the variable's name of the provider's.
    assert '"llm_interactive_proxy": {' in page


HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/", "/docs/"])
def test_a_browser_that_asks_for_no_page_is_shown_this_one(browser, echo, path):
    browser.open(f"{echo.url}{path}")
    assert browser.driver.title.startswith("llmauth")
    assert browser.driver.current_url == f"{echo.url}/docs"
    assert browser.messages() == []


@pytest.mark.parametrize("path", ["/", "/docs/", "/?utm=1", "/docs/?x"])
@pytest.mark.parametrize(
    ("method", "accept", "redirected"),
    [
        ("GET", HTML, True),
        ("HEAD", HTML, True),
        ("GET", "application/json;q=0.5, Text/HTML ;level=1;q=0.7", True),
        ("GET", "*/*", False),
        ("GET", None, False),
        ("GET", "application/json", False),
        ("GET", "application/json, text/html;q=0.5", False),
        ("GET", "text/html;q=0", False),
        ("GET", "text/html;q=nan", False),
        ("GET", "text/htmlx", False),
        ("POST", HTML, False),
        ("OPTIONS", HTML, False),
    ],
)
@pytest.mark.parametrize("key", [None, KEY, WRONG], ids=["no key", "right", "wrong"])
def test_who_accepts_html_is_sent_to_the_page(doors, path, method, accept, redirected, key):
    """Whatever key he brings; all others get what they got before, and are counted as before."""
    upstream, proxy = doors
    upstream.answer = whole()
    upstream.requests.clear()
    reply = proxy.request(method, path, {"Accept": accept} if accept else {}, key=key)
    if not redirected:
        at_root = path.startswith("/?") or path == "/"
        assert reply.status == {None: 401, WRONG: 401, KEY: 404 if at_root else 200}[key]
        assert len(upstream.requests) == (reply.status == 200)
        return
    assert (reply.status, upstream.requests) == (302, [])
    assert urljoin(f"http://x{path}", reply.header("location")) == "http://x/docs"
    assert (reply.header("vary"), reply.header("cache-control")) == ("Accept", "no-store")
    assert (b"/docs" in reply.body) is (method == "GET")


def test_the_way_to_the_page_is_no_way_around_the_lockout(upstream):
    """It is neither counted nor forgives, and leads nobody further than to the page."""
    with running_proxy(upstream, max_failed_attempts=2) as proxy:
        statuses = []
        for _ in range(2):
            statuses.append(proxy.request("GET", "/", {"Accept": HTML}, key=WRONG).status)
            statuses.append(proxy.request("GET", "/v1/x", {"Accept": HTML}, key=WRONG).status)
        assert statuses == [302, 401, 302, 401]
        assert proxy.request("GET", "/", {"Accept": HTML}, key=KEY).status == 302
        assert proxy.request("GET", "/docs/", key=KEY).status == 429
        assert proxy.request("GET", "/v1/x", {"Accept": HTML}, key=KEY).status == 429
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/./", "//", "/docs/.", "/docs//", "/docs/x", "/%64ocs/", "/v1/"])
def test_no_other_path_leads_to_the_page(doors, path):
    upstream, proxy = doors
    upstream.answer = whole()
    upstream.requests.clear()
    assert proxy.request("GET", path, {"Accept": HTML}, key=None).status == 401
    assert upstream.requests == []


def test_a_path_that_was_opened_for_reading_is_forwarded_to_browsers_too(upstream):
    with running_proxy(upstream, bypass_paths="/docs/") as proxy:
        assert proxy.request("GET", "/docs/", {"Accept": HTML}, key=None).status == 200
    assert upstream.requests[0].target == "/docs/"


def test_a_slash_after_the_dashboard_leads_to_it(doors):
    _, proxy = doors
    reply = proxy.request("GET", "/dashboard/", {"Accept": HTML}, key=None)
    assert reply.status == 302
    assert urljoin("http://x/dashboard/", reply.header("location")) == "http://x/dashboard"
    assert b"/dashboard" in reply.body


@pytest.mark.parametrize("path", ["/team/llm", "/team/llm/", "/team/llm/docs/"])
def test_the_page_is_found_below_a_prefix(path):
    app = create_app(load(Given({}), ECHO | {KEY_VARIABLE: KEY}))
    mounted = DispatcherMiddleware(lambda environ, start: [], {"/team/llm": app.wsgi_app})
    reply = Client(mounted).get(path, headers={"Accept": HTML})
    assert urljoin(f"http://x{path}", reply.headers["location"]) == "http://x/team/llm/docs"


def test_an_application_of_ones_own_keeps_its_root(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    app = Flask("host")
    LLMAuth(app)
    app.register_blueprint(proxy_blueprint, url_prefix="/llm")
    app.get("/")(lambda: "mine")
    client = app.test_client()
    for path, with_key in (("/", 200), ("/docs/", 404), ("/llm/", 404)):
        assert client.get(path, headers={"Accept": HTML}).status_code == 401
        headers = {"Accept": HTML, "x-api-key": KEY}
        assert client.get(path, headers=headers).status_code == with_key


# On a phone


def in_sight(browser, selector: str) -> bool:
    return browser.run(
        "const { top, bottom } = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return top >= 0 && bottom <= innerHeight && bottom > top",
        selector,
    )


LONG = " ".join(f"word{number}" for number in range(300))
PHONES = [(375, 667), (360, 800), (320, 568), (667, 375)]


@pytest.mark.parametrize(("width", "height"), PHONES, ids=str)
@pytest.mark.parametrize("answer", ["Hello", LONG], ids=["short", "long"])
def test_the_answer_is_in_sight_on_a_phone(browser, doors, width, height, answer):
    doors[0].answer = stream(word(answer), word("!"))
    browser.open(f"{doors[1].url}/docs", width=width, height=height)
    assert not in_sight(browser, "#answer")
    send(browser)
    browser.wait_for("#status", "Done: ")
    assert in_sight(browser, "#answer")
    assert in_sight(browser, "#status")


@pytest.mark.parametrize(("width", "height"), PHONES, ids=str)
@pytest.mark.parametrize("key", ["two words", WRONG], ids=["no key", "wrong"])
@pytest.mark.parametrize("button", ["#send", "#list"])
def test_what_is_wrong_is_in_sight_on_a_phone(browser, doors, width, height, key, button):
    browser.open(f"{doors[1].url}/docs", width=width, height=height)
    browser.fill(key=key)
    browser.find(button).click()
    browser.wait_for("#problem", "key")
    assert in_sight(browser, "#problem")


def test_the_models_and_that_they_are_there_are_in_sight_on_a_phone(browser, doors):
    doors[0].answer = whole(b'{"data": [{"id": "a"}, {"id": "b"}]}')
    browser.open(f"{doors[1].url}/docs", width=375, height=667)
    browser.fill(key=KEY)
    browser.find("#list").click()
    browser.wait_for("#status", "2 models")
    assert in_sight(browser, "#status")
    assert in_sight(browser, "#model")


def test_nothing_moves_where_the_answer_can_be_seen(browser, doors):
    doors[0].answer = stream(word(LONG))
    browser.open(f"{doors[1].url}/docs", width=1200, height=980)
    browser.run("document.querySelector('#try').scrollIntoView()")
    before = browser.run("return scrollY")
    send(browser)
    browser.wait_for("#status", "Done: ")
    assert browser.run("return scrollY") == before


# Trying a key


@pytest.mark.parametrize("api", ["OpenAI", "Anthropic", "Gemini"])
def test_the_right_key_gets_an_answer_from_every_api(browser, echo, api):
    browser.open(f"{echo.url}/docs")
    send(browser, api=api, question="One two three")
    browser.wait_for("#status", "Done: ")
    assert browser.text("#answer") == "echo: One two three"
    assert browser.text("#problem") == ""
    assert browser.messages() == []


def test_the_answer_arrives_in_pieces(browser, proxy, upstream):
    gate = threading.Event()
    upstream.answer = stream(word("Hel"), word("lo"), "[DONE]", gate=gate)
    browser.open(f"{proxy.url}/docs")
    send(browser, model="my-model", question="Hi", backend="openai")
    browser.wait_for("#answer", "Hel")
    assert browser.text("#answer") == "Hel"
    assert browser.find("#answer").get_attribute("aria-busy") == "true"
    assert browser.find("#stop").is_displayed()
    gate.set()
    browser.wait_for("#status", "Done: 2 pieces")
    assert browser.text("#answer") == "Hello"
    assert browser.find("#answer").get_attribute("aria-busy") == "false"
    (request,) = upstream.requests
    assert request.target == "/v1/chat/completions"
    assert json.loads(request.body) == {
        "model": "my-model",
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_a_stopped_answer_stops_upstream_too(browser, proxy, upstream):
    gate = threading.Event()
    upstream.answer = stream(word("Hel"), word("lo"), gate=gate)
    browser.open(f"{proxy.url}/docs")
    send(browser)
    browser.wait_for("#answer", "Hel")
    browser.find("#stop").click()
    browser.wait_for("#status", "Stopped.")
    assert browser.find("#send").is_enabled()
    assert upstream.requests[0].sock.recv(1) == b""
    gate.set()


def test_models_are_listed(browser, echo):
    browser.open(f"{echo.url}/docs")
    browser.fill(key=KEY)
    browser.find("#list").click()
    browser.wait_for("#status", "2 models")
    assert browser.find("#model").get_property("value") == "echo-1"
    assert browser.run("return document.querySelectorAll('#models option').length") == 2


def test_the_key_stays_where_it_was_typed(browser, echo):
    browser.open(f"{echo.url}/docs")
    for api in ("OpenAI", "Anthropic", "Gemini"):
        send(browser, api=api)
        browser.wait_for("#status", "Done: ")
    browser.find("#list").click()
    browser.wait_for("#status", "2 models")
    assert browser.find("#key").get_attribute("type") == "password"
    assert KEY not in browser.driver.page_source
    assert KEY not in browser.driver.current_url + "".join(browser.requests())
    kept = browser.run("return [localStorage.length, sessionStorage.length, document.cookie]")
    assert kept == [0, 0, ""]
    browser.driver.refresh()
    assert browser.find("#key").get_property("value") == ""


@pytest.mark.parametrize(
    ("key", "title", "said"),
    [
        ("", "The key is missing or wrong (401)", "carries none"),
        (WRONG, "The key is missing or wrong (401)", "not this server's"),
        (f'"{KEY}"', "The key is missing or wrong (401)", "quotes"),
        ("two words", "This cannot be a key", "spaces"),
        ("clé", "This cannot be a key", "characters"),
    ],
    ids=["none", "wrong", "quoted", "spaces", "accent"],
)
def test_a_key_that_is_refused_is_explained(browser, key, title, said):
    with running_proxy(None, ECHO) as proxy:
        browser.open(f"{proxy.url}/docs")
        send(browser, key)
        assert said in browser.wait_for("#problem", title)
    assert browser.text("#answer") == ""


def test_a_block_is_counted_down_and_then_one_can_try_again(browser):
    with running_proxy(None, ECHO, max_failed_attempts=1, initial_block_seconds=2) as proxy:
        browser.open(f"{proxy.url}/docs")
        send(browser, WRONG)
        browser.wait_for("#problem", "(401)")
        send(browser, KEY)
        browser.wait_for("#problem", "Too many wrong keys came from your address")
        assert browser.find("#countdown").text in ("Wait 2 s", "Wait 1 s")
        assert not browser.find("#send").is_enabled()
        browser.wait_for("#status", "You can try again now.")
        assert not browser.find("#countdown").is_displayed()
        browser.find("#send").click()
        browser.wait_for("#status", "Done: ")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            whole(b'{"error": {"message": "slow down"}}', "429 X", ("Retry-After: 9",)),
            ["The provider has had enough for now (429)", "slow down"],
        ),
        (whole(b"<h1>Oops</h1>", "500 X"), ["It did not work (500)", "Request id: req_"]),
        (lambda request: request.sock.shutdown(socket.SHUT_RDWR), ["could not be reached (502)"]),
        (stream(word("Hel"), end=b""), ["The answer broke off"]),
        (stream(word("Hel"), '{"error": {"message": "gone"}}'), ["The answer broke off", "gone"]),
    ],
    ids=["rate limit", "page", "closed", "broken", "error event"],
)
def test_a_provider_that_fails_is_explained(browser, proxy, upstream, answer, said):
    upstream.answer = answer
    browser.open(f"{proxy.url}/docs")
    send(browser)
    problem = browser.wait_for("#problem", said[0])
    assert [text for text in said if text not in problem] == []
    assert not browser.find("#countdown").is_displayed()


def test_a_server_that_is_gone_is_explained(browser):
    with running_proxy(None, ECHO) as proxy:
        browser.open(f"{proxy.url}/docs")
    send(browser)
    browser.wait_for("#problem", "The server could not be reached")


def test_an_answer_in_one_piece_is_shown_too(browser, proxy, upstream):
    upstream.answer = whole(
        b'{"choices": [{"message": {"content": "Hello"}}]}',
        headers=("Content-Type: application/json",),
    )
    browser.open(f"{proxy.url}/docs")
    send(browser)
    browser.wait_for("#status", "in one piece")
    assert browser.text("#answer") == "Hello"


# For everybody


def test_it_works_with_the_keyboard_alone(browser, echo):
    browser.open(f"{echo.url}/docs")
    seen = []
    for _ in range(40):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        now = browser.run(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.id || e.textContent, parseFloat(s.outlineWidth) > 1, e.offsetWidth > 1]"
        )
        seen.append(now[0])
        assert now[1:] == [True, True], f"the focus cannot be seen on {now[0]}"
        if now[0] == "key":
            ActionChains(browser.driver).send_keys(KEY, Keys.ENTER).perform()
            browser.wait_for("#status", "Done: ")
        if now[0] == "tab-curl":
            keys = [Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT]
            ActionChains(browser.driver).send_keys(*keys).perform()
            assert browser.run("return document.activeElement.id") == "tab-python"
            assert browser.find("#python code").is_displayed()
            assert not browser.find("#curl").is_displayed()
        if now[0] == "openapi.json":
            break
    assert seen[0] == "Skip to the content"
    order = ["key", "api", "backend", "model", "list", "question", "send", "answer", "tab-curl"]
    assert [name for name in seen if name in order] == order
    assert seen[-1] == "openapi.json"


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_it_is_accessible_and_fits_on_every_screen(browser, echo, axe, width, dark):
    browser.open(f"{echo.url}/docs", width=width, dark=dark)
    browser.run(axe)
    assert violations(browser) == []
    send(browser)
    browser.wait_for("#status", "Done: ")
    browser.run("document.querySelector('#tab-editors').click()")
    assert violations(browser) == []
    send(browser, key="two words")
    browser.wait_for("#problem", "This cannot be a key")
    assert violations(browser) == []
    for tab in ("curl", "python", "anthropic", "editors"):
        browser.run("document.querySelector(arguments[0]).click()", f"#tab-{tab}")
        assert browser.run(
            "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        ) == 0, f"{tab} is wider than the screen"


def violations(browser) -> list[str]:
    return browser.run_async(
        "const found = await axe.run({ resultTypes: ['violations'] });"
        "return found.violations.map((v) => v.id + ' ' + v.nodes.map((n) => n.html))"
    )


# The examples


@pytest.mark.parametrize(
    "client", ["curl", "python", "javascript", "anthropic", "gemini", "langchain"]
)
def test_examples_run_as_they_are_copied(browser, echo, tmp_path, client):
    browser.open(f"{echo.url}/docs")
    example = browser.text(f"#{client} pre code")
    command, folder = [sys.executable, "-c", example], tmp_path
    if client == "curl":
        command = ["sh", "-c", example]
    elif client == "javascript":
        node_modules()
        command, folder = ["node", "--input-type=module", "-e", example], SDKS
    environ = {"PATH": os.environ["PATH"], KEY_VARIABLE: KEY}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    if client == "curl":
        assert done.stdout.endswith("data: [DONE]\n\n")
    else:
        assert done.stdout == "echo: Hello"


# Pages of other origins

ASK = """
    const [url, key] = args;
    const answer = await fetch(url, {
        method: "POST",
        headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
        body: JSON.stringify({ stream: true, messages: [{ role: "user", content: "One two" }] }),
    });
    const body = await answer.text();
    const named = (name) => answer.headers.get(name);
    return { status: answer.status, id: named("x-request-id"), after: named("retry-after"), body };
"""


@pytest.fixture
def page():
    server = Upstream()
    server.answer = whole(b"<!doctype html><title>x</title>", headers=("Content-Type: text/html",))
    yield f"http://localhost:{server.port}"
    server.stop()


def test_a_named_page_reads_answers_and_refusals(browser, page):
    with running_proxy(None, ECHO, cors_origins=page) as proxy:
        url = f"{proxy.url}/v1/chat/completions"
        browser.open(page)
        answer = browser.run_async(ASK, url, KEY)
        assert answer["status"] == 200
        assert answer["id"].startswith("req_")
        assert answer["body"].endswith("data: [DONE]\n\n")
        refused = [browser.run_async(ASK, url, f"{WRONG}{n}") for n in range(6)]
        assert [one["status"] for one in refused] == [401] * 5 + [429]
        assert int(refused[-1]["after"]) >= 1
        assert json.loads(refused[-1]["body"])["request_id"] == refused[-1]["id"]


@pytest.mark.parametrize("origins", [(), "https://chat.example.com"])
def test_a_page_that_is_not_named_reads_nothing(browser, page, origins):
    with running_proxy(None, ECHO, cors_origins=origins) as proxy:
        browser.open(page)
        answer = browser.run_async(ASK, f"{proxy.url}/v1/chat/completions", KEY)
    assert answer == "TypeError: Failed to fetch"
