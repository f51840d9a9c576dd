"""What stands where a key belongs and is none: a path, a list, a line in the format of others.

Every function returns the end of a sentence about it, and what to do, or None; none repeats it.
"""

from __future__ import annotations

import os
import re

MINIMUM_LENGTH = 16
"""Characters; a shorter key is accepted with a warning. ``llmauth keygen`` makes 43 of them."""

LINE = "A line is KEY or 'NAME: KEY', with nothing else on it; a comment has a line of its own."

_BRACKETS = re.compile(r"[{\[].*[}\]],?")
_VARIABLE = re.compile(r"\$\{?\w+\}?|\$env:\w+|\$\(.*\)|%\w+%|<%.*%>|\{\{.*\}\}", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"\$?\w*(?:KEY|TOKEN|SECRET|PASSWORD)\w*=[^=].*", re.IGNORECASE)
_PATH = re.compile(
    r"(?:file:|~|\.{1,2}|\$\w+|\$\{\w+\}|%\w+%)[\\/]+.+"
    r"|[A-Za-z]:[\\/].+|\\\\.+"  # of Windows
    # Base64 may begin with a slash, too: not with lower case up to the next one, and no padding.
    r"|/(?:[a-z][a-z0-9_.-]+|Users|Volumes|Library|Applications)/[^+=]+"
    r"|[\w./\\-]+\.(?:txt|key|pem|env|ya?ml|json|secret|conf|cfg|ini|toml|gpg|asc)"
)
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&*+./?@^_~-]+")
_BASE32 = re.compile(r"[A-Z2-7]+=+")


def not_a_key(value: str) -> str | None:
    """Say what a value is, if it is another thing than a key."""
    if not any(c.isalnum() for c in value):
        return "holds no letter and no digit: put the key there."
    if _VARIABLE.fullmatch(value):
        return "holds the name of a variable, not its value: put the key there."
    if _BRACKETS.fullmatch(value):
        return "holds brackets, as of JSON or YAML: put the key alone there."
    if _ASSIGNMENT.fullmatch(value):
        return "holds an assignment, NAME=KEY: put the key alone there."
    if value[-1] in ",;":
        return f"holds a key with a '{value[-1]}' behind it: put the key alone there."
    parts = re.split("[,;]", value)
    if len(parts) > 1 and all(len(part) >= MINIMUM_LENGTH for part in parts):
        return "holds several keys: put one there, and each other one into a place of its own."
    return None


def is_path(value: str) -> bool:
    """True for what names a file, by its look or because there is one."""
    return _PATH.fullmatch(value) is not None or os.path.isfile(value)


def not_a_line(text: str, *, named: bool) -> str | None:
    """Say what is wrong with what a line of a key file holds as its key.

    :param named: a name and ``: `` stand before it
    """
    plain = text.rstrip("=")
    if not named and (text[-1] == ":" or (plain != text and not _is_padded(text))):
        return f"holds a name without a key. {LINE}"
    if (":" in text and not named) or ("=" in plain and " " not in text):
        return f"has no ': ', with a space, between a name and its key. {LINE}"
    if "," in text or ";" in text:
        return f"holds a list. Each key has a line of its own. {LINE}"
    if not named and not _PLAIN.fullmatch(plain):
        return f"holds something else than a key. {LINE}"
    return None


def _is_padded(key: str) -> bool:
    """True for the padding of base64 or base32, and not for the name of a variable with a ``=``."""
    if _BASE32.fullmatch(key):
        return len(key) % 8 == 0
    mixed = key.upper() != key != key.lower()
    return mixed and len(key) % 4 == 0 and not key.endswith("===")
