"""The same as JSON: everything that was measured, so that others can take their own medians.

Its schema is on the page docs/measuring.md. What is added to it leaves the rest as it is; a change of meaning
changes ``SCHEMA``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .measure import Quartiles, Samples, quartiles, ratios
from .rows import Goal, Row
from .table import verdict

__all__ = ["SCHEMA", "row_data", "skipped_data", "write"]

SCHEMA = "penstock-bench/1"

DIGITS = 5
"""Significant ones; a clock has no more."""


def row_data(row: Row, samples: list[Samples], *, gil: bool) -> dict[str, Any]:
    """A row that was measured."""
    peers = {peer.label: peer for peer in row.peers}
    ours = samples[0]
    sides: list[dict[str, Any]] = []
    for sample in samples:
        peer = peers.get(sample.label) if sample is not ours else None
        side: dict[str, Any] = {
            "label": sample.label,
            "side": sample.side,
            "question": sample.row,
            "count": sample.count,
            "error": sample.error,
            "rounds": sorted(sample.by_round),
            "values": _short(sample.values),
        }
        if any(sample.stats.values()):
            side["stats"] = {name: _digits(value) for name, value in sample.stats.items() if value}
        if sample.by_round:
            found = quartiles(sample.values)
            side["quartiles"] = _short(list(found))
            if peer is None and row.limit:
                side |= _goal(row.limit, found, gil=gil)
        within = ratios(ours, sample) if peer else {}
        if peer and within:
            share = quartiles(list(within.values()))
            side["ratio"] = {
                "rounds": sorted(within),
                "values": _short([within[turn] for turn in sorted(within)]),
                "quartiles": _short(list(share)),
            }
            if peer.goal:
                side |= _goal(peer.goal, share, gil=gil)
        if peer and peer.seed is not None:
            side["seed"] = peer.seed
        sides.append(side)
    return {"row": row.name, "title": row.title, "unit": row.unit, "sides": sides}


def skipped_data(row: Row, why: str) -> dict[str, Any]:
    """A row that could not be measured."""
    return {"row": row.name, "title": row.title, "unit": row.unit, "skipped": why}


def write(document: dict[str, Any]) -> str:
    """The document as text: lists of numbers stand on one line, so that a new run is a short difference."""
    text = json.dumps({"schema": SCHEMA, **document}, indent=1)
    return re.sub(r"\[\n\s*([^][{}\"]*?)\n\s*\]", _on_one_line, text) + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    return f"[{' '.join(found[1].split())}]"


def _goal(goal: Goal, found: Quartiles, *, gil: bool) -> dict[str, Any]:
    most = goal.most(gil=gil)
    if most is None:
        return {}
    return {
        "goal": {"most": _digits(most), "stretch": goal.stretch(gil=gil)},
        "verdict": verdict(found, goal, gil=gil),
    }


def _short(values: list[float]) -> list[float]:
    return [_digits(value) for value in values]


def _digits(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
