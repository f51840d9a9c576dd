"""What a key may do: its limits, read from an option, a JSON field or the database alike."""

from __future__ import annotations

import calendar
import fnmatch
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone
from functools import cached_property, lru_cache
from typing import Any

from ..config.addresses import Network, parse_address, parse_network

NANO = 10**9
"""Money is counted in billionths of a dollar: whole numbers add up."""

PERIODS = ("day", "week", "month", "total")
_DURATION = re.compile(r"(\d{1,9})\s*([smhdw])", re.IGNORECASE)
_NUMBER = re.compile(r"(\d{1,13})([kmg]?)", re.IGNORECASE)
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BUDGET = re.compile(r"\$?\s*(\d{1,9}(?:\.\d{1,9})?)\s*/\s*([a-z]+)", re.IGNORECASE)
_DAY = 86_400
_LONGEST_NOTE = 200
_FOREVER = "never"


@dataclass(frozen=True)
class Budget:
    """Dollars for a time of the calendar.

    :param dollars: in billionths
    :param period: one of `PERIODS`
    """

    dollars: int
    period: str

    @classmethod
    def parsed(cls, value: Any) -> Budget:
        """Return the budget of a text such as ``20/month``."""
        match = _BUDGET.fullmatch(str(value).strip())
        if not match or match[2].lower() not in PERIODS:
            raise ValueError(f"'{value}' is no budget: write dollars per {', '.join(PERIODS)}, "
                             "such as 20/month")
        whole, _, part = match[1].partition(".")
        return cls(int(whole) * NANO + int(part.ljust(9, "0")), match[2].lower())

    def __str__(self) -> str:
        whole, part = divmod(self.dollars, NANO)  # no float holds all of what may be written
        return f"{whole}.{part:09}".rstrip("0").rstrip(".") + f"/{self.period}"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a key may do, None and nothing meaning no limit.

    :param expires: Unix time
    :param models: names, with the wildcards of the shell
    :param from_networks: addresses or networks from which it may be used
    :param parallel: requests at a time
    :param admin: it may ask for everybody's figures, and manage keys
    """

    expires: float | None = None
    models: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    from_networks: tuple[str, ...] = field(default=(), metadata={"name": "from"})
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    parallel: int | None = None
    budget: Budget | None = None
    admin: bool = False
    note: str = ""

    @classmethod
    def loads(cls, text: str) -> Terms:
        """Return what :meth:`dumps` has made text of."""
        return Terms().changed(json.loads(text))

    def dumps(self) -> str:
        """Return them as text for the database."""
        return json.dumps({name: value for name, value in self.shown().items() if value})

    def shown(self) -> dict[str, Any]:
        """Return them by their names, as JSON has them."""
        return {name: _shown(getattr(self, attribute)) for name, attribute in FIELDS.items()}

    def changed(self, values: Mapping[str, Any]) -> Terms:
        """Return them with some changed; None lifts a limit.

        :raises ValueError: naming the field and what is wrong with it
        """
        new = {attribute: getattr(self, attribute) for attribute in FIELDS.values()}
        for name, value in values.items():
            if name not in FIELDS:
                raise ValueError(f"{name}: unknown. There are {', '.join(FIELDS)}")
            attribute = FIELDS[name]
            try:
                new[attribute] = _PARSERS[attribute](value)
            except ValueError as exc:
                raise ValueError(f"{name}: {exc}") from None
        return Terms(**new)

    def allows_model(self, model: str) -> bool:
        """True for a model that the key may use."""
        return not self.models or self._models.fullmatch(model) is not None

    def allows_address(self, address: str) -> bool:
        """True for a client's address from which the key may be used."""
        if not self.from_networks:
            return True
        parsed = parse_address(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    @cached_property
    def _models(self) -> re.Pattern[str]:
        return re.compile("|".join(map(fnmatch.translate, self.models)))

    @cached_property
    def _networks(self) -> list[Network]:
        return [parse_network(name) for name in self.from_networks]

    @cached_property
    def reads_request(self) -> bool:
        """True when it matters what a request asks for."""
        return bool(self.models) or self.counts_tokens

    @cached_property
    def counts_tokens(self) -> bool:
        """True when tokens or dollars are held for each request."""
        return bool(self.tokens_per_minute or self.tokens_per_day or self.budget)


FIELDS = {one.metadata.get("name", one.name): one.name for one in fields(Terms)}
"""Attributes by the names that options and JSON have for them."""


def moment(value: Any, *, now: float | None = None) -> float:
    """Return a time to come, as Unix time: ``90d`` from now, ``2027-01-31``, or ISO 8601."""
    now = time.time() if now is None else now
    try:
        at = _moment(value, now)
        datetime.fromtimestamp(at, timezone.utc)  # or it could be told nobody
        return at
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"'{str(value).strip()}' is no time: write 90d, 12h, or a date such as 2027-01-31 (UTC)"
        ) from None


