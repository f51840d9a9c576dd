"""One request while it runs, and what is known of it when it has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..remembering import remembered
from .asked import Asked
from .asking import UsageFilter
from .counters import REFUSED
from .keys import Secret
from .limits import DEFAULT_OUTPUT, Estimate, Tally
from .meter import Meter
from .prices import Prices
from .store import RequestRow
from .terms import NANO, PERIODS, period_name
from .usage import BYTES_PER_TOKEN, NOTHING, Usage

_CUT = {"client_disconnected": "client_left", "upstream_broke": "broke_off"}
_STOPPED = ("server_stopping", "key_withdrawn")

_REFUSED = frozenset({400, 403, 413, 429, 503})
"""Statuses of our own for what was not sent to the provider."""

MAX_AWAITED = 10_000
"""Responses in the background that are known to be."""

_MOST = 10**6 * NANO
"""What one request may cost: a provider can say anything, and the sums are whole numbers."""

_RESPONSE = re.compile(r".*/responses/([\w-]+)")
"""Of one that may have been made in the background, and is asked for with GET."""

_FREE = re.compile(
    r"(?:/[\w-]+)*/v\d\w*/(?:messages/count_tokens|responses/input_tokens"
    r"|(?:files|uploads|vector_stores|containers)(?:/[\w-]+)*|(?:responses|batches)/[\w-]+/cancel)"
    r"|(?:/[\w-]+)*/models/[\w.-]+:(?:countTokens|computeTokens)"
    r"|(?:/[\w-]+)*/(?:de)?tokenize|/api/(?:show|pull|push|create|copy)"
)
"""Of what is posted, and asks no model anything. Nothing that reads otherwise upstream is."""


@remembered(256, 128)
def _is_free(path: str) -> bool:
    # Of a longer one it would take the square of its length to be sure.
    return len(path) <= 1024 and _FREE.fullmatch(path) is not None


class Sent(NamedTuple):
    """What is known of a request when it is sent.

    :param key: the name of its key
    :param secret: of a stored one
    :param base_url: of the backend
    :param path: upstream, without the query
    :param model: that it names, empty when it cannot be told
    :param is_ours: it is sent with our provider key, so that its tokens count
    """

    key: str
    secret: Secret | None
    backend: str
    base_url: str
    method: str
    path: str
    model: str
    asked: Asked
    is_ours: bool

    @property
    def asks_a_model(self) -> bool:
        """False for what uses no tokens, such as a list of models."""
        return self.method == "POST" and not _is_free(self.path)

    @property
    def response_id(self) -> str | None:
        """The id of the response that is asked for again."""
        match = _RESPONSE.fullmatch(self.path) if self.method == "GET" else None
        return match[1] if match else None

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, estimated."""
        return self.asked.prompt_bytes // BYTES_PER_TOKEN


