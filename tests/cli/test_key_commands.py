"""``llmauth keys``, ``usage`` and ``lockouts``, as people and scripts use them."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from commands import environment, run
from programs import Redis

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.prices import NO_PRICES
from llmauth.accounts.store import Database, RequestRow
from llmauth.accounts.terms import period_name
from llmauth.auth.stores import shared_store
from llmauth.cli import main, mistakes
from llmauth.redact.stored_key import PATTERN, is_stored_key

STYLE = re.compile(r"\x1b\[[0-9;]*m")
LONG = "somebody-with-a-name.that.is.rather-long@department.example.com"
EVERYTHING = (
    "--budget", "20000/month", "--requests-per-minute", "600", "--tokens-per-minute", "1234567",
    "--tokens-per-day", "999999999", "--parallel", "8", "--models", "gpt-4o*", "--models",
    "claude-sonnet-*", "--backends", "openai", "--backends", "anthropic", "--from", "10.0.0.0/8",
    "--from", "2001:db8::/32", "--expires", "90d", "--admin", "--note", "The night shift",
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if "API_KEY" in name or name.startswith("LLMAUTH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLMAUTH_DATABASE", str(tmp_path / "keys.db"))
    return tmp_path / "keys.db"


def call(*arguments: str, color: bool = False) -> Result:
    return CliRunner().invoke(main, [*arguments], prog_name="llmauth", color=color)


def keys(*arguments: str) -> Result:
    result = call("keys", *arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str) -> str:
    """Return what is said to a command that cannot be carried out."""
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


def record(name: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(keys("show", name, "--json").stdout)
    return answer


def plain(text: str) -> str:
    return STYLE.sub("", text)


def test_the_key_stands_alone_on_standard_output(path):
    result = keys("add", "alice", "--budget", "20/month")
    assert re.fullmatch(PATTERN + "\n", result.stdout)
    assert is_stored_key(result.stdout.strip())
    assert "'alice'" in result.stderr
    assert "once" in result.stderr
    assert result.stdout.strip() not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_a_shell_takes_the_key_into_a_variable(path):
    script = 'KEY=$("$0" -m llmauth keys add alice 2>said) && printf %s "$KEY"'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable],
        cwd=path.parent,
        env=environment(LLMAUTH_DATABASE=str(path)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert is_stored_key(done.stdout)
    assert "'alice'" in (path.parent / "said").read_text()
    assert done.stdout.encode() not in b"".join(
        file.read_bytes() for file in path.parent.glob("keys.db*")
    )


def test_each_option_is_shown_as_it_was_given(path):
    keys("add", "alice", *EVERYTHING)
    shown = record("alice")
    assert (shown["name"], shown["state"], shown["last_used"]) == ("alice", "active", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["expires"])
    expected = {
        "budget": "20000/month", "requests_per_minute": 600, "tokens_per_minute": 1234567,
        "tokens_per_day": 999999999, "parallel": 8, "models": ["gpt-4o*", "claude-sonnet-*"],
        "backends": ["openai", "anthropic"], "from": ["10.0.0.0/8", "2001:db8::/32"],
        "admin": True, "note": "The night shift",
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    assert shown["used"] == {
        "budget": "0/month", "requests_per_minute": 0, "tokens_per_minute": 0,
        "tokens_per_day": 0, "parallel": 0,
    }  # fmt: skip


LIFTED: dict[str, Any] = {
    "expires": None, "models": [], "backends": [], "from": [], "requests_per_minute": None,
    "tokens_per_minute": None, "tokens_per_day": None, "parallel": None, "budget": None,
    "admin": False, "note": "",
}  # fmt: skip


@pytest.mark.parametrize("field", LIFTED)
def test_every_limit_can_be_lifted_and_the_others_stay(path, field):
    keys("add", "alice", *EVERYTHING)
    before = record("alice")
    keys("set", "ALICE", f"--no-{field.replace('_', '-')}")
    after = record("alice")
    assert after[field] == LIFTED[field]
    assert {n: after[n] for n in LIFTED if n != field} == {
        n: before[n] for n in LIFTED if n != field
    }


def test_what_is_given_is_changed_and_the_rest_stays(path):
    keys("add", "alice", "--parallel", "3", "--models", "gpt-*")
    result = keys("set", "alice", "--models", "o3", "--budget", "5/day")
    assert result.stdout == ""
    assert "within two seconds" in result.stderr
    shown = record("alice")
    assert (shown["parallel"], shown["models"], shown["budget"]) == (3, ["o3"], "5/day")


@pytest.mark.parametrize(("overlap", "both"), [(None, False), ("24h", True)])
def test_a_rotated_key_has_a_new_secret_and_the_old_one_an_end(path, overlap, both):
    old = keys("add", "alice", "--parallel", "3").stdout.strip()
    result = keys("rotate", "alice", *(["--overlap", overlap] if overlap else []))
    new = result.stdout.strip()
    assert is_stored_key(new)
    assert new != old
    assert f"ends {'in 24h' if both else 'now'}" in result.stderr
    assert record("alice")["hint"] == new[-4:]
    database = Database(path)
    (secret, _) = database.all_secrets()
    database.close()
    assert (secret.ends > time.time() + 3600) == both


def test_paused_resumed_and_withdrawn(path):
    keys("add", "alice")
    for command, state in (("pause", "paused"), ("resume", "active"), ("revoke", "revoked")):
        result = keys(command, "alice")
        assert result.stdout == ""
        assert "'alice'" in result.stderr
        assert record("alice")["state"] == state
    assert "revoked, for good" in refused("keys", "resume", "alice")
    assert "revoked: its usage stays" in refused("keys", "add", "alice")


@pytest.mark.parametrize("command", [("rotate",), ("set", "--parallel", "3"), ("resume",)])
def test_what_still_stands_in_the_way_is_said(path, command, monkeypatch):
    keys("add", "alice", "--expires", "1s")
    later = time.time() + 60
    monkeypatch.setattr("llmauth.cli.keys.time.time", lambda: later)
    name, *options = command
    assert "it is expired. Mend that: llmauth keys set" in keys(name, "alice", *options).stderr


COMMANDS = [
    ["keys"], *(["keys", name] for name in (
        "add", "list", "show", "set", "rotate", "pause", "resume", "revoke",
    )), ["usage"], ["lockouts"], ["lockouts", "clear"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example_that_works(path, command):
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    example = result.stdout.partition("Example:\n")[2].partition("\n\n")[0]
    assert f"llmauth {command[0]}" in example
    for line in example.splitlines():
        if found := re.fullmatch(r"(?:KEY=\$\()?llmauth (.*?)\)?", line.strip()):
            database = Database(path)
            if command != ["keys", "add"] and not database.all_keys() and " add " not in line:
                KeyBook(database).add("alice", {})
                database.note_blocks([("203.0.113.9", time.time() + 60)])
            database.close()
            done = call(*found[1].split())
            assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("command", "wrong", "meant"),
    [
        ("add", "--rpm", "--requests-per-minute"),
        ("add", "--tpm", "--tokens-per-minute"),
        ("add", "--tpd", "--tokens-per-day"),
        ("add", "--request-per-minute", "--requests-per-minute"),
        ("add", "--requests_per_minute", "--requests-per-minute"),
        ("add", "--rate-limit", "--requests-per-minute"),
        ("add", "--max-parallel-requests", "--parallel"),
        ("add", "--concurrency", "--parallel"),
        ("add", "--model", "--models"),
        ("add", "--allowed-models", "--models"),
        ("add", "--backend", "--backends"),
        ("add", "--provider", "--backends"),
        ("add", "--ip", "--from"),
        ("add", "--cidr", "--from"),
        ("add", "--Budget", "--budget"),
        ("add", "--budgets", "--budget"),
        ("add", "--max-budget", "--budget"),
        ("add", "--expiry", "--expires"),
        ("add", "--ttl", "--expires"),
        ("add", "--comment", "--note"),
        ("add", "--db", "--database"),
        ("set", "--no-rpm", "--no-requests-per-minute"),
        ("set", "--no-budgt", "--no-budget"),
        ("set", "--no-admins", "--no-admin"),
        ("rotate", "--grace", "--overlap"),
        ("list", "--jso", "--json"),
    ],
)
def test_a_wrong_option_names_the_right_one(path, command, wrong, meant):
    said = refused("keys", command, "alice", wrong, "3")
    assert said.endswith(f"No such option '{wrong}'. Did you mean '{meant}'?")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["usage", "--group-by", "key"], "Did you mean '--by'?"),
        (["usage", "--json"], "Did you mean '--format'?"),
        (["usage", "--start", "7d"], "Did you mean '--since'?"),
        (["keys", "create", "bob"], "Did you mean 'add'?"),
        (["keys", "delete", "bob"], "Did you mean 'revoke'?"),
        (["keys", "ls"], "Did you mean 'list'?"),
        (["keys", "lst"], "Did you mean 'list'?"),
        (["keys", "update", "bob"], "Did you mean 'set'?"),
        (["lockouts", "unblock", "203.0.113.9"], "Did you mean 'clear'?"),
        (["keys", "xyzzy"], "No such command 'xyzzy'."),
        (["keys", "add", "bob", "--frobnicate"], "No such option '--frobnicate'."),
    ],
)
def test_a_wrong_word_names_the_right_one(path, words, said):
    assert refused(*words).endswith(said)


def test_what_is_meant_by_another_word_exists():
    options = {name for one in main.commands["keys"].commands.values() for name in names(one)}
    options |= names(main.commands["usage"])
    assert {f"--{name}" for name in mistakes._OPTIONS.values()} <= options
    there = {*main.commands["keys"].commands, *main.commands["lockouts"].commands}
    assert set(mistakes._COMMANDS.values()) <= there


def names(command) -> set[str]:
    return {name for one in command.params for name in one.opts}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add"], "Missing argument 'NAME'"),
        (["add", "a b"], "NAME: cannot name a key: a name is made of at most 64 letters"),
        (["add", "alice"], "There is a key 'alice' already."),
        (["add", "Alice"], "There is a key 'alice' already."),
        (["add", "office"], "A key of the environment, or of a key file, is named 'office'."),
        (["add", "bob", "--budget", "20"], "--budget: '20' is no budget: write dollars per day,"),
        (["add", "bob", "--budget", "20/year"], "day, week, month, total, such as 20/month."),
        (["add", "bob", "--expires", "soon"], "--expires: 'soon' is no time: write 90d,"),
        (["add", "bob", "--expires", "2020-01-01"], "--expires: 2020-01-01T00:00:00Z is past."),
        (["add", "bob", "--parallel", "0"], "--parallel: '0' is no whole number above 0,"),
        (["add", "bob", "--requests-per-minute", "many"], "--requests-per-minute: 'many' is no"),
        (["add", "bob", "--from", "office"], "is no address or network, such as 10.0.0.0/8"),
        (["add", "bob", "--models", ""], "--models: holds an empty name."),
        (["add", "bob", "--note", "x" * 201], "--note: is no text of at most 200 characters"),
        (["set", "alice"], "Nothing to change: give a limit, such as --budget 20/month."),
        (["set", "alice", "--budget", "3/day", "--no-budget"], "--no-budget contradicts --budget."),
        (["set", "nobody", "--parallel", "3"], "There is no key 'nobody'."),
        (["show", "nobody"], "There is no key 'nobody'. 'llmauth keys list' shows them all."),
        (["rotate", "nobody"], "There is no key 'nobody'."),
        (["rotate", "alice", "--overlap", "long"], "--overlap: 'long' is no duration: write 30m,"),
        (["pause", "nobody"], "There is no key 'nobody'."),
        (["revoke", "nobody"], "There is no key 'nobody'."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_with_what_can(path, monkeypatch, arguments, said):
    keys("add", "alice")
    monkeypatch.setenv("LLM_INTERACTIVE_PROXY_API_KEY_OFFICE", "office-key-0123456789abcdef")
    assert said in refused("keys", *arguments)
    assert [one["name"] for one in json.loads(keys("list", "--json").stdout)] == ["alice"]


@pytest.mark.parametrize(
    "command", [["keys", "list"], ["keys", "add", "bob"], ["usage"], ["lockouts"]], ids=" ".join
)
def test_without_a_database_it_says_how_to_name_one(path, monkeypatch, command):
    monkeypatch.delenv("LLMAUTH_DATABASE")
    assert refused(*command) == (
        "No database: name its file with --database, or in LLMAUTH_DATABASE."
    )
    keys("add", "alice", "--database", str(path))
    there = call(*command, "--database", str(path))
    assert there.exit_code == 0


@pytest.mark.parametrize(
    "command",
    [["keys", "list"], ["keys", "show", "a"], ["keys", "rotate", "a"], ["usage"], ["lockouts"]],
    ids=" ".join,
)
def test_a_misspelt_file_is_not_made(path, command):
    other = str(path.with_name("tema.db"))
    assert refused(*command, "--database", other) == (
        f"There is no database {other} yet. 'llmauth keys add NAME --database {other}' makes it."
    )
    assert not Path(other).exists()


def test_the_database_may_stand_in_the_config_file(path, monkeypatch):
    monkeypatch.delenv("LLMAUTH_DATABASE")
    config = path.with_name("llmauth.yaml")
    config.write_text(f"accounts:\n  database: '{path}'\n", encoding="utf-8")
    keys("add", "alice", "--config", str(config))
    assert path.exists()


def test_a_folder_that_is_not_there(path, monkeypatch):
    monkeypatch.setenv("LLMAUTH_DATABASE", str(path / "none" / "keys.db"))
    assert "there is no folder" in refused("keys", "add", "alice")
    assert "There is no database" in refused("keys", "list")


def test_a_database_that_another_program_holds(path, monkeypatch):
    """After the time that it waits, which is shorter here."""
    keys("add", "alice")
    monkeypatch.setattr("llmauth.accounts.keys._PATIENCE", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert "another program holds it" in refused("keys", "add", "bob")
        assert [one["name"] for one in json.loads(keys("list", "--json").stdout)] == ["alice"]
        assert keys("show", "alice").exit_code == 0
    finally:
        other.execute("ROLLBACK")
        other.close()
    keys("add", "bob")


def test_what_is_damaged(path):
    path.write_bytes(b"no database at all" * 100)
    assert "damaged. Restore a backup" in refused("keys", "list")


def use(path: Path, name: str, **used: float) -> None:
    """Have something of a key's limits used, and the key itself."""
    database, now = Database(path), time.time()
    with database.transaction():
        tokens, dollars = int(used.get("tokens", 0)), int(used.get("dollars", 0) * 10**9)
        database.spend(
            (name, period_name(period, now), tokens, dollars) for period in ("day", "month")
        )
        database.add_tokens([(name, now, tokens)])
        database.add_entries([(f"llmauth/requests/{name}", now)] * int(used.get("requests", 0)))
        database.note_used([(name, now - used.get("ago", 0))])
    database.close()


