"""What docs/keys.md and the README say of stored keys is so: their commands are run, in order."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment
from fronts import program
from servers import running_proxy

from llmauth.accounts.terms import FIELDS
from llmauth.redact.stored_key import PATTERN, is_stored_key, new_key

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="examples for a shell of POSIX")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shell(script: str, folder: Path, **environ: str) -> str:
    """Run the lines of examples as they stand, and stop at the first that fails."""
    start = f'set -eu\nllmauth() {{ "{sys.executable}" -m llmauth "$@"; }}\n'
    done = subprocess.run(
        ["sh", "-c", start + script],
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_team_of_five_as_the_guide_says(tmp_path):
    program("curl")
    make, *later = [one for one in blocks(GUIDE, "sh") if "curl" not in one][1:]
    (ask,) = [one for one in blocks(GUIDE, "sh") if "curl" in one]
    database = tmp_path / "team.db"
    environ = {"LLMAUTH_DATABASE": "team.db"}
    names = ("ALICE", "BOB", "CAROL", "CI", "DAVE")
    said = shell(make + "".join(f'echo "${name}"\n' for name in names), tmp_path, **environ)
    keys = said.split()
    assert [is_stored_key(key) for key in keys] == [True] * 5
    with running_proxy(None, database=str(database), default_backend="echo") as proxy:
        for key in (keys[0], keys[1], keys[2]):
            hello = {"role": "user", "content": "Hello"}
            body = json.dumps({"model": "gpt-4o-mini", "messages": [hello]}).encode()
            headers = {"Content-Type": "application/json"}
            reply = proxy.request("POST", "/v1/chat/completions", headers, body, key=key)
            assert reply.status == 200
        own = shell(
            ask.replace("http://127.0.0.1:8000", proxy.url),
            tmp_path,
            LLM_INTERACTIVE_PROXY_API_KEY=keys[1],
        )
        assert json.loads(own)["key"]["name"] == "bob"
        shown = shell("".join(later), tmp_path, **environ)
    assert "budget               $0.00 of $30/month" in shown
    states = shell("llmauth keys list --json", tmp_path, **environ)
    assert {one["name"]: one["state"] for one in json.loads(states)} == {
        "alice": "active", "bob": "active", "carol": "active", "ci": "active", "dave": "revoked",
    }  # fmt: skip


def test_the_readmes_commands_run(tmp_path):
    (example,) = [one for one in blocks(README, "sh") if "llmauth keys add" in one]
    shown = shell(example, tmp_path)
    assert re.search(r"^alice +active ", shown, re.MULTILINE)
    assert (tmp_path / "team.db").exists()


def test_a_backup_is_made_and_used(tmp_path):
    (command,) = re.findall(r"`(python3 -c .*VACUUM INTO.*)`", GUIDE)
    shell("llmauth keys add alice", tmp_path, LLMAUTH_DATABASE="team.db")
    shell(command, tmp_path)
    listed = shell("llmauth keys list --json", tmp_path, LLMAUTH_DATABASE="backup.db")
    assert [one["name"] for one in json.loads(listed)] == ["alice"]


def test_the_expression_for_scanners_and_the_checksum_are_those_of_the_keys():
    (rule,) = re.findall(r"regex = '''(.*)'''", GUIDE)
    assert rule == rf"\b{PATTERN}\b"
    scope: dict[str, object] = {}
    (example,) = blocks(GUIDE, "python")
    exec(compile(example, "keys.md", "exec"), scope)
    is_key = scope["is_key"]
    assert callable(is_key)
    for _ in range(20):
        key = new_key()
        assert re.search(rule, f"KEY={key};")
        assert is_key(key)
        assert not is_key(key[:-1] + ("a" if key[-1] != "a" else "b"))


def test_every_option_is_in_the_guide():
    for field in set(FIELDS) - {"admin", "note"}:
        assert f"`--{field.replace('_', '-')} " in GUIDE, field
