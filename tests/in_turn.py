"""Runs the program for one order after the other: to start it takes the longest.

Each line of standard input is an order in JSON, its arguments and its environment; for each,
standard output gets a line of what came of it: its exit status, and the bytes of its output as
Latin-1. Each runs in a copy of this process, which has seen nothing of the others, where the system
makes copies.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

import llmauth.cli

assert llmauth.cli.main  # what takes long is in the process already

TIMEOUT = 60


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


def _run(arguments: list[str], environ: dict[str, str]) -> int:
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["llmauth", *arguments]
    try:
        runpy.run_module("llmauth", run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _run_in_a_copy(arguments: list[str], environ: dict[str, str], out: int, err: int) -> int:
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(TIMEOUT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, out, err)):
        os.dup2(descriptor, number)
    sys.exit(_run(arguments, environ))  # ends as a process does, its last duties included


def main() -> None:
    gc.freeze()
    while line := sys.stdin.readline():
        order = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if hasattr(os, "fork"):
                code = _run_in_a_copy(**order, out=out.fileno(), err=err.fileno())
            else:
                with _into(out, err):
                    code = _run(**order)
            out.seek(0)
            err.seek(0)
            done = (code, out.read().decode("latin-1"), err.read().decode("latin-1"))
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
