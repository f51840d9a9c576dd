"""What a key may do, as people write it."""

from __future__ import annotations

import pytest

from llmauth.accounts.terms import NANO, Budget, Terms, moment, period_end, period_name, seconds

NOW = 1_795_651_200.0
"""2026-11-26T00:00:00Z, a Thursday."""

GIVEN = {
    "one model": ({"models": "gpt-4o*"}, "models", ("gpt-4o*",)),
    "models, one twice": ({"models": ["a", "b", "a"]}, "models", ("a", "b")),
    "an address": ({"from": "10.1.2.3"}, "from_networks", ("10.1.2.3/32",)),
    "a network with host bits": ({"from": ["10.1.2.3/8"]}, "from_networks", ("10.0.0.0/8",)),
    "a mapped network": ({"from": "::ffff:10.0.0.0/104"}, "from_networks", ("10.0.0.0/8",)),
    "a number as text": ({"requests_per_minute": " 60 "}, "requests_per_minute", 60),
    "a number": ({"parallel": 3}, "parallel", 3),
    "dollars a month": ({"budget": "20/month"}, "budget", Budget(20 * NANO, "month")),
    "cents a day": ({"budget": "$0.25 / Day"}, "budget", Budget(NANO // 4, "day")),
    "billionths": ({"budget": "0.000000001/total"}, "budget", Budget(1, "total")),
    "all that may be written": (
        {"budget": "999999999.999999999/month"}, "budget", Budget(10**18 - 1, "month")
    ),
    "more digits than a float has": (
        {"budget": "123456789.123456789/day"}, "budget", Budget(123456789123456789, "day")
    ),
    "no budget": ({"budget": None}, "budget", None),
    "an admin": ({"admin": True}, "admin", True),
    "a note": ({"note": "für Zoë"}, "note", "für Zoë"),
    "a date": ({"expires": "2027-01-31"}, "expires", 1_801_353_600.0),
    "a moment": ({"expires": "2027-01-31T12:00:00Z"}, "expires", 1_801_396_800.0),
    "a moment elsewhere": ({"expires": "2027-01-31T12:00:00+02:00"}, "expires", 1_801_389_600.0),
    "never": ({"expires": "never"}, "expires", None),
}
REFUSED = {
    "an unknown field": ({"rpm": 3}, "rpm: unknown. There are expires, models"),
    "no number": ({"parallel": "many"}, "parallel: 'many' is no whole number above 0"),
    "zero": ({"tokens_per_day": 0}, "tokens_per_day: '0' is no whole number above 0"),
    "below zero": ({"tokens_per_day": -1}, "above 0"),
    "a fraction": ({"parallel": 1.5}, "whole number"),
    "true": ({"parallel": True}, "whole number"),
    "beyond all measure": ({"parallel": 10**13}, "whole number"),
    "no period": ({"budget": "20"}, "budget: '20' is no budget: write dollars per day, week"),
    "another period": ({"budget": "20/year"}, "such as 20/month"),
    "below nothing": ({"budget": "-1/day"}, "no budget"),
    "no network": ({"from": "10.0.0.0/33"}, "from: '10.0.0.0/33' is no address or network"),
    "no time": ({"expires": "tomorrow"}, "expires: 'tomorrow' is no time: write 90d, 12h"),
    "a time beyond all calendars": ({"expires": 1e300}, "expires: '1e+300' is no time"),
    "a number that no float holds": ({"expires": 10**400}, "is no time"),
    "after the year 9999": ({"expires": "999999999w"}, "expires: '999999999w' is no time"),
    "the year 10000 elsewhere": ({"expires": "9999-12-31T23:59:59-14:00"}, "is no time"),
    "no number at all": ({"expires": float("nan")}, "is no time"),
    "no such day": ({"expires": "2027-02-30"}, "no time"),
    "an empty name": ({"models": ["a", " "]}, "models: holds an empty name"),
    "names in a mapping": ({"models": {"a": 1}}, "models: is no list of names"),
    "numbers for names": ({"models": [1]}, "models: holds an empty name"),
    "a text for a flag": ({"admin": "yes"}, "admin: 'yes' is neither true nor false"),
    "a note of lines": ({"note": "a\nb"}, "note: is no text"),
    "a long note": ({"note": "x" * 201}, "at most 200"),
}


@pytest.mark.parametrize(("values", "attribute", "value"), GIVEN.values(), ids=GIVEN)
def test_what_people_write_is_understood_and_survives_the_database(values, attribute, value):
    terms = Terms().changed(values)
    assert getattr(terms, attribute) == value
    assert Terms.loads(terms.dumps()) == terms


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(values, said):
    with pytest.raises(ValueError) as error:
        Terms().changed(values)
    assert said in str(error.value)
    assert str(error.value).startswith(next(iter(values)))


def test_what_is_not_named_stays() -> None:
    terms = Terms().changed({"parallel": 3, "budget": "1/day"}).changed({"budget": None})
    assert terms == Terms(parallel=3)


@pytest.mark.parametrize(
    ("globs", "model", "allowed"),
    [
        ((), "anything", True),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o*",), "gpt-4o-mini", True),
        (("gpt-4o*",), "GPT-4O-mini", False),
        (("a", "b?"), "bx", True),
        (("a.b",), "axb", False),
    ],
)
def test_models_are_globs(globs, model, allowed):
    assert Terms(models=globs).allows_model(model) is allowed


@pytest.mark.parametrize(
    ("networks", "client", "allowed"),
    [
        ((), "unknown", True),
        (("10.0.0.0/8",), "10.9.9.9", True),
        (("10.0.0.0/8",), "::ffff:10.9.9.9", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", True),
        (("10.0.0.0/8",), "2001:db8::1", False),
        (("10.0.0.0/8",), "unknown", False),
    ],
)
def test_addresses_are_in_networks(networks, client, allowed):
    assert Terms(from_networks=networks).allows_address(client) is allowed


@pytest.mark.parametrize(
    ("text", "later"), [("90d", 90 * 86_400), ("12h", 43_200), ("2W", 1_209_600), ("5 m", 300)]
)
def test_durations(text, later):
    assert moment(text, now=NOW) == NOW + later
    assert seconds(text) == later


@pytest.mark.parametrize("text", ["", "h", "1y", "-1d", "1.5h"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("period", "name", "days"),
    [("day", "2026-11-26", 1), ("week", "2026-W48", 4), ("month", "2026-11", 5)],
)
def test_periods_are_the_calendars(period, name, days):
    assert period_name(period, NOW + 1) == name
    assert period_end(period, NOW + 1) == NOW + days * 86_400
    assert period_name(period, NOW + days * 86_400) != name


def test_in_total_never_begins_anew() -> None:
    assert period_name("total", NOW) == "total"
    assert period_end("total", NOW) is None


def test_the_last_day_of_a_year() -> None:
    last = moment("2026-12-31T23:59:59Z")
    assert period_name("month", last) == "2026-12"
    assert period_end("month", last) == last + 1
    assert period_name("week", last) == "2026-W53"
