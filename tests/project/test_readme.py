"""What the README says is so."""

from __future__ import annotations

import re
from pathlib import Path

from flask import Flask
from servers import KEY as SERVER_KEY

from llmauth.config import reference
from llmauth.config.keys import KEY_VARIABLE

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
KEY = "key-of-the-readme-0123456789"


def test_the_settings_are_those_of_the_table():
    found = re.search(r"<!-- settings -->\n(.*)\n<!-- /settings -->", README, re.DOTALL)
    assert found
    assert found[1] == reference.markdown()


def test_the_flask_example_runs(monkeypatch):
    monkeypatch.setenv("LLM_INTERACTIVE_PROXY_API_KEY", KEY)
    example = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Flask" in b)
    scope: dict[str, object] = {"__name__": __name__}
    exec(compile(example, "README", "exec"), scope)
    app = scope["app"]
    assert isinstance(app, Flask)
    client = app.test_client()
    assert client.get("/about").data == b"Hello"
    assert client.get("/nothing").status_code == 401
    assert client.get("/nothing", headers={"x-api-key": KEY}).status_code == 404


def test_the_openai_example_runs(echo, capsys, monkeypatch):
    monkeypatch.setenv("LLM_INTERACTIVE_PROXY_API_KEY", SERVER_KEY)
    example = next(
        b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "OpenAI" in b
    )
    example = example.replace("http://127.0.0.1:8000", echo.url)
    exec(compile(example, "README", "exec"), {})
    assert capsys.readouterr().out == "echo: Hello"


def test_every_flag_and_variable_that_it_names_exists():
    flags = set(re.findall(r"`(--[a-z0-9-]+)", README)) - {"--config", "--backend"}
    known = {flag for s in reference.TABLE for flag in (s.flag, s.switch_off) if flag}
    assert flags <= known


def test_the_documentation_has_one_name_for_the_variable_of_the_proxys_key():
    """Of what examples read; those on the page are read in web/test_docs_page.py."""
    root = Path(__file__).parents[2]
    variable = re.compile(r"\$\{?(\w*KEY)\b|process\.env\.(\w+)|environ\[\"(\w+)\"\]")
    unpacked = re.compile(r"\{(.*)\} = process\.env")
    others = {"OPENAI_API_KEY", "OWN_KEY", "KEY"}  # the last stands for a mistake
    for file in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = file.read_text(encoding="utf-8")
        named = {name for found in variable.findall(text) for name in found if name}
        named |= {
            one.partition(":")[0].strip()
            for u in unpacked.findall(text)
            for one in u.split(",")
        }
        assert named - others <= {KEY_VARIABLE}, file.name
