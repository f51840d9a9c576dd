"""Coverage-guided fuzzing with atheris, which is no dependency of the tests: pip install atheris.

::

    python tests/fuzz/run.py request -max_total_time=600
    python tests/fuzz/run.py credentials NEW_CORPUS tests/fuzz/corpus/credentials -runs=1000000

Arguments after the target's name are libFuzzer's. What it finds belongs into ``corpus/``, small
(``-merge=1``), where ``test_fuzz_corpus.py`` tries it every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).parent.parent))  # growth

with atheris.instrument_imports(include=["llmauth", "waitress.parser", "targets"]):
    from targets import TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    arguments = sys.argv
    if all(argument.startswith("-") for argument in arguments[1:]):
        arguments.append(str(Path(__file__).parent / "corpus" / name))
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()
