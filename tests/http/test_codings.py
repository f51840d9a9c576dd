"""Content codings, undone piece by piece, to the end of the last of several streams."""

from __future__ import annotations

import gzip
import random
import zlib

import brotli
import pytest
import zstandard

from llmauth.http.codings import BodyDecoder

TEXTS = [b"one, " * 30, b"", b"two, " * 30]
WHOLE = b"".join(TEXTS)
LIMIT = 10**6


def decoded(coding: str, data: bytes, size: int = 10**6) -> tuple[bytes, BodyDecoder]:
    decoder = BodyDecoder(coding, limit=LIMIT)
    pieces = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join(pieces), decoder


SEVERAL = {
    "gzip": b"".join(map(gzip.compress, TEXTS)),
    "zstd": b"".join(map(zstandard.ZstdCompressor().compress, TEXTS)),
}
ONE = {
    "gzip": gzip.compress(WHOLE),
    "x-gzip": gzip.compress(WHOLE),
    "deflate": zlib.compress(WHOLE),
    "zstd": zstandard.ZstdCompressor().compress(WHOLE),
    "br": brotli.compress(WHOLE),
    "gzip, zstd": zstandard.ZstdCompressor().compress(gzip.compress(WHOLE)),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
@pytest.mark.parametrize("coding", SEVERAL)
def test_streams_that_stand_one_after_another_are_one_body(coding, size):
    """RFC 1952 §2.2 and RFC 8878 §3; a server that flushes after each event may end one there."""
    found, decoder = decoded(coding, SEVERAL[coding], size)
    assert (found, decoder.note, decoder.is_whole) == (WHOLE, None, True)


@pytest.mark.parametrize("size", [1, 5, 10**6])
@pytest.mark.parametrize("coding", ONE)
def test_a_body_is_whole_once_its_end_has_come(coding, size):
    assert BodyDecoder(coding, limit=LIMIT).is_whole
    found, decoder = decoded(coding, ONE[coding], size)
    assert (found, decoder.is_whole) == (WHOLE, True)
    assert not decoded(coding, ONE[coding][:-1], size)[1].is_whole
    assert not decoded(coding, ONE[coding][:20], size)[1].is_whole


@pytest.mark.parametrize("size", [1, 3, 10**6])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("more", [b"\0", b"\x1f", b"\x1fx", b"\n\n", b"(\xb5x", b"garbage" * 9])
def test_what_follows_and_is_no_stream_is_passed_over(coding, more, size):
    found, decoder = decoded(coding, ONE[coding] + more, size)
    assert (found, decoder.note, decoder.is_whole) == (WHOLE, None, True)


def test_what_follows_is_not_kept():
    """Measured before: 8 s of work for 12 MB of it, and all of it in memory."""
    decoder = BodyDecoder("gzip", limit=LIMIT)
    assert decoder.feed(ONE["gzip"]) == WHOLE
    for _ in range(20_000):
        assert decoder.feed(b"g" * 4096) == b""
    assert decoder._codings[0]._held == b""


def test_many_small_streams_cost_no_more_than_their_bytes():
    luck = random.Random(1)
    texts = [luck.randbytes(luck.randrange(3)) for _ in range(3000)]
    data = b"".join(map(gzip.compress, texts))
    assert decoded("gzip", data, 4096)[0] == b"".join(texts)


def test_a_bomb_ends_at_the_limit_in_any_of_its_streams():
    bomb = ONE["gzip"] + gzip.compress(b"\0" * 10 * LIMIT)
    found, decoder = decoded("gzip", bomb)
    assert (len(found), decoder.is_whole) == (LIMIT, False)
    assert decoder.note == f"cut after {LIMIT} bytes"


def test_a_broken_stream_is_said_to_be():
    broken = bytearray(ONE["gzip"])
    broken[12:16] = b"\xff" * 4
    decoder = decoded("gzip", bytes(broken))[1]
    assert decoder.note is not None
    assert not decoder.is_whole
