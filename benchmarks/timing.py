"""Measures whether the time of a comparison tells how much of a guess is right.

::

    python benchmarks/timing.py            # a few seconds

Each kind of guess is compared with the same keys, in an order drawn anew for every round. The
difference of its mean from that of an entirely wrong guess is given with the error of that
difference; the slowest tenth of either, the machine's other work, is left out. A comparison
that ended at the first wrong byte is measured beside it, to show what there is to see.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable

from llmauth.auth.credentials import KeyRing

KEY = b"timing-key-0123456789abcdefghijklmnopqrstuv"
GUESSES = {
    "wrong from the first byte": b"x" * len(KEY),
    "the first half is right": KEY[: len(KEY) // 2].ljust(len(KEY), b"x"),
    "all but the last byte": KEY[:-1] + b"x",
    "the right key": KEY,
    "the right key and one more": KEY + b"x",
}
REPEAT = 20
"""Comparisons in one measurement."""


def naive(known: list[bytes]) -> Callable[[bytes], object]:
    """Return the comparison that nobody should use."""

    def match(token: bytes) -> object:
        for key in known:
            if len(key) == len(token) and all(a == b for a, b in zip(key, token, strict=True)):
                return key
        return None

    return match


def measure(match: Callable[[bytes], object], rounds: int) -> dict[str, list[float]]:
    """Return nanoseconds for one comparison, by kind of guess."""
    times: dict[str, list[float]] = {name: [] for name in GUESSES}
    kinds = list(GUESSES.items())
    for _ in range(rounds):
        random.shuffle(kinds)
        for name, guess in kinds:
            began = time.perf_counter_ns()
            for _ in range(REPEAT):
                match(guess)
            times[name].append((time.perf_counter_ns() - began) / REPEAT)
    return {name: sorted(values)[: rounds * 9 // 10] for name, values in times.items()}


def report(title: str, times: dict[str, list[float]]) -> None:
    """Print every kind's mean and how it differs from the first."""
    base, *_ = times.values()
    print(f"{title}, ns")
    for name, values in times.items():
        difference = statistics.fmean(values) - statistics.fmean(base)
        error = math.sqrt(sum(statistics.variance(v) / len(v) for v in (values, base)))
        print(f"  {name:28} {statistics.fmean(values):8.1f}   {difference:+8.1f} ± {2 * error:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20_000)
    rounds = parser.parse_args().rounds
    others = [f"other-key-{number}-0123456789abcdefghijklmnop" for number in range(4)]
    ring = KeyRing([("mine", KEY.decode()), *((f"k{n}", key) for n, key in enumerate(others))])
    report("llmauth", measure(ring.match, rounds))
    report("ending at the first wrong byte", measure(naive([KEY]), rounds // 4))


if __name__ == "__main__":
    main()
