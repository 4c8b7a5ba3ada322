"""What asv takes a name in a benchmark module for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "asv_bench"
MODULES = sorted(path.stem for path in (FOLDER / "benchmarks").glob("*.py") if path.stem != "__init__")

# What asv looks for in a benchmark, in its class, and then in its module: there it means all of the module's.
SETTINGS = {
    *(
        "min_run_count",
        "number",
        "param_names",
        "params",
        "pretty_name",
        "pretty_source",
        "processes",
        "repeat",
    ),
    *(
        "rounds",
        "sample_time",
        "setup",
        "setup_cache",
        "teardown",
        "timeout",
        "timer",
        "type",
        "unit",
        "version",
    ),
    "warmup_time",
}


@pytest.mark.thread_unsafe(reason="modules are imported by a path put in for the while")
@pytest.mark.parametrize("name", MODULES)
def test_no_name_of_a_module_is_taken_for_a_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    module = importlib.import_module(f"benchmarks.{name}")
    assert SETTINGS.isdisjoint(vars(module))
