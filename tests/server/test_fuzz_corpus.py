"""Every input that fuzzing kept is tried again, whole and cut at every place."""

from __future__ import annotations

from pathlib import Path

import pytest
from targets import TARGETS

FOLDER = Path(__file__).parents[1] / "fuzz"

CORPUS = sorted(path for path in (FOLDER / "corpus").glob("*/*") if path.is_file())


def test_there_is_a_corpus_for_every_target():
    assert {path.parent.name for path in CORPUS} == TARGETS.keys()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_fuzzing_kept_is_taken_well(path):
    target, data = TARGETS[path.parent.name], path.read_bytes()
    for end in range(len(data) + 1):
        target(data[:end])
