"""Measure what redacting an ordinary line of the log costs, and an event of the wire capture.

    python benchmarks/redaction.py [--observed 512]

Times are CPU microseconds of this thread, the least of several runs.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import secrets
import time
from collections.abc import Callable

from llmauth.redact.logging import RedactingFilter, Redactor

RUNS, TIMES = 7, 2000
LINE = (
    '%(client)s %(key)s "POST /v1/chat/completions" openai 200 1234B '
    "first=12.3ms total=45.6ms req_8f14e45fceea167a5a36dedd error=-"
)
FIELDS = {"client": "192.0.2.7", "key": "default"}
BODY = json.dumps({"messages": [{"role": "user", "content": "Explain this, please. " * 45}]})


def least(action: Callable[[], object]) -> float:
    """Return the microseconds that one call takes."""
    runs = []
    for _ in range(RUNS):
        began = time.thread_time()
        for _ in range(TIMES):
            action()
        runs.append((time.thread_time() - began) / TIMES * 1e6)
    return min(runs)


def logging_with(redacting: logging.Filter | None) -> Callable[[], object]:
    """Return what logs one line to memory."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if redacting:
        handler.addFilter(redacting)
    logger = logging.Logger("llmauth.access", logging.INFO)
    logger.addHandler(handler)
    return lambda: logger.info(LINE, FIELDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--observed", type=int, default=0, help="wrong keys seen before")
    options = parser.parse_args()
    redactor = Redactor(secrets.token_urlsafe(32) for _ in range(6))
    redactor.observe(*(secrets.token_urlsafe(32) for _ in range(options.observed)))
    plain, redacted = least(logging_with(None)), least(logging_with(RedactingFilter(redactor)))
    print(f"a line of the log        {plain:6.1f} µs, redacted {redacted:6.1f} µs")
    print(f"a body of {len(BODY)} characters {least(lambda: redactor.text(BODY)):7.1f} µs")


if __name__ == "__main__":
    main()
