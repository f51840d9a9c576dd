"""Faults of the configuration, collected so that all of them are told at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..exceptions import ConfigurationError


class Faults:
    """What is wrong, in the order in which it was found."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, *messages: str) -> None:
        self.messages += messages

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Go on behind the block that a fault has ended."""
        try:
            yield
        except ConfigurationError as exc:
            self.add(*exc.messages)

    def refuse(self) -> None:
        """Raise all that was collected, each fault once."""
        if self.messages:
            raise ConfigurationError(*dict.fromkeys(self.messages))
