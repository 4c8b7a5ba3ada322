"""The instruction budget's arithmetic: what callgrind wrote, what one call spends, and when that is too much."""

from __future__ import annotations

import importlib.util
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "asv_bench"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("instructions", FOLDER / "instructions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load()
OURS = ("/lib/penstock/_core.cpython-311-x86_64-linux-gnu.so", "send")
GREENLET = ("/lib/greenlet/_greenlet.cpython-311-x86_64-linux-gnu.so", "switch")

# The loop calls `send`, which calls `malloc`; both are named again by number, and positions are relative.
PROFILE = """\
# callgrind format
events: Ir
ob=(1) /lib/libpython.so
fl=(1) ceval.c
fn=(1) eval
0 100
cob=(2) /lib/penstock/_core.cpython-311-x86_64-linux-gnu.so
cfi=(2) entries.rs
cfn=(2) send
calls=5 20
+3 900
* 7

ob=(2)
fl=(2)
fn=(2)
20 70
cob=(3) /lib/libc.so.6
cfn=(3) malloc
calls=5 0
-2 800
fi=(3) array.rs
+4 30

ob=(3)
fn=(3)
0 800

ob=(2)
fn=(4) recv
30 50

totals: 1057
"""


def test_instructions_count_where_they_are_spent_and_not_again_where_the_call_is() -> None:
    spent = TOOL.self_cost(PROFILE.splitlines(keepends=True))
    assert spent == {
        ("/lib/libpython.so", "eval"): 107,
        ("/lib/penstock/_core.cpython-311-x86_64-linux-gnu.so", "send"): 100,
        ("/lib/libc.so.6", "malloc"): 800,
        ("/lib/penstock/_core.cpython-311-x86_64-linux-gnu.so", "recv"): 50,
    }
    assert spent.total() == 1057
    assert TOOL.ours(spent) == 150


def test_another_package_with_a_module_of_that_name_is_not_ours() -> None:
    assert (
        TOOL.ours({("/lib/numpy/_core.cpython-311-x86_64-linux-gnu.so", "f"): 9, GREENLET: 5, OURS: 3}) == 3
    )


def test_what_begins_and_ends_a_run_falls_out() -> None:
    def run(count: int) -> Counter[tuple[str, str]]:
        return Counter({OURS: 5000 + 73 * count, GREENLET: 200 + 10 * count})

    spent = TOOL.per_call([run(100), run(200)] * 3, 100)
    assert spent == {OURS: 73, GREENLET: 10}


def test_a_function_that_only_the_longer_run_comes_to_counts() -> None:
    assert TOOL.per_call([Counter({OURS: 10}), Counter({OURS: 20, GREENLET: 30})], 10) == {
        OURS: 1,
        GREENLET: 3,
    }


@pytest.mark.parametrize("extra", [9_000, -9_000])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_one_turn_in_which_something_else_happened_does_not_count(turn: int, extra: int) -> None:
    runs = [Counter({OURS: 73 * count}) for count in (1000, 2000) * 3]
    runs[2 * turn + 1][OURS] += extra
    assert TOOL.per_call(runs, 1000) == {OURS: 73}


@pytest.mark.parametrize(
    ("measured", "word"), [(111, "OVER"), (110, ""), (100, ""), (90, ""), (89, "UNDER"), (1000, "OVER")]
)
def test_ten_percent_over_is_too_much_and_ten_under_is_said(measured: float, word: str) -> None:
    assert TOOL.verdict(measured, 100)[0] == word


def test_a_call_over_its_budget_is_named_with_both_numbers() -> None:
    spent = {"send + recv": {OURS: 200.4, GREENLET: 1.0}, "spawn": {OURS: 100.0}, "select": {OURS: 3.0}}
    lines, over = TOOL.compare(spent, {"rustc": "1.95.0", "send + recv": 146, "spawn": 99})
    assert over == {"send + recv": "200 instructions, the budget is 146: +37.3%"}
    assert [line.split()[-1] for line in lines[1:3]] == ["+37.3%", "+1.0%"]
    assert "NEW" in lines[3]


def test_the_budget_is_read_as_it_was_written() -> None:
    budgets = {"cpython-311-x86_64-linux-gnu": {"rustc": "1.95.0", 'a "quoted" call, 64 KiB': 448}}
    budgets["cpython-314t-x86_64-linux-gnu"] = {"rustc": "1.95.0", "send + recv": 171}
    assert tomllib.loads(TOOL.written(budgets)) == budgets


@pytest.mark.thread_unsafe(reason="the benchmarks are imported by a path put in for the while")
def test_every_counted_call_has_a_budget_on_each_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    calls = TOOL.calls()
    budgets = tomllib.loads(TOOL.BUDGET.read_text())
    assert TOOL.written(budgets) == TOOL.BUDGET.read_text()
    for budget in budgets.values():
        assert set(budget) == {"rustc", *calls}
