"""Takes the samples: the sides of a row take turns, round by round.

In each round every side answers once, and another one begins, so that slow drifts of the machine meet all
alike: a ratio is taken within its round, and what is shown are quartiles over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .rows import Row
from .side import Side, SideFailedError

__all__ = ["FULL", "QUICK", "Effort", "Quartiles", "Samples", "Shared", "measure", "quartiles", "ratios"]

Quartiles = tuple[float, float, float]
"""The lower quartile, the median, the upper quartile."""

FEWEST = 3
"""Rounds that a side takes part in however slow it is."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    sample_ns: float  # how long a sample takes, where its count may be chosen
    side_seconds: float  # what a side may spend on a row before it leaves the rounds that come
    shrink: int = 1  # by what the counts are divided that are part of the question


FULL = Effort(rounds=15, sample_ns=60e6, side_seconds=6.0)
QUICK = Effort(rounds=3, sample_ns=10e6, side_seconds=0.5, shrink=20)


@dataclass
class Samples:
    """What one side needed for one row, for one operation, by round."""

    label: str
    side: str
    row: str
    count: int
    by_round: dict[int, float] = field(default_factory=dict[int, float])
    stats: dict[str, float] = field(default_factory=dict[str, float])
    error: str | None = None

    @property
    def values(self) -> list[float]:
        """Its figures, in the order of the rounds."""
        return [self.by_round[turn] for turn in sorted(self.by_round)]

    @property
    def spread(self) -> float:
        """The distance between the quartiles as a share of the median."""
        low, middle, high = quartiles(self.values)
        return (high - low) / middle if middle else 0.0


def quartiles(values: list[float]) -> Quartiles:
    """The lower quartile, the median and the upper quartile of at least one value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(ours: Samples, theirs: Samples) -> dict[int, float]:
    """Ours over theirs, of each round in which both have a figure."""
    return {
        turn: ours.by_round[turn] / theirs.by_round[turn]
        for turn in sorted(ours.by_round.keys() & theirs.by_round.keys())
        if theirs.by_round[turn] > 0
    }


Shared = dict[tuple[str, str, int], dict[str, Any]]
"""Answers with a part for another row as well, by side, question and round."""


def measure(
    row: Row,
    found: Mapping[str, Side],
    effort: Effort,
    tick: Callable[[int, int], None] | None = None,
    shared: Shared | None = None,
) -> list[Samples]:
    """All samples of one row, ours first. ``tick(done, of)`` hears of each round.

    A side that fails keeps what it has and its error, and leaves the rounds that come. Rows that are parts of
    the same answers share them.
    """
    shared = {} if shared is None else shared
    asked = [Samples(row.ours, row.ours, row.question or row.name, row.count)]
    asked += [
        Samples(peer.label, peer.side, peer.row, peer.count or row.count)
        for peer in row.peers
        if peer.side in found
    ]
    rounds = min(effort.rounds, row.rounds or effort.rounds)
    for sample in asked:
        try:
            sample.count = _plan(found[sample.side], sample, row, effort)
        except SideFailedError as error:
            sample.error = str(error)
    spent = dict.fromkeys((sample.label for sample in asked), 0.0)
    for turn in range(rounds):
        if tick is not None:
            tick(turn, rounds)
        first = turn % len(asked)
        for sample in asked[first:] + asked[:first]:
            slow = spent[sample.label] > effort.side_seconds and len(sample.by_round) >= FEWEST
            if sample.error is not None or (slow and sample is not asked[0]):
                continue
            began = time.monotonic()
            try:
                key = sample.side, sample.row, turn
                answer = shared.get(key) or found[sample.side].ask(sample.row, sample.count, fresh=row.fresh)
            except SideFailedError as error:
                sample.error = str(error)
                continue
            finally:
                spent[sample.label] += time.monotonic() - began
            amount = answer["amount"]
            if row.part is not None:
                shared[key] = answer
                amount = amount[row.part]
            sample.by_round[turn] = amount / (sample.count if row.each else 1)
            for counter, value in answer.get("stats", {}).items():
                sample.stats[counter] = sample.stats.get(counter, 0.0) + value / sample.count
    for sample in asked:
        sample.stats = {name: value / max(1, len(sample.by_round)) for name, value in sample.stats.items()}
    return asked


def _plan(side: Side, sample: Samples, row: Row, effort: Effort) -> int:
    """How many operations a sample of this side takes: the row's own count, or what fits the time."""
    if row.whole:
        count = max(1, sample.count // effort.shrink)
        if not row.fresh:
            side.ask(sample.row, count)
        return count
    few = max(1, sample.count // 50)
    side.ask(sample.row, few)
    each = side.ask(sample.row, few)["amount"] / few
    return int(min(sample.count, max(few, effort.sample_ns / each)))