class Grant:
    """A request that runs; :meth:`end` has it counted.

    :param sent: what is known of it
    :param hold: as what that is held that it may use
    :param ended: is called once, when it has ended
    :param hand_over: takes what is to be decoded later; see :class:`.meter.Meter`
    """

    def __init__(
        self,
        sent: Sent,
        hold: int | None,
        ended: Callable[[Grant], None],
        hand_over: Callable[[Meter], bool],
    ) -> None:
        self.sent = sent
        self.hold = hold
        self.is_withdrawn = False
        self.allowed_models: Callable[[str], bool] | None = None
        terms = sent.secret.key.terms if sent.secret else None
        if terms and terms.models and sent.asked.lists_models:
            self.allowed_models = terms.allows_model
        self.asked_for_usage = False
        self.usage_filter: UsageFilter | None = None
        self._ended: Callable[[Grant], None] | None = ended
        self._hand_over = hand_over
        self._started = time.monotonic()
        self._first: float | None = None
        self._meter: Meter | None = None
        self._streamed = False
        self._status: int | None = None
        self._refusal: int | None = None
        self._error: str | None = None
        self._at = self._total = 0.0

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Take note of an answer's head.

        :param headers: by their lower-case names
        """
        self._status = status
        kind = headers.get("content-type", "").lower()
        self._streamed = kind.startswith(("text/event-stream", "application/x-ndjson"))
        if self.is_read and 200 <= status < 300:
            coding = headers.get("content-encoding", "")
            self._meter = Meter(self.sent.path, kind, coding, self._hand_over)
            is_plain = coding.strip().lower() in ("", "identity")
            if self.asked_for_usage and is_plain and not kind.startswith("application/json"):
                self.usage_filter = UsageFilter()

    @property
    def has_budget(self) -> bool:
        """True when its dollars are limited."""
        secret = self.sent.secret if self.sent.is_ours else None
        return secret is not None and secret.key.terms.budget is not None

    @property
    def is_read(self) -> bool:
        """True when its answer is read for what was used."""
        return self.sent.method == "POST" or self.sent.response_id is not None

    def feed(self, content: bytes) -> None:
        """Take note of a piece of the answer, as the provider sent it."""
        if self._first is None:
            self._first = time.monotonic()
        if self._meter:
            self._meter.feed(content)

    def end(self, error: str | None, status: int | None = None) -> None:
        """Have the request counted; once or more often, and without waiting.

        :param error: what broke it off
        :param status: of the answer in place of the provider's
        """
        ended, self._ended = self._ended, None
        if ended is None:
            return
        self._error, self._refusal = error, status if status in _REFUSED else None
        self._status = status or self._status
        self._at, self._total = time.time(), time.monotonic() - self._started
        ended(self)

    def settled(self, prices: Prices, awaited: dict[str, Usage] | None = None) -> Settled:
        """Return what the request has used; takes a while, and is for the thread that writes.

        :param awaited: ids of responses whose usage has yet to be told, with what of it is counted:
            the first answer that tells the usage of one is counted for the rest
        """
        sent, meter = self.sent, self._meter
        usage, estimated = self._used({} if awaited is None else awaited)
        cost = prices.dollars(usage, usage.model, sent.model, base_url=sent.base_url)
        row = RequestRow(
            self._at, sent.key, sent.backend, sent.model or usage.model or "", self._status,
            self._how_it_ended(), self._streamed, usage.input_tokens, usage.cached_input_tokens,
            usage.cache_write_tokens, usage.output_tokens, usage.reasoning_tokens,
            None if cost is None else min(round(cost * NANO), _MOST), estimated,
            round(self._total * 1000),
            None if self._first is None else round((self._first - self._started) * 1000),
        )  # fmt: skip
        tokens, counted = 0, row.cost or 0
        is_counted = sent.secret is not None and sent.is_ours
        if is_counted and (meter or estimated):
            # What the provider does not say is guessed, so that limits hold.
            prompt = sent.prompt if usage.input_tokens is None else usage.input_tokens
            output = usage.output_tokens
            if output is None and meter and meter.is_lost:
                output = sent.asked.max_tokens or DEFAULT_OUTPUT
            elif output is None:
                output = (meter and meter.estimate()) or 0
            tokens = prompt + output
            if (prompt, output) != (usage.input_tokens, usage.output_tokens):
                guess = usage._replace(input_tokens=prompt, output_tokens=output)
                guessed = prices.dollars(guess, usage.model, sent.model, base_url=sent.base_url)
                counted = max(counted, min(round((guessed or 0) * NANO), _MOST))
        return Settled(row, self.hold, tokens, counted, is_counted)

    def _used(self, awaited: dict[str, Usage]) -> tuple[Usage, bool]:
        """Return what is to be counted of this request, and whether it is estimated."""
        sent, meter = self.sent, self._meter
        usage = meter.usage(complete=self._error is None) if meter else Usage()
        pending = meter.awaited_id() if meter else None
        if sent.response_id:
            is_said = usage.is_known and not pending
            counted = awaited.pop(sent.response_id, None) if is_said else None
            return (usage.without(counted) if counted else NOTHING), False
        if pending and not self._was_cut:
            usage = Usage(model=usage.model)
        elif not usage.is_known and (self._is_bodiless or not sent.asks_a_model):
            return NOTHING, False
        usage, estimated = self._estimated(usage)
        if pending:
            awaited[pending] = usage
            if len(awaited) > MAX_AWAITED:
                del awaited[next(iter(awaited))]
        return usage, estimated

    def _estimated(self, usage: Usage) -> tuple[Usage, bool]:
        """Return the usage with what the provider did not come to say, and whether that is any."""
        if self._was_cut:
            prompt, output = usage.input_tokens, usage.output_tokens
            if prompt is None:
                prompt = self.sent.prompt
            if output is None:
                said = self._meter.estimate() if self._meter else 0
                output = None if said is None else said + (usage.reasoning_tokens or 0)
            more = usage._replace(input_tokens=prompt, output_tokens=output)
            return more, more != usage
        if self._streamed and usage.input_tokens is not None and usage.output_tokens is None:
            # The provider gave up within a stream of Anthropic's, and ended it well.
            said = self._meter.estimate() if self._meter else None
            return usage._replace(output_tokens=said or None), bool(said)
        return usage, False

    @property
    def _was_cut(self) -> bool:
        return self._error in (*_CUT, *_STOPPED)

    @property
    def _is_bodiless(self) -> bool:
        """True for a redirect, and for what has no content: no model was asked."""
        status = self._status or 0
        return self._error is None and (status == 204 or 300 <= status < 400)

    def _how_it_ended(self) -> str:
        if self._error is None:
            return "complete"
        if self._error in _STOPPED:
            return f"cut: {self._error}"
        if self._refusal:
            return f"{REFUSED}{self._error}"
        return _CUT.get(self._error, f"failed: {self._error}")


class Settled(NamedTuple):
    """A request that is to be counted.

    :param tokens: that count for its key's limits
    :param cost: the same in billionths of a dollar; guessed where the row has none
    :param counts: it is of a stored key, and paid for with ours
    """

    row: RequestRow
    hold: int | None
    tokens: int
    cost: int
    counts: bool

    @property
    def lacks_price(self) -> bool:
        """True when tokens are known, and nobody knows what they cost."""
        return self.row.cost is None and self.row.input is not None

    @property
    def day(self) -> str:
        """The day of its end, UTC."""
        return period_name("day", self.row.at)


def write_settled(settled: list[Settled], tally: Tally, process: str) -> None:
    """Have requests counted, and what was held for them given back; within a transaction."""
    tally.release([one.hold for one in settled if one.hold], process)
    counted = [one for one in settled if one.counts]
    tally.add_tokens([(one.row.key, one.row.at, one.tokens) for one in counted])
    sums: dict[tuple[str, str], tuple[float, int, int]] = {}
    for one in counted:
        of = one.row.key, one.day
        at, tokens, cost = sums.get(of, (one.row.at, 0, 0))
        sums[of] = at, tokens + one.tokens, cost + one.cost
    tally.spend(
        (key, period_name(period, at), tokens, cost)
        for (key, _), (at, tokens, cost) in sums.items()
        for period in PERIODS
    )


def estimate_of(sent: Sent, prices: Prices) -> Estimate | None:
    """Return what a request may use, None when that is not for us to count."""
    if not sent.is_ours or not sent.asks_a_model:
        return None
    rates = prices.rates(sent.asked.model, sent.base_url)
    return Estimate(sent.prompt, sent.asked.max_tokens, *rates)
