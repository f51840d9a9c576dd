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

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_WEIGHT = re.compile(r"(?i)\s*;\s*q\s*=\s*0(?:\.0*)?\s*$")
"""Of what is not acceptable (RFC 9110 §12.4.2)."""


class _Stream(Protocol):
    """One stream of a coding, as Python's ``bz2`` and ``zlib`` have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, limit: int, /) -> bytes: ...


class _Coding:
    """One content coding: a stream, or several of them one after another.

    gzip (RFC 1952 §2.2) and zstd (RFC 8878 §3) may have several. What follows, and is none, is
    passed over, as clients do.

    :param begin: makes what undoes one stream
    :param magic: with which another one begins, empty where there is one only
    """

    def __init__(self, begin: Callable[[], _Stream], magic: bytes = b"") -> None:
        self._begin = begin
        self._magic = magic
        self._stream = begin()
        self._held = b""  # less of another one than its magic
        self._is_empty = True

    @property
    def is_whole(self) -> bool:
        """False in the middle of a stream."""
        return self._is_empty or self._stream.eof

    def decode(self, data: bytes, limit: int) -> bytes:
        """Return about ``limit`` bytes at most."""
        pieces: list[bytes] = []
        while data and limit > 0:
            self._is_empty = False
            if self._stream.eof:
                data = self._begin_another(data)
                continue
            pieces.append(self._stream.decompress(data, limit))
            limit -= len(pieces[-1])
            data = self._stream.unused_data if self._stream.eof else b""
        return b"".join(pieces)

    def _begin_another(self, data: bytes) -> bytes:
        """Return what belongs to another stream; nothing while that cannot be told yet."""
        data, self._held = self._held + data, b""
        if len(data) < len(self._magic) and self._magic.startswith(data):
            self._held = data
        elif self._magic and data.startswith(self._magic):
            self._stream = self._begin()
            return data
        else:
            self._magic = b""
        return b""


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
        self._codings: list[_Coding] = []
        codings = [coding.strip().lower() for coding in encoding.split(",")]
        codings = [coding for coding in codings if coding not in ("", "identity")]
        for coding in reversed(codings):
            undone = _coding(coding) if len(codings) <= MAX_CODINGS else None
            if undone is None:
                # Not named: it may be anything, and what is cut of a secret is not recognised.
                self.note = "withheld: its content-encoding cannot be decoded here"
                return
            self._codings.append(undone)

    @property
    def is_whole(self) -> bool:
        """False when the body cannot end here, or was not decoded to its end."""
        return self.note is None and all(coding.is_whole for coding in self._codings)

    def feed(self, data: bytes) -> bytes:
        if self.note:
            return b""
        try:
            for coding in self._codings:
                data = coding.decode(data, self._left + 1)
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


def _coding(name: str) -> _Coding | None:
    if name in ("gzip", "x-gzip"):
        return _Coding(lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), b"\x1f\x8b")
    if name == "deflate":
        return _Coding(_Deflate)
    if name == "br":
        brotli = _module("brotli") or _module("brotlicffi")
        return _Coding(lambda: _Brotli(brotli.Decompressor())) if brotli else None
    if name == "zstd":
        if zstandard := _module("zstandard"):
            zstd = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            return _Coding(lambda: _Sliced(zstd.decompressobj()), _ZSTD_MAGIC)
        if zstd := _module("compression.zstd"):
            return _Coding(zstd.ZstdDecompressor, _ZSTD_MAGIC)
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


class _Deflate:
    """With the zlib wrapper, or without, as some send it (RFC 9110 §8.4.1.2)."""

    def __init__(self) -> None:
        self._stream: Any = None

    @property
    def eof(self) -> bool:
        return self._stream is not None and self._stream.eof

    unused_data = b""

    def decompress(self, data: bytes, limit: int) -> bytes:
        if self._stream is None:
            is_wrapped = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS)
        return bytes(self._stream.decompress(data, limit))


class _Sliced:
    """One of zstandard's, which cannot be told how much to return."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    def decompress(self, data: bytes, limit: int) -> bytes:
        pieces: list[bytes] = []
        for start in range(0, len(data), _SLICE):
            pieces.append(self._process(data[start : start + _SLICE]))
            limit -= len(pieces[-1])
            if self.eof:
                self.unused_data = self._left_over() + data[start + _SLICE :]
            if self.eof or limit < 0:
                break
        return b"".join(pieces)

    def _process(self, data: bytes) -> bytes:
        return bytes(self._stream.decompress(data))

    def _left_over(self) -> bytes:
        return bytes(self._stream.unused_data)


class _Brotli(_Sliced):
    @property
    def eof(self) -> bool:
        return bool(self._stream.is_finished())

    def _process(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data))

    def _left_over(self) -> bytes:
        return b""  # it takes anything more for an error
