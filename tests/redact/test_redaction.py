"""Masking text, bytes, nested data and streams that have ended."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import sys

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from leaks import FORMS, LONG_FORMS, Form, json_text, percent_all

from llmauth.capture.streams import stream_without_secrets
from llmauth.providers.table import KEY_PREFIXES, PROVIDERS
from llmauth.redact import redactor as redactor_module
from llmauth.redact.logging import Redactor
from llmauth.redact.memory import OBSERVED
from llmauth.redact.redactor import CONTEXT, MARGIN

KEY = 'sk-proj-Zk3vQ9/x+8Yw7Tt_5R%41q"é\\n'
OPAQUE = "Zk3vQ9Yw7Tt5Rq"
LONG = "Zk3vQ9/Yw7+Tt5_Rq8sJd2"


EVERY_FORM = pytest.mark.parametrize("form", LONG_FORMS.values(), ids=LONG_FORMS)

keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=60)
passwords = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=4, max_size=30
)
secrets = (keys | passwords).filter(lambda s: s.strip("*.") == s and "**" not in s)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@EVERY_FORM
@pytest.mark.parametrize("teach", ["add", "observe"])
def test_a_known_secret_is_masked_in_each_form(form: Form, teach: str) -> None:
    redactor = Redactor()
    getattr(redactor, teach)(KEY)
    shown = redactor.text(f"<a> {form(KEY)} <b>")
    assert form(KEY) not in shown
    assert shown.startswith("<a> ")
    assert shown.endswith(" <b>")
    assert "****" in shown


def test_what_is_shown_keeps_the_recognisable_prefix() -> None:
    assert Redactor([KEY]).text(f"key {KEY}!") == "key sk-proj-****!"
    assert Redactor([OPAQUE]).text(f"key {OPAQUE}!") == "key ****!"


@given(secret=secrets, before=texts, after=texts, form=st.sampled_from(list(FORMS.values())))
@settings(max_examples=1500, deadline=None)
@example(secret="%4%4", before="%", after="", form=percent_all)
@example(secret="a\\nb", before="\\", after="\\", form=json_text)
def test_no_form_of_any_secret_survives_in_any_text(
    secret: str, before: str, after: str, form: Form
) -> None:
    shown = Redactor([secret]).text(before + form(secret) + after)
    assume(secret not in "sk-proj-****")
    assert form(secret) not in shown
    assert secret not in shown


@given(
    secret=secrets,
    before=texts,
    after=texts,
    form=st.sampled_from(list(FORMS.values())),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=20),
)
@settings(max_examples=800, deadline=None)
def test_no_form_survives_in_a_stream_however_it_is_cut(
    secret: str, before: str, after: str, form: Form, sizes: list[int]
) -> None:
    redactor, text = Redactor([secret]), before + form(secret) + after
    cuts = list(itertools.accumulate(sizes))
    shown = "".join(stream_without_secrets(redactor, "lines", text, cuts))
    assert form(secret) not in shown
    assert secret not in shown


SHAPES = [
    ("sk-" + "a1B2" * 12, "sk-****"),
    ("sk-proj-" + "a1_-" * 12, "sk-proj-****"),
    ("sk-svcacct-" + "a1B2" * 5, "sk-svcacct-****"),
    ("sk-admin-" + "a1B2" * 5, "sk-admin-****"),
    ("sk-ant-api03-" + "a1B2" * 23 + "AA", "sk-ant-api03-****"),
    ("sk-or-v1-" + "0af9" * 16, "sk-or-v1-****"),
    ("AIzaSy" + "a1B2-_" * 6, "AIza****"),
    ("gsk_" + "a1B2" * 13, "gsk_****"),
    ("xai-" + "a1B2" * 20, "xai-****"),
    ("hf_" + "aBcD" * 9, "hf_****"),
    ("AKIAIOSFODNN7EXAMPLE", "AKIA****"),
    ("ASIAIOSFODNN7EXAMPLE", "ASIA****"),
    ("ghp_" + "a1B2" * 9, "ghp_****"),
    ("github_pat_11" + "a1B2_" * 12, "github_pat_****"),
    ("Authorization: Bearer opaque", "Authorization: Bearer ****"),
    ("'Authorization': 'Bearer opaque'", "'Authorization': 'Bearer ****'"),
    ("Bearer d41d8cd98f", "Bearer ****"),
    ("Basic dXNlcjpwYXNz", "Basic ****"),
    ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic ****"),
    ("x-api-key: abc", "x-api-key: ****"),
    ("X-Goog-Api-Key: abc", "X-Goog-Api-Key: ****"),
    ("api-key: 0123456789abcdef", "api-key: ****"),
    ("('x-api-key', 'abc')", "('x-api-key', '****')"),
    ("[b'x-api-key', b'abc']", "[b'x-api-key', b'****']"),
    ('{"api_key": "two words", "n": 1}', '{"api_key": "****", "n": 1}'),
    ('{\\"api_key\\": \\"abc\\"}', '{\\"api_key\\": \\"****\\"}'),
    ("MISTRAL_API_KEY=abcdEFGH", "MISTRAL_API_KEY=****"),
    ("AZURE_OPENAI_API_KEY=0a0a", "AZURE_OPENAI_API_KEY=****"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7+bPx", "aws_secret_access_key = ****"),
    ('"secretAccessKey":"wJalrXUtnFEMI"', '"secretAccessKey":"****"'),
    ("GET /v1beta/models?key=abc&alt=sse", "GET /v1beta/models?key=****&alt=sse"),
    ("/x?alt=sse&key=abc HTTP/1.1", "/x?alt=sse&key=**** HTTP/1.1"),
    ("key=1234abcd5678", "key=****"),
    ("password=hunter2", "password=****"),
    ("password: hunter2", "password: ****"),
    ("/login?token=abc", "/login?token=****"),
    ("access_token=abc", "access_token=****"),
    ("redis://user:pass@host:6379/0", "redis://user:****@host:6379/0"),
    ("redis://:pass@host/0", "redis://****@host/0"),
    ("Cookie: session=abc; b=c", "Cookie: ****"),
]


@pytest.mark.parametrize(("text", "shown"), SHAPES, ids=[shown for _, shown in SHAPES])
def test_an_unknown_secret_is_recognised_by_its_shape(text: str, shown: str) -> None:
    redactor = Redactor()
    assert redactor.text(f"a {text} b") == f"a {shown} b"
    assert redactor.text(f"a {shown} b") == f"a {shown} b"


@pytest.mark.parametrize(("text", "shown"), SHAPES, ids=[shown for _, shown in SHAPES])
def test_a_shape_is_recognised_in_a_stream_of_single_characters(text: str, shown: str) -> None:
    text = f"a {text} b"
    pieces = stream_without_secrets(Redactor(), "lines", text, range(1, len(text) + 1))
    assert len(pieces) == len(text) + 1
    assert "".join(pieces) == f"a {shown} b"


PIXELS = base64.b64encode(bytes(range(256)) * 40).decode()
ORDINARY = [
    "Explain quantum computing in simple terms, as if I were five; keep it under 100 words.",
    "sk-learn and scikit-learn; risk-free, task-driven; sk-learn-is-a-fine-library-to-use",
    "sorted(xs, key=len); max(ys, key=lambda y: y.size); sorted(zs, key=str.lower, reverse=True)",
    "def connect(host: str, password: str | None = None, api_key: str = '') -> None:",
    "client = OpenAI(api_key=os.environ['OPENAI_API_KEY'])",
    "client = Client(api_key=settings.api_key, token=token, password=password)",
    "if token == expected: token = next(tokens)",
    "The bearer of this letter; Bearer authentication and Basic authentication compared.",
    'WWW-Authenticate: Bearer realm="llmauth", error="invalid_token"',
    "d41d8cd98f00b204e9800998ecf8427e e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b",
    "123e4567-e89b-12d3-a456-426614174000 01ARZ3NDEKTSV4RRFFQ69G5FAV",
    f"data:image/png;base64,{PIXELS}",
    '{"max_tokens": 100, "logprobs": [{"token": "Hello", "logprob": -0.3, "bytes": [72]}]}',
    '{"usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}}',
    '{"key": "value", "keys": ["a", "b"], "monkey": "business"}',
    "Passwords: choose a long one. The password: never share it. Secret: none.",
    "https://example.com/a//b?page=2&keyword=cats#frag and mailto:someone@example.com",
    "git@github.com:owner/repo.git ssh://git@github.com/owner/repo  // see foo@bar",
    "100% sure \\ a backslash, C:\\new\\table, \\d+\\.\\w*, %20 and %zz",
    "The turkey=bird, donkey=animal, primary_key=True, foreign_key=user.id",
    "hf_hub_download(repo_id='x'); xai-api; gsk_ prefix; AIza prefix; ghp_ prefix",
    "ключ=значение, clé=valeur, 鍵=値, naïve İstanbul ﬀ 🔑",
    "2024-05-01 12:00:00 INFO access: 127.0.0.1 POST /v1/chat/completions 200 0.5s key_name=alice",
    "12 34 56 78 90 11 22 33 44 and ab cd ef ab cd ef ab cd ef, 01-02-03-04-05-06-07-08-09",
    "a line\\\n  that goes on\r\nand on=\n, &sol; &#0065; \\u{41} %u0041",
    "SELECT id FROM keys WHERE secret_id = 5 ORDER BY token_count DESC",
]


@pytest.mark.parametrize("text", ORDINARY, ids=[text[:30] for text in ORDINARY])
def test_ordinary_text_is_left_alone(text: str) -> None:
    redactor = Redactor([KEY, OPAQUE])
    redactor.observe("another-wrong-key-1", "short12")
    assert redactor.text(text) is text
    assert redactor.data(text.encode()) == text.encode()
    for size in (1, 3, 50):
        cuts = range(size, len(text), size)
        pieces = stream_without_secrets(redactor, "events", text, cuts)
        assert pieces == [text[at : at + size] for at in range(0, len(text), size)]


def test_bytes_that_are_not_text_stay_as_they_are_around_a_masked_secret() -> None:
    redactor = Redactor([OPAQUE])
    junk = bytes(range(128, 256))
    assert redactor.data(junk + OPAQUE.encode() + junk) == junk + b"****" + junk


def test_short_secrets_are_masked_and_the_shortest_only_as_words() -> None:
    redactor = Redactor(["pa55", "abc"])
    assert redactor.text("xpa55x and abc, but abcd") == "x****x and ****, but abcd"
    observing = Redactor()
    observing.observe("pa55w")
    assert observing.text("key 'pa55w', not xpa55wx") == "key '****', not xpa55wx"


@pytest.mark.parametrize("prefix", [prefix for prefix, _ in KEY_PREFIXES])
def test_a_key_of_every_provider_is_recognised_by_its_shape(prefix: str) -> None:
    masked = Redactor().text(f"key is {prefix}Zk3vQ9Yw7Tt5Rq8Lm2Nx4Pb6Vc1Hd0Jf.")
    before, _, after = masked.partition("****")
    assert (before.removeprefix("key is ") in prefix, after) == (True, ".")


@pytest.mark.parametrize(
    "guess",
    ["203.0.113.9", "x203.0.113.9x", "2001:db8::1", "POST", "ab", "", *PROVIDERS],
)
def test_a_client_cannot_blank_words_out_of_the_log_by_sending_them_as_keys(guess: str) -> None:
    redactor = Redactor()
    redactor.observe(guess)
    line = f"blocked 203.0.113.9 2001:db8::1 after 5 attempts: POST ab {guess}"
    assert redactor.text(line) == line


@pytest.mark.parametrize(
    "guess",
    [
        "%62locked", "\\u0062locked", "&#98;locked", "203.0.113.%39", "%2550OST", "attemp\\u0074s",
        *(base64.b64decode(s).decode("latin-1") for s in ("blocked/", "attempts", "unauthorized")),
        "pass", "cl",
    ],
    ids=ascii,
)  # fmt: skip
def test_nor_by_sending_them_in_an_encoding(guess: str) -> None:
    redactor = Redactor()
    redactor.observe(guess)
    line = "blocked 203.0.113.9 after 5 attempts: POST unauthorized; passed, client"
    assert redactor.text(line) == line


def test_only_so_many_observed_credentials_are_remembered_but_all_permanent_ones() -> None:
    redactor = Redactor([OPAQUE])
    redactor.observe("the-first-of-them-1", "the-second-of-them-2")
    for number in range(510):
        redactor.observe(f"wrong-key-number-{number}")
    redactor.observe("the-first-of-them-1", "one-too-many-by-now")
    assert redactor.text("the-first-of-them-1") == "****"
    assert redactor.text("the-second-of-them-2") == "the-second-of-them-2"
    assert redactor.text("one-too-many-by-now") == "****"
    assert redactor.text(OPAQUE) == "****"


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_very_long_credential_is_masked_to_its_end(size: int) -> None:
    secret = "".join(f"{number:04x}" for number in range(1000))
    redactor = Redactor()
    redactor.observe(secret)
    assert redactor.text(f"a {secret} b") == "a **** b"
    cuts = range(size, 4000, size)
    assert "".join(stream_without_secrets(redactor, "lines", f"a {secret} b", cuts)) == "a **** b"


PIECES = [
    OPAQUE, KEY, json_text(KEY), percent_all(OPAQUE), "sk-proj-" + "a1B2" * 9, "password=",
    "Authorization: Bearer abc123def456", "https://u:pass@host/", "access_token: ",
    "Set-Cookie: a=b; c=", '{\\"api_key\\": \\"', "x" * 40, " ordinary, ", "\n", "\\", '"',
    "%41", "é", "\U0001f511",
]  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40), window=st.integers(1, 90))
@settings(max_examples=500, deadline=None)
def test_a_long_text_is_masked_in_windows_as_it_would_be_at_once(
    pieces: list[str], window: int
) -> None:
    text, redactor = "".join(pieces), Redactor([OPAQUE, KEY])
    at_once = redactor.text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(redactor_module, "WINDOW", window)
        assert redactor.text(text) == at_once


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["plain", "json", "json in json"])
def test_a_long_text_takes_a_few_times_its_memory_not_a_hundred_times(kind: str) -> None:
    """In a process of its own, where nothing else comes and goes."""
    program = """
