"""What people are shown drives no terminal and hides nothing: one rule, at every exit."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
from typing import Any

import pytest
from commands import KEY, run, run_each

from llmauth.capture.har import har
from llmauth.capture.safe_json import dumps
from llmauth.capture.show import show
from llmauth.cli import console
from llmauth.cli.logs import JSONFormatter, _TerminalFormatter, _TextFormatter
from llmauth.exceptions import UnknownRoute
from llmauth.redact.controls import visible, visible_prose
from llmauth.redact.logging import RedactingFilter, Redactor

# Of Cf, but signs that are drawn.
SEEN = {
    "ARABIC NUMBER SIGN", "ARABIC SIGN SANAH", "ARABIC FOOTNOTE MARKER", "ARABIC SIGN SAFHA",
    "ARABIC SIGN SAMVAT", "ARABIC NUMBER MARK ABOVE", "ARABIC END OF AYAH",
    "SYRIAC ABBREVIATION MARK", "ARABIC POUND MARK ABOVE", "ARABIC PIASTRE MARK ABOVE",
    "ARABIC DISPUTED END OF AYAH", "KAITHI NUMBER SIGN", "KAITHI NUMBER SIGN ABOVE",
}  # fmt: skip
# Unicode's Default_Ignorable_Code_Point, as far as it is not of Cf.
IGNORABLE = {
    0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2065, 0x3164,
    *range(0xFE00, 0xFE10), 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000),
}  # fmt: skip
HOSTILE = {
    "C0": "\x00\x07\x08\r\x0e\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\",
    "DEL and C1": "\x7f\x9b2J\x9d0;owned\x9c\x85",
    "separators": "\u2028\u2029",
    "directions": "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "no width": "\xad\u034f\u180e\u200b\u200c\u200d\u2060\u2061\u2064\u206a\u206f\ufeff\ufff9",
    "unseen letters": "\u115f\u1160\u3164\uffa0",
    "selectors": "\u180b\ufe00\ufe0f\U000e0100",
    "tags": "\U000e0001\U000e0041\U000e007f",
    "surrogates": "\udc1b\ud800 \udfff",
}
hostile = pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE)


def obeyed(text: str, lines: str = "\n") -> set[str]:
    """Return what a terminal would obey or not show."""
    return {c for c in text if c not in lines and is_control(c)}


def is_control(character: str) -> bool:
    kind = unicodedata.category(character)
    if kind == "Cf":
        name = unicodedata.name(character, "")
        return name not in SEEN and not name.startswith("EGYPTIAN")
    return kind in ("Cc", "Cs", "Zl", "Zp") or ord(character) in IGNORABLE


def test_the_table_is_what_unicode_says_and_no_letter_or_sign_is_in_it():
    everything = map(chr, range(sys.maxunicode + 1))
    wrong = [hex(ord(c)) for c in everything if (visible(c) != c) != is_control(c)]
    unassigned = [one for one in wrong if unicodedata.category(chr(int(one, 16))) == "Cn"]
    assert sorted(set(wrong) - set(unassigned)) == []


@hostile
def test_what_is_visible_stays_as_it_is_and_is_ascii(sent):
    shown = visible(f"a{sent}é")
    assert not obeyed(shown, lines="")
    assert visible(shown) == visible_prose(shown) == shown
    assert all(visible(character).isascii() for character in sent if is_control(character))


WRITTEN = {
    "lines and tabs": "one\n\ttwo",
    "Arabic": "مرحبا بالعالم، كيف الحال؟ ١٢٣",
    "Hebrew": "שָׁלוֹם עוֹלָם",
    "Persian, with a joiner": "می‌خواهم",
    "Hindi": "नमस्ते दुनिया",
    "Bengali, with joiners": "র‍্য ক্‌ষ",
    "Malayalam": "മലയാളം",
    "Thai": "สวัสดีชาวโลก",
    "Chinese": "你好，世界",
    "Korean": "안녕하세요 세계",
    "Vietnamese": "Tiếng Việt",
    "emoji of several": "👨‍👩‍👧 👩🏽‍💻 🏳️‍🌈",
    "emoji with a selector": "❤️ 1️⃣ ☎️",
}
WRITTEN["Bengali, with joiners"] = "\u0995\u09cd\u200d\u09b7 \u0995\u09cd\u200c\u09b7"


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_what_people_write_is_read_as_they_wrote_it(text):
    assert visible_prose(text) == text


@pytest.mark.parametrize(
    "text",
    ["a\u200db", "1\ufe0f", "a\ufe0f", "👨\u200d\u200d👩", "👨\u200d", "\u200d👨", "क\u200d",
     "م\u200ca", "❤\ufe0f\ufe0f", "🏴\U000e0067\U000e007f", "\u06cc\u202e", "\r\n", "\x0b\x0c"],
    ids=ascii,
)  # fmt: skip
def test_elsewhere_a_joiner_is_seen(text):
    assert not obeyed(visible_prose(text), lines="\n👨👩❤\ufe0f") or "❤" in text
    assert visible_prose(text) != text


# The capture


def captured(sent: str) -> list[str]:
    """Return a capture with this in all that is text, names of fields included."""
    message: dict[str, Any] = {"role": sent, "type": sent, "content": sent, sent: sent}
    about = {"request_id": sent, "timestamp_iso": f"2026-01-01T{sent}", "timestamp_unix": sent}
    parties = {"source": sent, "destination": sent, "backend": sent, "model": sent}
    parties |= {"key_name": sent, "content_type": sent, "content_length": sent, sent: sent}
    metadata = dict.fromkeys(("method", "url", "status", "error", "note", sent), sent)
    both = about | parties | {"metadata": metadata}
    tool = {"role": sent, "content": [{"type": sent, "name": sent, "input": {sent: sent}}]}
    request = {"messages": [message, {"type": sent, "content": sent}, tool], "system": sent}
    streamed = "data: " + json.dumps({"choices": [{"delta": {"content": sent}}]}) + "\n\n"
    events = [
        {"direction": "inbound_request", "payload": request},
        {"direction": "stream_start", "payload": None},
        {"direction": "stream_chunk", "payload": streamed + sent},
        {"direction": "stream_end", "payload": None},
        {"direction": sent, "payload": sent},
    ]
    dropped = {"direction": "stream_end", "metadata": {"dropped_events": sent}}
    return [json.dumps(event) for event in [*(both | event for event in events), dropped]]


@hostile
@pytest.mark.parametrize("color", [False, True])
def test_no_field_of_a_capture_drives_the_terminal_that_it_is_shown_on(sent, color):
    out = io.StringIO()
    show(captured(sent), out, color=color)
    plain = re.sub(r"\x1b\[[0-9]{1,2}m", "", out.getvalue()) if color else out.getvalue()
    assert obeyed(plain) == set()
    assert "events are missing" in " ".join(plain.split())


@pytest.mark.parametrize(
    "payload",
    [
        {"messages": 5, "contents": [1], "input": {}, "system": [1]},
        {"messages": [{"role": ["\x1b"], "content": {"\x1b": 1}}]},
        {"messages": json.loads("[" * 400 + "]" * 400)},
        {"system": json.loads('{"content":[' * 450 + "]}" * 450)},
        [[["\x1b\u202e"]]],
    ],
    ids=["types", "more types", "nested", "deeply nested", "list"],
)
@pytest.mark.parametrize("metadata", [{}, [], "\x1b", {"status": ["\x1b"], "error": {"\x1b": 1}}])
def test_a_capture_of_any_shape_is_shown(payload, metadata):
    both = {"metadata": metadata, "timestamp_unix": 10**400, "request_id": ["\x1b"]}
    events = [
        both | {"direction": "inbound_request", "payload": payload},
        both | {"direction": "outbound_response", "payload": payload},
    ]
    lines, out = [json.dumps(event) for event in events], io.StringIO()
    show(lines, out, color=False)
    assert obeyed(out.getvalue()) == set()
    assert json.dumps(har(lines)).isascii()


@hostile
def test_a_capture_in_the_hands_of_cat_is_no_less_safe(sent):
    line = dumps({"payload": sent, sent: "é"})
    assert obeyed(line, lines="") == set()
    assert json.loads(line) == {"payload": sent, sent: "é"}


def test_of_what_is_no_capture_at_all_nothing_is_shown(tmp_path):
    file = tmp_path / "capture"
    file.write_bytes(bytes(range(256)))
    done = run("capture", "show", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"'{file}' is no wire capture" in done.stderr


# The log, messages, commands

FORMATTERS = {
    "text": _TextFormatter("%(levelname)s %(name)s: %(message)s"),
    "json": JSONFormatter(),
    "terminal": _TerminalFormatter(colour=False),
}


@hostile
@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS)
def test_nothing_that_is_logged_drives_a_terminal(sent, formatter):
    try:
        raise ValueError(sent)
    except ValueError:
        trace = sys.exc_info()
    record = logging.LogRecord("llmauth", logging.ERROR, "", 0, "a %s", (sent,), trace)
    RedactingFilter(Redactor()).filter(record)
    line = formatter.format(record)
    if isinstance(formatter, JSONFormatter):
        assert line.isascii()
        fields = json.loads(line)
        line = fields["message"] + fields["exception"]  # as `jq -r` prints them
    assert obeyed(line) == set()


@hostile
def test_messages_to_clients_and_operators_drive_no_terminal(sent):
    refusal = UnknownRoute(f"There is nothing at {sent}.")
    assert obeyed(json.loads(refusal.get_body())["error"]["message"], lines="") == set()
    assert obeyed(console.refusal(f"The file {sent} is bad."), lines="") == set()


NAMED = ("\x1b]0;x\x07", "\x9b2J", "\u202e", "\u200b")


@pytest.mark.parametrize("sent", NAMED, ids=ascii)
def test_no_name_that_a_command_repeats_drives_a_terminal(sent, tmp_path):
    settings, capture = tmp_path / f"s{sent}.yaml", tmp_path / f"c{sent}.jsonl"
    settings.write_text("server: {port: 0}\n", encoding="utf-8")
    capture.write_text("{}\n", encoding="utf-8")
    environ = {"LLM_INTERACTIVE_PROXY_API_KEY": KEY, "LLMAUTH_CONFIG": str(settings)}
    environ |= {"PYTHONUTF8": "1", "CAPTURE_FILE": str(capture)}
    commands = (
        ["check"],
        ["check", "--backend", f"local=http://127.0.0.1:1/{sent}"],
        ["check", "--backend", f"lo{sent}cal=http://127.0.0.1:1"],
        ["check", "--default-backend", sent],
        ["check", f"--{sent}"],
        ["check", "--config", f"no{sent}"],
        [sent],
        ["capture", "show", f"{capture}.no"],
        ["capture", "show", str(capture)],
        ["capture", sent],
        ["serve", "--capture-file", f"{tmp_path}/{sent}/x"],
    )
    for done in run_each(commands, **environ):
        assert obeyed((done.stdout + done.stderr).decode("utf-8")) == set(), done.args