def test_a_table_with_limits_and_what_is_used_of_them(path):
    keys("add", "alice", "--budget", "20/month", "--requests-per-minute", "10")
    keys("add", "bob", "--tokens-per-day", "1500000", "--expires", "2999-01-31")
    keys("add", "carol", "--models", "gpt-4o*")
    keys("pause", "carol")
    keys("add", "an-old-one")
    keys("revoke", "an-old-one")
    use(path, "alice", dollars=12.4, requests=10, ago=130)
    use(path, "bob", tokens=90_000, ago=3 * 86_400)
    shown = keys("list").stdout.splitlines()
    hints = {name: record(name)["hint"] for name in ("alice", "bob", "carol", "an-old-one")}
    assert shown == [
        "NAME        STATE    KEY      LAST USED   LIMITS",
        f"alice       active   ...{hints['alice']}  2 min ago   "
        "$12.40 of $20/month             ####..",
        "                                          10 of 10 requests/min           ######",
        f"bob         active   ...{hints['bob']}  3 d ago     "
        "90k of 1.5M tokens/day          #.....",
        "                                          expires 2999-01-31",
        f"carol       paused   ...{hints['carol']}  never       models gpt-4o*",
        f"an-old-one  revoked  ...{hints['an-old-one']}  never",
    ]