import json, re, sys
from llmauth.redact.logging import Redactor

text = "Hello, \\"world\\"! " * 125_000
for _ in sys.argv[1].split("json")[1:]:
    text = json.dumps(text)
redactor, own = Redactor(["Zk3vQ9Yw7Tt5Rq", "short12"]), len(text)
redactor.text("")

def status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(rf"{name}:\\s+(\\d+)", file.read())[1]) * 1024

with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
    file.write("5")  # the peak begins here
before = status("VmRSS")
assert redactor.text(text) == text
print((status("VmHWM") - before) / own)
"""
    command = [sys.executable, "-c", program, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert float(done.stdout) < 5


def test_no_text_is_withheld_however_many_forms_are_made_for_it() -> None:
    redactor = Redactor([OPAQUE])
    redactor.observe(*("a" * (20 + number) for number in range(200)))
    text = "a" * 100_000
    assert redactor.text(f"before {text} {OPAQUE} after") == "before **** **** after"


@pytest.mark.parametrize(("size", "least"), [(0, 1), (100, 1), (1200, 1), (17_000, 2000)])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), window=st.integers(1, 5000))
@settings(max_examples=15, deadline=None)
def test_a_text_of_many_windows_is_masked_as_it_would_be_at_once(
    size: int, least: int, pieces: list[str], window: int
) -> None:
    """Windows of a few characters, too; those of the longest texts are longer.

    Between pieces lies nothing, something, more than CONTEXT, and more than MARGIN.
    """
    assert CONTEXT < 1200
    assert MARGIN < 17_000
    filler = ("lorem ipsum " * size)[:size]
    text, redactor = filler.join(["", *pieces, ""]), Redactor([OPAQUE, KEY])
    at_once = redactor.text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(redactor_module, "WINDOW", max(window, least))
        assert redactor.text(text) == at_once


@pytest.mark.parametrize("begin", ['password="', "Bearer a1", '{"api_key": "', "x token=a1"])
def test_a_secret_that_is_longer_than_any_window_is_masked_to_its_end(begin: str) -> None:
    text = f"{'lorem ' * 90_000}{begin}{'abcdefgh' * 300_000} after"
    shown = Redactor([OPAQUE]).text(text)
    assert "abcdefgh" not in shown
    assert len(shown) < 600_000


@pytest.mark.parametrize("listed", [list, tuple])
def test_a_list_of_the_codes_of_a_secret_is_masked_in_data(listed: type[list[int]]) -> None:
    redactor, codes = Redactor([OPAQUE]), listed(f"<{OPAQUE}>".encode())
    shown = json.dumps(redactor.mapping({"a": codes, "b": listed(range(20))}))
    assert str(ord("Z")) not in shown
    assert "17, 18, 19" in shown


CODES = LONG.encode()
SPELLED = {
    "printed by Go": "[" + " ".join(map(str, CODES)) + "]",
    "printed by .NET": CODES.hex("-").upper(),
    "codes below 100, printed by Go": " ".join(map(str, LONG.upper().encode())),
    "a list in a JSON string": json.dumps(json.dumps(list(CODES), indent=1)),
    "carriage return": LONG[:9] + "\r" + LONG[9:],
    "carriage return in JSON": LONG[:9] + "\\r" + LONG[9:],
    "a shell's continued line": LONG[:9] + "\\\n    " + LONG[9:],
    "quoted-printable": LONG[:9] + "=\r\n" + LONG[9:],
    "line separator": LONG[:9] + "\u2028" + LONG[9:],
    "form feed": LONG[:9] + "\f" + LONG[9:],
    "HTML with zeros": "".join(f"&#{code:06};" for code in CODES),
    "HTML names": LONG.replace("/", "&sol;").replace("+", "&plus;").replace("_", "&lowbar;"),
    "braces": "".join(f"\\u{{{code:x}}}" for code in CODES),
    "%u": "".join(f"%u00{code:02x}" for code in CODES),
}


@pytest.mark.parametrize("how", SPELLED)
def test_a_known_secret_is_masked_as_programs_print_and_break_it(how: str) -> None:
    shown = Redactor([LONG, LONG.upper()]).text(f"<{SPELLED[how]}>")
    assert re.fullmatch(r"[<>\[\]\\n\" ]*\*{4}[<>\[\]\\n\" ]*", shown)


def test_what_follows_a_secret_that_is_broken_by_a_line_break_is_left_alone() -> None:
    redactor = Redactor([OPAQUE])
    redactor.observe(long := "b1C2" * 100)
    assert redactor.text(f"x\n  {OPAQUE}\n  y") == "x\n  ****\n  y"
    assert redactor.text(f"x\n{OPAQUE[:5]}\r\n{OPAQUE[5:]}\ny") == "x\n****\ny"
    assert redactor.text(f"x\n{long}\n\ny: z") == "x\n****\n\ny: z"
    assert redactor.text(f"[12, {', '.join(map(str, OPAQUE.encode()))}, 13]") == "[12, ****, 13]"
    assert redactor.text(f"<{OPAQUE.encode().hex(' ')} 0a>") == "<**** 0a>"


def test_nested_data_is_masked_by_name_and_by_value() -> None:
    redactor = Redactor([OPAQUE, "12345678"])
    assert redactor.mapping(
        {
            "Authorization": "Bearer abc",
            "HTTP_X_API_KEY": "abc",
            "Cookie": b"a=b",
            OPAQUE: [OPAQUE, OPAQUE.encode(), {"deep": (f"<{OPAQUE}>", 1, 1.5, None, True)}],
            "number": 12345678,
            "headers": [("x-goog-api-key", "abc"), (b"api-key", b"abc"), ("accept", "abc")],
            "password": {"type": "string"},
        }
    ) == {
        "Authorization": "Bearer ****",
        "HTTP_X_API_KEY": "****",
        "Cookie": "****",
        "****": ["****", b"****", {"deep": ("<****>", 1, 1.5, None, True)}],
        "number": "****",
        "headers": [("x-goog-api-key", "****"), (b"api-key", "****"), ("accept", "abc")],
        "password": {"type": "string"},
    }


def test_data_nested_without_end_does_not_break_it() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "nested too deeply" in str(Redactor().mapping(loop))


def test_it_does_not_show_its_secrets_itself() -> None:
    assert OPAQUE not in repr(Redactor([OPAQUE]))


@pytest.mark.parametrize("gap", [0, 1, OBSERVED // 8 - 1, OBSERVED // 8, OBSERVED // 2])
def test_a_credential_in_use_is_not_forgotten_before_most_others_have_come(gap: int) -> None:
    redactor = Redactor()
    others = (f"another-secret-{number}" for number in itertools.count())
    redactor.observe("a-secret-in-use-0123")
    for other in itertools.islice(others, gap):
        redactor.observe(other)
    redactor.observe("a-secret-in-use-0123")
    for other in itertools.islice(others, OBSERVED - OBSERVED // 8 - 1):
        redactor.observe(other)
    assert "in-use" not in redactor.text("it is a-secret-in-use-0123.")