def _moment(value: Any, now: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    if match := _DURATION.fullmatch(text):
        return now + int(match[1]) * _UNITS[match[2].lower()]
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()


def seconds(value: Any) -> float:
    """Return a duration such as ``24h`` in seconds."""
    match = _DURATION.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"'{value}' is no duration: write 30m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2].lower()]


def period_name(period: str, now: float) -> str:
    """Return what the calendar's current period is called (UTC; weeks as in ISO 8601)."""
    return _period_names(now // _DAY)[period]


@lru_cache(maxsize=16)
def _period_names(day: float) -> dict[str, str]:
    at = datetime.fromtimestamp(day * _DAY, timezone.utc)
    patterns = ("%Y-%m-%d", "%G-W%V", "%Y-%m", "total")
    return dict(zip(PERIODS, map(at.strftime, patterns), strict=True))


def period_end(period: str, now: float) -> float | None:
    """Return when the calendar's next period begins, as Unix time; None for ``total``."""
    at = datetime.fromtimestamp(now, timezone.utc).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    days = {
        "day": 1,
        "week": 7 - at.weekday(),
        "month": calendar.monthrange(at.year, at.month)[1] - at.day + 1,
    }
    return (at + timedelta(days=days[period])).timestamp() if period in days else None


def iso(at: float | None) -> str | None:
    """Return a moment as ISO 8601 in UTC."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds")[:-6] + "Z"


def _shown(value: Any) -> Any:
    if isinstance(value, Budget):
        return str(value)
    if isinstance(value, float):
        return iso(value)
    return list(value) if isinstance(value, tuple) else value


def _count(value: Any) -> int | None:
    if value is None:
        return None
    number = value
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value.strip())):
        number = int(match[1]) * _THOUSANDS[match[2].lower()]
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 10**12:
        raise ValueError(f"'{value}' is no whole number above 0, such as 200000 or 200k")
    return number


def _expiry(value: Any) -> float | None:
    if value is None or str(value).strip().lower() == _FOREVER:
        return None
    return moment(value)


def _budget(value: Any) -> Budget | None:
    return value if value is None or isinstance(value, Budget) else Budget.parsed(value)


def _names(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value if value is not None else ()
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise ValueError("is no list of names")
    names = tuple(dict.fromkeys(item.strip() if isinstance(item, str) else "" for item in items))
    if not all(names):
        raise ValueError("holds an empty name")
    return names


def _networks(value: Any) -> tuple[str, ...]:
    try:
        return tuple(str(parse_network(name)) for name in _names(value))
    except ValueError:
        named = value if isinstance(value, str) else ", ".join(map(str, value))
        raise ValueError(
            f"'{named}' is no address or network, such as 10.0.0.0/8; name each by itself"
        ) from None


def _flag(value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"'{value}' is neither true nor false")
    return bool(value)


def _note(value: Any) -> str:
    text = "" if value is None else value
    if not isinstance(text, str) or len(text) > _LONGEST_NOTE or not text.isprintable():
        raise ValueError(f"is no text of at most {_LONGEST_NOTE} characters on one line")
    return text


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "expires": _expiry, "models": _names, "backends": _names, "from_networks": _networks,
    "requests_per_minute": _count, "tokens_per_minute": _count, "tokens_per_day": _count,
    "parallel": _count, "budget": _budget, "admin": _flag, "note": _note,
}  # fmt: skip
