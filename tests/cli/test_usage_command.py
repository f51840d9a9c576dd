"""``llmauth usage``: what people and programs are told of what was used."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from commands import environment

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database, RequestRow
from llmauth.cli import main

DAY = "2026-11-20"


@dataclass
class Used:
    key: str
    model: str
    input: int | None
    output: int | None
    dollars: float | None
    day: str = DAY
    status: int = 200
    estimated: bool = False

    def row(self) -> tuple[str, RequestRow]:
        cost = None if self.dollars is None else round(self.dollars * 1e9)
        return self.day, RequestRow(
            0.0, self.key, "openai", self.model, self.status, "complete", True, self.input, 0, 0,
            self.output, 0, cost, self.estimated, 1000, 100,
        )  # fmt: skip


USED = [
    Used("alice", "gpt-4o-mini-2024-07-18", 1_234_567, 89_000, 7.5),
    Used("alice", "gpt-4o-mini-2024-07-18", 5_000, 1_000, 0.5, "2026-11-21"),
    Used("bob@example.com", "claude-sonnet-4-5", 999, 10, 2.0, estimated=True),
    Used("ci", "llama", 10, 10, None),
    Used("ci", "gpt-4o-mini-2024-07-18", 1, 1, 0.0001),
    Used("ci", "gpt-4o-mini-2024-07-18", None, None, None, status=502),
    Used("ci", "a\x1b]0;x", None, None, None),
]

TABLE = """\
KEY              REQUESTS   INPUT  OUTPUT      COST  SHARE
alice                   2    1.2M   90.0k     $8.00  ######## 80%
bob@example.com         1     999      10     $2.00  ## 20%
ci                      4      11      11    <$0.01  # 0%
total                   7    1.2M   90.0k    $10.00
Failed or refused: 1 of the requests.
Cut off, and estimated: 1 of the requests.
Usage unknown, so not in tokens and dollars: 1 of the requests.
Without a price, so not in the dollars: a\\x1b]0;x, llama.
"""

BY_KEY_AND_MODEL = """\
KEY             MODEL                  REQUESTS   INPUT  OUTPUT      COST  SHARE
alice           gpt-4o-min..024-07-18         2    1.2M   90.0k     $8.00  80%
bob@example.com claude-sonnet-4-5             1     999      10     $2.00  20%
ci              gpt-4o-min..024-07-18         2       1       1    <$0.01  0%
ci              a\\x1b]0;x                     1       0       0         -  0%
ci              llama                         1      10      10         -  0%
"""

BY_DAY = """\
DAY         REQUESTS   INPUT  OUTPUT      COST  SHARE
2026-11-20         6    1.2M   89.0k     $9.50  ########## 95%
2026-11-21         1    5.0k    1.0k     $0.50  # 5%
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.db"
    database = Database(path)
    with database.transaction():
        database.add_requests(one.row() for one in USED)
    database.close()
    return path


def usage(path: Path, *options: str) -> Result:
    arguments = ["usage", "--database", str(path), "--since", "2026-01-01", *options]
    return CliRunner().invoke(main, arguments, terminal_width=80)


@pytest.mark.parametrize(
    ("by", "table"),
    [("key", TABLE), ("key,model", BY_KEY_AND_MODEL), ("day", BY_DAY)],
    ids=["key", "key and model", "day"],
)
def test_a_table_for_people(path, by, table):
    done = usage(path, "--by", by)
    assert click.unstyle(done.stdout).startswith(table)
    assert max(map(len, click.unstyle(done.stdout).splitlines())) <= 80


def test_of_one_key(path):
    done = usage(path, "--key", "BOB@example.com", "--by", "model")
    lines = click.unstyle(done.stdout).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["MODEL", "claude-sonnet-4-5", "total"]


def test_csv_and_json_for_programs_with_a_word_on_standard_error(path):
    for form in ("csv", "json"):
        done = usage(path, "--by", "key,day", "--format", form)
        rows = {(row["key"], row["day"]): row for row in read(done.stdout, form)}
        assert rows.keys() == {
            ("alice", DAY), ("alice", "2026-11-21"), ("bob@example.com", DAY), ("ci", DAY),
        }  # fmt: skip
        assert float(rows["alice", DAY]["cost_usd"]) == 7.5
        assert int(rows["ci", DAY]["unknown_requests"]) == 1
        assert "Without a price" in done.stderr
    models = read(usage(path, "--by", "model", "--format", "json").stdout, "json")
    assert models[-1]["cost_usd"] is None


def read(text: str, form: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text))) if form == "csv" else json.loads(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--by", "colour"], "--by: 'colour' is none of day, key, backend, model."),
        (["--until", "2025-12-31"], "--since: 2026-01-01 is after 2025-12-31."),
        (["--until", "soon"], "--until: 'soon' is no day: write 30d, today, or 2026-11-26 (UTC)."),
    ],
)
def test_what_cannot_be_asked(path, options, said):
    done = usage(path, *options)
    assert done.exit_code != 0
    assert said in (done.stderr or str(done.exception))


def test_nothing_yet(path):
    KeyBook(Database(path)).add("unused", {})
    assert usage(path, "--key", "unused").stdout == "Nothing was used in this time.\n"
    done = usage(path, "--key", "nobody")
    assert done.exit_code != 0
    assert "There is no key 'nobody'" in (done.stderr or str(done.exception))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of a reader that left otherwise")
def test_whoever_reads_only_the_beginning_is_no_fault_of_the_file(path):
    database = Database(path)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    with database.transaction():
        database.add_requests(Used(f"k{n}", "m", 1, 1, 1, today).row() for n in range(3000))
    database.close()
    command = [sys.executable, "-m", "llmauth", "usage", "--database", str(path)]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline().startswith("KEY")
    process.stdout.close()
    assert "cannot be used" not in process.stderr.read()
    process.stderr.close()
    process.wait(20)