def test_colours_say_what_is_used_up(path):
    for name, spent in (("some", 5.0), ("much", 16.0), ("all", 21.0)):
        keys("add", name, "--budget", "20/month")
        use(path, name, dollars=spent)
    text = call("keys", "list", color=True).stdout
    assert "\x1b[1mNAME" in text
    assert "\x1b[32mactive\x1b[0m" in text
    for name, bar in (("some", "\x1b[36m##\x1b[0m...."), ("much", "\x1b[33m#####\x1b[0m."),
                      ("all", "\x1b[31m######\x1b[0m")):  # fmt: skip
        (line,) = [line for line in text.splitlines() if line.startswith(name)]
        assert line.endswith(bar)
    assert plain(text) == keys("list").stdout


@pytest.mark.parametrize("command", [["list"], ["show", LONG]], ids=["list", "show"])
@pytest.mark.parametrize("spent", [0, 12345.67])
def test_with_the_longest_name_and_every_limit_it_fits(path, command, spent):
    keys("add", LONG, *EVERYTHING)
    keys("add", "a")
    use(path, LONG, dollars=spent, tokens=int(spent * 10_000), requests=int(spent) % 600)
    result = call("keys", *command, color=True)
    lines = plain(result.stdout).splitlines()
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    text = result.stdout
    for word in ("gpt-4o*", "anthropic", "2001:db8::/32", "of $20,000/month", "of 1.2M tokens/min"):
        assert word in text


