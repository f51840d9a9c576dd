"""Dollars from tokens: the operator's own prices, the provider's word, or a package's."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from ipaddress import ip_address
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ..exceptions import ConfigurationError
from .usage import Usage

FIELDS = ("input", "cached_input", "cache_write", "output")

_REMEMBERED = 1000
"""Models of which the package's price is known to requests."""

_WILD = re.compile(r"\[[^\]]*\]|[*?]")


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens.

    :param cached_input: None: as ``input``
    :param cache_write: None: as ``input``
    :param output: None: of a model that answers without tokens, such as one for embeddings
    """

    input: float
    cached_input: float | None = None
    cache_write: float | None = None
    output: float | None = None

    def dollars(self, usage: Usage) -> float | None:
        """Return what a usage costs; None when it has tokens without a price, or none at all."""
        if (usage.input_tokens, usage.output_tokens) == (None, None):
            return None
        if usage.output_tokens and self.output is None:
            return None
        read, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
        fresh = max(0, (usage.input_tokens or 0) - read - written)
        parts = (
            fresh * self.input,
            read * (self.input if self.cached_input is None else self.cached_input),
            written * (self.input if self.cache_write is None else self.cache_write),
            (usage.output_tokens or 0) * (self.output or 0),
        )
        return sum(parts) / 1e6


NO_PRICES = (
    "Budgets count only what has a price, and none is known: set accounts.prices in the config "
    "file, or install them: pip install 'llmauth[prices]'"
)


class Prices:
    """What models cost.

    :param table: ``accounts.prices``: globs (``*``, ``?``, ``[abc]``; letters of either case) to
        their fields. Of those that match a model the one with most letters outside of wildcards
        counts, one without wildcards before all, and of equals the first.
    :raises ConfigurationError: naming the glob and the field
    """

    def __init__(self, table: Mapping[Any, Any] | None = None) -> None:
        if not isinstance(table or {}, Mapping):
            raise ConfigurationError("accounts.prices is no mapping of models to prices.")
        rows = [(str(glob), _price(glob, fields)) for glob, fields in (table or {}).items()]
        rows.sort(key=lambda row: _precision(row[0]), reverse=True)
        self._rows = [(re.compile(translate(glob.lower())), price) for glob, price in rows]
        inputs, outputs = zip((0, 0), *(_rates(price) for _, price in rows), strict=True)
        self._highest = max(inputs), max(outputs)
        self._package: ModuleType | None = None
        self._is_looked_for = False
        self._known: dict[tuple[str, str], tuple[int, int]] = {}
        self._unknown: set[tuple[str, str]] = set()

    @property
    def are_known(self) -> bool:
        """False when nobody says what any model costs, but OpenRouter of its own."""
        return bool(self._rows) or importlib.util.find_spec("genai_prices") is not None

    def dollars(self, usage: Usage, *models: str | None, base_url: str = "") -> float | None:
        """Return what a request cost: by the table, else as the provider says, else by the package.

        Imports the package ``genai-prices`` when it is needed first, 0.2 s: not for a request.

        :param models: its names, the better ones first: as the answer says, as the request
        :param base_url: of the backend, by which the package knows the provider; self-hosted
            models have names that providers take money for
        :returns: None when there is no price
        """
        for model in filter(None, models):
            if price := self._price_of(model.lower()):
                return price.dollars(usage)
        if usage.cost_usd is not None:
            return usage.cost_usd
        is_silent = usage.input_tokens is None and usage.output_tokens is None
        if is_silent or not _is_public(base_url):
            return None
        for model in filter(None, models):
            cost = self._packaged(usage, model, base_url)
            if cost is not None:
                self._remember([name for name in models if name], model, base_url)
                return cost
        return None

    def _remember(self, names: list[str], model: str, base_url: str) -> None:
        """Know a price of the package from now on, for requests."""
        if (names[-1], base_url) in self._known or len(self._known) >= _REMEMBERED:
            return
        million = (Usage(input_tokens=10**6), Usage(output_tokens=10**6))
        rates = [self._packaged(usage, model, base_url) or 0 for usage in million]
        self._known[names[-1], base_url] = round(rates[0] * 1000), round(rates[1] * 1000)

    def rates(self, model: str | None, base_url: str) -> tuple[int, int]:
        """Return the billionths of a dollar for a token of prompt and of answer.

        Zeros for a model whose price is not known. Asks no package: what that says is known from
        the first answer on.

        :param model: None where it cannot be told: it may be the most expensive one of the table
        """
        if not model:
            return self._highest
        if price := self._price_of(model.lower()):
            return _rates(price)
        return self._known.get((model, base_url), (0, 0))

    def _price_of(self, model: str) -> Price | None:
        for pattern, price in self._rows:
            if pattern.match(model):
                return price
        return None

    def _packaged(self, usage: Usage, model: str, base_url: str) -> float | None:
        if not self._is_looked_for:
            self._is_looked_for, self._package = True, _package()
        if self._package is None or (model, base_url) in self._unknown:
            return None
        read, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
        counted = self._package.Usage(
            input_tokens=max(usage.input_tokens or 0, read + written),
            cache_read_tokens=read,
            cache_write_tokens=written,
            output_tokens=usage.output_tokens or 0,
        )
        try:
            price = self._package.calc_price(counted, model, provider_api_url=base_url)
        except Exception:  # LookupError, as a rule; nothing of it may stop the writer
            if len(self._unknown) < _REMEMBERED:
                self._unknown.add((model, base_url))  # it takes long to look for
            return None
        return float(price.total_price)


def _rates(price: Price) -> tuple[int, int]:
    return round(price.input * 1000), round((price.output or 0) * 1000)


@lru_cache(maxsize=256)
def _is_public(base_url: str) -> bool:
    """False for a server of one's own, which no package knows: to load one takes 17 MB."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host


def _package() -> ModuleType | None:
    try:
        return importlib.import_module("genai_prices")
    except ImportError:
        return None


def _precision(glob: str) -> tuple[bool, int]:
    letters = _WILD.sub("", glob)
    return letters == glob, len(letters)


def _price(glob: Any, fields: Any) -> Price:
    where = f"accounts.prices: '{glob}'"
    if not isinstance(glob, str) or not glob:
        raise ConfigurationError(f"{where} is no model's name; write it in quotes.")
    if not isinstance(fields, Mapping):
        raise ConfigurationError(f"{where} needs its prices by name: {{input: 2.5, output: 10}}.")
    for name, value in fields.items():
        if name not in FIELDS:
            close = difflib.get_close_matches(str(name), FIELDS, 1)
            meant = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(FIELDS)}."
            raise ConfigurationError(f"{where} has no price '{name}': {meant}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1e6 or not math.isfinite(value):
            raise ConfigurationError(
                f"{where}: {name} is not a price in US dollars per million tokens, such as 2.5."
            )
    if "input" not in fields:
        raise ConfigurationError(f"{where} has no price for input.")
    return Price(**{name: float(value) for name, value in fields.items()})
