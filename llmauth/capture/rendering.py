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
        self._held = self._kept = 0
        self._redactor = json.redactor
        self._client = client
        self._ids = ids
        self._credentials = credentials
        self._model: str | None = None
        self._rendered: tuple[Any, tuple[str, str | None]] | None = None
        self._response: tuple[float, int, dict[str, str]] | None = None
        self._decoder = BodyDecoder("", limit=LIMIT)
        self._stream: _Stream | None = None
        self._body: list[bytes] = []
        self._length = 0

    def lines(self, direction: str, at: float, *rest: Any) -> list[str]:
        """Return the lines that an event makes.

        :param direction: of the event; ``inbound_response`` is the head of one, whose body comes in
            ``stream_chunk``, and ``outbound_response`` its end
        """
        if direction == "stream_chunk":
            return self._chunk(at, *rest)  # no line shows it before the end
        # Those of other requests may have taken their place meanwhile.
        self._redactor.observe(*self._credentials)
        if direction == "inbound_response":
            return self._head(at, *rest)
        if direction == "outbound_response":
            return self._end(at, *rest)
        return self._request(direction, at, *rest)

    def remark(self, direction: str, at: float, **metadata: Any) -> str:
        """Return an event that says something of an exchange, and shows nothing of it."""
        return self._line(direction, at, None, None, "null", metadata)

    def _request(
        self,
        direction: str,
        at: float,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        length: int,
    ) -> list[str]:
        masked = _masked(headers, is_private)
        payload, note = self._request_payload(body, length, masked, url)
        metadata = {"method": method, "url": url} | _note(note)
        return [self._line(direction, at, masked, length, payload, metadata)]

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
        self._rendered = (key, rendered) if self._rendered is None else None
        return rendered

    def _head(self, at: float, status: int, headers: Headers) -> list[str]:
        masked = _masked(headers, is_credential)
        self._response = at, status, masked
        self._rendered = None
        kind = STREAMED.get(masked.get("content-type", "").partition(";")[0].strip().lower())
        encoding = masked.get("content-encoding", "")
        self._decoder = BodyDecoder(encoding, limit=STREAM_LIMIT if kind else LIMIT)
        if kind is None:
            return []
        self._stream = _Stream(kind)
        metadata = {"status": status} | _note(self._decoder.note)
        return [self._line("stream_start", at, masked, None, "null", metadata)]

    def _chunk(self, at: float, data: bytes) -> list[str]:
        self._length += len(data)
        decoded = self._decoder.feed(data)
        left = max(0, self._budget.left - (OVERHEAD if self._stream else 0))
        if len(decoded) > left:
            self._decoder.note = f"cut after {self._kept + left} bytes: too many at a time"
            decoded = decoded[:left]
        self._kept += len(decoded)
        if self._stream is None:
            self._body.append(decoded)
            self._hold(self._kept)
        else:
            self._stream.add(at, len(data), decoded)
            self._hold(self._kept + OVERHEAD * len(self._stream.marks))
        return []

    def _hold(self, size: int) -> None:
        """Have as much of the budget as what waits for its end takes now."""
        self._budget.left -= size - self._held
        self._held = size

    def _end(self, at: float, error: str | None) -> list[str]:
        ending: dict[str, Any] = {"error": error} if error else {}
        self._hold(0)
        if self._response is None:
            return [self._line("outbound_response", at, None, None, "null", ending)]
        began, status, headers = self._response
        if self._stream is not None:
            ending |= {"status": status, "chunks": self._stream.chunks} | _note(self._decoder.note)
            lines = self._streamed(self._stream, broken=bool(error or self._decoder.note))
            end = self._line("stream_end", at, None, self._length, "null", ending)
            return [*lines, end]
        body = b"".join(self._body)
        payload, note = self._payload(body, headers, cut=bool(error or self._decoder.note))
        self._body.clear()
        if isinstance(payload, list) and len(payload) > 1:
            payload = array_without_secrets(self._redactor, payload)
        rendered = self._json.value(payload)
        metadata = {"status": status} | _note(self._decoder.note or note)
        length = self._length
        return [
            self._line("inbound_response", began, headers, length, rendered, metadata),
            self._line("outbound_response", at, headers, length, rendered, metadata | ending),
        ]

    def _streamed(self, stream: _Stream, *, broken: bool) -> list[str]:
        """Return the lines of a stream's chunks, with the times at which they came."""
        text, cuts = stream.whole()
        pieces = stream_without_secrets(
            self._redactor, stream.kind, text, cuts, broken=broken
        )
        return [
            self._line("stream_chunk", at, None, size, dumps(piece), {"chunk": number})
            for (number, at, size), piece in zip(stream.marks, pieces, strict=False)
            if piece
        ]

    def _payload(
        self, body: bytes, headers: dict[str, str], *, cut: bool
    ) -> tuple[Any, str | None]:
        payload, note = payload_of(body, headers.get("content-type", ""), cut=cut)
        if cut and isinstance(payload, str):
            payload = self._redactor.text(payload, cut=True)
        return payload, note

    def _line(
        self,
        direction: str,
        at: float,
        headers: dict[str, str] | None,
        length: int | None,
        payload: str,
        metadata: dict[str, Any],
    ) -> str:
        """Return one event.

        :param headers: of the request or response, if the event shows them
        :param payload: JSON, redacted already
        """
        iso = datetime.fromtimestamp(at, timezone.utc).isoformat()
        about = self._json.fields(metadata)
        if headers is not None:
            about += f'{"," if about else ""}"headers":{{{self._json.fields(headers)}}}'
        return (
            f'{{"timestamp_iso":"{iso}","timestamp_unix":{at!r},"direction":"{direction}",'
            f'{self._parties(direction, (headers or {}).get("content-type"))},'
            f'"content_length":{"null" if length is None else length},"payload":{payload},'
            f'"metadata":{{{about}}}}}'
        )

    def _parties(self, direction: str, content_type: str | None) -> str:
        backend = self._ids.get("backend") or "backend"
        source, destination = {
            "inbound_request": (self._client, PROXY),
            "outbound_request": (PROXY, backend),
            "inbound_response": (backend, PROXY),
        }.get(direction, (PROXY, self._client))
        return self._json.fields({
            "source": source,
            "destination": destination,
            "request_id": self._ids.get("request_id"),
            "backend": self._ids.get("backend"),
            "model": self._model,
            "key_name": self._ids.get("key_name"),
            "content_type": content_type,
        })


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


class _Stream:
    """A stream that has not ended: its chunks, and when they came.

    :param kind: how its events are separated
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.chunks = 0
        self.marks: list[tuple[int, float, int]] = []
        """Number, time and size of the chunks that have text."""

        self._texts: list[str] = []
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def add(self, at: float, size: int, data: bytes) -> None:
        """Add the next chunk.

        :param size: of the chunk as it came
        :param data: what it holds, decompressed
        """
        self.chunks += 1
        # With a NUL in each character, as in UTF-16, it is not the JSON that the events have.
        if text := self._decode(data.replace(b"\0", b"")):
            self.marks.append((self.chunks, at, size))
            self._texts.append(text)

    def whole(self) -> tuple[str, list[int]]:
        """Return the text of all chunks, and where each of them ends."""
        if self._texts:
            self._texts[-1] += self._decode(b"", final=True)
        ends = list(itertools.accumulate(map(len, self._texts)))
        return "".join(self._texts), ends
