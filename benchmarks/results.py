"""What a run measured, round by round."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

Figures = dict[str, float | None]


@dataclass
class Results:
    """Figures by server and workload, one entry a round (of streams, one a wave)."""

    machine: str
    began: str
    rounds: int
    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, server: str, workload: str, figures: Figures) -> None:
        self.figures.setdefault(server, {}).setdefault(workload, []).append(figures)

    def values(self, server: str, workload: str, metric: str) -> list[float]:
        found = self.figures.get(server, {}).get(workload, [])
        values = [figures.get(metric) for figures in found]
        return [value for value in values if value is not None]

    def median(self, server: str, workload: str, metric: str) -> float | None:
        values = self.values(server, workload, metric)
        return median(values) if values else None

    def ratio(self, metric: str, of: tuple[str, str], to: tuple[str, str]) -> float | None:
        """The median of the rounds' (or waves') own ratios.

        Both sides of a ratio were measured within seconds of each other, so that a slow minute
        of the machine falls on both.
        """
        pairs = zip(self.values(*of, metric), self.values(*to, metric), strict=False)
        ratios = [value / base for value, base in pairs if base]
        return median(ratios) if ratios else None
