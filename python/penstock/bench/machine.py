"""Where it was measured, and whether that place is quiet enough to measure in."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import penstock
from penstock import _core

from .measure import Samples, quartiles
from .side import WORKERS

__all__ = ["NOISY", "Quiet", "facts", "gil_enabled", "noise", "quiet", "unquiet"]

NOISY = 0.30
"""A spread, as a share of the median, over which a figure says nothing."""

SHARE = 0.95
"""What a program that computes must get of a processor, for the machine to count as quiet."""

TURNS = 30
STEPS = 50_000  # of a turn: some milliseconds


def gil_enabled() -> bool:
    """Whether this interpreter runs with its lock now; importing a module can switch it on."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def usable_cpus() -> int:
    """The processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def real_time() -> bool:
    """Whether this process, and so every side, goes before the ordinary ones (``chrt -r 10``)."""
    policy = getattr(os, "sched_getscheduler", None)
    return policy is not None and policy(0) in {os.SCHED_FIFO, os.SCHED_RR}


@dataclass(frozen=True)
class Quiet:
    """How quiet the machine was before the first row."""

    share: float  # of a processor, that one thread got which asked for all of it
    spread: float  # of the time that the same loop took, between the quartiles, as a share of the median
    load: float  # the average over the last minute
    cpus: int
    real_time: bool


def quiet() -> Quiet:
    """Look at how a loop gets on for a fifth of a second."""
    load = os.getloadavg()[0]
    times: list[float] = []
    began, used = time.perf_counter(), time.process_time()
    for _ in range(TURNS):
        start = time.perf_counter()
        for _ in range(STEPS):
            pass
        times.append(time.perf_counter() - start)
    used, passed = time.process_time() - used, time.perf_counter() - began
    low, middle, high = quartiles(times)
    return Quiet(min(1.0, used / passed), (high - low) / middle, load, usable_cpus(), real_time())


def unquiet(state: Quiet) -> list[str]:
    """What is wrong with the machine, a sentence each; nothing where it is quiet."""
    wrong: list[str] = []
    if state.share < SHARE:
        wrong.append(f"other programs took {1 - state.share:.0%} of a processor from a loop")
    if state.spread > NOISY / 2:
        wrong.append(f"the same loop took times that lie {state.spread:.0%} apart")
    if not state.real_time and state.load > max(0.5, state.cpus - WORKERS):
        wrong.append(
            f"the load is {state.load:.2f}, and every side wants {WORKERS} of {state.cpus} processors"
        )
    return wrong


def noise(row: str, samples: list[Samples]) -> list[str]:
    """The sides of a row whose figures lie too far apart to say anything."""
    return [
        f"{row}, {sample.label}: {sample.spread:.0%}"
        for sample in samples
        if len(sample.by_round) > 1 and sample.spread > NOISY
    ]


def facts() -> dict[str, str]:
    """The machine, the interpreter and the build, by name."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    count = len(penstock.Topology.detect().nodes)
    return {
        "penstock": f"{_core.__version__}, {_core.build_profile()} build",
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"GIL {'on' if gil_enabled() else 'off'}, {'PGO' if optimised else 'no PGO'}, "
        f"{platform.python_compiler()}",
        "machine": f"{platform.system()} {platform.release()}, {platform.machine()}, {processor()}",
        "processors": f"{usable_cpus()} usable of {os.cpu_count()}, {count} NUMA node{'s' * (count != 1)}, "
        f"{memory_gib():.0f} GiB of memory",
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "a processor without a name"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "a processor without a name"


def memory_gib() -> float:
    """All memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
