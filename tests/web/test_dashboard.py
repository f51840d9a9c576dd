"""The page at /dashboard in a real browser, as an operator and a colleague use it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, running_browser
from programs import node_modules, wait_for
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from servers import KEY, Proxy, running_proxy
from waitress.server import create_server
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from llmauth import create_app
from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database, RequestRow
from llmauth.accounts.terms import NANO, PERIODS, period_name
from llmauth.config.loading import Given, load
from llmauth.redact.stored_key import new_key

ECHO = {"LLM_BACKEND": "echo", "OPENAI_API_BASE_URL": "echo:"}
SCREENS = [(1200, False), (1200, True), (380, False), (380, True), (320, False)]
WRONG = "wrong-key-0123456789abcdefghij"


@dataclass
class Team:
    """A server with some keys and what they have used."""

    proxy: Proxy
    keys: dict[str, str]
    database: Database
    book: KeyBook

    @property
    def url(self) -> str:
        return f"{self.proxy.url}/dashboard"

    def add(self, name: str, **terms: Any) -> str:
        """Make a key of which no other test knows."""
        self.keys[name] = self.book.add(name, terms)
        self.proxy.server.state.accounts.reload()
        return self.keys[name]

    def state_of(self, name: str) -> str:
        state = self.proxy.server.state.accounts
        state.reload()
        return state.directory.keys[name].state(time.time())

    def chat(self, key: str, model: str = "gpt-4o-mini") -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "private words"}]}
        return self.proxy.request(
            "POST", "/v1/chat/completions", {}, json.dumps(body).encode(), key=key
        ).status


def row(key: str, model: str, ago: float, **more: Any) -> RequestRow:
    values: dict[str, Any] = {
        "at": time.time() - ago * 86_400, "key": key, "backend": "openai", "model": model,
        "status": 200, "ended": "complete", "streamed": True, "input": 1_200_000, "cached": 0,
        "written": 0, "output": 34_000, "reasoning": 0, "cost": 4_200_000_000, "estimated": False,
        "ms": 2345, "first_ms": 420,
    }  # fmt: skip
    return RequestRow(**values | more)


def fill(database: Database) -> dict[str, str]:
    book = KeyBook(database)
    keys = {
        "root": book.add("root", {"admin": True}),
        "alice": book.add("alice", {"budget": "10/total", "tokens_per_day": 9_000_000}),
        "bob": book.add("bob", {"expires": "3d", "note": "the build server"}),
    }
    rows = [
        row("alice", "gpt-4o", 0),
        row("alice", "gpt-4o", 2),
        row("bob", "qwen3", 1, cost=None),
        row("bob", "gpt-4o", 0, status=429, ended="refused: insufficient_quota", input=None,
            output=None, cost=None, first_ms=None),
        row("bob", "gpt-4o", 20),
    ]
    with database.transaction():
        database.add_requests((period_name("day", one.at), one) for one in rows)
        for period in PERIODS:
            spent = ("alice", period_name(period, time.time()), 2_400_000, 9 * NANO)
            database.spend([spent])
    return keys


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def axe() -> str:
    return (node_modules() / "axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def team(tmp_path_factory) -> Iterator[Team]:
    file = tmp_path_factory.mktemp("team") / "keys.db"
    database = Database(file)
    keys = fill(database)
    with running_proxy(None, ECHO, database=str(file)) as proxy:
        yield Team(proxy, keys, database, KeyBook(database))
    database.close()


def enter(browser: Browser, url: str, key: str, **screen: Any) -> None:
    browser.open(url, **screen)
    browser.fill(key=key)
    browser.find("#enter-form button").click()


def enter_as(browser: Browser, team: Team, name: str, **screen: Any) -> None:
    enter(browser, team.url, team.keys[name], **screen)
    browser.wait_for("#title", name if name != "root" else "All keys")


def press(browser: Browser, label: str) -> None:
    """Press the button of this name, which may appear a little later."""
    found = WebDriverWait(browser.driver, 20, 0.02).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, f'button[aria-label="{label}"]')
    )
    browser.run("arguments[0].scrollIntoView({ block: 'center' })", found[0])
    found[0].click()


def wait_until(browser: Browser, script: str) -> None:
    WebDriverWait(browser.driver, 20, 0.02).until(lambda _: browser.run(f"return {script}"), script)


def look_again(browser: Browser) -> None:
    """Have it refreshed now, and not within seconds."""
    browser.run_async("await look()")


def item(name: str) -> str:
    return f"#key-list > li[data-name='{name}']"


def click(browser: Browser, selector: str) -> None:
    element = browser.find(selector)
    browser.run("arguments[0].scrollIntoView({ block: 'center' })", element)
    element.click()


# What it shows


def test_it_opens_without_a_complaint_holds_no_data_and_asks_nobody_else(browser, team):
    browser.open(team.url)
    assert browser.messages() == []
    assert [u for u in browser.requests() if not u.startswith("data:")] == [team.url]
    page = team.proxy.request("GET", "/dashboard", key=None)
    assert "unsafe" not in page.header("content-security-policy")
    assert page.header("content-security-policy").startswith("default-src 'none'")
    assert page.header("cache-control") == "no-store"
    for word in ("alice", "gpt-4o\"", "qwen3"):
        assert word.encode() not in page.body


def test_an_admin_sees_everything_from_top_to_bottom(browser, team):
    enter_as(browser, team, "root")
    wait_until(browser, "document.querySelectorAll('#key-list > li').length >= 3")
    tiles = {name: browser.text(f"#{name}") for name in ("cost", "input", "output", "running")}
    assert tiles == {
        "cost": "≥\u202f$8.40", "input": "3.6\u202fM", "output": "102\u202fk", "running": "0",
    }  # fmt: skip
    assert "$9.00 of $10.00 in all" in browser.text(item("alice"))
    assert "90 %" in browser.text(item("alice"))
    assert "Expires on" in browser.text(item("bob"))
    models = browser.text("#model-table")
    assert "gpt-4o" in models
    assert "420\u202fms" in models
    attention = browser.text("#attention-list")
    for words in (
        "'alice' is at 90 % of a limit: $9.00 of $10.00 in all",
        "'bob' expires on",
        "qwen3 has no price: 1 request",
    ):
        assert words in attention
    assert "refused: all used up (429)" in browser.text("#request-table")
    order = browser.run(
        "return [...document.querySelectorAll('#page section:not([hidden])')].map((s) => s.id)"
    )
    assert order == ["overview", "keys", "models", "attention", "requests"]
    assert browser.messages() == []


@pytest.mark.parametrize(
    ("range", "cost"), [("today", "$4.20"), ("7d", "≥\u202f$8.40"), ("30d", "≥\u202f$12.60")]
)
def test_a_time_is_chosen(browser, team, range, cost):
    enter_as(browser, team, "root")
    click(browser, f"#range label:has([value='{range}'])")
    browser.wait_for("#cost", cost)


def test_the_picture_is_made_of_the_figures_that_stand_in_a_table_beside_it(browser, team):
    enter_as(browser, team, "root")
    bars = browser.run(
        "return [...document.querySelectorAll('#chart rect title')].map((t) => t.textContent)"
    )
    assert len(bars) == 2
    assert all("alice: $4.20" in bar for bar in bars)
    assert "most on" in browser.find("#chart svg").get_attribute("aria-label")
    browser.fill(measure="Tokens")
    wait_until(browser, "document.querySelectorAll('#chart rect').length >= 3")
    browser.fill(by="model")
    browser.wait_for("#legend", "qwen3")
    click(browser, "#by-day summary")
    table = browser.find("#days").text
    assert "qwen3" in table
    assert "unknown" in table


def test_any_other_key_sees_itself(browser, team):
    enter_as(browser, team, "alice")
    assert browser.text("#title") == "The key 'alice'"
    left = browser.find("#left").text
    assert "Budget: $1.00 left" in left
    assert "Tokens a day: 6.6\u202fM left" in left
    assert "It begins anew on" in left
    assert not browser.find("#keys").is_displayed()
    page = browser.find("main").text
    assert "bob" not in page
    assert "qwen3" not in page


def test_a_key_of_the_environment_has_no_limits(browser, team):
    enter(browser, team.url, KEY)
    browser.wait_for("#title", "The key 'default'")
    assert "This key has no limits." in browser.text("#left-none")
    assert "None yet." in browser.text("#requests-none")
    assert browser.text("#models-none") == "No requests in this time."


@pytest.mark.parametrize(
    ("ended", "status", "words"),
    [
        ("complete", 200, "complete"),
        ("complete", 304, "complete"),
        ("complete", 400, "the provider refused it (400)"),
        ("complete", 529, "the provider failed (529)"),
        ("client_left", 200, "the client left"),
        ("broke_off", 200, "the provider broke off"),
        ("refused: model_not_allowed", 403, "refused: model not allowed (403)"),
        ("refused: rate_limit_exceeded", 429, "refused: too many a minute (429)"),
        ("cut: key_withdrawn", 200, "cut: key withdrawn"),
        ("failed: upstream_timeout", 504, "failed: upstream timeout (504)"),
        ("failed: what_is_new", None, "failed: what is new"),
    ],
)
def test_how_a_request_ended_is_said_in_words(browser, team, ended, status, words):
    if not browser.driver.current_url.startswith(team.url):
        browser.open(team.url)
    assert browser.run("return ending(arguments[0])", {"ended": ended, "status": status}) == words


def test_an_empty_server_says_what_to_do(browser, tmp_path):
    database = Database(tmp_path / "keys.db")
    root = KeyBook(database).add("root", {"admin": True})
    database.close()
    with running_proxy(None, ECHO, database=str(tmp_path / "keys.db")) as proxy:
        enter(browser, f"{proxy.url}/dashboard", root)
        browser.wait_for("#welcome", "Make one for a colleague")
        shown = browser.find("#page").text
        for words in ("No requests in this time.", "Nothing does.", "connect a client", "1 key"):
            assert words in shown
        assert browser.text("#cost") == "$0.00"
        assert "none in this time" in browser.find("#chart svg").get_attribute("aria-label")


def test_times_are_those_of_the_readers_zone(browser, team):
    browser.command("Emulation.setTimezoneOverride", timezoneId="Asia/Kolkata")
    try:
        enter_as(browser, team, "alice")
        shown = browser.run(
            "return document.querySelector('#request-table tbody').rows[0].cells[0].textContent"
        )
        at = browser.run_async(
            "return (await (await fetch('-/overview', { headers: { Authorization: `Bearer "
            f"{team.keys['alice']}` }} }})).json()).requests[0].at"
        )
        seconds = time.mktime(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert time.strftime("%H:%M:%S", time.gmtime(seconds + 19_800)) in shown
    finally:
        browser.command("Emulation.setTimezoneOverride", timezoneId="")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "LLMAUTH_DATABASE"),
        ({"disable_auth": True}, "Authentication is off"),
    ],
    ids=["no database", "no authentication"],
)
def test_without_what_it_needs_it_says_so(browser, settings, words):
    with running_proxy(None, ECHO, **settings) as proxy:
        for scripts in (True, False):
            browser.open(f"{proxy.url}/dashboard", scripts=scripts)
            assert words in browser.find("main").text
            assert not browser.find("#enter").is_displayed()
    assert browser.messages() == []


# What it does


def test_a_key_for_a_colleague_is_made_by_name_alone_shown_once_and_works(browser, team):
    enter_as(browser, team, "root")
    click(browser, "#add")
    browser.fill(name="carol")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.wait_for("#made-title", "carol")
    key = browser.text("#made-key")
    assert team.chat(key) == 200
    for code in ("curl", "python", "javascript", "anthropic"):
        assert key in browser.text(f"#{code} pre code")
        assert "LLM_INTERACTIVE" not in browser.text(f"#{code} pre code")
    example = browser.text("#curl pre code")
    done = subprocess.run(["sh", "-c", example], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("data: [DONE]\n\n")
    press(browser, "Copy the key")
    browser.wait_for("#copied", "Copied: the key")
    ActionChains(browser.driver).send_keys(Keys.ESCAPE).perform()
    browser.wait_for("#made-problem", "shown never again")
    click(browser, "#made-close")
    assert key not in browser.run("return document.documentElement.outerHTML")
    browser.wait_for("#key-list", "carol")


def test_a_key_gets_limits_and_they_are_changed(browser, team):
    enter_as(browser, team, "root")
    click(browser, "#add")
    click(browser, "#more summary")
    browser.fill(
        name="dora", note="new here", dollars="20", period="a week", requests_per_minute="10",
        tokens_per_day="5000", parallel="2", allowed="gpt-4o-mini, echo-*", expires="in 30 days",
    )  # fmt: skip
    browser.find("#from").send_keys("127.0.0.0/8")
    click(browser, "#save")
    browser.wait_for("#made-title", "dora")
    click(browser, "#made-close")
    terms = team.book._row("dora").terms
    assert json.loads(terms) | {"expires": None} == {
        "expires": None, "note": "new here", "budget": "20/week", "requests_per_minute": 10,
        "tokens_per_day": 5000, "parallel": 2, "models": ["gpt-4o-mini", "echo-*"],
        "from": ["127.0.0.0/8"],
    }  # fmt: skip
    before = json.loads(terms)
    press(browser, "Change dora")
    assert browser.find("#dollars").get_property("value") == "20"
    assert browser.find("#expires").get_property("value") == "keep"
    browser.find("#parallel").clear()
    browser.fill(dollars="30", period="a month")
    click(browser, "#save")
    browser.wait_for("#done", "dora is changed.")
    before.pop("parallel")
    assert json.loads(team.book._row("dora").terms) == before | {"budget": "30/month"}
    browser.wait_for(item("dora"), "of $30.00 this month")


def test_an_expiry_is_the_end_of_a_day_of_the_readers(browser, team):
    enter_as(browser, team, "root")
    click(browser, "#add")
    browser.fill(name="erin", expires="on a day ...")
    browser.run("document.querySelector('#until').value = '2031-05-06'")
    click(browser, "#save")
    browser.wait_for("#made-title", "erin")
    click(browser, "#made-close")
    browser.wait_for(item("erin"), "Expires on 6 May 2031, 23:59")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "alice"}, "There is a key 'alice' already"),
        ({"name": "two words"}, "cannot name a key"),
        ({"name": "  "}, "say whose key it is"),
        ({"name": "frank", "dollars": "-3"}, "budget"),
        ({"name": "frank", "expires": "on a day ..."}, "choose a day"),
    ],
    ids=["taken", "spaces", "none", "budget", "day"],
)
def test_what_cannot_be_made_is_said_and_stays_typed(browser, team, fields, words):
    enter_as(browser, team, "root")
    click(browser, "#add")
    browser.fill(note="a note", **fields)
    click(browser, "#save")
    browser.wait_for("#edit-problem", words)
    assert browser.find("#note").get_property("value") == "a note"
    assert browser.find("#edit").is_displayed()


def test_a_key_is_paused_and_good_again(browser, team):
    key = team.add("gina")
    enter_as(browser, team, "root")
    press(browser, "Pause gina")
    browser.wait_for("#done", "gina is paused.")
    wait_for(lambda: team.chat(key) == 401, "it is paused")
    press(browser, "Resume gina")
    browser.wait_for("#done", "gina is good again.")
    wait_for(lambda: team.chat(key) == 200, "it is good")


def test_before_a_key_is_revoked_one_is_asked(browser, team):
    key = team.add("hugo")
    enter_as(browser, team, "root")
    press(browser, "Revoke hugo")
    assert "cannot be undone" in browser.text("#sure-text")
    assert browser.run("return document.activeElement.textContent") == "Cancel"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert team.state_of("hugo") == "active"
    press(browser, "Revoke hugo")
    click(browser, "#sure-yes")
    browser.wait_for("#done", "hugo is revoked.")
    assert team.chat(key) == 401
    browser.wait_for(item("hugo"), "revoked")
    assert not browser.find(f"{item('hugo')} .actions").is_displayed()


@pytest.mark.parametrize(("choice", "status"), [("no longer", 401), ("for another hour", 200)])
def test_a_key_is_rotated(browser, team, choice, status):
    name = f"ivan-{status}"
    old = team.add(name)
    enter_as(browser, team, "root")
    press(browser, f"Rotate {name}")
    browser.fill(overlap=choice)
    click(browser, "#sure-yes")
    browser.wait_for("#made-title", name)
    assert team.chat(browser.text("#made-key")) == 200
    assert team.chat(old) == status


def test_who_rotates_his_own_key_goes_on_with_the_new_one(browser, team):
    team.add("judy", admin=True)
    enter(browser, team.url, team.keys["judy"])
    press(browser, "Rotate judy")
    click(browser, "#sure-yes")
    browser.wait_for("#made-title", "judy")
    click(browser, "#made-close")
    look_again(browser)
    assert browser.text("#problem") == ""
    assert not browser.find("#enter").is_displayed()


@pytest.mark.parametrize("client", ["203.0.113.7", "2001:db8:1:2::3"])
def test_an_address_is_let_in_again(browser, team, client):
    address = team.proxy.server.state.guard.clients.counted_as(client)
    with team.database.transaction():
        team.database.note_blocks([(address, time.time() + 600)])
    enter_as(browser, team, "root")
    browser.wait_for("#attention-list", f"{address} is locked out until")
    press(browser, f"Let {address} in")
    browser.wait_for("#done", f"{address} is let in again.")
    assert team.database.lockouts(time.time()) == []


def test_what_fails_without_failing_requests_is_said_first(browser, team, monkeypatch):
    lockout = team.proxy.server.state.guard.lockout
    monkeypatch.setattr(type(lockout), "healthy", False)
    enter_as(browser, team, "root")
    browser.wait_for("#attention-list", "The store fails: unreachable, counting locally.")
    assert "store" in browser.text("#attention-list > li:first-child")


def test_names_that_clients_choose_stay_text_and_one_line_each(browser, team):
    """They are looked at again and again: nothing may pile up."""
    names = ["<img src=x onerror=alert(1)>", "all others", "null", "", "__proto__", "a " * 90]
    key = team.add("oscar")
    with team.database.transaction():
        team.database.add_requests(
            (period_name("day", time.time()), row("oscar", name, 0, cost=None)) for name in names
        )
    enter(browser, team.url, key, width=380)
    browser.wait_for("#model-table", "onerror")
    for _ in range(3):
        look_again(browser)
    numbers = browser.run(
        "return ['#legend li', '#attention-list li', '#model-table tbody tr'].map("
        "(s) => document.querySelectorAll(s).length)"
    )
    assert numbers == [len(names)] * 3
    assert browser.run("return document.images.length") == 0
    assert browser.run(
        "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    ) == 0
    assert browser.messages() == []


def test_behind_a_prefix_it_works_as_well(browser, tmp_path):
    database = Database(tmp_path / "keys.db")
    keys = fill(database)
    database.close()
    settings = {"database": str(tmp_path / "keys.db"), "default_backend": "echo"}
    inner = create_app(load(Given(settings), {}))
    mounted = DispatcherMiddleware(lambda environ, start: [], {"/team/llm": inner.wsgi_app})
    server = create_server(mounted, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.effective_port}/team/llm"
        enter(browser, f"{base}/dashboard", keys["root"])
        browser.wait_for("#key-list", "alice")
        assert f"{base}/v1/chat" in browser.text("#curl code")
    finally:
        server.close()
        inner.extensions["llmauth"].close()


def test_a_key_is_found_among_many(browser, team, tmp_path):
    database = Database(tmp_path / "many.db")
    book = KeyBook(database)
    root = book.add("root", {"admin": True})
    for number in range(150):
        book.add(f"key-{number:03}", {})
    database.close()
    with running_proxy(None, ECHO, database=str(tmp_path / "many.db")) as proxy:
        enter(browser, f"{proxy.url}/dashboard", root)
        browser.wait_for("#key-count", "100 of 151 keys are shown")
        assert browser.run("return document.querySelectorAll('#key-list > li').length") == 100
        browser.fill(find="key-14")
        browser.wait_for("#key-count", "10 keys")
        browser.fill(find="nobody")
        browser.wait_for("#key-count", "No key's name or note holds 'nobody'.")


# What people are used to


def test_it_refreshes_itself_and_leaves_what_is_typed_and_where_one_is(browser, team):
    team.add("kate")
    enter_as(browser, team, "root")
    click(browser, "#by-day summary")
    browser.wait_for("#key-list", "kate")
    click(browser, "#add")
    browser.fill(name="half a na")
    with team.database.transaction():
        team.database.add_requests([(period_name("day", time.time()), row("kate", "new-model", 0))])
    browser.wait_for("#model-table", "new-model")
    assert browser.find("#name").get_property("value") == "half a na"
    assert browser.run("return document.activeElement.id") == "name"
    ActionChains(browser.driver).send_keys(Keys.ESCAPE).perform()
    button = browser.find(f"{item('kate')} [data-word=Rotate]")
    browser.run("arguments[0].focus()", button)
    look_again(browser)
    assert browser.run("return document.activeElement.dataset.word") == "Rotate"
    assert browser.find("#by-day details").get_property("open") is True


def test_updates_can_be_paused(browser, team):
    enter_as(browser, team, "root")
    click(browser, "#pause")
    assert browser.find("#pause").get_attribute("aria-pressed") == "true"
    browser.requests()
    time.sleep(0.3)
    assert browser.run("return timer === null || paused") is True
    click(browser, "#pause")
    wait_until(browser, "!paused && timer !== null")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (WRONG, "This key does not let you in (401)."),
        (new_key(), "This key does not let you in (401)."),
        ("two words", "This cannot be a key"),
        ("clé-0123456789", "This cannot be a key"),
    ],
    ids=["wrong", "stored", "spaces", "accent"],
)
def test_a_key_that_is_refused_is_explained(browser, tmp_path, key, words):
    Database(tmp_path / "keys.db").close()
    with running_proxy(None, ECHO, database=str(tmp_path / "keys.db")) as proxy:
        enter(browser, f"{proxy.url}/dashboard", key)
        browser.wait_for("#problem", words)
    assert browser.find("#enter").is_displayed()
    assert not browser.find("#page").is_displayed()


def test_a_key_that_ends_meanwhile_ends_the_page(browser, team):
    team.add("leo", admin=True)
    enter(browser, team.url, team.keys["leo"])
    browser.wait_for("#title", "All keys")
    team.book.revoke("leo")
    team.proxy.server.state.accounts.reload()
    browser.run("look()")
    browser.wait_for("#problem", "The key 'leo' was revoked")
    assert browser.find("#enter").is_displayed()
    assert browser.run("return document.querySelectorAll('#page li, #page td').length") == 0
    assert browser.run("return key") is None


def test_a_server_that_is_gone_is_explained_and_what_was_seen_stays(browser, tmp_path):
    database = Database(tmp_path / "keys.db")
    keys = fill(database)
    database.close()
    with running_proxy(None, ECHO, database=str(tmp_path / "keys.db")) as proxy:
        enter(browser, f"{proxy.url}/dashboard", keys["root"])
        browser.wait_for("#key-list", "alice")
    browser.run("look()")
    browser.wait_for("#problem", "could not be reached")
    assert "What you see is from" in browser.text("#problem")
    press(browser, "Pause alice")
    browser.wait_for("#problem", "could not be reached")
    assert browser.find(item("alice")).is_displayed()


def test_forgetting_the_key_takes_everything_away(browser, team):
    enter_as(browser, team, "root")
    browser.wait_for("#key-list", "alice")
    click(browser, "#leave")
    assert browser.run("return key") is None
    assert "alice" not in browser.text("main")
    assert browser.run("return document.activeElement.id") == "key"
    assert browser.find("#key").get_property("value") == ""


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"), (999, "999"), (9999, "9,999"), (10_000, "10\u202fk"), (12_345, "12.3\u202fk"),
        (999_940, "999.9\u202fk"), (999_960, "1\u202fM"), (1_234_567, "1.2\u202fM"),
        (9.87e9, "9.9\u202fB"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_for_people(browser, team, number, shown):
    if not browser.driver.current_url.startswith(team.url):
        browser.open(team.url)
    assert browser.run("return rounded(arguments[0])", number) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"), (0.001, "<\u202f$0.01"), (4.2, "$4.20"), (1234.5, "$1,234.50"),
        (12_345.6, "$12,346"), (2.5e6, "$2.5\u202fM"), (None, "unknown"),
    ],
)  # fmt: skip
def test_dollars_are_rounded_for_people(browser, team, amount, shown):
    if not browser.driver.current_url.startswith(team.url):
        browser.open(team.url)
    assert browser.run("return dollars(arguments[0])", amount) == shown


def test_it_works_with_the_keyboard_alone(browser, team):
    team.add("mia")
    browser.open(team.url)
    ActionChains(browser.driver).send_keys(Keys.TAB, Keys.TAB).perform()
    ActionChains(browser.driver).send_keys(team.keys["root"], Keys.ENTER).perform()
    browser.wait_for("#key-list", "mia")
    assert browser.run("return document.activeElement.id") == "title"
    seen = []
    for _ in range(200):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        now = browser.run(
            "const e = document.activeElement, s = getComputedStyle("
            "e.type === 'radio' ? e.nextElementSibling : e);"
            "const name = e.id || e.ariaLabel || e.textContent || e.name;"
            "return [name, parseFloat(s.outlineWidth) > 1]"
        )
        seen.append(now[0])
        assert now[1], f"the focus cannot be seen on {now[0]}"
        if now[0] == "Revoke mia":
            break
    order = ["pause", "leave", "measure", "by", "find", "add", "Change mia", "Pause mia"]
    assert [name for name in seen if name in order] == order
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert browser.find("#sure").is_displayed()
    ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ENTER).perform()
    browser.wait_for("#done", "mia is revoked.")


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_it_is_accessible_and_fits_on_every_screen(browser, team, axe, width, dark):
    def check(what: str) -> None:
        assert violations(browser) == [], what
        assert browser.run(
            "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        ) == 0, f"{what} is wider than the screen"

    browser.open(team.url, width=width, height=800, dark=dark)
    browser.run(axe)
    check("the field for the key")
    browser.fill(key="two words")
    browser.find("#enter-form button").click()
    check("a problem")
    for name, title in (("alice", "alice"), ("root", "All keys")):
        browser.fill(key=team.keys[name])
        browser.find("#enter-form button").click()
        browser.wait_for("#title", title)
        browser.run("document.querySelector('#by-day details').open = true")
        check(f"the page of {name}")
        if name == "alice":
            click(browser, "#leave")
    browser.wait_for("#key-list", "bob")
    press(browser, "Change bob")
    browser.run("document.querySelector('#name').value = ''")
    click(browser, "#save")
    browser.wait_for("#edit-problem", "Name")
    check("the form")
    browser.run("document.querySelector('#edit').close()")
    press(browser, "Revoke bob")
    check("the question")
    browser.run("document.querySelector('#sure').close()")
    browser.run(
        "tellKey({ name: 'nobody', key: arguments[0], models: [] })", "llmauth_" + "x" * 49
    )
    check("the new key")


def violations(browser: Browser) -> list[str]:
    return browser.run_async(
        "const found = await axe.run({ resultTypes: ['violations'] });"
        "return found.violations.map((v) => v.id + ' ' + v.nodes.map((n) => n.html))"
    )


def test_nothing_moves(browser, team):
    package = Path(sys.modules["llmauth"].__file__).parent
    style = (package / "web/documents/dashboard.css").read_text(encoding="utf-8")
    for word in ("animation", "transition", "smooth"):
        assert word not in style


# The key


def test_the_key_is_in_no_storage_cookie_address_log_or_capture(browser, tmp_path, caplog):
    """Neither the one that is entered nor the one that is made."""
    caplog.set_level("DEBUG", logger="llmauth")
    database = Database(tmp_path / "keys.db")
    keys = fill(database)
    database.close()
    capture = tmp_path / "capture.jsonl"
    settings = {"database": str(tmp_path / "keys.db"), "capture_file": str(capture)}
    with running_proxy(None, ECHO, **settings) as proxy:
        team = Team(proxy, keys, database, KeyBook(database))
        enter_as(browser, team, "root")
        click(browser, "#add")
        browser.fill(name="nina")
        click(browser, "#save")
        browser.wait_for("#made-title", "nina")
        made = browser.text("#made-key")
        assert team.chat(made) == 200
        click(browser, "#made-close")
        browser.wait_for("#key-list", "nina")
        kept = browser.run_async(
            "return JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie,"
            " location.href, history.state, history.length, name, await indexedDB.databases(),"
            " await caches.keys(), [...document.querySelectorAll('input')].map((i) => i.value),"
            " document.documentElement.outerHTML])"
        )
        asked = "\n".join(browser.requests())
        browser.messages()
    log = "\n".join(one.getMessage() for one in caplog.records if one.name.startswith("llmauth"))
    seen = [kept, asked, log, capture.read_text(encoding="utf-8")]
    seen += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    for secret in (keys["root"], made):
        assert [text[:80] for text in seen if secret[8:] in text] == []
    assert "/-/overview" in asked
    assert "'root' added 'nina'" in log
    assert "private words" not in kept
