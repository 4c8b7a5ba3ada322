"""A side's process: answers one question at a time, on stdin and stdout, with the functions of ``work``.

``python -P serve.py SIDE CLOCK``, by the path of the file: run as a module it would import penstock, with
its threads and hooks, into the processes of its peers. It says what it is in a line of JSON, then answers
each line "QUESTION COUNT" with another: ``{"amount": ...}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORK = "penstock_bench_work"
COUNTERS = ("parks", "wakes", "steals", "handoffs")


def read_work() -> Any:
    """The package ``work``, under a name of its own."""
    folder = HERE / "work"
    spec = importlib.util.spec_from_file_location(
        WORK, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot read {folder}")
    package = importlib.util.module_from_spec(spec)
    sys.modules[WORK] = package
    spec.loader.exec_module(package)
    return package


def answers_of(side: str, clock: str) -> dict[str, Callable[[int], Any]]:
    """What a side answers, by row. With the clock "cpu" what counts is the CPU time of the process."""
    answers: dict[str, Callable[[int], Any]] = {}
    for name in read_work().MODULES:
        module = importlib.import_module(f"{WORK}.{name}")
        if clock == "cpu" and hasattr(module, "now"):
            vars(module)["now"] = time.process_time_ns
        answers.update(module.SIDES.get(side, {}))
    return answers


def counters(runtime: Any) -> dict[str, int]:
    """The counters of our default runtime that say how an answer came about; none for other sides."""
    if runtime is None:
        return {}
    stats = runtime().stats()
    return {name: getattr(stats, name) for name in COUNTERS}


def answer(work: Callable[[int], Any], count: int, runtime: Any) -> dict[str, Any]:
    """One question's answer."""
    gc.collect()
    before = counters(runtime)
    try:
        amount = work(count)
    except Exception as error:  # noqa: BLE001 - the parent shows it on that row and goes on
        return {"error": f"{type(error).__name__}: {error}"}
    after = counters(runtime)
    return {"amount": amount, "stats": {name: after[name] - before[name] for name in after}}


def tell(line: dict[str, Any]) -> None:
    """Write one line at once."""
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def main(side: str, clock: str) -> None:
    """Be one side until stdin ends."""
    sys.path.append(str(HERE.parents[1]))  # last: where penstock is, if it is not installed
    answers = answers_of(side, clock)
    runtime = None
    if side not in {"stdlib", "asyncio"}:
        # Before the first question, so that no answer pays for it.
        runtime = getattr(importlib.import_module(side), "default_runtime", None)
    tell({"rows": list(answers), "gil": getattr(sys, "_is_gil_enabled", lambda: True)()})
    for question in sys.stdin:
        row, count = question.split()
        tell(answer(answers[row], int(count), runtime))


if __name__ == "__main__":
    main(*sys.argv[1:])
