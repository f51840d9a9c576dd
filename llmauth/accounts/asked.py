"""What a request asks for."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    model: str | None = None
    lists_models: bool = False
    unclear: str | None = None
    max_tokens: int | None = None
    prompt_bytes: int = 0
