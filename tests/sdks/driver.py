"""Runs a client's calls one by one, as the test orders them on standard input.

One line of JSON orders one call: what to do, the proxy's address, the key and further headers. One
line answers what the client said, or what it raised.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

QUESTION = "one two three"
FILE = b"what the file holds"
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def drive(calls: dict[str, Callable[[dict[str, Any]], str]]) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"said": calls[order["do"]](order)}
        except Exception as exc:
            answer = {"error": getattr(exc, "name", type(exc).__name__), "message": str(exc)}
        print(json.dumps(answer), flush=True)
