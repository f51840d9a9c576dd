"""Runs the program for one list of arguments after the other: to start it takes the longest.

Standard input is a JSON list of them; standard output gets a JSON list of what came of each: its
exit status, and the bytes of its output as Latin-1. Each runs in a copy of this process, which has
seen nothing of the others, where the system makes copies.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

import llmauth.cli

assert llmauth.cli.main  # what takes long is in the process already


@contextlib.contextmanager
def _into(out: IO[bytes], err: IO[bytes]) -> Iterator[None]:
    kept = [os.dup(1), os.dup(2)]
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _run(arguments: list[str]) -> int:
    sys.argv = ["llmauth", *arguments]
    try:
        runpy.run_module("llmauth", run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _run_in_a_copy(arguments: list[str]) -> int:
    if not hasattr(os, "fork"):
        return _run(arguments)
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.exit(_run(arguments))  # ends as a process does, its last duties included


def main() -> None:
    done = []
    for arguments in json.load(sys.stdin):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with _into(out, err):
                code = _run_in_a_copy(arguments)
            out.seek(0)
            err.seek(0)
            done.append((code, out.read().decode("latin-1"), err.read().decode("latin-1")))
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
