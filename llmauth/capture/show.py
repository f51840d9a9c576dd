"""A wire capture as conversations in the terminal, also while it grows."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TextIO

from ..redact.controls import visible, visible_prose
from .reading import Transcript, exchanges, messages, metadata, streamed_text, timings

WIDTH = 80
POLL_INTERVAL = 0.25
"""Seconds between two checks of a file that is followed."""

_BOLD, _DIM, _RED, _GREEN, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def show(lines: Iterable[str], out: TextIO, *, color: bool) -> None:
    """Print a capture as a conversation, each exchange when its end is there."""
    for transcript in exchanges(lines):
        text = _conversation(transcript, color=color) + "\n"
        # A terminal that lacks a character shows a question mark.
        encoding = getattr(out, "encoding", None) or "utf-8"
        out.write(text.encode(encoding, "replace").decode(encoding))
        out.flush()


def follow(path: str) -> Iterator[str]:
    """Yield the lines of a capture as they are written, also across its rotation; never ends."""
    while True:
        try:
            file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            time.sleep(POLL_INTERVAL)
            continue
        with file:
            begun = b""
            replaced = False
            while not replaced:
                # Checked before reading, so that the end of a file that was replaced is read, too.
                replaced = _replaced(path, file)
                for piece in file:
                    begun += piece
                    if begun.endswith(b"\n"):
                        yield begun.decode("utf-8", "replace")
                        begun = b""
                if not replaced:
                    time.sleep(POLL_INTERVAL)


def _replaced(path: str, file: BinaryIO) -> bool:
    try:
        return not os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


class _Page:
    """Lines for a terminal, all of them made by :meth:`add`, so that nothing drives it but colours.

    :param color: use them
    """

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._lines: list[str] = []

    def add(self, text: object, style: str = "", *, indent: str = "", hanging: str = "") -> None:
        """Add a text, wrapped, with its line breaks and tabs.

        :param indent: before each line
        :param hanging: more of it before the lines that one goes on in
        """
        for paragraph in visible_prose(str(text)).split("\n"):
            for line in _wrapped(paragraph, hanging):
                line = indent + line if line else ""
                painted = self._color and style and line
                self._lines.append(f"{style}{line}{_RESET}" if painted else line)

    def heading(self, text: object, style: str) -> None:
        """Add a line that is wrapped when it is long, whatever it holds."""
        self.add(visible(str(text)), style, hanging="  ")

    def spoken(self, role: str, text: str) -> None:
        """Add what somebody said."""
        self.add(visible(role) + ":", _GREEN, indent="  ")
        self.add(text, indent="    ")

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def _wrapped(text: str, hanging: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH - 4, subsequent_indent=hanging, replace_whitespace=False, drop_whitespace=True
    ) or [""]


def _conversation(transcript: Transcript, *, color: bool) -> str:
    page = _Page(color=color)
    dropped = metadata(transcript.end).get("dropped_events")
    if dropped and not transcript.request:
        page.heading(f"({dropped} events are missing: the capture could not keep up)", _RED)
        return str(page)
    request, response = transcript.request, transcript.response
    moment = str(request.get("timestamp_iso") or response.get("timestamp_iso") or "")[11:23]
    asked = metadata(request)
    page.heading(f"{moment} {asked.get('method', '?')} {asked.get('url', '?')}", _BOLD)
    names = ("key_name", "backend", "model")
    known = [f"{name.removesuffix('_name')} {v}" for name in names if (v := request.get(name))]
    page.heading(", ".join([*known, transcript.request_id]), _DIM)
    for role, text in messages(request.get("payload")):
        page.spoken(role, text)
    answer = streamed_text("".join(transcript.streamed)) if transcript.streamed else ""
    answer = answer or "\n\n".join(text for _, text in messages(response.get("payload")))
    if answer:
        page.spoken("answer", answer)
    if error := metadata(transcript.end).get("error"):
        page.heading(f"broken off: {error}", _RED)
    page.heading(_summary(transcript), _DIM)
    return str(page)


def _summary(transcript: Transcript) -> str:
    status = metadata(transcript.response).get("status")
    parts = [f"status {status}" if status else "no response"]
    send, wait, receive = timings(transcript)
    parts.append(f"first byte after {send + wait:.0f} ms, {receive:.0f} ms to the end")
    length = transcript.end.get("content_length")
    if isinstance(length, int):
        parts.append(f"{length} bytes")
    notes = {str(metadata(e)["note"]) for e in transcript.events.values() if "note" in metadata(e)}
    return ", ".join([*parts, *sorted(notes)])
