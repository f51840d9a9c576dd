"""What happened in an exchange, as lines of the wire capture. Runs on the writer thread only."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from .capture_payloads import LIMIT, BodyDecoder, model_of, payload_of
from .redactor import SENSITIVE, Redactor, masked_entirely

PROXY = "llmauth"

_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")

Headers = Sequence[tuple[str, str]]


class ExchangeLog:
    """Renders the events of one request and its response, redacted, as finished lines.

    :param ids: the event's ``request_id``, ``backend`` and ``key_name``
    """

    def __init__(self, redactor: Redactor, *, client: str, ids: dict[str, str | None]) -> None:
        self.held = 0
        """Bytes of a body that is not yet complete."""

        self._redactor = redactor
        self._client = client
        self._ids = ids
        self._known: dict[str, str] = {}
        self._model: str | None = None
        self._response: tuple[float, int, dict[str, str]] | None = None
        self._decoder = BodyDecoder("")
        self._stream = redactor.stream()
        self._body: list[bytes] = []
        self._length = self._chunks = 0
        self._streaming = False

    def request(
        self, direction: str, at: float, method: str, url: str, headers: Headers, body: bytes
    ) -> list[str]:
        shown = _shown(headers)
        decoder = BodyDecoder(shown.get("content-encoding", ""))
        payload, note = payload_of(decoder.feed(body), shown.get("content-type", ""))
        self._model = model_of(payload, url) or self._model
        metadata = {"method": method, "url": url, "headers": shown}
        metadata |= _note((decoder.note if body else None) or note)
        return [self._line(direction, at, shown, len(body), self._safe(payload), metadata)]

    def response(self, at: float, status: int, headers: Headers) -> list[str]:
        shown = _shown(headers)
        self._response = at, status, shown
        self._streaming = shown.get("content-type", "").lower().startswith("text/event-stream")
        encoding = shown.get("content-encoding", "")
        self._decoder = BodyDecoder(encoding, limit=None if self._streaming else LIMIT)
        if not self._streaming:
            return []
        metadata = {"status": status, "headers": shown} | _note(self._decoder.note)
        return [self._line("stream_start", at, shown, None, "null", metadata)]

    def chunk(self, at: float, data: bytes) -> list[str]:
        self._length += len(data)
        self._chunks += 1
        decoded = self._decoder.feed(data)
        if not self._streaming:
            self._body.append(decoded)
            self.held += len(decoded)
            return []
        safe = self._stream.feed(decoded)
        if not safe:
            return []
        metadata = {"chunk": self._chunks}
        return [self._line("stream_chunk", at, {}, len(data), _text(safe), metadata)]

    def finished(self, at: float, error: str | None) -> list[str]:
        ending: dict[str, Any] = {"error": error} if error else {}
        if self._response is None:
            return [self._line("outbound_response", at, {}, None, "null", ending)]
        began, status, headers = self._response
        if self._streaming:
            ending |= {"status": status, "chunks": self._chunks} | _note(self._decoder.note)
            rest = self._stream.finish()
            return [self._line("stream_end", at, {}, self._length, _text(rest), ending)]
        payload, note = payload_of(b"".join(self._body), headers.get("content-type", ""))
        self._body.clear()
        self.held = 0
        body = self._safe(payload)
        metadata = {"status": status, "headers": headers} | _note(self._decoder.note or note)
        length = self._length
        return [
            self._line("inbound_response", began, headers, length, body, metadata),
            self._line("outbound_response", at, headers, length, body, metadata | ending),
        ]

    def remark(self, direction: str, at: float, **metadata: Any) -> str:
        """Return an event that says only that something is missing, and holds nothing else."""
        nobody = ExchangeLog(self._redactor, client="client", ids={})
        return nobody._line(direction, at, {}, None, "null", metadata)

    def _line(
        self,
        direction: str,
        at: float,
        headers: dict[str, str],
        length: int | None,
        payload: str,
        metadata: dict[str, Any],
    ) -> str:
        """Return one event; `payload` is JSON and redacted already."""
        iso = datetime.fromtimestamp(at, timezone.utc).isoformat()
        content_type = self._safe(headers.get("content-type"))
        return (
            f'{{"timestamp_iso":"{iso}","timestamp_unix":{at!r},"direction":"{direction}",'
            f'{self._parties(direction)},"content_type":{content_type},'
            f'"content_length":{_dumps(length)},"payload":{payload},'
            f'"metadata":{self._safe(metadata)}}}'
        )

    def _parties(self, direction: str) -> str:
        key = f"{direction} {self._model}"
        if key not in self._known:
            backend = self._ids.get("backend") or "backend"
            source, destination = {
                "inbound_request": (self._client, PROXY),
                "outbound_request": (PROXY, backend),
                "inbound_response": (backend, PROXY),
            }.get(direction, (PROXY, self._client))
            parties = {
                "source": source,
                "destination": destination,
                "request_id": self._ids.get("request_id"),
                "backend": self._ids.get("backend"),
                "model": self._model,
                "key_name": self._ids.get("key_name"),
            }
            self._known[key] = ",".join(f'"{k}":{self._safe(v)}' for k, v in parties.items())
        return self._known[key]

    def _safe(self, value: Any) -> str:
        """Serialise a value without its secrets.

        Redacting the JSON is several times cheaper than redacting each of its strings. Should
        masking break it (a secret that begins within an escape), that is done after all.
        """
        line = _dumps(value)
        shown = self._redactor.text(line)
        if shown != line:
            try:
                json.loads(shown)
            except (ValueError, RecursionError):
                return _dumps(self._redactor.mapping(value))
        return shown


def _dumps(value: Any) -> str:
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    # What JSON allows as it is, but terminals obey and str.splitlines() splits at.
    return line if line.isprintable() else _CONTROLS.sub(_escape, line)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _note(note: str | None) -> dict[str, str]:
    return {"note": note} if note else {}


def _shown(headers: Headers) -> dict[str, str]:
    """Return headers by name in lower case, repeated ones joined (RFC 9110 §5.3), keys masked."""
    shown: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        value = masked_entirely(value) if name in SENSITIVE else value
        shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown


def _text(data: bytes) -> str:
    return _dumps(data.decode("utf-8", "replace")) if data else "null"
