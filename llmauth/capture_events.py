"""What happened in an exchange, as lines of the wire capture. Runs on the writer thread only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from .capture_payloads import LIMIT, BodyDecoder, model_of, payload_of
from .capture_speech import EventRedactor, array_without_secrets
from .redactor import Redactor, is_credential, masked_entirely

PROXY = "llmauth"

STREAMED = {
    "text/event-stream": "events",
    "application/x-ndjson": "lines",
    "application/jsonl": "lines",
}
"""Content types of streams, by the way in which their events are separated."""

_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")

Headers = Sequence[tuple[str, str]]


class ExchangeLog:
    """Renders the events of one request and its response, redacted, as finished lines.

    :param ids: the event's ``request_id``, ``backend`` and ``key_name``
    :param credentials: of the request
    """

    def __init__(
        self,
        redactor: Redactor,
        client: str = "client",
        ids: Mapping[str, str | None] = MappingProxyType({}),
        credentials: tuple[str, ...] = (),
    ) -> None:
        self.held = 0
        """Bytes of a body that is not yet complete."""

        self._redactor = redactor
        self._client = client
        self._ids = ids
        self._credentials = credentials
        self._known: dict[str, str] = {}
        self._model: str | None = None
        self._response: tuple[float, int, dict[str, str]] | None = None
        self._decoder = BodyDecoder("")
        self._stream: EventRedactor | None = None
        self._body: list[bytes] = []
        self._length = self._chunks = 0

    def remember(self) -> None:
        """Have the credentials masked, should other ones have taken their place meanwhile."""
        if self._credentials:
            self._redactor.observe(*self._credentials)

    def request(
        self, direction: str, at: float, method: str, url: str, headers: Headers, body: bytes
    ) -> list[str]:
        shown = _shown(headers)
        decoder = BodyDecoder(shown.get("content-encoding", ""))
        decoded = decoder.feed(body)
        payload, note = self._payload(decoded, shown, cut=decoder.note is not None)
        self._model = model_of(payload, url) or self._model
        metadata = {"method": method, "url": url, "headers": shown}
        metadata |= _note((decoder.note if body else None) or note)
        return [self._line(direction, at, shown, len(body), self._safe(payload), metadata)]

    def response(self, at: float, status: int, headers: Headers) -> list[str]:
        shown = _shown(headers)
        self._response = at, status, shown
        kind = STREAMED.get(shown.get("content-type", "").partition(";")[0].strip().lower())
        encoding = shown.get("content-encoding", "")
        self._decoder = BodyDecoder(encoding, limit=None if kind else LIMIT)
        if kind is None:
            return []
        self._stream = EventRedactor(self._redactor, kind)
        metadata = {"status": status, "headers": shown} | _note(self._decoder.note)
        return [self._line("stream_start", at, shown, None, "null", metadata)]

    def chunk(self, at: float, data: bytes) -> list[str]:
        self._length += len(data)
        self._chunks += 1
        decoded = self._decoder.feed(data)
        if self._stream is None:
            self._body.append(decoded)
            self.held += len(decoded)
            return []
        safe = self._stream.feed(decoded)
        self.held = self._stream.held
        if not safe:
            return []
        metadata = {"chunk": self._chunks}
        return [self._line("stream_chunk", at, {}, len(data), _text(safe), metadata)]

    def finished(self, at: float, error: str | None) -> list[str]:
        ending: dict[str, Any] = {"error": error} if error else {}
        if self._response is None:
            return [self._line("outbound_response", at, {}, None, "null", ending)]
        began, status, headers = self._response
        if self._stream is not None:
            ending |= {"status": status, "chunks": self._chunks} | _note(self._decoder.note)
            rest = self._stream.finish(cut=error is not None)
            self.held = 0
            return [self._line("stream_end", at, {}, self._length, _text(rest), ending)]
        body = b"".join(self._body)
        payload, note = self._payload(body, headers, cut=bool(error or self._decoder.note))
        self._body.clear()
        self.held = 0
        if isinstance(payload, list) and len(payload) > 1:
            payload = array_without_secrets(self._redactor, payload)
        shown = self._safe(payload)
        metadata = {"status": status, "headers": headers} | _note(self._decoder.note or note)
        length = self._length
        return [
            self._line("inbound_response", began, headers, length, shown, metadata),
            self._line("outbound_response", at, headers, length, shown, metadata | ending),
        ]

    def _payload(
        self, body: bytes, headers: dict[str, str], *, cut: bool
    ) -> tuple[Any, str | None]:
        payload, note = payload_of(body, headers.get("content-type", ""))
        if cut and isinstance(payload, str):
            payload = self._redactor.cut(payload)
        return payload, note

    def remark(self, direction: str, at: float, **metadata: Any) -> str:
        """Return an event that says only that something is missing, and holds nothing else."""
        nobody = ExchangeLog(self._redactor)
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
        value = masked_entirely(value) if is_credential(name) else value
        shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown


def _text(data: bytes) -> str:
    return _dumps(data.decode("utf-8", "replace")) if data else "null"
