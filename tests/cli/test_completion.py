"""What shells are told when somebody presses the tabulator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.shell_completion import get_completion_class
from commands import run

from llmauth.cli import main
from llmauth.cli.completion import PROGRAM, SHELLS, VARIABLE


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_for_its_profile(shell):
    done = run("completion", shell)
    script = done.stdout
    assert done.returncode == 0
    assert f"{shell}_complete" in script
    assert "_LLMAUTH_COMPLETE" in script


def completed(monkeypatch, shell: str, line: str, word: str) -> list[str]:
    """Return what is offered at the end of a line."""
    number = len(line.split()) - bool(word)
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", word if shell == "fish" else str(number))
    monkeypatch.setenv("COMP_WORD", word)
    known = get_completion_class(shell)
    lines = known(main, {}, PROGRAM, VARIABLE).complete().splitlines()
    if shell == "zsh":
        return lines[1::3]
    if shell == "powershell":
        return [one.partition("\t")[0] for one in lines]
    return [one.partition(",")[2].partition("\t")[0] for one in lines]


def test_a_shell_asks_by_a_variable():
    asked = {"_LLMAUTH_COMPLETE": "powershell_complete", "COMP_WORDS": "llmauth ke"}
    code = "import sys; from llmauth.cli import main; sys.argv = ['llmauth']; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked | {"COMP_WORD": "ke"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("keygen\t")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "word", "offered"),
    [
        ("llmauth ke", "ke", {"keygen", "keys"}),
        ("llmauth ", "", {"serve", "check", "keys", "usage", "completion"}),
        ("llmauth keys ro", "ro", {"rotate"}),
        ("llmauth --por", "--por", {"--port"}),
        ("llmauth --vers", "--vers", {"--version"}),
        ("llmauth --port 1 --hos", "--hos", {"--host"}),
        ("llmauth check --conf", "--conf", {"--config"}),
        ("llmauth completion po", "po", {"powershell"}),
    ],
)
def test_commands_and_options_are_offered(monkeypatch, shell, line, word, offered):
    assert offered <= set(completed(monkeypatch, shell, line, word))