def test_without_keys_it_says_how_to_make_one(path):
    Database(path).close()
    result = keys("list")
    assert result.stdout == ""
    assert "llmauth keys add NAME" in result.stderr
    assert json.loads(keys("list", "--json").stdout) == []


def test_all_of_one_key(path):
    keys("add", "alice", *EVERYTHING)
    use(path, "alice", dollars=1.5, tokens=120, requests=3, ago=60)
    shown = dict(
        re.split(r" {2,}", line, maxsplit=1) for line in keys("show", "alice").stdout.splitlines()
    )
    assert shown["name"] == "alice"
    assert shown["state"] == "active"
    assert shown["budget"] == "$1.50 of $20,000/month"
    assert shown["requests per minute"] == "3 of 600 requests/min"
    assert shown["parallel"] == "0 of 8 at a time"
    assert shown["models"] == "gpt-4o*, claude-sonnet-*"
    assert shown["admin"] == "yes"
    assert shown["note"] == "The night shift"
    assert shown["key"].startswith("ends in ")


def test_what_dead_processes_hold_is_not_shown_as_running(path):
    keys("add", "alice", "--parallel", "3")
    database = Database(path)
    with database.transaction():
        database.beat("dead", time.time() - 60)
        database.hold("dead", "alice", 0, 0)
        database.beat("alive", time.time())
        database.hold("alive", "alice", 0, 0)
    database.close()
    assert record("alice")["used"]["parallel"] == 1


