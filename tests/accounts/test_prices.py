"""Dollars: the operator's prices, the provider's own figure, the package's, or none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmauth.accounts.prices import Prices
from llmauth.accounts.usage import Usage
from llmauth.exceptions import ConfigurationError

SONNET = {"input": 3, "cached_input": 0.3, "cache_write": 3.75, "output": 15}
WRITTEN = Usage(12_307, 0, 12_304, 550)
READ = Usage(12_307, 12_304, 0, 550)
ANTHROPIC = "https://api.anthropic.com/v1"
OPENAI = "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("price", "usage", "dollars"),
    [
        (SONNET, WRITTEN, 0.054399),  # Anthropic's own bill said 0.0544
        (SONNET, READ, 0.0119502),
        ({"input": 3, "output": 15}, READ, 0.045171),  # at the price of input
        ({"input": 3, "output": 15}, WRITTEN, 0.045171),
        ({"input": 0.02}, Usage(1_000_000), 0.02),
        ({"input": 0, "output": 0}, Usage(5, output_tokens=7), 0.0),
        ({"input": 2, "output": 8}, Usage(output_tokens=1_000_000), 8.0),
        ({"input": 2, "output": 8}, Usage(10, 20, 30, 0), 100 / 1e6),  # reads more than there was
        ({"input": 2}, Usage(10, output_tokens=1), None),
        ({"input": 2, "output": 8}, Usage(), None),
        ({"input": 2, "output": 8}, Usage(cost_usd=7.0), None),
    ],
)
def test_tokens_are_priced_apart(price, usage, dollars):
    assert Prices({"m": price}).dollars(usage, "m") == (dollars and pytest.approx(dollars))


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gpt-4o-2024-08-06", 1),
        ("GPT-4o", 1),
        ("gpt-4o-mini", 2),
        ("gpt-4o-mini-2024-07-18", 2),
        ("gpt-4o-mini-tts", 3),
        ("gpt-4.1", 4),
        ("gpt-5", 5),
        ("gpt-7", 4),
        ("o3", 6),
        ("my.model", 7),
        ("my-model", 8),
        ("openai/gpt-4o", 9),
    ],
)
def test_the_closest_glob_counts(model, price):
    """The one with most letters outside of wildcards, and one without any before all."""
    globs = {
        "gpt*": 4,
        "*": 8,
        "gpt-4o*": 1,
        "gpt-4o-mini*": 2,
        "gpt-4o-mini-tts": 3,
        "gpt-[56]": 5,
        "o?": 6,
        "my.model": 7,
        "openai/*": 9,
    }
    table = {glob: {"input": number} for glob, number in globs.items()}
    for rows in (table, dict(reversed(table.items()))):
        assert Prices(rows).dollars(Usage(1_000_000), model) == price


def test_of_equally_close_globs_the_first_counts():
    table = {"a*": {"input": 1}, "*a": {"input": 2}}
    assert Prices(table).dollars(Usage(1_000_000), "aa") == 1


def test_the_operators_price_counts_then_the_providers_own_figure():
    usage = Usage(1_000_000, cost_usd=0.5)
    assert Prices({"m": {"input": 1}}).dollars(usage, "m") == 1
    assert Prices({"m": {"input": 1}}).dollars(usage, "n", "m") == 1
    assert Prices({"m": {"input": 1}}).dollars(usage, None) == 0.5
    assert Prices().dollars(usage, "gpt-4o", base_url=OPENAI) == 0.5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], None),
        (["m"], "accounts.prices is no mapping"),
        ({"m": 3}, "accounts.prices: 'm' needs its prices by name"),
        ({4: {"input": 3}}, "accounts.prices: '4' is no model's name"),
        ({"": {"input": 3}}, "accounts.prices: '' is no model's name"),
        ({"m": {"output": 3}}, "accounts.prices: 'm' has no price for input"),
        ({"m": {}}, "accounts.prices: 'm' has no price for input"),
        ({"m": {"inputs": 3}}, "'m' has no price 'inputs': did you mean 'input'?"),
        ({"m": {"cache-write": 3}}, "'m' has no price 'cache-write': did you mean 'cache_write'?"),
        ({"m": {7: 3}}, "'m' has no price '7': there are input, cached_input, cache_write, output"),
        ({"m": {"input": "3"}}, "'m': input is not a price in US dollars per million tokens"),
        ({"m": {"input": -1}}, "'m': input is not a price"),
        ({"m": {"input": True}}, "'m': input is not a price"),
        ({"m": {"input": None}}, "'m': input is not a price"),
        ({"m": {"input": 1, "output": float("nan")}}, "'m': output is not a price"),
        ({"m": {"input": 1, "output": float("inf")}}, "'m': output is not a price"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_glob_and_field(table, message):
    if message is None:
        Prices(table)
        return
    with pytest.raises(ConfigurationError) as caught:
        Prices(table)
    assert message in str(caught.value)


# The package.

WITHOUT = """
import sys
from llmauth.accounts.prices import Prices
from llmauth.accounts.usage import Usage
prices = Prices({"m": {"input": 1}})
prices.dollars(Usage(1), "m", base_url="https://api.openai.com/v1")
prices.dollars(Usage(cost_usd=1.0), "x", base_url="https://api.openai.com/v1")
prices.dollars(Usage(), "x", base_url="https://api.openai.com/v1")
prices.dollars(Usage(1), "x")
for own in ("127.0.0.1:11434", "192.168.1.5/v1", "[::1]:1", "[fd00::5]", "ollama:1", "localhost"):
    assert prices.dollars(Usage(1), "gpt-4o", base_url=f"http://{own}") is None
assert not {"genai_prices", "pydantic"} & sys.modules.keys()
sys.modules["genai_prices"] = None
assert prices.dollars(Usage(1), "gpt-4o", base_url="https://api.openai.com/v1") is None
"""


def test_the_package_is_loaded_when_it_is_needed_and_not_missed():
    subprocess.run([sys.executable, "-c", WITHOUT], check=True, timeout=60)


@pytest.mark.parametrize(
    ("usage", "models", "base_url", "dollars"),
    [
        (WRITTEN, ["claude-3-7-sonnet-20250219"], ANTHROPIC, 0.054399),
        (READ, ["claude-3-7-sonnet"], ANTHROPIC, 0.0119502),
        (Usage(1_000_000), ["text-embedding-3-small"], OPENAI, 0.02),
        (Usage(10, 20, None, 1), ["gpt-4o"], OPENAI, 0.000035),
        (READ, ["nobody-knows", "claude-3-7-sonnet"], ANTHROPIC, 0.0119502),
        (READ, ["nobody-knows"], ANTHROPIC, None),
        (READ, [None], ANTHROPIC, None),
        (READ, ["claude-3-7-sonnet"], "http://127.0.0.1:11434", None),
        (READ, ["claude-3-7-sonnet"], "", None),
        (Usage(), ["claude-3-7-sonnet"], ANTHROPIC, None),
    ],
)
def test_the_package_knows_the_rest(usage, models, base_url, dollars):
    pytest.importorskip("genai_prices")
    said = Prices().dollars(usage, *models, base_url=base_url)
    assert said == (dollars and pytest.approx(dollars))
