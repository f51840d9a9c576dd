"""Bodies as the wire capture shows them: parsed, or left out."""

from __future__ import annotations

import json
import re
from typing import Any

LIMIT = 8 * 1024**2
"""Bytes of a body, after decompression, that are captured."""

STREAM_LIMIT = 16 * 1024**2
"""Bytes of a stream, after decompression, that are captured: some 60,000 tokens as events."""

HELD = 64 * 1024**2
"""Bytes of all bodies together that wait for their end."""

_BEGINNING = 4096  # characters of a body that is not complete
_MODEL = re.compile(r'"model"\s{0,8}:\s{0,8}"([^"\\]{1,200})"')
_GEMINI_MODEL = re.compile(r"/models/([^/:?]+)")


class Budget:
    """Bytes that are left for bodies that wait for their end; all exchanges share it."""

    def __init__(self) -> None:
        self.left = HELD


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
