"""Every input that fuzzing kept is tried again, whole and cut at every place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FOLDER))

from targets import TARGETS  # noqa: E402

CORPUS = sorted(path for path in (FOLDER / "corpus").glob("*/*") if path.is_file())


def test_there_is_a_corpus_for_every_target():
    assert {path.parent.name for path in CORPUS} == TARGETS.keys()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_fuzzing_kept_is_taken_well(path):
    target, data = TARGETS[path.parent.name], path.read_bytes()
    for end in range(len(data) + 1):
        target(data[:end])
