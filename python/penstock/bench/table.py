"""The table as text: what each side needed, and how ours stands to it."""

from __future__ import annotations

from .machine import NOISY
from .measure import Quartiles, Samples, quartiles, ratios
from .rows import Goal, Row

__all__ = ["show", "verdict"]


def verdict(found: Quartiles, goal: Goal, *, gil: bool) -> str | None:
    """Where a ratio or a figure stands to its goal, in a word or three; ``None`` without a goal.

    Where the goal lies between quartiles that are far apart, nothing can be said.
    """
    most, stretch = goal.most(gil=gil), goal.stretch(gil=gil)
    if most is None:
        return None
    low, middle, high = found
    if low <= most < high and high - low > NOISY * middle:
        return "too noisy to say"
    if stretch is not None and middle <= stretch:
        return "stretch met"
    if middle <= most:
        return "met"
    return "missed" if middle <= 2 * most else "MORE THAN TWICE"


SCALES = {"ns": ((1e7, 1e6, "ms"), (1e4, 1e3, "us"))}
"""From which figure on which unit is shown in the place of a row's own."""


def scale(value: float, unit: str) -> tuple[float, str]:
    """What to divide figures of this size by, and the unit they have then."""
    for least, divisor, name in SCALES.get(unit, ()):
        if value >= least:
            return divisor, name
    return 1.0, unit


def show(row: Row, samples: list[Samples], *, gil: bool) -> list[str]:
    """The lines of one row. Ours comes first; ratios are ours over theirs."""
    lines = [
        "",
        f"{row.name}: {row.title}",
        f"  {'':24}{'median':>12}{'quartiles':>22}{'ratio':>9}{'its quartiles':>20}   goal",
    ]
    peers = {peer.label: peer for peer in row.peers}
    ours = samples[0]
    for sample in samples:
        if not sample.by_round:
            lines.append(f"  {sample.label:24}{'failed':>12}   {sample.error}")
            continue
        found = quartiles(sample.values)
        divisor, unit = scale(found[1], row.unit)
        low, middle, high = (f"{value / divisor:,.1f}" for value in found)
        line = f"  {sample.label:24}{middle:>9} {unit:2}{f'{low} .. {high}':>22}"
        peer = peers.get(sample.label)
        within = ratios(ours, sample) if peer else {}
        if peer and within:
            share = quartiles(list(within.values()))
            line += f"{share[1]:9.3f}{f'{share[0]:.3f} .. {share[2]:.3f}':>20}"
            line += _against(share, peer.goal, peer.seed, gil=gil)
        elif peer is None and row.limit:
            most = row.limit.most(gil=gil)
            said = verdict(found, row.limit, gil=gil)
            line += f"{'':29}   <= {most:g} {row.unit}: {said}" if most else ""
        lines.append(line.rstrip())
        if sample.error:
            lines.append(f"  {'':24}stopped early: {sample.error}")
        told = [f"{value:.3g} {counter}" for counter, value in sample.stats.items() if value > 0.0005]
        if told:
            lines.append(f"  {'':24}per operation: {', '.join(told)}")
    return lines


def _against(share: Quartiles, goal: Goal | None, seed: float | None, *, gil: bool) -> str:
    """What a ratio is held against: the goal, the stretch, the seed's ratio."""
    said: list[str] = []
    if goal and (most := goal.most(gil=gil)) is not None:
        stretch = goal.stretch(gil=gil)
        more = f", stretch {stretch:g}" if stretch else ""
        said.append(f"<= {most:.3g}{more}: {verdict(share, goal, gil=gil)}")
    if seed is not None:
        said.append(f"seed {seed:g}")
    return f"   {'; '.join(said)}" if said else ""
