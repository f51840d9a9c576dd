"""Reading a wire capture: as a conversation in the terminal, or as a HAR for a browser."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, BinaryIO, TextIO
from urllib.parse import parse_qsl, urlsplit

from ..redact.controls import visible, visible_prose
from .reading import Seen, exchanges, messages, metadata, streamed_text, timings

WIDTH = 80
POLL_INTERVAL = 0.25
"""Seconds between looks at a file that is followed."""

_BOLD, _DIM, _RED, _GREEN, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def show(lines: Iterable[str], out: TextIO, *, color: bool) -> None:
    """Print a capture as a conversation, each exchange when its end is seen."""
    for seen in exchanges(lines):
        text = _conversation(seen, color=color) + "\n"
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
                # Asked before reading: what was written until then is read before turning away.
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


def _conversation(seen: Seen, *, color: bool) -> str:
    page = _Page(color=color)
    dropped = metadata(seen.end).get("dropped_events")
    if dropped and not seen.request:
        page.heading(f"({dropped} events are missing: the capture could not keep up)", _RED)
        return str(page)
    request, response = seen.request, seen.response
    moment = str(request.get("timestamp_iso") or response.get("timestamp_iso") or "")[11:23]
    asked = metadata(request)
    page.heading(f"{moment} {asked.get('method', '?')} {asked.get('url', '?')}", _BOLD)
    names = ("key_name", "backend", "model")
    known = [f"{name.removesuffix('_name')} {v}" for name in names if (v := request.get(name))]
    page.heading(", ".join([*known, seen.request_id]), _DIM)
    for role, text in messages(request.get("payload")):
        page.spoken(role, text)
    answer = streamed_text("".join(seen.streamed)) if seen.streamed else ""
    answer = answer or "\n\n".join(text for _, text in messages(response.get("payload")))
    if answer:
        page.spoken("answer", answer)
    if error := metadata(seen.end).get("error"):
        page.heading(f"broken off: {error}", _RED)
    page.heading(_summary(seen), _DIM)
    return str(page)


def _summary(seen: Seen) -> str:
    status = metadata(seen.response).get("status")
    parts = [f"status {status}" if status else "no response"]
    send, wait, receive = timings(seen)
    parts.append(f"first byte after {send + wait:.0f} ms, {receive:.0f} ms to the end")
    length = seen.end.get("content_length")
    if isinstance(length, int):
        parts.append(f"{length} bytes")
    notes = {str(metadata(e)["note"]) for e in seen.events.values() if "note" in metadata(e)}
    return ", ".join([*parts, *sorted(notes)])


def har(lines: Iterable[str]) -> dict[str, Any]:
    """Return a capture as a HAR 1.2 document, which browser developer tools open."""
    entries = [_entry(seen) for seen in exchanges(lines) if seen.request]
    entries.sort(key=lambda entry: str(entry["startedDateTime"]))
    creator = {"name": "llmauth", "version": "1"}
    return {"log": {"version": "1.2", "creator": creator, "pages": [], "entries": entries}}


def _entry(seen: Seen) -> dict[str, Any]:
    send, wait, receive = timings(seen)
    request = seen.first("outbound_request", "inbound_request")
    meta = metadata(request)
    parts = urlsplit(str(meta.get("url") or ""))
    if not parts.netloc:  # what the client asked, or the echo backend, which has no host
        parts = parts._replace(scheme="http", netloc=request.get("destination") or "llmauth")
    entry = {
        "startedDateTime": _iso(seen.at(seen.request) or 0.0),
        "time": send + wait + receive,
        "request": _har_request(request, str(meta.get("method") or "GET"), parts.geturl()),
        "response": _har_response(seen),
        "cache": {},
        "timings": {
            "blocked": -1, "dns": -1, "connect": -1, "ssl": -1,
            "send": send, "wait": wait, "receive": receive,
        },
    }  # fmt: skip
    about = {name: request.get(name) for name in ("request_id", "key_name", "backend", "model")}
    entry["comment"] = ", ".join(f"{name} {value}" for name, value in about.items() if value)
    return entry


def _har_request(request: dict[str, Any], method: str, url: str) -> dict[str, Any]:
    payload = request.get("payload")
    document: dict[str, Any] = {
        "method": method,
        "url": url,
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(metadata(request).get("headers")),
        "queryString": _pairs(dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))),
        "headersSize": -1,
        "bodySize": request.get("content_length") or 0,
    }
    if payload is not None:
        mime = request.get("content_type") or "application/octet-stream"
        document["postData"] = {"mimeType": mime, "text": _as_text(payload), "params": []}
    return document


def _har_response(seen: Seen) -> dict[str, Any]:
    meta = metadata(seen.response)
    status = meta.get("status") or 0
    text = "".join(seen.streamed) if seen.streamed else _as_text(seen.response.get("payload"))
    size = len(text.encode("utf-8", "replace"))
    mime = seen.response.get("content_type") or "application/octet-stream"
    headers = meta.get("headers") or {}
    document = {
        "status": status,
        "statusText": HTTPStatus(status).phrase if status in list(HTTPStatus) else "",
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": _pairs(headers),
        "content": {"size": size, "mimeType": mime, "text": text},
        "redirectURL": str(headers.get("location") or ""),
        "headersSize": -1,
        "bodySize": seen.end.get("content_length") or -1,
    }
    error = metadata(seen.end).get("error")
    return document | ({"_error": str(error)} if error else {})


def _pairs(values: Any) -> list[dict[str, str]]:
    items = values.items() if isinstance(values, dict) else ()
    return [{"name": str(name), "value": str(value)} for name, value in items]


def _as_text(payload: Any) -> str:
    if payload is None or isinstance(payload, str):
        return payload or ""
    return json.dumps(payload, ensure_ascii=False)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
