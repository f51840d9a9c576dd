"""The demo's database: some keys, and what they have used within the last weeks. All of it is made
up, the same at each start."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

from ..accounts.grant import Settled, write_settled
from ..accounts.keys import KeyBook
from ..accounts.store import Database, RequestRow
from ..accounts.terms import NANO

NAME = "you"
"""Whose key the demo prints."""

PRICES = {
    "echo-1": {"input": 0.15, "output": 0.6},
    "gpt-4o-mini": {"input": 0.15, "output": 0.6},
    "gpt-4o": {"input": 2.5, "output": 10},
    "claude-*": {"input": 3, "output": 15},
    "gemini-*": {"input": 0.3, "output": 2.5},
}
"""Dollars per million tokens, made up as well."""

_KEYS: dict[str, dict[str, Any]] = {
    "alice": {"note": "research"},
    "bob": {"note": "until the end of his contract", "expires": "5d", "requests_per_minute": 30},
    "build-server": {"models": ["gpt-4o-mini", "gemini-*"], "budget": "40/month", "parallel": 4},
    "chat-bot": {"tokens_per_day": 2_000_000},
}
_MODELS = {
    "alice": (("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-4o")),
    "bob": (("openai", "gpt-4o-mini"), ("my-vllm", "qwen3-32b")),
    "build-server": (("openai", "gpt-4o-mini"), ("gemini", "gemini-2.5-flash")),
    "chat-bot": (("openai", "gpt-4o"), ("gemini", "gemini-2.5-flash")),
}
_RATES = {
    "claude-sonnet-4-5": (3_000, 15_000), "gpt-4o": (2_500, 10_000), "gpt-4o-mini": (150, 600),
    "gemini-2.5-flash": (300, 2_500),
}  # fmt: skip
"""Billionths of a dollar a token, in and out."""

_ENDS = (("complete", 200),) * 94 + (
    ("client_left", 200), ("broke_off", 200), ("failed: upstream_timeout", 504),
    ("refused: rate_limit_exceeded", 429), ("refused: model_not_allowed", 403), ("complete", 400),
)  # fmt: skip
_DAYS, _REQUESTS = 30, 50
_DAY = 86_400


def fill(path: Path) -> str:
    """Make the database, and return the key of an admin.

    :param path: of a file that is not there yet
    """
    database = Database(path)
    try:
        book = KeyBook(database)
        key = book.add(NAME, {"admin": True})
        for name, terms in _KEYS.items():
            book.add(name, terms)
        requests = [_settled(row) for row in _rows(time.time())]
        with database.transaction():
            database.add_requests((one.day, one.row) for one in requests)
            write_settled(requests, database, "")
            database.note_used((one.row.key, one.row.at) for one in requests)
        spent = database.spent("alice", "total")[1] / NANO
        book.change("alice", {"budget": f"{math.ceil(spent / 0.9)}/total"})
    finally:
        database.close()
    return key


def _rows(now: float) -> list[RequestRow]:
    chance = random.Random(7)  # noqa: S311 # nosec B311: figures to look at
    rows = []
    for ago in range(_DAYS):
        weekday = time.gmtime(now - ago * _DAY).tm_wday
        for _ in range(_REQUESTS // 4 if weekday > 4 else _REQUESTS):
            rows.append(_row(chance, now - (ago + chance.random()) * _DAY))
    return sorted(rows)


def _row(chance: random.Random, at: float) -> RequestRow:
    key = chance.choices(list(_KEYS), (4, 3, 5, 8))[0]
    backend, model = chance.choice(_MODELS[key])
    ended, status = chance.choice(_ENDS)
    first = chance.randrange(180, 900)
    if status != 200:
        return RequestRow(
            at, key, backend, model, status, ended, False, None, None, None, None, None, None,
            False, 40, None,
        )  # fmt: skip
    input, output = chance.randrange(400, 24_000), chance.randrange(50, 1_800)
    rates = _RATES.get(model)
    cost = None if rates is None else input * rates[0] + output * rates[1]
    return RequestRow(
        at, key, backend, model, status, ended, True, input, 0, 0, output, 0, cost,
        ended != "complete", first + output * 12, first,
    )  # fmt: skip


def _settled(row: RequestRow) -> Settled:
    tokens = (row.input or 0) + (row.output or 0)
    return Settled(row, None, tokens, row.cost or 0, counts=True)
