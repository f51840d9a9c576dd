"""What stands where a key belongs and is none: samples, words for nothing, names of variables."""

from __future__ import annotations

import re

_DUMMIES = frozenset({
    "dummy", "dummy_key", "dummy-key", "empty", "fake-key", "lm-studio", "no-key", "none",
    "not-needed", "null", "ollama", "sk-no-key-required", "undefined", "x", "xxx",
})  # fmt: skip
"""What clients send when they were given no key, and people when they think that none is needed."""

_VARIABLE = re.compile(
    r"\$\{?[A-Za-z_]\w*(?::?[-?=+][^}]*)?\}?|\$env:\w+|%\w+%|\{\{.*\}\}|process\.env\.\w+"
    r"|\$\(.*\)|(?:[A-Z0-9]+_)+(?:API_KEY|KEY|TOKEN)"
)
_SAMPLE = re.compile(
    r"<.*>|\[.*\]|(?i:(?:your|replace|enter|insert|paste)[-_ ].*|[\w -]{1,60}[-_ ]here)"
    r"|[\w-]{0,40}(?:\.{2,}|\*{2,}|\N{HORIZONTAL ELLIPSIS})[\w-]{0,40}|(?:\w{1,12}-){0,3}[xX]{4,}"
    r"|(?i:(?:sk-)?(?:change[-_ ]?(?:me|this|it)|to[-_]?do|placeholder"
    r"|(?:my[-_ ]?)?(?:api[-_ ]?)?key|secret|example|sample|test|fixme|1234\d*|abc\d*))"
)


def is_dummy(text: str) -> bool:
    """True for a word that says that there is no key; servers without keys want some."""
    return text.lower() in _DUMMIES


def is_variable(text: str) -> bool:
    """True for the name of a variable, which whoever read it has left as it is."""
    return _VARIABLE.fullmatch(text) is not None


def is_sample(text: str) -> bool:
    """True for what documentation shows in the place of a key."""
    return _SAMPLE.fullmatch(text) is not None
