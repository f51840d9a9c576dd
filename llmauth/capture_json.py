"""JSON without secrets, for one thread."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .redactor import Redactor

REMEMBERED = 4096
"""Names with values that are remembered: most of them come with every request."""

LONGEST = 512
"""Characters of a value that is remembered."""

_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")


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
        shown = self.redactor.text(line)
        if shown != line:
            try:
                json.loads(shown)
            except (ValueError, RecursionError):
                return dumps(self.redactor.mapping(value))
        return shown

    def fields(self, values: Mapping[str, Any]) -> str:
        """Serialise what stands between the braces of an object."""
        if self._version != self.redactor.version or len(self._pairs) > REMEMBERED:
            self._version = self.redactor.version
            self._pairs.clear()
        return ",".join([self._pair(name, value) for name, value in values.items()])

    def _pair(self, name: str, value: Any) -> str:
        if isinstance(value, dict):
            return f"{self.value(name)}:{{{self.fields(value)}}}"
        known = self._pairs.get((name, value))
        if known is None:
            known = self.value({name: value})[1:-1]
            if not isinstance(value, str) or len(value) <= LONGEST:
                self._pairs[name, value] = known
        return known


def dumps(value: Any) -> str:
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    # What JSON allows as it is, but terminals obey and str.splitlines() splits at.
    return line if line.isprintable() else _CONTROLS.sub(_escape, line)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"
