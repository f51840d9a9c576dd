"""Content codings (RFC 9110 §8.4), undone within bounds as the pieces of a body come."""

from __future__ import annotations

import importlib
import importlib.util
import re
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

from ..remembering import remembered

MAX_CODINGS = 4
"""Content codings of a body that are undone; each takes memory."""

_MAX_WINDOW = 8 * 1024**2
"""Bytes, as RFC 9659 bounds it for zstd."""

_SLICE = 64
"""Bytes given at once to decompressors that cannot be told how much to return."""


_WEIGHT = re.compile(r"(?i)\s*;\s*q\s*=\s*0(?:\.0*)?\s*$")
"""Of what is not acceptable (RFC 9110 §12.4.2)."""


class Decoder(Protocol):
    """Undoes one content coding, returning at most about `limit` bytes more than it was asked."""

    def __call__(self, data: bytes, limit: int, /) -> bytes: ...


@remembered(256, 64)
def only_decodable(accept_encoding: str) -> str:
    """Return an ``Accept-Encoding`` without what cannot be decoded here.

    What stays is as it was written; ``*``, which stands for anything, goes unless it excludes.
    """
    members = accept_encoding.split(",")
    kept = [member for member in members if _is_decodable(member)]
    if len(kept) == len(members):
        return accept_encoding
    return ",".join(kept).strip() or "identity"


def _is_decodable(member: str) -> bool:
    coding = member.partition(";")[0].strip().lower()
    return coding in _DECODABLE or coding in ("", "identity") or bool(_WEIGHT.search(member))


class BodyDecoder:
    """Undoes the content codings of a body that comes in pieces.

    After an error, or past the limit, nothing more is returned and `note` says why.

    :param encoding: the ``Content-Encoding`` header
    :param limit: bytes returned in all
    """

    def __init__(self, encoding: str, *, limit: int) -> None:
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
        except Exception as exc:  # each library has its own; none may stop the reader
            self.note = f"the rest is withheld: it cannot be decoded ({type(exc).__name__})"
            return b""
        if len(data) > self._left:
            self.note = f"cut after {self._limit} bytes"
        data = data[: self._left]
        self._left -= len(data)
        return data


def _decoder(coding: str) -> Decoder | None:
    if coding in ("gzip", "x-gzip"):
        return _zlib(zlib.MAX_WBITS | 16)
    if coding == "deflate":
        return _deflate()
    if coding == "br":
        brotli = _module("brotli") or _module("brotlicffi")
        return _sliced(brotli.Decompressor().process) if brotli else None
    if coding == "zstd":
        if zstandard := _module("zstandard"):
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            return _sliced(decompressor.decompressobj().decompress)
        if zstd := _module("compression.zstd"):
            return _limited(zstd.ZstdDecompressor())
    return None


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _is_installed(name: str) -> bool:
    parent = name.partition(".")[0]
    return importlib.util.find_spec(parent) is not None and (
        parent == name or importlib.util.find_spec(name) is not None
    )


_DECODABLE = {"gzip", "x-gzip", "deflate"}
if _is_installed("brotli") or _is_installed("brotlicffi"):
    _DECODABLE.add("br")
if _is_installed("zstandard") or _is_installed("compression.zstd"):
    _DECODABLE.add("zstd")


def _zlib(window_bits: int) -> Decoder:
    decompress = zlib.decompressobj(window_bits)

    def decode(data: bytes, limit: int) -> bytes:
        return decompress.decompress(data, limit)

    return decode


def _deflate() -> Decoder:
    # RFC 9110 §8.4.1.2: some send it without the zlib wrapper.
    chosen: list[Decoder] = []

    def decode(data: bytes, limit: int) -> bytes:
        if not chosen and data:
            wrapped = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
            chosen.append(_zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS))
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
