"""JSON without secrets, written with what is known already of names and values that come often."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..redact.controls import CONTROLS
from ..redact.redactor import Redactor

REMEMBERED = 4096
"""Names with values that are remembered: most of them come with every request."""

LONGEST = 512
"""Characters of a value that is remembered."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
_CONTROL = re.compile(f"[{CONTROLS}]")


class SafeJSON:
    """Serialises values without their secrets. Not for several threads."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self._pairs: dict[tuple[str, Any], str] = {}
        self._version = redactor.version

    def value(self, value: Any) -> str:
        """Serialise a value.

        Redacting the JSON is several times cheaper than redacting each of its strings. Should
        masking break it (a secret that begins within an escape), that is done after all.
        """
        line = dumps(value)
        masked = self.redactor.text(line)
        if masked != line:
            try:
                json.loads(masked)
            except (ValueError, RecursionError):
                return dumps(self.redactor.mapping(value))
        return masked

    def fields(self, values: Mapping[str, Any]) -> str:
        """Serialise what stands between the braces of an object of texts and numbers."""
        if self._version != self.redactor.version or len(self._pairs) > REMEMBERED:
            self._version = self.redactor.version
            self._pairs.clear()
        pairs = self._pairs
        lines: list[str] = []
        for pair in values.items():
            line = pairs.get(pair)
            if line is None:
                line = self.value(dict([pair]))[1:-1]
                if not isinstance(pair[1], str) or len(pair[1]) <= LONGEST:
                    pairs[pair] = line
            lines.append(line)
        return ",".join(lines)


def dumps(value: Any) -> str:
    line = _ENCODER.encode(value)
    # What JSON allows as it is, but terminals obey and str.splitlines() splits at.
    return line if line.isascii() and line.isprintable() else _CONTROL.sub(_escape, line)


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]
