"""The program as people start it, in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from commands import KEY, ROOT, SECRET, environment, get, run, started
from fronts import free_port, program
from programs import SDKS, node_modules
from servers import KEY as SERVER_KEY
from servers import TIMEOUT, Upstream


def test_without_a_key_it_refuses_to_start_and_says_why():
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "API key not configured: set LLM_INTERACTIVE_PROXY_API_KEY, "
        "or start with --disable-auth for local development.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["--disable-auth", "--host", "0.0.0.0"], {}, "--allow-unauthenticated-network"),
        (["--default-backend", "opnai"], {}, "openai"),
        (["--port", "99999"], {}, "server.port (flag --port): '99999'"),
        ([], {"APP_PORT": "x"}, "server.port (environment APP_PORT): 'x'"),
        (["--capture-file", "/nonexistent/x"], {}, "/nonexistent/x"),
        (["--log", "/nonexistent/x"], {}, "/nonexistent/x"),
        (["--auth-brute-force-storage", "redis://:pw-secret@127.0.0.1:1"], {}, "reached"),
        (["--auth-brute-force-storage", "memcached://x"], {}, "moving window"),
        (["--config", "/nonexistent.yaml"], {}, "/nonexistent.yaml"),
        (["--backend", "x"], {}, "NAME=URL"),
        (["--host", "192.0.2.1"], {}, "an address of this machine"),
        (["--backend", "http://u:pw-secret@127.0.0.1"], {}, "NAME=URL"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(arguments, environ, said):
    done = run(*arguments, LLM_INTERACTIVE_PROXY_API_KEY=KEY, **environ)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "pw-secret" not in done.stderr
    assert KEY not in done.stderr


def test_a_taken_port_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        done = run("--port", port, LLM_INTERACTIVE_PROXY_API_KEY=KEY)
    assert done.returncode == 1
    assert re.fullmatch(rf"Cannot listen on 127\.0\.0\.1, port {port}: .*\n", done.stderr)


WAYS = {
    "module": ["-m", "llmauth"],
    "serve": ["-m", "llmauth", "serve"],
    "app.py": ["app.py"],
    "flask run": ["-m", "flask", "--app", "app", "run"],
    "waitress-serve": ["-m", "waitress", "--listen=127.0.0.1:PORT", "wsgi:application"],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_start_it_serves_and_logs_without_keys(way):
    port = free_port()
    command = [part.replace("PORT", str(port)) for part in WAYS[way]]
    if "waitress" not in command:
        command += ["--port", str(port)]
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LLM_BACKEND": "echo", "LOG_FORMAT": "json"}
    with started(*command, port=port, **environ) as process:
        assert get(port, f"/echo/v1/models?key={KEY}")[0] == 401
        assert get(port, f"/echo/v1/models?key={KEY}", KEY)[0] == 200
        printed, access = [], []
        for line in process.stdout:
            printed.append(line)
            if '"/echo/v1/models"' in line:
                access.append(json.loads(line))
            if len(access) == 2:
                break
    assert KEY not in "".join(printed)
    # Of requests that threads serve, neither waits for the line of the other.
    found = sorted((line["status"], line["key"]) for line in access)
    assert found == [(200, "default"), (401, None)]


@pytest.mark.parametrize("way", WAYS)
def test_without_a_key_every_way_ends_in_one_line(way):
    done = subprocess.run(
        [sys.executable, *WAYS[way]],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("API key not configured: set LLM_INTERACTIVE_PROXY_API_KEY, ")
    assert len(done.stderr.splitlines()) == 1


def test_keygen_prints_a_strong_key():
    one, two = run("keygen").stdout.strip(), run("keygen").stdout.strip()
    assert one != two
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", one)


def test_a_port_that_the_demo_cannot_use_is_no_traceback():
    done = run("demo", "--port", "99999")
    assert done.returncode == 2
    assert "0<=x<=65535" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def snippets():
    """The demo's snippets, while it runs."""
    port = free_port()
    with started("-m", "llmauth", "demo", "--port", str(port), port=port) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        patterns = (
            r"curl:\n\n(.*?)\n\nPython",
            r"pip install openai\):\n\n(.*?)\n\nJava",
            r"node\):\n\n(.*?)\n\nPress",
        )
        yield [re.search(pattern, "".join(lines), re.DOTALL)[1] for pattern in patterns]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0


def test_the_demo_shows_its_own_traffic_and_leaves_nothing_behind(tmp_path):
    """From its output one gets to the page, with a key that may make others."""
    port = free_port()
    process = started("-m", "llmauth", "demo", "--port", str(port), port=port, TMPDIR=str(tmp_path))
    with process as demo:
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        text = "".join(lines)
        assert f"http://127.0.0.1:{port}/dashboard" in text
        key = re.search(r"^llmauth_\w{49}$", text, re.MULTILINE)[0]
        assert [path.name for path in tmp_path.iterdir()] != []
        status, body = get(port, "/-/overview", key)
        answer = json.loads(body)
        assert (status, answer["admin"]) == (200, True)
        assert answer["totals"]["cost_usd"] > 1
        assert set(answer["attention"]) == {"limit", "expiry", "price"}
        os.kill(demo.pid, signal.SIGTERM)
        assert demo.wait(TIMEOUT) == 0
    assert list(tmp_path.iterdir()) == []


def pasted(*command: str, **more) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, **more).stdout


