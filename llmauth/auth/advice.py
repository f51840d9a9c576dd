"""What is wrong with a key that is not ours, said without repeating any of it."""

from __future__ import annotations

import re

from ..providers.table import KEY_PREFIXES

_PLACEHOLDERS = frozenset({
    "dummy", "dummy_key", "dummy-key", "empty", "fake-key", "lm-studio", "no-key", "none",
    "not-needed", "null", "ollama", "sk-no-key-required", "undefined", "x", "xxx",
})  # fmt: skip
"""What clients send when they were given no key, and people when they think that none is needed."""

_QUOTES = ('"', "'", "`", "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}",
           "\N{LEFT SINGLE QUOTATION MARK}", "\N{RIGHT SINGLE QUOTATION MARK}",
           "\N{DOUBLE LOW-9 QUOTATION MARK}")  # fmt: skip
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*\}?|\$env:\w+|%\w+%|\{\{.*\}\}|process\.env\.\w+")
_SAMPLE = re.compile(r"<.*>|\[.*\]|(?i:your[-_ ].*)|(?:sk-)?(?:\.\.\.|\*+|\N{HORIZONTAL ELLIPSIS})")
_BREAK = re.compile(r"(?:\\[rn]|%0[ad])\Z", re.IGNORECASE)


def about_key(token: bytes) -> str:
    """Return a sentence about a wrong key, and what to do."""
    text = token.decode("utf-8", "replace")
    if text.startswith(_QUOTES) or text.endswith(_QUOTES):
        return "The key has quotes around it. Send it without them."
    if _BREAK.search(text):
        return "The key ends in a written-out line break. Send it without that."
    if text.lower().startswith("bearer "):
        return "'Bearer' stands before the key. In this header the key stands alone."
    if _VARIABLE.fullmatch(text):
        return "This is the name of a variable, not what it holds: your shell or program left it."
    if _SAMPLE.fullmatch(text) or text.lower() in _PLACEHOLDERS:
        return "This is a placeholder. Give your client the proxy key as its API key."
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