def test_requests_are_shown_as_the_shared_store_counts_them(path, monkeypatch):
    store = Redis()
    try:
        monkeypatch.setenv("BRUTE_FORCE_STORAGE_URI", store.uri)
        keys("add", "alice", "--requests-per-minute", "5")
        windows, _ = shared_store(store.uri)
        assert windows
        for _ in range(3):
            windows.acquire_entry("llmauth/requests/alice", 5, 60)
        assert record("alice")["used"]["requests_per_minute"] == 3
    finally:
        store.close()
    assert record("alice")["used"]["requests_per_minute"] == 0  # it is away: what the file knows


DAY = 1_795_694_400.0  # 2026-11-26T12:00:00Z


def used(path: Path, *rows: tuple[str, str, int, int, float | None]) -> None:
    """Write requests: of a key, with a model, tokens in and out, and dollars."""
    database = Database(path)
    with database.transaction():
        database.add_requests(
            (
                period_name("day", DAY + number * 86_400),
                RequestRow(
                    DAY + number * 86_400, key, "openai", model, 200, "complete", False, put, 0, 0,
                    out, 0, None if cost is None else round(cost * 10**9), False, 100, 50,
                ),
            )
            for number, (key, model, put, out, cost) in enumerate(rows)
        )  # fmt: skip
    database.close()


USAGE = (
    ("alice", "gpt-4o", 1_000_000, 20_000, 3.0),
    ("alice", "o3", 100, 20, 1.0),
    ("bob", "gpt-4o", 5_000, 999, 1.0),
)
SINCE = ("--since", "2026-11-01", "--until", "2026-12-31")


def test_usage_is_a_table_with_totals_and_shares(path):
    used(path, *USAGE)
    result = call("usage", *SINCE)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["KEY", "REQUESTS", "INPUT", "OUTPUT", "COST", "SHARE"]
    assert lines[1].split() == ["alice", "2", "1.0M", "20.0k", "$4.00", "#" * 8, "80%"]
    assert lines[2].split() == ["bob", "1", "5.0k", "999", "$1.00", "##", "20%"]
    assert lines[3].split() == ["total", "3", "1.0M", "21.0k", "$5.00"]
    assert all(len(line) <= 80 for line in lines)


def test_usage_of_one_key_and_by_several(path):
    used(path, *USAGE)
    text = call("usage", *SINCE, "--key", "alice", "--by", "model,day", "--format", "json").stdout
    assert [(row["day"], row["model"], row["cost_usd"]) for row in json.loads(text)] == [
        ("2026-11-26", "gpt-4o", 3.0), ("2026-11-27", "o3", 1.0),
    ]  # fmt: skip


