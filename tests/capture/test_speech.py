"""Streams in which a secret may begin again and again: the work is in proportion to length."""

from __future__ import annotations

import json

import pytest

from llmauth.capture.reading import streamed_text
from llmauth.capture.streams import stream_without_secrets
from llmauth.redact.redactor import Redactor

SECRET = "Zk3vQ9Yw7Tt5Rq"
UNFINISHED = {
    "a name of secrets": "pwd",
    "the start of the secret": SECRET[:7],
    "the start of a shape": "sk-",
    "an open value": '{"a":"b',
    "base64": "YmFzaWMr",
    "words": "basic ",
}


class Counting(Redactor):
    """Counts the characters that it looks at."""

    looked_at = 0

    def spans(self, text: str, **more):
        self.looked_at += len(text)
        return super().spans(text, **more)


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def passed(redactor: Redactor, texts: list[str]) -> str:
    text = b"".join(map(event, texts)).decode()
    return streamed_text("".join(stream_without_secrets(redactor, "events", text)))


@pytest.mark.parametrize("piece", UNFINISHED.values(), ids=UNFINISHED)
def test_what_may_be_a_secret_for_ever_is_not_looked_at_again_for_each_event(piece):
    counts = []
    for number in (3000, 6000):
        redactor = Counting([SECRET])
        passed(redactor, [piece] * number)
        counts.append(redactor.looked_at)
    assert counts[1] < 2.5 * counts[0]
    assert counts[1] < 40 * 6000 * len(event(piece))


@pytest.mark.parametrize("before", [0, 600, 3000, 5000])
@pytest.mark.parametrize("piece", UNFINISHED.values(), ids=UNFINISHED)
def test_a_secret_in_pieces_is_masked_after_any_of_it(piece, before):
    shown = passed(Redactor([SECRET]), [*[piece] * before, " - ", *SECRET, " - ", *["end"] * 10])
    assert SECRET not in shown
    assert SECRET[6:] not in shown
    assert shown.endswith("end" * 10) or "*" in shown[-60:]
