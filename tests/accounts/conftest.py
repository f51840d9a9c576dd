"""What the tests of accounts share: a database, and its keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmauth.accounts.keys import KeyBook
from llmauth.accounts.store import Database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def book(path: Path) -> Iterator[KeyBook]:
    database = Database(path)
    yield KeyBook(database, ["default"])
    database.close()
