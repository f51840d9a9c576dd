"""What is wrong with a key that is not ours, said without repeating any of it."""

from __future__ import annotations

import re

from ..config.placeholders import is_dummy, is_sample, is_variable
from ..providers.table import KEY_PREFIXES

_QUOTES = ('"', "'", "`", "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}",
           "\N{LEFT SINGLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}",
           "\N{DOUBLE LOW-9 QUOTATION MARK}")  # fmt: skip
_BREAK = re.compile(r"(?:\\[rn]|%0[ad])\Z", re.IGNORECASE)
_BEARER = re.compile(r"(?i)bearer(?:[\s:=]|\Z)")
_ASSIGNED = re.compile(r"(?:export )?\w+_(?:KEY|TOKEN)\w* ?[=:]", re.ASCII)


def about_key(token: bytes) -> str:
    """Return a sentence about a wrong key, and what to do."""
    text = token.decode("utf-8", "replace")
    if text.startswith(_QUOTES) or text.endswith(_QUOTES):
        return "The key has quotes around it. Send it without them."
    if _BREAK.search(text):
        return "The key ends in a written-out line break. Send it without that."
    if _BEARER.match(text):
        return "'Bearer' stands before the key. In this header the key stands alone."
    if is_sample(text) or is_dummy(text):
        return "This is a placeholder. Give your client the proxy key as its API key."
    if is_variable(text):
        return "This is the name of a variable, not what it holds: your shell or program left it."
    if _ASSIGNED.match(text):
        return "The name of a variable stands before the key. Send what stands behind it alone."
    for prefix, whose in KEY_PREFIXES:
        if text.startswith(prefix):
            return (
                f"The key looks like {whose}, and this server wants its proxy key. A provider key "
                "of your own is sent as ever, with the proxy key in X-Proxy-Api-Key."
            )
    return (
        "The key is not this server's. Check it for a typing error, and that it is the proxy key "
        "and not a provider's."
    )


def about_tokens(text: str) -> str:
    """Return a sentence about what follows ``Authorization: Bearer`` and is more than one word."""
    if _BEARER.match(text):
        return (
            "'Authorization' holds more than one token: 'Bearer' stands before the key twice, "
            "because your client adds one by itself. Give it the key alone."
        )
    return "'Authorization' holds more than one token; send one."
