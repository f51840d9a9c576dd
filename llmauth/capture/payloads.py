"""Bodies as the wire capture shows them: decompressed within bounds, parsed, or left out."""

from __future__ import annotations

import importlib
import json
import re
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

LIMIT = 8 * 1024**2
"""Bytes of a body, after decompression, that are captured."""

STREAM_LIMIT = 16 * 1024**2
"""Bytes of a stream, after decompression, that are captured: some 60,000 tokens as events."""

MAX_CODINGS = 4
"""Content codings of a body that are undone; each takes memory."""

HELD = 64 * 1024**2
"""Bytes of all bodies together that wait for their end."""

_SLICE = 64
"""Bytes given at once to decompressors that cannot be told how much to return."""

_BEGINNING = 4096  # characters of a body that is not complete
_MODEL = re.compile(r'"model"\s{0,8}:\s{0,8}"([^"\\]{1,200})"')
_GEMINI_MODEL = re.compile(r"/models/([^/:?]+)")


class Budget:
    """Bytes that are left for bodies that wait for their end; all exchanges share it."""

    def __init__(self) -> None:
        self.left = HELD


Decoder = Callable[[bytes, int], bytes]
"""Undoes one content coding, returning at most about so many bytes more than it was asked."""


class BodyDecoder:
    """Undoes the content codings of a body that comes in pieces.

    After an error, or past the limit, nothing more is returned and `note` says why.

    :param encoding: the ``Content-Encoding`` header
    :param limit: bytes returned in all
    """

    def __init__(self, encoding: str, *, limit: int = LIMIT) -> None:
        self.note: str | None = None
        self._limit = self._left = limit
        self._decoders: list[Decoder] = []
        codings = [coding.strip().lower() for coding in encoding.split(",")]
        codings = [coding for coding in codings if coding not in ("", "identity")]
        for coding in reversed(codings):
            decoder = _decoder(coding) if len(codings) <= MAX_CODINGS else None
            if decoder is None:
                # Not named: it may be anything, and what is cut of a secret is not recognised.
                self.note = "withheld: its content-encoding cannot be decoded here"
                return
            self._decoders.append(decoder)

    def feed(self, data: bytes) -> bytes:
        if self.note:
            return b""
        try:
            for decoder in self._decoders:
                data = decoder(data, self._left + 1)
                if len(data) > self._left:
                    self.note = f"cut after {self._limit} bytes"
        except Exception as exc:  # each library has its own; none may stop the capture
            self.note = f"the rest is withheld: it cannot be decoded ({type(exc).__name__})"
            return b""
        if len(data) > self._left:
            self.note = f"cut after {self._limit} bytes"
        data = data[: self._left]
        self._left -= len(data)
        return data


def _decoder(coding: str) -> Decoder | None:
    if coding in ("gzip", "x-gzip"):
        return _limited(zlib.decompressobj(zlib.MAX_WBITS | 16))
    if coding == "deflate":
        return _deflate()
    if coding == "br":
        brotli = _module("brotli") or _module("brotlicffi")
        return _sliced(brotli.Decompressor().process) if brotli else None
    if coding == "zstd":
        if zstandard := _module("zstandard"):
            decompressor = zstandard.ZstdDecompressor(max_window_size=LIMIT)
            return _sliced(decompressor.decompressobj().decompress)
        if zstd := _module("compression.zstd"):
            return _limited(zstd.ZstdDecompressor())
    return None


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _deflate() -> Decoder:
    # RFC 9110 §8.4.1.2: some send it without the zlib wrapper.
    chosen: list[Decoder] = []

    def decode(data: bytes, limit: int) -> bytes:
        if not chosen and data:
            wrapped = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
            bits = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
            chosen.append(_limited(zlib.decompressobj(bits)))
        return chosen[0](data, limit) if chosen else b""

    return decode


def _limited(decompressor: Any) -> Decoder:
    def decode(data: bytes, limit: int) -> bytes:
        return bytes(decompressor.decompress(data, limit)) if not decompressor.eof else b""

    return decode


def _sliced(process: Callable[[bytes], bytes]) -> Decoder:
    def decode(data: bytes, limit: int) -> bytes:
        pieces: list[bytes] = []
        length = 0
        for start in range(0, len(data), _SLICE):
            pieces.append(process(data[start : start + _SLICE]))
            length += len(pieces[-1])
            if length > limit:
                break
        return b"".join(pieces)

    return decode


def payload_of(data: bytes, content_type: str, *, cut: bool) -> tuple[Any, str | None]:
    """Return a body as JSON, as text, or not at all, and a note when something is missing.

    :param cut: it is the beginning of one
    """
    text = _text(data, cut)
    if text is None:
        kind = content_type.partition(";")[0].strip() or "of no stated type"
        return None, f"not text: {len(data)} bytes {kind}"
    if not text:
        return None, None
    if "json" in content_type.lower() or text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text, parse_constant=str), None
        except (ValueError, RecursionError):
            return text, None
    return text, None


def _text(data: bytes, cut: bool) -> str | None:
    # UTF-16 may pass for UTF-8 with a NUL in each character, where no secret is recognised.
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        if exc.start < len(data) - 4 or not cut:
            return None
        return data[: exc.start].decode("utf-8")  # cut within a character


def model_of(payload: Any, target: str) -> str | None:
    """Return the model that a request asks for: in its JSON, or in a Gemini path."""
    if isinstance(payload, dict) and isinstance(payload.get("model"), str):
        return str(payload["model"])
    json_cut = isinstance(payload, str) and payload.lstrip().startswith("{")
    match = _MODEL.search(payload[:_BEGINNING]) if json_cut else None
    match = match or _GEMINI_MODEL.search(target)
    return match[1] if match else None
