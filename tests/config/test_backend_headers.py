"""What can be said of the headers that a backend wants, and where."""

from __future__ import annotations

import pytest

from llmauth.config.loading import load
from llmauth.config.settings import BackendSettings
from llmauth.exceptions import ConfigurationError

KEY = "Zk3vQ9Yw7Tt5RqXb1Nc8Md"
SECRET = "gateway-pA4sW0rdOf2ndUser7xQz9"
OURS = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY}


def loaded(tmp_path, text: str, **environ: str):
    file = tmp_path / "llmauth.yaml"
    file.write_text(text)
    return load(environ=OURS | {"LLMAUTH_CONFIG": str(file)} | environ)


def backend(tmp_path, headers: str, **environ: str) -> BackendSettings:
    text = f"backends:\n  corp:\n    base_url: https://corp.example/v1\n    headers: {headers}\n"
    return loaded(tmp_path, text, **environ).backends["corp"]


VALUES = {
    "plain": ("{X-Team: research}", {"X-Team": "research"}),
    "a variable": ("{X-Gateway-Key: env:GATE}", {"X-Gateway-Key": SECRET}),
    "after a scheme": ("{Helicone-Auth: 'Bearer env:GATE'}", {"Helicone-Auth": f"Bearer {SECRET}"}),
    "two": ("{X-A: 'env:GATE env:ID'}", {"X-A": f"{SECRET} 17"}),
    "another case": ("{x-tEAM: a}", {"X-Team": "a"}),
    "a switch of YAML": ("{Helicone-Cache-Enabled: true}", {"Helicone-Cache-Enabled": "true"}),
    "a number": ("{X-Priority: 5}", {"X-Priority": "5"}),
    "a colon": ("{X-Url: 'https://a.example:8'}", {"X-Url": "https://a.example:8"}),
    "none": ("{}", {}),
    "nothing": ("", {}),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_name_variables(tmp_path, case):
    text, expected = VALUES[case]
    assert backend(tmp_path, text, GATE=SECRET, ID="17").added_headers == expected


def test_a_variable_may_name_a_file(tmp_path):
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    file = {"GATE_FILE": str(tmp_path / "secret")}
    assert backend(tmp_path, "{X-K: env:GATE}", **file).added_headers == {"X-K": SECRET}


REFUSED = {
    "missing": ("{X-K: env:NOT_THERE}", "headers name NOT_THERE, which is not set."),
    "small letters": ("{X-K: env:gate}", "write env:NAME, in capitals"),
    "glued": ("{X-K: 'Bearer:env:GATE'}", "write env:NAME, in capitals"),
    "of a shell": ("{X-K: '${GATE}'}", "write env:NAME, in capitals"),
    "of a shell, bare": ("{X-K: $GATE}", "write env:NAME, in capitals"),
    "a key": (f"{{X-K: {SECRET}}}", "keys do not belong in the config file"),
    "a provider's key": ("{X-K: sk-ant-api03-abcdefgh}", "keys do not belong in the config file"),
    "a credential by name": ("{Helicone-Auth: Bearer abc}", "as env:NAME."),
    "a list": ("[X-K]", "is a list, and not a mapping"),
    "no header": ("'X-K'", "is no header, such as"),
    "a URL": ("https://x", "is no header, such as"),
    "a list within": ("{X-K: [1]}", "holds no text for 'X-K'"),
    "empty": ("{X-K: }", "holds no text for 'X-K'"),
    "twice": ("{X-K: a, x-k: b}", "holds 'x-k' twice"),
    "underscore": ("{X_K: a}", "holds 'X_K', which names no header"),
    "a space": ("{X K: a}", "holds 'X K', which names no header"),
    "ours": ("{Host: a}", "holds 'Host', which this server writes itself"),
    "framing": ("{content-length: 5}", "which this server writes itself"),
    "hop by hop": ("{Connection: close}", "which this server writes itself"),
    "a line end": ('{X-K: "a\\r\\nB: c"}', "no visible ASCII"),
    "letters": ("{X-K: ü}", "no visible ASCII"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sent_is_refused_without_its_value(tmp_path, case):
    text, said = REFUSED[case]
    with pytest.raises(ConfigurationError) as raised:
        backend(tmp_path, text, GATE=SECRET)
    (message,) = raised.value.messages
    assert said in message
    assert "llmauth.yaml" in message
    assert SECRET not in message


def test_one_header_by_environment(tmp_path):
    text = "backends: {openai: {headers: {X-Team: a, X-Gateway: b}}}"
    settings = loaded(tmp_path, text, OPENAI_HEADER=f"X-Gateway: Bearer {SECRET}")
    openai = settings.backends["openai"]
    assert openai.added_headers == {"X-Team": "a", "X-Gateway": f"Bearer {SECRET}"}
    assert settings.origins["backends.openai.headers"] == "environment OPENAI_HEADER"
    assert SECRET in settings.secrets
    assert "Bearer" not in settings.secrets
    assert SECRET not in repr(settings) + repr(openai)


def test_a_header_by_environment_may_name_a_variable(tmp_path):
    environ = {"OPENAI_HEADER": "Helicone-Auth: Bearer env:GATE", "GATE": SECRET}
    openai = load(environ=OURS | environ).backends["openai"]
    assert openai.added_headers == {"Helicone-Auth": f"Bearer {SECRET}"}


@pytest.mark.parametrize("value", ["X-K", f"{SECRET}", "X K: a", "Host: a", "https://x.example"])
def test_what_is_no_header_in_the_environment_is_refused(value):
    with pytest.raises(ConfigurationError) as raised:
        load(environ=OURS | {"OPENAI_HEADER": value})
    (message,) = raised.value.messages
    assert message.startswith("environment OPENAI_HEADER: it ")
    assert SECRET not in message


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Ocp-Apim-Subscription-Key", "ocp-apim-subscription-key"), ("cf-aig-authorization",) * 2,
        ("apikey",) * 2, ("X-API-KEY", "x-api-key"), ("Bearer", "bearer"), ("none", "none"),
    ],
)  # fmt: skip
def test_the_key_goes_into_any_header(said, meant):
    assert BackendSettings("corp", "https://corp.example", auth=said).auth == meant


@pytest.mark.parametrize(
    "said", ["basic", "beerer", "oauth2", "x_api_key", "x key", "x-key: a", "host", "via", "-é"]
)
def test_what_names_no_header_is_no_way_to_send_a_key(said):
    with pytest.raises(ConfigurationError, match="is none of bearer, x-api-key"):
        BackendSettings("corp", "https://corp.example", auth=said)


def test_two_keys_in_one_header_are_refused(tmp_path):
    text = "backends: {openai: {headers: {Authorization: 'Bearer env:GATE'}}}"
    with pytest.raises(ConfigurationError, match="'authorization' carries the key in OPENAI_API_K"):
        loaded(tmp_path, text, GATE=SECRET, OPENAI_API_KEY="sk-0123456789abcdefghij")


def test_a_header_with_the_proxy_key_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="headers holds the proxy key 'default'"):
        backend(tmp_path, "{X-K: env:LLM_INTERACTIVE_PROXY_API_KEY}")


def test_settings_made_by_hand(tmp_path):
    own = BackendSettings("a", "http://a", headers={"X-K": "env:G"}, header_values={"G": SECRET})
    assert own.added_headers == {"X-K": SECRET}
    assert own.header_secrets == (SECRET,)
    with pytest.raises(ConfigurationError, match="headers name G"):
        BackendSettings("a", "http://a", headers={"X-K": "env:G"})
    mapping = {"base_url": "http://a", "headers": {"X-Key": SECRET}}
    assert SECRET in load({"backends": {"a": mapping}}, OURS).secrets
