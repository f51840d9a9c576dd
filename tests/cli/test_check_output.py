"""``llmauth check``: the verdict first, then what is wrong, then what was set and where."""

from __future__ import annotations

import re

import pytest
from commands import KEY, SECRET, run
from servers import Upstream, whole

OK = "ok: it can start, and what is configured answers."
NOT_OK = "not ok: what is wrong comes first."
OURS = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LLM_BACKEND": "echo"}


def check(*arguments: str, **environ: str) -> tuple[int, list[str]]:
    done = run("check", *arguments, **environ)
    assert done.stderr == ""
    assert KEY not in done.stdout
    return done.returncode, done.stdout.splitlines()


def test_where_all_is_by_default_the_answer_fits_on_a_screen():
    status, lines = check(**OURS)
    assert (status, lines[0]) == (0, OK)
    assert len(lines) < 15
    text = "\n".join(lines)
    assert "What was set; all else is as by default, and --all shows it." in lines
    assert re.search(r"^default_backend +echo  \[environment LLM_BACKEND\]$", text, re.MULTILINE)
    assert "port" not in text


def test_everything_is_shown_with_all():
    from llmauth.config.settings import TABLE

    status, lines = check("--all", **OURS)
    assert (status, lines[0]) == (0, OK)
    assert "Values without a source in brackets are the defaults." in lines
    names = {line.split()[0] for line in lines if line.strip()}
    assert {setting.name.rpartition(".")[2] for setting in TABLE} <= names
    assert {"base_url", "auth", "idle_timeout"} <= names


def test_what_was_set_is_shown_with_where():
    file = "logs"
    environ = OURS | {"APP_THREADS": "9", "LOG_FILE": file, "OPENAI_TIMEOUT": "7"}
    environ |= {"OPENAI_API_KEY": SECRET, "OPENAI_API_BASE_URL": "http://127.0.0.1:1"}
    status, lines = check("--port", "1234", **environ)
    text = re.sub(r"\s+", " ", "\n".join(lines))
    assert status == 1
    for said in (
        "server port 1234 [flag --port] threads 9 [environment APP_THREADS]",
        f"logging file {file} [environment LOG_FILE]",
        "backends.openai base_url http://127.0.0.1:1 [environment OPENAI_API_BASE_URL]",
        "api_key **** [environment OPENAI_API_KEY]",
        "read_timeout 7.0 [environment OPENAI_TIMEOUT]",
    ):
        assert said in text
    assert "connect_timeout" not in text


def test_key_files_are_named_by_path_and_keys_in_one_row(tmp_path):
    file, provider = tmp_path / "keys", tmp_path / "openai"
    file.write_text("".join(f"user-{n}: {KEY}-{n:03}\n" for n in range(40)))
    provider.write_text(SECRET)
    environ = OURS | {
        "LLM_INTERACTIVE_PROXY_API_KEY_ALICE": f"{KEY}-of-alice",
        "LLM_INTERACTIVE_PROXY_API_KEY_FILE": str(file),
        "OPENAI_API_KEY_FILE": str(provider),
        "OPENAI_API_BASE_URL": "http://127.0.0.1:1",
    }
    for arguments, names in (
        ([], [f"user-{n}" for n in range(18)]),
        (["--all"], [f"user-{n}" for n in range(40)]),
    ):
        _, lines = check(*arguments, **environ)
        text = re.sub(r"\s+", " ", "\n".join(lines))
        more = "" if arguments else " and 22 more"
        assert f"proxy keys default, alice, {', '.join(names)}{more} [environment" in text
        assert "LLM_INTERACTIVE_PROXY_API_KEY_ALICE" in text
        assert f", {file}]" in text
        assert f"api_key **** [environment OPENAI_API_KEY_FILE: {provider}]" in text


def test_what_is_wrong_comes_first_then_warnings_then_the_rest():
    upstream = Upstream()
    upstream.answer = whole(b"{}", headers=("Content-Type: application/json",))
    environ = OURS | {
        "OPENAI_API_BASE_URL": upstream.url,
        "GROQ_API_BASE_URL": "http://127.0.0.1:1",
        "BRUTE_FORCE_STORAGE_URI": "redis://127.0.0.1:1",
        "APP_PROT": "1",
        "TRUSTED_PROXIES": "0.0.0.0/0",
    }
    status, lines = check(**environ)
    upstream.stop()
    assert (status, lines[0]) == (1, NOT_OK)
    begins = [line for line in lines[1 : lines.index("")] if not line.startswith(" ")]
    assert [re.split(r"[:(]", line)[0].strip() for line in begins] == [
        "store",
        "backend groq",
        "warning",
        "warning",
        "backend openai",
        "backend echo",
        "not configured",
    ]


@pytest.mark.parametrize("variable", ["LOG_FILE", "CAPTURE_FILE"])
def test_a_file_that_cannot_be_written_is_found_before_the_start(variable, tmp_path):
    for file, status in (
        (tmp_path / "file", 0),
        (tmp_path, 1),
        (tmp_path / "no" / "file", 1),
    ):
        found, lines = check(**OURS, **{variable: str(file)})
        said = " ".join(" ".join(lines).split())  # where a line breaks depends on the path
        assert (found, said.count("cannot be written")) == (status, status), lines
        assert not list(tmp_path.iterdir())


def test_without_a_key_everything_else_is_tried_all_the_same():
    status, lines = check(LLM_BACKEND="echo", LLM_INTERACTIVE_PROXY_APIKEY=KEY)
    assert (status, lines[0]) == (2, NOT_OK)
    assert lines[1].startswith("API key not configured: ")
    assert "backend echo: ok" in lines


CAPTURE = '{"direction": "inbound_request", "request_id": "1", "metadata": {"method": "GET"}}\n'


@pytest.mark.parametrize("command", [["show"], ["har"], ["show", "--follow"]], ids=" ".join)
@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b'{"a": 1}\n[1]\n"direction"\n',
        b'{"log": {"entries": []}}',
        b"\x1f\x8b\x08\x00\x00\x00",
        b"\n\n",
        CAPTURE.encode("utf-16"),
    ],
    ids=["text", "JSON", "HAR", "gzip", "blank", "UTF-16"],
)
def test_a_file_that_is_no_capture_is_refused(command, content, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(content)
    name, *options = command
    done = run("capture", name, *options, str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"'{file}' is no wire capture" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_file_says_that_nothing_was_captured(tmp_path):
    file = tmp_path / "capture.jsonl"
    file.touch()
    done = run("capture", "show", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is empty: nothing has been captured yet" in done.stderr


def test_a_capture_with_a_line_that_is_none_is_shown(tmp_path):
    file = tmp_path / "capture.jsonl"
    file.write_text(f'{{"direction": "inb\n{CAPTURE}torn\n')
    done = run("capture", "show", str(file))
    assert done.returncode == 0
    assert "GET" in done.stdout
