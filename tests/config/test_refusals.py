"""What is said of a configuration that is wrong: where, what, and what to do."""

from __future__ import annotations

import pytest
from commands import KEY, run

from llmauth.config.loading import load
from llmauth.exceptions import ConfigurationError

OURS = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}


def refused(**environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(environ=OURS | environ)
    assert list(caught.value.messages) == str(caught.value).split("\n")
    return list(caught.value.messages)


FILES = {
    "tab": ("server:\n\tport: 1", ", line 2: a tab stands there: YAML is indented with spaces."),
    "tab first": ("\tserver: {}", ", line 1: a tab"),
    "tab among spaces": ("server:\n  host: a\n\tport: 1", ", line 3: a tab"),
    "repeated": (
        "server:\n  port: 1\n  host: a\n  port: 2",
        ", line 4: 'port' is repeated, after line 2: ",
    ),
    "section twice": (
        "server: {}\nauth: {}\nserver: {}",
        ", line 3: 'server' is repeated, after line 1",
    ),
    "list": ("- server", "the file is a list, not settings. A line is a name, a colon"),
    "text": ("server", "the file is a text, not settings."),
    "no space": ("default_backend:openai", "the file is a text, not settings."),
    "number": ("5", "the file is a number, not settings."),
    "list for a section": (
        "server: [port]",
        "'server' is a list, and not a mapping: settings belong",
    ),
    "text for a section": ("auth: none", "'auth' is a text, and not a mapping"),
    "number for a section": ("server: 8000", "'server' is a number, and not a mapping"),
    "list for an inner section": (
        "auth: {brute_force_protection: [5]}",
        "'auth.brute_force_protection' is a list, and not a mapping",
    ),
    "list for backends": (
        "backends: [openai]",
        "backends is a list, and not a mapping: a backend is a name",
    ),
    "list for a backend": (
        "backends: {x: [y]}",
        "backends.x is a list, and neither a URL nor a mapping",
    ),
    "mapping for a value": (
        "server: {port: {a: 1}}",
        "'server.port' is a mapping, where one value belongs",
    ),
    "list for a value": ("default_backend: [openai]", "is not a text but a list"),
    "switch for a text": ("logging: {file: yes}", "is not a text but true: put quotes around it"),
    "number for a list": ("auth: {trusted_ips: 5}", "is not a list but a number"),
    "name of the first level": ("prot: 1", "'prot' is no setting. Did you mean 'server.port'?"),
    "name of a section": (
        "sever: {port: 1}",
        "'sever.port' is no setting. Did you mean 'server.port'?",
    ),
    "name of the second level": ("server: {hots: a}", "Did you mean 'server.host'?"),
    "name of the third level": (
        "auth: {brute_force_protection: {ttl: 5}}",
        "Did you mean 'auth.brute_force_protection.ttl_seconds'?",
    ),
    "name of a variable": ("APP_PORT: 1", "'APP_PORT' is no setting. Did you mean 'server.port'?"),
    "name of a flag": (
        "--auth-max-failed-attempts: 1",
        "brute_force_protection.max_failed_attempts'?",
    ),
    "name of an attribute": ("brute_force_enabled: true", "brute_force_protection.enabled'?"),
    "name in a backend": (
        "backends: {openai: {timeout: 5}}",
        "'timeout' is no setting of a backend. Did you mean",
    ),
    "list for a text": ("logging: {file: [a]}", "is not a text but a list."),
    "capitals": ("backends: {OpenAI: 'http://x'}", "server's own. Did you mean 'openai'?"),
    "star": (
        "server: {cors_origins: *}",
        ", line 1: the value begins with a sign that has a meaning in YAML",
    ),
    "at": ("default_backend: @x", "quotes have to be put around the value"),
    "percent": ("logging: {file: %x}", "quotes have to be put around the value"),
    "exclamation": ("logging:\n  file: !x y", ", line 2: the value begins with a sign"),
    "colon in a value": (
        "logging:\n  file: a: b",
        ", line 2: either the line before lacks its ':'",
    ),
    "no colon": ("server\n  port: 1", "lacks its ':'"),
    "indentation": ("a:\n  b: 1\n c: 2", ", line 3: the line is not indented like those"),
    "open quote": ("logging: {file: 'x", "a quote or a bracket is not closed"),
    "open bracket": ("auth: {trusted_ips: [10.0.0.1", "a quote or a bracket is not closed"),
    "backslash": (
        'logging: {file: "C:\\Users"}',
        "a backslash in double quotes: take single quotes",
    ),
    "two documents": ("server: {}\n---\nauth: {}", ", line 2: a second document begins"),
    "control character": ("a: \x01", "a control character stands in it"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_config_file_that_is_wrong(case, tmp_path):
    text, said = FILES[case]
    file = tmp_path / "llmauth.yaml"
    file.write_text(text, encoding="utf-8")
    (message,) = refused(LLMAUTH_CONFIG=str(file))
    assert message.startswith(str(file)) or f"({file}: " in message
    assert said in message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("server: {port: 9}\n".encode("utf-16"), "it is not UTF-8; save it as such."),
        (b"logging: {file: \xfc}", "it is not UTF-8; save it as such."),
    ],
    ids=["utf-16", "latin-1"],
)
def test_a_config_file_in_another_encoding(data, said, tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_bytes(data)
    (message,) = refused(LLMAUTH_CONFIG=str(file))
    assert message == f"Cannot read the config file {file} (environment LLMAUTH_CONFIG): {said}"


def test_a_config_file_of_windows_with_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_bytes(b"\xef\xbb\xbfserver:\r\n  port: 9\r\n  trusted_proxies: [10.0.0.1]\r\n")
    assert load(environ=OURS | {"LLMAUTH_CONFIG": str(file)}).port == 9


VARIABLES = {
    "minutes": (
        "OPENAI_TIMEOUT",
        "10m",
        "'10m' is not a number of seconds: write 600, without a unit.",
    ),
    "seconds": ("OPENAI_TIMEOUT", "30s", "write 30, without a unit."),
    "words": (
        "BRUTE_FORCE_TTL_SECONDS",
        "15 minutes",
        "a whole number of seconds: write 900, without",
    ),
    "hours": ("BRUTE_FORCE_MAX_BLOCK_SECONDS", "1h", "write 3600, without a unit."),
    "milliseconds": ("APP_SHUTDOWN_TIMEOUT", "500ms", "write 0.5, without a unit."),
    "range": ("OPENAI_TIMEOUT", "0", "'0' is not between 0.01 and 86400 seconds."),
    "no number": (
        "APP_PORT",
        "http",
        "server.port (environment APP_PORT): 'http' is not a whole number.",
    ),
    "quotes": (
        "APP_PORT",
        '"8000"',
        "has quotes around it, which only a shell takes off (--env-file of",
    ),
    "single quotes": ("LOG_FILE", "'/tmp/x'", "has quotes around it"),
    "curly quotes": ("LLM_BACKEND", "\u201copenai\u201d", "has quotes around it"),
    "quotes around a list": ("TRUSTED_IPS", '"10.0.0.1","10.0.0.2"', "has quotes around it"),
    "quotes around a URL": ("OPENAI_API_BASE_URL", '"https://x"', "it has quotes around it"),
    "JSON": (
        "TRUSTED_IPS",
        '["10.0.0.1"]',
        "has brackets around it: write commas between the values",
    ),
    "blanks in a list": (
        "TRUSTED_PROXIES",
        "10.0.0.1 10.0.0.2",
        "holds '10.0.0.1 10.0.0.2': write commas between the values.",
    ),
    "semicolons": ("TRUSTED_IPS", "10.0.0.1;10.0.0.2", "write commas between the values."),
    "everybody": ("TRUSTED_PROXIES", "*", "such as 10.0.0.0/8, neither a name nor *."),
    "a path": ("BYPASS_PATHS", "/a,status", "holds 'status', no path of a page, which starts"),
    "a URL to listen on": ("APP_HOST", "http://0.0.0.0", "is not an address alone"),
    "a port to listen on": ("APP_HOST", "0.0.0.0:80", "the port is a setting by itself"),
    "a host and a port": (
        "APP_HOST",
        "127.0.0.1:8000",
        "write 127.0.0.1 here, and 8000 in server.port (APP_PORT, --port).",
    ),
    "a name and a port": ("APP_HOST", "localhost:80", "write localhost here, and 80 in server."),
    "a port alone": ("APP_HOST", ":80", "write 0.0.0.0 or 127.0.0.1 here, and 80 in server.port"),
    "IPv6 and a port": ("APP_HOST", "[::1]:80", "write ::1 here, and 80 in server.port"),
    "a URL with a port": ("APP_HOST", "http://[::1]:80/", "write ::1 here, and 80 in server.port"),
    "a URL without": ("APP_HOST", "https://llm.example.com/", "write llm.example.com here."),
    "a network": ("APP_HOST", "0.0.0.0/0", "is not an address alone"),
    "a URL for a name": (
        "LLM_BACKEND",
        "http://127.0.0.1:8080",
        "'http://127.0.0.1:8080' is a URL. Name a backend, such as local, and set LOCAL_API_BASE",
    ),
    "a comma": ("BRUTE_FORCE_BLOCK_MULTIPLIER", "2,5", "is not a number: write 2.5."),
    "another word": ("LOG_LEVEL", "warn", "ERROR, CRITICAL. Did you mean 'warning'?"),
    "scheme twice": ("OPENAI_API_BASE_URL", "https://https://x.example", "URL, such as https://"),
    "port": ("OPENAI_API_BASE_URL", "https://x.example:99999", "URL, such as https://api"),
    "socks": ("OPENAI_PROXY", "socks5://p:1", "is not the URL of a proxy, such as http://proxy."),
    "unseen": ("APP_HOST", "127.0.0.1\u200b", "holds a character that is not seen"),
    "mark": ("APP_HOST", "\ufeff127.0.0.1", "holds a character that is not seen"),
    "switch": (
        "DISABLE_AUTH",
        "maybe",
        "'maybe' is neither true nor false (yes, no, on, off, 1, 0).",
    ),
    "store": (
        "BRUTE_FORCE_STORAGE_URI",
        "memcached://x",
        "names no store with a moving window, in which wrong keys could be counted, as memory://,",
    ),
    "no store": (
        "BRUTE_FORCE_STORAGE_URI",
        "localhost:6379",
        "names no store for the counts of wrong keys, as",
    ),
    "no scheme": (
        "OPENAI_API_BASE_URL",
        "api.example.com/v1",
        "it is not an http:// or https:// URL: is it https://api.example.com/v1?",
    ),
    "no scheme, local": (
        "OPENAI_API_BASE_URL",
        "localhost:8080/v1",
        "is it http://localhost:8080/v1?",
    ),
    "no scheme, address": ("OPENAI_API_BASE_URL", "127.0.0.1:8080", "is it http://127.0.0.1:8080?"),
    "no scheme, container": ("OPENAI_API_BASE_URL", "vllm:8000", "is it http://vllm:8000?"),
    "scheme misspelt": (
        "OPENAI_API_BASE_URL",
        "htps://api.example.com",
        "is it https://api.example.com?",
    ),
    "one slash": (
        "OPENAI_API_BASE_URL",
        "https:/api.example.com",
        "is it https://api.example.com?",
    ),
    "two slashes": ("OPENAI_API_BASE_URL", "//api.example.com", "is it https://api.example.com?"),
    "another scheme": (
        "OPENAI_API_BASE_URL",
        "ftp://x",
        "is not an http:// or https:// URL, such as",
    ),
    "a template": (
        "OPENAI_API_BASE_URL",
        "https://${HOST}/v1",
        "is not an http:// or https:// URL",
    ),
    "proxy": ("OPENAI_PROXY", "proxy.example:3128", "is it http://proxy.example:3128?"),
    "redirects": (
        "OPENAI_REDIRECTS",
        "yes",
        "environment OPENAI_REDIRECTS: 'yes' is none of refuse, hand-on.",
    ),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_a_variable_that_is_wrong(case):
    variable, value, said = VARIABLES[case]
    (message,) = refused(**{variable: value})
    assert f"environment {variable}" in message
    assert said in message
    assert not message.endswith("?.")


@pytest.mark.parametrize("value", ["9000\r", " 9000 ", "9000\n", "\t9000"], ids=repr)
def test_blanks_and_line_ends_around_a_value_count_for_nothing(value):
    environ = {"APP_PORT": value, "APP_HOST": f"127.0.0.1{value[-1] if value[-1] < '0' else ' '}"}
    settings = load(environ=OURS | environ)
    assert (settings.port, settings.host) == (9000, "127.0.0.1")


def test_every_fault_is_told_each_on_a_line_of_its_own(tmp_path):
    file = tmp_path / "llmauth.yaml"
    file.write_text(
        "server: {prot: 1, threads: x}\nlogging: 5\n"
        "backends: {mine: {auth: bearer}, v1: http://x, x: {base_url: y, z: 1}}\n"
    )
    environ = {
        "LLMAUTH_CONFIG": str(file),
        "APP_PORT": "x",
        "OPENAI_TIMEOUT": "10m",
        "OPENAI_API_KEY": "'quoted-0123456789'",
        "LLM_INTERACTIVE_PROXY_API_KEY_BOB": "a b",
        "LLM_BACKEND": "nothing",
    }
    told = [
        "'server.prot' is no setting",
        "'logging' is a number",
        "server.threads",
        "server.port (",
        "'v1' cannot name a backend",
        "base_url is not",
        "'z' is no setting of a backend",
        "environment OPENAI_TIMEOUT",
        "OPENAI_API_KEY: the key has quotes",
        "'mine' has no base_url",
        "LLM_INTERACTIVE_PROXY_API_KEY_BOB: the key holds a space",
    ]
    messages = refused(**environ)
    for said in told:
        assert len([message for message in messages if said in message]) == 1, said
    assert len(messages) == len(told)
    for command in ("serve", "check"):
        done = run(command, "--backend", "x", "--log-level", "loud", **environ)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == len(told) + 2  # two flags