def test_usage_as_csv(path):
    used(path, *USAGE)
    result = call("usage", *SINCE, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["key"], row["requests"], row["cost_usd"]) for row in rows] == [
        ("alice", "2", "4.0"), ("bob", "1", "1.0"),
    ]  # fmt: skip
    assert result.stderr == ""


def test_usage_names_models_without_a_price(path):
    used(path, ("alice", "home-made", 10, 10, None))
    text = call("usage", *SINCE).stdout
    assert "Without a price, so not in the dollars: home-made." in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "colour"], "--by: 'colour' is none of day, key, backend, model."),
        (["--since", "yore"], "--since: 'yore' is no day: write 30d, today, or 2026-11-26 (UTC)."),
        (["--format", "xml"], "'xml' is not one of"),
    ],
)
def test_usage_that_cannot_be_asked(path, arguments, said):
    Database(path).close()
    assert said in refused("usage", *arguments)


def block(path: Path, *addresses: str) -> None:
    database = Database(path)
    with database.transaction():
        database.note_blocks([(one, time.time() + 600) for one in addresses])
    database.close()


def test_lockouts_are_listed_and_cleared(path):
    Database(path).close()
    assert "Nobody is locked out." in call("lockouts").stderr
    block(path, "203.0.113.9", "2001:db8:1:2::/64")
    listed = call("lockouts").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["203.0.113.9", "2001:db8:1:2::/64"]
    assert all(len(line) <= 80 for line in listed)
    assert json.loads(call("lockouts", "--json").stdout)[0]["address"] == "203.0.113.9"
    cleared = call("lockouts", "clear", "2001:db8:1:2::7")
    assert cleared.exit_code == 0
    assert "2001:db8:1:2::/64 is let in again." in cleared.stderr
    assert len(call("lockouts").stdout.splitlines()) == 1
    assert "198.51.100.1 is not locked out" in refused("lockouts", "clear", "198.51.100.1")


def test_a_command_of_its_own_process_ends_with_2_and_words(path):
    done = run("keys", "add", "alice", "--rpm", "3", LLMAUTH_DATABASE=str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--requests-per-minute" in done.stderr
    assert not path.exists()


@pytest.mark.parametrize("command", [["keys"], ["capture"]], ids=" ".join)
def test_a_group_without_a_command_shows_its_help_and_no_error(command):
    done = call(*command)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Usage: llmauth {command[0]} ")
    assert "Error" not in done.stderr


@pytest.mark.parametrize(("text", "number"), [("200k", 200_000), ("2M", 2 * 10**6), ("7", 7)])
def test_numbers_may_be_written_as_they_are_shown(path, text, number):
    keys("add", "bob", "--tokens-per-day", text, "--database", str(path))
    shown = json.loads(keys("show", "bob", "--json", "--database", str(path)).stdout)
    assert shown["tokens_per_day"] == number


def test_networks_that_are_none_are_named_as_they_were_given(path):
    said = refused("keys", "add", "eve", "--from", "office", "--database", str(path))
    assert said.startswith("--from: 'office' is no address or network")


def test_a_budget_without_prices_is_said_to_count_nothing(path, monkeypatch):
    monkeypatch.setattr("llmauth.accounts.prices.Prices.are_known", False)
    options = "--database", str(path)
    assert NO_PRICES in keys("add", "bob", "--budget", "2/day", *options).stderr
    assert NO_PRICES not in keys("add", "carol", *options).stderr
    assert NO_PRICES in keys("set", "carol", "--budget", "2/day", *options).stderr
    checked = " ".join(call("check", *options).output.split())
    assert f"prices: b{NO_PRICES[1:]}" in checked
    monkeypatch.undo()
    assert NO_PRICES not in keys("set", "carol", "--budget", "3/day", *options).stderr


@pytest.mark.parametrize("command", ["keys list", "keys add x", "usage", "lockouts", "check"])
def test_a_folder_that_may_not_be_entered(path, monkeypatch, command):
    """Such as that of a service, for whoever is another user."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "exists", denied)
    done = call(*command.split(), "--database", str(path))
    assert done.exit_code == (1 if command == "check" else 2)
    said = " ".join(f"{done.output} {done.exception}".split())
    assert f"The database {path} cannot be used: Permission denied. Check its owner" in said