def test_the_demos_curl_works_when_pasted(snippets):
    program("curl")
    output = pasted("sh", "-c", snippets[0])
    assert output.count("data: ") > 5
    assert output.endswith("data: [DONE]\n\n")


def test_the_demos_python_works_when_pasted(snippets):
    assert pasted(sys.executable, "-c", snippets[1]) == "echo: Hello, how are you?"


def test_javascript_of_the_demo_and_of_the_readme_works_when_pasted(snippets, echo):
    program("npm")
    node_modules()
    node = [program("node"), "--input-type=module", "-e"]
    assert pasted(*node, snippets[2], cwd=SDKS) == "echo: Hello, how are you?"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```js\n(.*?)```", readme, re.DOTALL)[1]
    example = example.replace("http://127.0.0.1:8000", echo.url)
    environ = os.environ | {"LLM_INTERACTIVE_PROXY_API_KEY": SERVER_KEY}
    assert pasted(*node, example, cwd=SDKS, env=environ) == "echo: Hello"


def test_check_tells_origins_and_what_is_wrong_and_hides_secrets(tmp_path):
    upstream = Upstream()
    file = tmp_path / "llmauth.yaml"
    file.write_text("server: {port: 8765}\nlogging: {level: debug}\n")
    done = run(
        "check",
        "--all",
        "--log-level",
        "warning",
        "--config",
        str(file),
        LLM_INTERACTIVE_PROXY_API_KEY=KEY,
        OPENAI_API_KEY=SECRET,
        OPENAI_API_BASE_URL=upstream.url,
        OPENAI_TIMEOUT="7",
        OLLAMA_API_BASE_URL="http://user:pass-secret@127.0.0.1:1",
    )
    upstream.stop()
    assert done.returncode == 1
    text = re.sub(r"\s+", " ", done.stdout)
    assert f" port 8765 [{file}: server.port] " in text
    assert " level WARNING [flag --log-level] " in text
    assert " proxy keys default [environment LLM_INTERACTIVE_PROXY_API_KEY] " in text
    assert " read_timeout 7.0 [environment OPENAI_TIMEOUT] " in text
    assert " api_key **** [environment OPENAI_API_KEY] " in text
    assert " auth bearer api_key " in text  # a default has no source
    assert "backend openai: ok" in text
    assert "backend ollama: The backend 'ollama' could not be reached" in text
    output = done.stdout + done.stderr
    assert not [secret for secret in (KEY, SECRET, "pass-secret") if secret in output]


def test_the_banner_says_when_every_address_is_listened_on():
    port = free_port()
    command = ["-m", "llmauth", "--host", "0.0.0.0", "--port", str(port)]
    with started(*command, port=port, LLM_INTERACTIVE_PROXY_API_KEY=KEY) as process:
        line = next(line for line in process.stdout if "listening" in line)
    assert f"http://127.0.0.1:{port} and every other address" in line


def test_help_names_every_setting():
    from llmauth.config.settings import TABLE

    text = re.sub(r"\s+", " ", run("serve", "--help").stdout)
    assert text.isascii()  # a console may know no more
    for setting in TABLE:
        assert setting.flag in text
        assert setting.env in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_banner_the_log_and_a_clean_end_without_a_secret(tmp_path, number):
    upstream, port, log = Upstream(), free_port(), tmp_path / "log.jsonl"
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY_ALICE": KEY,
        "OPENAI_API_KEY": SECRET,
        "OPENAI_API_BASE_URL": upstream.url,
        "LOG_LEVEL": "DEBUG",
        "LOG_FILE": str(log),
        "LOG_FORMAT": "json",
    }
    command = ["-m", "llmauth", "--port", str(port)]
    with started(*command, port=port, **environ) as process:
        assert get(port, f"/v1/y?key={KEY}", KEY)[0] == 200
        assert get(port, f"/v1/x/{KEY}", "wrong-" + KEY)[0] == 401
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0
    upstream.stop()
    assert "alice" in output
    assert output.isascii()
    assert all(len(line) <= 80 for line in output.splitlines())
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    access = [entry for entry in entries if entry["logger"] == "llmauth.access"]
    line = next(entry for entry in access if entry["path"] == "/v1/y")
    assert (line["key"], line["backend"], line["status"]) == ("alice", "openai", 200)
    assert {"client", "method", "bytes", "first_byte_ms", "total_ms", "request_id"} <= line.keys()
    assert KEY not in log.read_text() + output
    assert SECRET not in log.read_text() + output


def test_a_capture_is_written_without_keys_shown_and_exported(tmp_path):
    port, file = free_port(), tmp_path / "capture.jsonl"
    environ = {
        "LLM_INTERACTIVE_PROXY_API_KEY": KEY,
        "LLM_BACKEND": "echo",
        "CAPTURE_FILE": str(file),
    }
    with started("-m", "llmauth", "--port", str(port), port=port, **environ) as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        question = {"stream": True, "messages": [{"role": "user", "content": f"hello {KEY}"}]}
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(question), headers)
            assert KEY in connection.getresponse().read().decode()
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=TIMEOUT)
    directions = [json.loads(line)["direction"] for line in file.read_text().splitlines()]
    assert directions[0] == "inbound_request"
    assert directions[-1] == "stream_end"
    shown, har = run("capture", "show", str(file)).stdout, run("capture", "har", str(file)).stdout
    assert "echo: hello ****" in shown
    (entry,) = json.loads(har)["log"]["entries"]
    assert entry["response"]["status"] == 200
    assert KEY not in file.read_text() + shown + har
