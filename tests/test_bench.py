"""``penstock bench``: a run through the real command, what it says of peers and of noise, and its JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from penstock.bench import machine, measure, peers, report, rows, serve, table
from penstock.bench.machine import Quiet
from penstock.bench.measure import Effort, Samples
from penstock.bench.progress import Progress
from penstock.bench.rows import Goal, Peer, Row
from penstock.bench.side import Side, SideFailedError, environment, python_side

LIMIT = 120.0  # only a hang takes this long
pytestmark = pytest.mark.thread_unsafe(reason="runs programs in processes of their own")


def bench(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-m", "penstock", "bench", *args]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment
    )


def samples(label: str, *values: float) -> Samples:
    return Samples(label, label, "row", 1, by_round=dict(enumerate(values)))


# A whole run


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a short run of two rows prints, and the JSON that it writes."""
    target = tmp_path_factory.mktemp("bench") / "run.json"
    # A PATH without Go, whatever this machine has.
    ended = bench(
        *("--quick", "--rounds", "2", "--rows", "select,atomic", "--json", str(target)),
        env={"PATH": str(target.parent)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""  # no progress bar but on a terminal
    return ended.stdout, json.loads(target.read_text())


def test_a_run_prints_each_side_with_its_ratio_and_goal(short_run: tuple[str, dict[str, Any]]) -> None:
    lines = short_run[0].splitlines()
    (ours, asyncios) = (
        next(line for line in lines if line.startswith(f"  {label} "))
        for label in ("penstock", "asyncio.wait")
    )
    assert " ns " in ours
    assert "<= 0.0" in asyncios  # 0.01, or 0.02 without the GIL
    assert any(line.startswith("select: ") for line in lines)
    assert any(line.startswith("atomic: ") for line in lines)
    assert "seed 0.2" in next(line for line in lines if line.startswith("  with threading.Lock "))


def test_the_header_names_the_machine_and_who_is_missing(short_run: tuple[str, dict[str, Any]]) -> None:
    text, document = short_run
    header = text[: text.index("\nselect: ")]
    for word in ("CPython", "GIL o", "NUMA node", "load", "usable of"):
        assert word in header
    assert "missing     go: no toolchain on the PATH" in header
    assert any(line.startswith("go: ") for line in document["absent"])


def test_the_json_has_every_sample_and_each_rounds_ratio(short_run: tuple[str, dict[str, Any]]) -> None:
    document = short_run[1]
    assert document["schema"] == report.SCHEMA == "penstock-bench/1"
    assert {"facts", "gil", "clock", "quick", "rounds", "seconds", "quiet", "peers", "absent"} < set(document)
    assert {"warnings", "noisy", "rows"} < set(document)
    assert [row["row"] for row in document["rows"]] == ["select", "atomic"]
    for row in document["rows"]:
        ours, *others = row["sides"]
        assert ours["side"] == "penstock"
        assert others
        for side in row["sides"]:
            assert side["error"] is None, side
            assert side["rounds"] == [0, 1]
            assert len(side["values"]) == 2
            low, middle, high = side["quartiles"]
            assert 0 < low <= middle <= high
        for other in others:
            within = [mine / its for mine, its in zip(ours["values"], other["values"], strict=True)]
            assert other["ratio"]["values"] == pytest.approx(within, rel=1e-3)
            assert set(other["ratio"]) == {"rounds", "values", "quartiles"}
    waits = next(side for side in document["rows"][0]["sides"] if side["label"] == "asyncio.wait")
    assert waits["goal"] == {"most": 0.01 if document["gil"] else 0.02, "stretch": None}
    assert waits["verdict"]


def test_json_alone_is_all_that_stdout_has() -> None:
    watched = {"PENSTOCK_DEBUG": "locks"}
    ended = bench("--quick", "--rounds", "1", "--rows", "buffer", "--json", env=watched)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads(ended.stdout)
    assert document["rows"][0]["row"] == "buffer"
    assert any("PENSTOCK_DEBUG is set" in warning for warning in document["warnings"])


def test_the_cpu_clock_counts_no_waiting(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    ended = bench(
        *("--quick", "--rounds", "1", "--clock", "cpu", "--rows", "sleepers", "--json", str(target))
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = json.loads(target.read_text())["rows"]
    for side in row["sides"]:
        assert side["values"][0] * side["count"] < 1e9, "a second of sleep was counted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "pair,no-such-row"], "--rows: no row is called 'no-such-row'; there are spawn, "),
        (["--rounds", "0"], "--rounds: 0 is not at least 1"),
        (["--clock", "sun"], "invalid choice: 'sun'"),
        (["--json", "no/such/folder/x.json"], "--json: there is no folder for 'no/such/folder/x.json'"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(arguments: list[str], said: str) -> None:
    ended = bench(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: penstock bench")
    assert said in ended.stderr
    assert ended.stdout == ""


def test_ctrl_c_ends_the_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "penstock", "bench", "--rows", "pair"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # a terminal would signal the sides as well
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("peers"):
                break  # the sides are found, Go's is built, and the first row begins
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stderr) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_shows_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = Progress(2)
    quiet.begin("pair")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(2)
    progress.begin("pair")
    progress.round(1, 2)
    shown = capsys.readouterr().err
    assert "1 of 2, pair" in shown
    assert "[######..................]" in shown  # half of the first of two
    assert "s left" in shown
    progress.clear()
    assert capsys.readouterr().err == "\r\x1b[K"


def test_no_other_command_pays_for_the_import(run_program: Any) -> None:
    ended = run_program(
        """
        import penstock.cli
        penstock.cli.main(["topology"])
        print([name for name in sys.modules if name.startswith("penstock.bench")])
        """
    )
    assert ended.stdout.splitlines()[-1] == "[]"


# Sides


def test_a_sides_process_holds_no_library_but_its_own() -> None:
    program = (
        "import sys, runpy; sys.argv[1:] = ['stdlib', 'wall'];"
        f"runpy.run_path({str(Path(serve.__file__))!r}, run_name='__main__');"
        "print([name for name in ('penstock', 'greenlet', 'numpy') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], input="", capture_output=True, text=True, timeout=LIMIT, check=True
    )
    hello, modules = ended.stdout.splitlines()
    assert "pair_queue" in json.loads(hello)["rows"]
    assert modules == "[]"


def test_every_row_asks_sides_for_what_they_answer() -> None:
    answers = {
        side: serve.answers_of(side, "wall") for side in ("penstock", "asyncio", "stdlib", *peers.LIBRARIES)
    }
    go = Path(serve.__file__).with_name("go").joinpath("main.go").read_text(encoding="utf-8")
    for row in rows.ROWS:
        assert (row.question or row.name) in answers[row.ours]
        for peer in row.peers:
            if peer.side == "go":
                assert f'"{peer.row}":' in go, peer
            else:
                assert peer.row in answers[peer.side], peer
        labels = [peer.label for peer in row.peers]
        assert len({row.ours, *labels}) == len(labels) + 1, "a label names one line"


def test_a_question_that_fails_names_its_error_and_the_side_goes_on() -> None:
    side = python_side("stdlib", "wall", environment())
    try:
        with pytest.raises(SideFailedError, match="stdlib has no parked"):
            side.ask("parked", 1)
        assert side.ask("pair_deque", 10)["amount"] > 0
    finally:
        side.stop()


def test_a_side_that_dies_says_why_and_is_started_anew() -> None:
    # It answers the first question of its life, and dies of the second.
    program = (
        'import sys; print(\'{"rows": ["x"]}\', flush=True); input(); print(\'{"amount": 1}\', flush=True);'
        "input(); sys.exit('out of luck')"
    )
    side = Side("unlucky", [sys.executable, "-c", program], environment())
    assert side.ask("x", 1)["amount"] == 1
    with pytest.raises(SideFailedError, match="it ended: out of luck"):
        side.ask("x", 1)
    assert side.ask("x", 1)["amount"] == 1
    side.stop()


# Measuring


class Scripted(Side):
    """A side that takes as long as it is told."""

    def __init__(self, each: float, *, fails_after: int | None = None) -> None:
        super().__init__("scripted", [], {})
        self.each = each
        self.left = fails_after
        self.asked: list[int] = []

    def ask(self, row: str, count: int, *, fresh: bool = False) -> dict[str, Any]:
        self.asked.append(count)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise SideFailedError("it had enough")
        return {"amount": self.each * count, "stats": {"parks": 2 * count}}


ROW = Row("row", "a row", 1000, (Peer("other", "row", "the other", Goal(0.5, 0.6)),))
EFFORT = Effort(rounds=4, sample_ns=2000.0, side_seconds=60.0)


def test_a_sample_is_as_long_as_was_asked_for_and_figures_are_by_operation() -> None:
    ours, other = Scripted(4.0), Scripted(100.0)
    first, second = measure.measure(ROW, {"penstock": ours, "other": other}, EFFORT)
    assert ours.asked == [20, 20, 500, 500, 500, 500]
    assert other.asked == [20] * 6
    assert (first.values, second.values) == ([4.0] * 4, [100.0] * 4)
    assert first.stats == {"parks": 2.0}
    assert measure.ratios(first, second) == dict.fromkeys(range(4), 0.04)


def test_a_count_that_is_part_of_the_question_stays() -> None:
    row = Row("row", "a row", 1000, ROW.peers, whole=True)
    ours = Scripted(4.0)
    measure.measure(row, {"penstock": ours}, EFFORT)
    assert set(ours.asked) == {1000}


def test_a_side_that_fails_leaves_and_keeps_what_it_has() -> None:
    ours, other = Scripted(4.0), Scripted(8.0, fails_after=4)
    first, second = measure.measure(ROW, {"penstock": ours, "other": other}, EFFORT)
    assert len(first.values) == 4
    assert (second.values, second.error) == ([8.0, 8.0], "it had enough")
    lines = table.show(ROW, [first, second], gil=True)
    assert any("stopped early: it had enough" in line for line in lines)
    assert any("0.500" in line and "<= 0.5: met" in line for line in lines)


class Manifold(Scripted):
    """A side whose answers have two figures."""

    def ask(self, row: str, count: int, *, fresh: bool = False) -> dict[str, Any]:
        super().ask(row, count)
        return {"amount": {"worst": self.each * len(self.asked), "late": self.each / len(self.asked)}}


def test_two_rows_that_are_parts_of_an_answer_ask_once_and_their_figures_are_not_shares() -> None:
    side, shared = Manifold(4.0), measure.Shared()
    worst, late = (
        Row(f"gc_{part}", part, 1000, (), whole=True, each=False, question="gc", part=part, fresh=True)
        for part in ("worst", "late")
    )
    (first,) = measure.measure(worst, {"penstock": side}, EFFORT, None, shared)
    (second,) = measure.measure(late, {"penstock": side}, EFFORT, None, shared)
    assert side.asked == [1000] * 4
    assert first.values == [4.0, 8.0, 12.0, 16.0]
    assert second.values == [4.0, 2.0, 4.0 / 3, 1.0]


def test_a_side_that_is_not_there_has_no_line() -> None:
    found = measure.measure(ROW, {"penstock": Scripted(4.0)}, EFFORT)
    assert [sample.label for sample in found] == ["penstock"]


def test_a_slow_side_leaves_after_three_rounds_and_ours_stays() -> None:
    effort = Effort(rounds=6, sample_ns=2000.0, side_seconds=-1.0)
    first, second = measure.measure(ROW, {"penstock": Scripted(4.0), "other": Scripted(8.0)}, effort)
    assert (len(first.by_round), len(second.by_round)) == (6, 3)


# What is said of a figure


@pytest.mark.parametrize(
    ("found", "gil", "said"),
    [
        ((0.29, 0.30, 0.31), True, "stretch met"),
        ((0.38, 0.39, 0.40), True, "met"),
        ((0.49, 0.50, 0.51), True, "missed"),
        ((0.89, 0.90, 0.91), True, "MORE THAN TWICE"),
        ((0.20, 0.39, 0.60), True, "too noisy to say"),
        ((0.20, 0.41, 0.60), True, "too noisy to say"),
        ((0.49, 0.50, 0.51), False, None),
    ],
)
def test_a_verdict_is_on_the_median_unless_noise_hides_the_goal(
    found: measure.Quartiles, gil: bool, said: str | None
) -> None:
    assert table.verdict(found, Goal(0.40, None, stretch_gil=0.33), gil=gil) == said


def test_a_noisy_machine_is_warned_of() -> None:
    calm = Quiet(share=1.0, spread=0.02, load=0.1, cpus=2, real_time=False)
    assert machine.unquiet(calm) == []
    busy = Quiet(share=0.7, spread=0.4, load=3.0, cpus=2, real_time=False)
    assert [warning.split(" ")[0] for warning in machine.unquiet(busy)] == ["other", "the", "the"]
    assert "30% of a processor" in machine.unquiet(busy)[0]
    # With real-time priority the load of others is no matter.
    assert machine.unquiet(Quiet(share=1.0, spread=0.02, load=3.0, cpus=2, real_time=True)) == []
    # More processors than a side wants.
    assert machine.unquiet(Quiet(share=1.0, spread=0.02, load=3.0, cpus=16, real_time=False)) == []


def test_a_figure_whose_quartiles_lie_far_apart_is_named() -> None:
    steady, wild = samples("steady", 10.0, 10.1, 10.2), samples("wild", 5.0, 10.0, 20.0)
    assert machine.noise("row", [steady, wild]) == ["row, wild: 75%"]


def test_a_missing_peer_has_a_line_that_says_how_to_get_it() -> None:
    assert not peers.Library("no_such_module", "no-such-thing").installed
    said = peers.Library("no_such_module", "no-such-thing").missing
    assert said == "no_such_module: not installed (pip install no-such-thing), its lines are missing"
    assert "from 9.9 on" in peers.Library("no_such_module", "no-such-thing", (9, 9)).missing


def test_the_json_of_a_failure_and_of_a_skipped_row() -> None:
    failed = Samples("the other", "other", "row", 1, error="it died")
    data = report.row_data(ROW, [samples("penstock", 1.0, 2.0), failed], gil=True)
    assert data["sides"][1]["error"] == "it died"
    assert data["sides"][1]["values"] == []
    assert "ratio" not in data["sides"][1]
    assert report.skipped_data(ROW, "not here")["skipped"] == "not here"
    text = report.write({"rows": [data]})
    assert json.loads(text) == {"schema": report.SCHEMA, "rows": [data]}
    assert '"values": [1.0, 2.0]' in text
