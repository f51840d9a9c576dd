"""What stands where a key belongs: keys, and everything that people put there in their place."""

from __future__ import annotations

import base64
import re

import pytest

from llmauth.config.keys import keys_in_file
from llmauth.config.loading import load
from llmauth.exceptions import ConfigurationError

K, OTHER = "Zk3vQ9Yw7Tt5RqXb1Nc8Md", "pA4sW0rdOf2ndUser7xQz9"
VARIABLE = "LLM_INTERACTIVE_PROXY_API_KEY"

LINES = {
    "a name alone": "anna:",
    "no space": f"anna:{K}",
    "two colons": f"anna::{K}",
    "a tab": f"anna:\t{K}",
    "a space before": f"anna :{K}",
    "=": f"anna={K}",
    "= and spaces": f"anna = {K}",
    "= in a named one": f"anna: bob={K}",
    "=>": f"anna=>{K}",
    "an empty variable": f"{VARIABLE}=",
    "an empty short variable": "KEY=",
    "a name and =": "ANNAS_OWN_KEY=",
    "a variable": f"{VARIABLE}={K}",
    "export": f"export {VARIABLE}={K}",
    "set": f"set {VARIABLE}={K}",
    "setx": f"setx {VARIABLE} {K}",
    "PowerShell": f'$env:{VARIABLE}="{K}"',
    "JSON": f'{{"anna": "{K}"}}',
    "JSON, tight": f'{{"anna":"{K}"}}',
    "JSON, a list": f'["{K}", "{OTHER}"]',
    "JSON, a member": f'"anna": "{K}",',
    "JSON, begins": "{",
    "JSON, ends": "]",
    "a list": f"{K},{OTHER}",
    "a list with spaces": f"{K}, {OTHER}",
    "a list with ;": f"{K};{OTHER}",
    "a named list": f"anna: {K},{OTHER}",
    "CSV": f"anna,{K}",
    "CSV, quoted": f'"anna","{K}"',
    "a comma at the end": f"{K},",
    "a named one with a comma": f"anna: {K},",
    "quotes": f'"{K}"',
    "single quotes": f"'{K}'",
    "backticks": f"`{K}`",
    "one quote": f'"{K}',
    "quotes and a name": f"anna: '{K}'",
    "quotes of a word processor": f"\N{LEFT DOUBLE QUOTATION MARK}{K}",
    "YAML, a list": f"- {K}",
    "YAML, a list of names": f"- anna: {K}",
    "YAML, begins": "---",
    "YAML, a block": "anna: |",
    "INI": "[keys]",
    "XML": f"<key>{K}</key>",
    "a header": f"Authorization: Bearer {K}",
    "a scheme": f"Bearer {K}",
    "a comment behind it": f"{K} # of anna",
    "a comment behind a named one": f"anna: {K} # of anna",
    "another comment": f"// {K}",
    "htpasswd": "anna:$apr1$ZjTqBB3f$IF9gdYAGlMrs2fuINjHsz.",
    "a URL": f"https://anna:{K}@example.com/",
    "a path": "/run/secrets/proxy_key",
    "a path at home": "~/keys/proxy",
    "a path of Windows": r"C:\llmauth\key.txt",
    "the name of a file": "keys.txt",
    "a named path": "anna: /run/secrets/anna",
    "$": "$PROXY_KEY",
    "${}": "${PROXY_KEY}",
    "%": "%PROXY_KEY%",
    "a template": "{{ proxy_key }}",
    "two words": f"anna {K}",
    "|": f"anna|{K}",
    "a table": f"| anna | {K} |",
    "Markdown": "```",
    "one name for two": f"first: {OTHER}",
    "two names for one": "other: first-key-0123456789",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_is_no_key_is_refused_by_its_number(tmp_path, line):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nfirst: first-key-0123456789\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(environ={f"{VARIABLE}_FILE": str(file)})
    message = str(caught.value)
    assert f"{file}, line 4)" in message
    assert not any(part in message for part in (K, OTHER, K[:8], "apr1", "proxy_key"))


BASE64 = [base64.b64encode(bytes(range(n, 5 * n, 3))).decode() for n in range(12, 40)]
GOOD = {
    "of keygen": "3vQ9Yw7Tt5Rq_Xb1Nc8Md-Zk3vQ9Yw7Tt5RqXb1Nc8Md",
    "hexadecimal": "0123456789abcdef" * 2,
    "a UUID": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "base32": "MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U",
    "base32, padded": "MFRGGZDFMZTWQ2LKNNWG23TP" + "MFRGG===",
    "base64 with a slash before": "/3fK" * 11,
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.Zk3vQ9Yw7Tt5Rq",
    "a password": "correct!horse?battery*staple",
    "a prefix": "sk-proxy-Zk3vQ9Yw7Tt5Rq",
    "weak": "anna",
}


@pytest.mark.parametrize("key", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("line", ["{}", "anna: {}", "anna:   {}  ", "\ufeff{}", "{}\r"])
def test_a_line_that_is_a_key_is_one(tmp_path, key, line):
    file = tmp_path / "keys"
    file.write_bytes(f"{line.format(key)}\n# {K}\n   # more\n".encode())
    name = "anna" if "anna:" in line else "default"
    assert load(environ={f"{VARIABLE}_FILE": str(file)}).keys == ((name, key),)


def test_all_that_base64_makes_is_a_key(tmp_path):
    file = tmp_path / "keys"
    for key in BASE64:
        file.write_text(key)
        assert keys_in_file(file, "default", VARIABLE) == [("default", key)]


def test_a_key_with_a_colon_needs_a_name(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"anna: id:{K}")
    assert load(environ={f"{VARIABLE}_FILE": str(file)}).keys == (("anna", f"id:{K}"),)


VALUES = {
    "a path": "/run/secrets/x",
    "a long path": "/var/run/secrets/kubernetes.io/llmauth/key",
    "a path of macOS": "/Users/anna/key",
    "a path of Windows": r"C:\secrets\key",
    "a share": r"\\server\share\key",
    "a path at home": "~/.llmauth/key",
    "a path from here": "./key",
    "a file's name": "proxy-key.txt",
    "a URL of a file": "file:///run/secrets/x",
    "a path with a variable": "$HOME/key",
    "a path with a variable of Windows": r"%USERPROFILE%\key",
    "a list": f"{K},{OTHER}",
    "a list with ;": f"{K};{OTHER}",
    "JSON": f'["{K}","{OTHER}"]',
    "JSON, names": f'{{"anna":"{K}"}}',
    "an assignment": f"{VARIABLE}={K}",
    "a variable": "${PROXY_KEY}",
    "a template": "{{proxy_key}}",
    "a comma": f"{K},",
}


HELD = [
    (variable, VALUES[name])
    for variable in (VARIABLE, f"{VARIABLE}_ANNA", "OPENAI_API_KEY")
    for name in VALUES
    # What a sample has in the place of a provider's key is named, and stops no start.
    if variable != "OPENAI_API_KEY" or name not in ("a variable", "a template")
]


@pytest.mark.parametrize(("variable", "value"), HELD)
def test_a_variable_that_holds_no_key_is_refused(variable, value):
    with pytest.raises(ConfigurationError) as caught:
        load(environ={VARIABLE: "first-key-0123456789", variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable}: holds ")
    assert K not in message
    assert OTHER not in message
    assert (f"Name the file in {variable}_FILE." in message) == ("path" in message)


def test_a_file_in_the_current_folder_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proxykey").touch()
    with pytest.raises(ConfigurationError, match=f"{VARIABLE}_FILE"):
        load(environ={VARIABLE: "proxykey"})


@pytest.mark.parametrize("key", [*GOOD.values(), *BASE64, f"id:{K}", f"a,b{K}", f"{K}=x"])
def test_a_variable_may_hold_any_key(key):
    settings = load(environ={VARIABLE: key, "OPENAI_API_KEY": f"{key}-of-provider"})
    assert settings.keys == (("default", key),)


PROVIDERS = {
    "an assignment": f"OPENAI_API_KEY={K}",
    "export": f"export OPENAI_API_KEY={K}",
    "a name": f"openai: {K}",
    "quotes": f'"{K}"',
    "JSON": f'{{"key":"{K}"}}',
    "a list": f"{K},{OTHER}",
    "a path": "/run/secrets/openai",
}


@pytest.mark.parametrize("line", PROVIDERS.values(), ids=PROVIDERS)
def test_a_providers_file_that_holds_no_key_is_refused_by_its_line(tmp_path, line):
    file = tmp_path / "openai"
    file.write_text(f"# of openai\n{line}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(environ={VARIABLE: K, "OPENAI_API_KEY_FILE": str(file)})
    assert re.match(rf"OPENAI_API_KEY_FILE \({re.escape(str(file))}, line 2\): ", str(caught.value))
    assert K not in str(caught.value)


@pytest.mark.parametrize("text", [f"{K}\r\n", f"{K}", f"# ours\r\nanna: {K}\r\n"])
@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be with a mark", "utf-8-sig", "utf-8"])
def test_a_key_file_may_be_what_powershell_writes(tmp_path, coding, text):
    """``llmauth keygen > keys``: in Windows PowerShell 5.1 that is UTF-16."""
    file = tmp_path / "keys"
    marked = coding == "utf-16-be with a mark"
    file.write_bytes(f"\ufeff{text}".encode("utf-16-be") if marked else text.encode(coding))
    assert [key for _, key in keys_in_file(file, "default", VARIABLE)] == [K]
    ours = load(environ={f"{VARIABLE}_FILE": str(file)})
    assert [key for _, key in ours.keys] == [K]


@pytest.mark.parametrize("data", [K.encode("utf-16-le"), K.encode("utf-32"), b"\xff\xfea", b"\xe4"])
def test_a_key_file_in_another_coding_is_refused_without_its_content(tmp_path, data):
    file = tmp_path / "keys"
    file.write_bytes(data)
    with pytest.raises(ConfigurationError) as raised:
        keys_in_file(file, "default", VARIABLE)
    assert str(file) in str(raised.value)
    assert K not in str(raised.value).replace("\0", "")
