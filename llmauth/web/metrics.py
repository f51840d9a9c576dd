"""``/metrics``: what the database says was used, as Prometheus text.

Totals come from the file, so that they outlive this process, and are the same for all that share
it. They are counted there from the first day on: Prometheus takes rates of them by itself.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request

from ..accounts.counters import BUCKETS
from ..accounts.store import TOTALS, Database
from ..accounts.terms import NANO
from ..exceptions import NotInstalled
from .admin import known, require_admin
from .extension import METRICS_PATH, State, current_state

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

MAX_MODELS = 100
"""Names of models that are told apart: clients choose them, and each is a time series."""

OTHER = "other"

metrics_blueprint = Blueprint("llmauth_metrics", __name__)

_TOKENS = {
    "input": "input", "cached_input": "cached", "cache_write": "written", "output": "output",
}  # fmt: skip
"""Values of the label ``type``, and the columns of the totals that they are."""

_HISTOGRAMS = {
    "duration": ("request_duration", "Seconds that a request took"),
    "first_byte": ("first_byte", "Seconds to the first byte of an answer"),
}


@metrics_blueprint.get(METRICS_PATH)
def metrics() -> Response:
    """Tell an admin's key what was used; everybody, when this is a bypass path."""
    state = current_state()
    info = state.guard.info(request.environ)
    if not info.public:
        require_admin(known(state))
    try:
        core = importlib.import_module("prometheus_client.core")
        exposition = importlib.import_module("prometheus_client.exposition")
    except ImportError:
        raise NotInstalled(
            "This server has no Prometheus client. Install it: pip install 'llmauth[metrics]'."
        ) from None
    registry = core.CollectorRegistry(auto_describe=False)
    registry.register(Collector(state, core))
    encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type, headers=_HEADERS)


_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Collector:
    """Collects what the database says, each time it is asked.

    :param state: of the application
    :param core: the module of ``prometheus_client`` that has the families
    """

    def __init__(self, state: State, core: Any) -> None:
        assert state.accounts
        self._state = state
        self._core = core
        self._database: Database = state.accounts.database
        self._models = state.accounts.told_models

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        counters: dict[str, list[tuple[list[str], float]]] = defaultdict(list)
        for name, labels, value in self._database.counters():
            counters[name].append((labels, value))
        yield self._counter(
            "requests", "Requests that have ended", ["key", "backend", "code"], counters["requests"]
        )
        yield from self._used()
        for name, (told, help) in _HISTOGRAMS.items():
            yield self._histogram(f"llmauth_{told}_seconds", help, dict(_flat(counters[name])))
        yield self._core.GaugeMetricFamily(
            "llmauth_requests_in_flight",
            "Requests that this process is forwarding",
            self._state.slots.used,
        )
        yield self._counter(
            "refused", "Requests that were refused here", ["reason"], counters["refused"]
        )
        yield self._counter(
            "lockouts", "Addresses that were locked out", [], counters["lockouts"] or [([], 0)]
        )

    def _used(self) -> Iterator[Metric]:
        """Yield tokens and dollars, from the daily totals."""
        groups = ("key", "backend", "model")
        tokens: dict[tuple[str, ...], float] = defaultdict(float)
        dollars: dict[tuple[str, ...], float] = defaultdict(float)
        unknown: dict[tuple[str, ...], float] = defaultdict(float)
        names = self._told_models()
        for key, backend, model, *sums in self._database.totals(groups, "", "~", None):
            total = dict(zip(TOTALS, sums, strict=True))
            told = model if model in names else OTHER
            for kind, column in _TOKENS.items():
                tokens[key, backend, told, kind] += total[column]
            dollars[key, backend, told] += total["cost"] / NANO
            unknown[backend,] += total["unknown"]
        told_of = ["key", "backend", "model"]
        yield self._counter(
            "tokens",
            "Tokens that were used; input is all of it, and the cached and written part of that",
            [*told_of, "type"],
            tokens.items(),
        )
        yield self._counter(
            "cost_usd", "US dollars, of models whose price is known", told_of, dollars.items()
        )
        yield self._counter(
            "usage_unknown",
            "Requests whose answer did not say what they used",
            ["backend"],
            unknown.items(),
        )

    def _told_models(self) -> dict[str, None]:
        """Return the models that are told apart: once one is, it stays, or its total would fall."""
        for model in self._database.models(MAX_MODELS):
            if len(self._models) < MAX_MODELS:
                self._models[model] = None
        return self._models

    def _counter(
        self,
        name: str,
        help: str,
        labels: Iterable[str],
        values: Iterable[tuple[Iterable[str], float]],
    ) -> Metric:
        family = self._core.CounterMetricFamily(f"llmauth_{name}", help, labels=labels)
        for of, value in values:
            family.add_metric(list(of), value)
        metric: Metric = family
        return metric

    def _histogram(self, name: str, help: str, found: dict[str, float]) -> Metric:
        buckets, count = [], 0.0
        for bound in BUCKETS:
            count += found.get(str(bound), 0)
            buckets.append(("+Inf" if bound == inf else str(bound), count))
        metric: Metric = self._core.HistogramMetricFamily(
            name, help, buckets=buckets, sum_value=found.get("sum", 0)
        )
        return metric


def _flat(values: Iterable[tuple[list[str], float]]) -> Iterator[tuple[str, float]]:
    return ((label, value) for (label,), value in values)
