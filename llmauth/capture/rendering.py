"""What happened in an exchange, as lines of the wire capture, without secrets."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from ..http.codings import BodyDecoder
from ..http.grammar import Headers
from ..redact.redactor import is_credential, is_private, masked_entirely
from .payloads import LIMIT, STREAM_LIMIT, Budget, model_of, payload_of
from .safe_json import SafeJSON, dumps
from .streams import array_without_secrets, stream_without_secrets

PROXY = "llmauth"

STREAMED = {
    "text/event-stream": "events",
    "application/x-ndjson": "lines",
    "application/jsonl": "lines",
}
"""Content types of streams, by the way in which their events are separated."""

OVERHEAD = 200
"""Bytes that a chunk of a stream takes while it waits for the stream's end, beside its own."""


class ExchangeRenderer:
    """Renders the events of one request and its response, redacted, as finished lines.

    :param json: shared by the exchanges of a capture, as is the budget for their bodies
    :param ids: the event's ``request_id``, ``backend`` and ``key_name``
    :param credentials: of the request
    """

    def __init__(
        self,
        json: SafeJSON,
        budget: Budget,
        client: str = "client",
        ids: Mapping[str, str | None] = MappingProxyType({}),
        credentials: tuple[str, ...] = (),
    ) -> None:
        self._json = json
        self._budget = budget
        self._redactor = json.redactor
        self._client = client
        self._ids = ids
        self._credentials = credentials
        self._model: str | None = None
        self._rendered: tuple[Any, tuple[str, str | None]] | None = None
        self._response: tuple[float, int, dict[str, str]] | None = None
        self._decoder = BodyDecoder("", limit=LIMIT)
        self._stream: str | None = None
        self._body = bytearray()
        self._marks: list[tuple[int, float, int, int]] = []
        self._length = self._chunks = 0

    def lines(self, direction: str, at: float, *rest: Any) -> list[str]:
        """Return the lines that an event makes.

        :param direction: of the event; ``inbound_response`` is the head of one, whose body comes in
            ``stream_chunk``, and ``outbound_response`` its end
        """
        if direction == "stream_chunk":
            self._add(at, *rest)  # no line shows it before the end
            return []
        # Those of other requests may have taken their place meanwhile.
        self._redactor.observe(*self._credentials)
        if direction == "inbound_response":
            return self._head(at, *rest)
        if direction == "outbound_response":
            return self._end(at, *rest)
        return [self._request(direction, at, *rest)]

    def _request(
        self,
        direction: str,
        at: float,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        length: int,
    ) -> str:
        masked = _masked(headers, is_private)
        payload, note = self._request_payload(body, length, masked, url)
        metadata = {"method": method, "url": url} | _note(note)
        return self.line(direction, at, metadata, masked, length, payload)

    def _request_payload(
        self, body: bytes, length: int, headers: dict[str, str], url: str
    ) -> tuple[str, str | None]:
        # What the client sent is mostly what is sent on: rendered once.
        encoding = headers.get("content-encoding", "")
        key = body, encoding, headers.get("content-type")
        if self._rendered and self._rendered[0] == key:
            return self._rendered[1]
        decoder = BodyDecoder(encoding, limit=LIMIT)
        decoded = decoder.feed(body)
        note = decoder.note if body else None
        if len(body) < length and not note:
            note = f"cut after {len(body)} bytes" if body else "left out: it passed by unread"
        payload, other = self._payload(decoded, headers, cut=note is not None)
        self._model = model_of(payload, url) or self._model
        rendered = self._json.value(payload), note or other
        self._rendered = key, rendered
        return rendered

    def _head(self, at: float, status: int, headers: Headers) -> list[str]:
        masked = _masked(headers, is_credential)
        self._response = at, status, masked
        self._rendered = None
        kind = masked.get("content-type", "").partition(";")[0].strip().lower()
        self._stream = STREAMED.get(kind)
        limit = STREAM_LIMIT if self._stream else LIMIT
        self._decoder = BodyDecoder(masked.get("content-encoding", ""), limit=limit)
        if self._stream is None:
            return []
        metadata = {"status": status} | _note(self._decoder.note)
        return [self.line("stream_start", at, metadata, masked)]

    def _add(self, at: float, data: bytes) -> None:
        """Keep the next chunk of the body until its end."""
        self._length += len(data)
        self._chunks += 1
        decoded = self._decoder.feed(data)
        overhead = OVERHEAD if self._stream else 0
        left = max(0, self._budget.left - overhead)
        if len(decoded) > left:
            self._decoder.note = f"cut after {len(self._body) + left} bytes: too many at a time"
            decoded = decoded[:left]
        if decoded:
            self._body += decoded
            self._budget.left -= len(decoded) + overhead
            if self._stream:
                self._marks.append((self._chunks, at, len(data), len(self._body)))

    def _end(self, at: float, error: str | None) -> list[str]:
        self._budget.left += len(self._body) + OVERHEAD * len(self._marks)
        ending: dict[str, Any] = {"error": error} if error else {}
        if self._response is None:
            return [self.line("outbound_response", at, ending)]
        began, status, headers = self._response
        cut = bool(error or self._decoder.note)
        if self._stream:
            ending |= {"status": status, "chunks": self._chunks} | _note(self._decoder.note)
            end = self.line("stream_end", at, ending, length=self._length)
            return [*self._streamed(self._stream, broken=cut), end]
        payload, note = self._payload(bytes(self._body), headers, cut=cut)
        if isinstance(payload, list) and len(payload) > 1:
            payload = array_without_secrets(self._redactor, payload)
        shown = headers, self._length, self._json.value(payload)
        metadata = {"status": status} | _note(self._decoder.note or note)
        return [
            self.line("inbound_response", began, metadata, *shown),
            self.line("outbound_response", at, metadata | ending, *shown),
        ]

    def _streamed(self, kind: str, *, broken: bool) -> list[str]:
        """Return the lines of a stream's chunks, with the times at which they came."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        texts, begin = [], 0
        for _, _, _, end in self._marks:
            # With a NUL in each character, as in UTF-16, it is not the JSON that the events have.
            data = self._body[begin:end].replace(b"\0", b"")
            texts.append(decode(bytes(data), final=end == len(self._body)))
            begin = end
        cuts = list(itertools.accumulate(map(len, texts)))
        text = "".join(texts)
        pieces = stream_without_secrets(self._redactor, kind, text, cuts, broken=broken)
        return [
            self.line("stream_chunk", at, {"chunk": number}, length=size, payload=dumps(piece))
            for (number, at, size, _), piece in zip(self._marks, pieces, strict=False)
            if piece
        ]

    def _payload(
        self, body: bytes, headers: dict[str, str], *, cut: bool
    ) -> tuple[Any, str | None]:
        payload, note = payload_of(body, headers.get("content-type", ""), cut=cut)
        if cut and isinstance(payload, str):
            payload = self._redactor.text(payload, cut=True)
        return payload, note

    def line(
        self,
        direction: str,
        at: float,
        metadata: dict[str, Any],
        headers: dict[str, str] | None = None,
        length: int | None = None,
        payload: str = "null",
    ) -> str:
        """Return one event.

        :param headers: of the request or response, if the event shows them
        :param payload: JSON, redacted already
        """
        backend = self._ids.get("backend")
        source, destination = {
            "inbound_request": (self._client, PROXY),
            "outbound_request": (PROXY, backend or "backend"),
            "inbound_response": (backend or "backend", PROXY),
        }.get(direction, (PROXY, self._client))
        parties = self._json.fields({
            "source": source,
            "destination": destination,
            "request_id": self._ids.get("request_id"),
            "backend": backend,
            "model": self._model,
            "key_name": self._ids.get("key_name"),
            "content_type": (headers or {}).get("content-type"),
        })
        about = self._json.fields(metadata)
        if headers is not None:
            about += f'{"," if about else ""}"headers":{{{self._json.fields(headers)}}}'
        iso = datetime.fromtimestamp(at, timezone.utc).isoformat()
        return (
            f'{{"timestamp_iso":"{iso}","timestamp_unix":{at!r},"direction":"{direction}",'
            f'{parties},"content_length":{"null" if length is None else length},'
            f'"payload":{payload},"metadata":{{{about}}}}}'
        )


def _note(note: str | None) -> dict[str, Any]:
    return {"note": note} if note else {}


def _masked(headers: Headers, is_secret: Callable[[str], bool]) -> dict[str, str]:
    """Return headers by name in lower case, repeated ones joined (RFC 9110 §5.3), keys masked."""
    masked: dict[str, str] = {}
    for spelled, value in headers:
        name = spelled.lower()
        value = masked_entirely(value) if is_secret(name) else value
        masked[name] = f"{masked[name]}, {value}" if name in masked else value
    return masked
