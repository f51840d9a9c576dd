"""Reading a wire capture: as a conversation in the terminal, or as a HAR for a browser."""

from __future__ import annotations

import json
import os
import re
import textwrap
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, BinaryIO, TextIO
from urllib.parse import parse_qsl, urlsplit

from .capture_exchanges import Seen, exchanges, messages, streamed_text, timings

WIDTH = 80
POLL_INTERVAL = 0.25
"""Seconds between looks at a file that is followed."""

_BOLD, _DIM, _RED, _GREEN, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


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


def _conversation(seen: Seen, *, color: bool) -> str:
    def paint(code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if color else text

    dropped = (seen.end.get("metadata") or {}).get("dropped_events")
    if dropped and not seen.request:
        return paint(_RED, f"({dropped} events are missing: the capture could not keep up)") + "\n"
    request, response, meta = seen.request, seen.response, seen.request.get("metadata") or {}
    moment = str(request.get("timestamp_iso") or response.get("timestamp_iso") or "")[11:23]
    title = f"{moment} {meta.get('method', '?')} {meta.get('url', '?')}"
    lines = [paint(_BOLD, line) for line in _wrapped(title, "  ")]
    names = ("key_name", "backend", "model")
    about = [f"{name.removesuffix('_name')} {v}" for name in names if (v := request.get(name))]
    lines += [paint(_DIM, line) for line in _wrapped(", ".join([*about, seen.request_id]), "  ")]
    for role, text in messages(request.get("payload")):
        lines += _spoken(paint(_GREEN, role), role, text)
    answer = streamed_text("".join(seen.streamed)) if seen.streamed else ""
    answer = answer or "\n\n".join(text for _, text in messages(response.get("payload")))
    if answer:
        lines += _spoken(paint(_GREEN, "answer"), "answer", answer)
    error = (seen.end.get("metadata") or {}).get("error")
    if error:
        lines += [paint(_RED, line) for line in _wrapped(f"broken off: {error}", "  ")]
    lines += [paint(_DIM, line) for line in _wrapped(_summary(seen), "  ")]
    return "\n".join(lines) + "\n"


def _summary(seen: Seen) -> str:
    status = (seen.response.get("metadata") or {}).get("status")
    parts = [f"status {status}" if status else "no response"]
    send, wait, receive = timings(seen)
    parts.append(f"first byte after {send + wait:.0f} ms, {receive:.0f} ms to the end")
    length = seen.end.get("content_length")
    if isinstance(length, int):
        parts.append(f"{length} bytes")
    notes = {str(e["metadata"]["note"]) for e in seen.events.values() if _has_note(e)}
    return ", ".join([*parts, *sorted(notes)])


def _has_note(event: dict[str, Any]) -> bool:
    return isinstance(event.get("metadata"), dict) and "note" in event["metadata"]


def _spoken(painted: str, role: str, text: str) -> list[str]:
    lines = [line for paragraph in text.split("\n") for line in _wrapped(paragraph, "")]
    indented = [f"    {line}" if line else "" for line in lines]
    return [f"  {painted}:", *indented] if role else indented


def _wrapped(text: str, indent: str) -> list[str]:
    # What was captured must not drive the terminal.
    text = _CONTROLS.sub(lambda m: m.group().encode("unicode_escape").decode("ascii"), text)
    return textwrap.wrap(
        text, WIDTH - 4, subsequent_indent=indent, replace_whitespace=False, drop_whitespace=True
    ) or [""]


def har(lines: Iterable[str]) -> dict[str, Any]:
    """Return a capture as a HAR 1.2 document, which browser developer tools open."""
    entries = [_entry(seen) for seen in exchanges(lines) if seen.request]
    entries.sort(key=lambda entry: str(entry["startedDateTime"]))
    creator = {"name": "llmauth", "version": "1"}
    return {"log": {"version": "1.2", "creator": creator, "pages": [], "entries": entries}}


def _entry(seen: Seen) -> dict[str, Any]:
    send, wait, receive = timings(seen)
    request = seen.first("outbound_request", "inbound_request")
    meta = request.get("metadata") or {}
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
        "headers": _pairs((request.get("metadata") or {}).get("headers")),
        "queryString": _pairs(dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))),
        "headersSize": -1,
        "bodySize": request.get("content_length") or 0,
    }
    if payload is not None:
        mime = request.get("content_type") or "application/octet-stream"
        document["postData"] = {"mimeType": mime, "text": _as_text(payload), "params": []}
    return document


def _har_response(seen: Seen) -> dict[str, Any]:
    meta = seen.response.get("metadata") or {}
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
    error = (seen.end.get("metadata") or {}).get("error")
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
