"""docs/performance.md: it is what its script makes of the runs that are committed, and the script loses nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from penstock.bench import report
from penstock.bench.measure import Samples
from penstock.bench.rows import Goal, Peer, Row

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "performance_page.py"
DOCS = ROOT / "docs"
pytestmark = pytest.mark.thread_unsafe(reason="runs the script in a process of its own")

ROW = Row(
    "example",
    "a pair <of> sends",
    100,
    (
        Peer("go", "pair", "Go channel", Goal(0.4, 1.3, stretch_gil=0.3), seed=0.4),
        Peer("stdlib", "pair", "a queue"),
        Peer("gevent", "pair", "gevent queue"),
    ),
)
MEMORY = Row("parked", "memory of a parked task", 1000, (), unit="B", limit=Goal(7200, 7200))


def samples(label: str, *values: float, error: str | None = None, count: int = 100) -> Samples:
    return Samples(
        label, label.split(maxsplit=1)[0].lower(), "row", count, dict(enumerate(values)), error=error
    )


def run(ours: float, *, gil: bool = True, quick: bool = False) -> str:
    """What a run writes in which ours takes so long for a pair."""
    pair = [
        samples("penstock", ours, ours, ours),
        samples("Go channel", 40.0, 40.0, 40.0),
        samples("a queue", 4000.0, 4000.0, 4000.0),
        samples("gevent queue", error="it died | early"),
    ]
    rows = [
        report.row_data(ROW, pair, gil=gil),
        report.row_data(MEMORY, [samples("penstock", 7000.0, count=1000)], gil=gil),
        report.skipped_data(Row("late", "lateness", 1, ()), "not in this version"),
    ]
    return report.write(
        {
            "facts": {"python": "CPython 3.99", "command": "penstock bench --json"},
            "gil": gil,
            "clock": "wall",
            "quick": quick,
            "rounds": 3,
            "seconds": 12,
            "quiet": {"share": 0.99, "spread": 0.01, "load": 0.1, "cpus": 2, "real_time": False},
            "peers": {"go": "go9"},
            "absent": ["trio: not installed"],
            "warnings": ["the load is 9"],
            "noisy": [],
            "rows": rows,
        }
    )


def make(folder: Path, **runs: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Runs the script on these runs: how it ended, and the page."""
    data = folder / "performance"
    data.mkdir()
    for name, text in runs.items():
        (data / f"{name}.json").write_text(text)
    ended = subprocess.run(
        [sys.executable, SCRIPT, *data.glob("*.json")], capture_output=True, text=True, check=False
    )
    page = folder / "performance.md"
    return ended, page.read_text() if page.exists() else ""


def lines_with(page: str, *words: str) -> list[str]:
    return [line for line in page.splitlines() if all(word in line for word in words)]


def test_the_page_is_what_the_script_makes_of_the_committed_runs(tmp_path: Path) -> None:
    committed = sorted((DOCS / "performance").glob("*.json"))
    assert (DOCS / "performance.md").exists() == bool(committed)
    if not committed:
        return  # no run is committed: there is no page, and nothing on it can be wrong
    data = tmp_path / "performance"
    data.mkdir()
    for file in committed:
        shutil.copy(file, data)
    ended = subprocess.run(
        [sys.executable, SCRIPT, *data.glob("*.json")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    again = "; run tools/performance_page.py docs/performance/*.json"
    assert (tmp_path / "performance.md").read_text() == (DOCS / "performance.md").read_text(), again
    made = {file.name: file.read_text() for file in data.glob("*.svg")}
    assert made == {file.name: file.read_text() for file in (DOCS / "performance").glob("*.svg")}, again


def test_a_goal_that_is_met_has_its_figure_and_the_seeds(tmp_path: Path) -> None:
    ended, page = make(tmp_path, **{"3.99": run(14.0)})
    assert ended.returncode == 0, ended.stderr
    (line,) = lines_with(page, "a pair <of> sends", "Go channel", "goal")
    assert "0.35 (0.35 to 0.35), goal 0.4, stretch 0.3, seed 0.4: met" in line
    assert "2 of 2 goals are met." in page
    (memory,) = lines_with(page, "memory of a parked task", "goal")
    assert "7,000 B (7,000 B to 7,000 B), goal 7,200 B: met" in memory
    assert lines_with(page, "so many at once", "yes, 1,000")
    assert lines_with(page, "lateness", "not in this version")
    assert lines_with(page, "a queue 286")  # what we win: 4000 over 14
    assert lines_with(page, "failed: it died \\| early")
    assert lines_with(page, "`penstock bench --json`")
    assert lines_with(page, "the load is 9")
    assert lines_with(page, "trio: not installed")


def test_a_goal_that_is_missed_is_bold_and_wants_a_note(tmp_path: Path) -> None:
    ended, page = make(tmp_path, **{"3.99": run(60.0)})
    assert ended.returncode == 1
    assert ended.stderr.endswith("does not say why: example\n")
    assert lines_with(page, "1.5 (1.5 to 1.5), goal 0.4", "**MORE THAN TWICE**")
    assert lines_with(page, "Beside Go channel ours takes 1.5 (1.5 to 1.5) times as long on 3.99.")
    assert lines_with(page, "The goal beside Go channel is missed on 3.99.")


def test_versions_stand_in_their_order_and_each_has_its_goal(tmp_path: Path) -> None:
    _, page = make(tmp_path, **{"3.14t": run(14.0, gil=False), "3.9": run(14.0), "3.13": run(14.0)})
    assert lines_with(page, "|  | 3.9 | 3.13 | 3.14t |")
    (line,) = lines_with(page, "Go channel", "goal 0.4", "goal 1.3")
    assert line.index("goal 0.4") < line.index("goal 1.3")


def test_the_plots_are_whole_and_their_text_is_text(tmp_path: Path) -> None:
    make(tmp_path, **{"3.99": run(14.0)})
    stale = tmp_path / "performance" / "example.svg"
    tree = ElementTree.fromstring(stale.read_text())
    said = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a pair <of> sends", "penstock", "Go channel", "3.99"} <= set(said)
    assert "gevent queue" not in said  # it has no figure
    assert "prefers-color-scheme: dark" in stale.read_text()
    assert (tmp_path / "performance" / "goals.svg").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (run(14.0, quick=True), "a quick run has no figures"),
        (json.dumps({"schema": "penstock-bench/9"}), "its schema is 'penstock-bench/9'"),
    ],
)
def test_a_file_that_is_no_full_run_is_refused(tmp_path: Path, text: str, said: str) -> None:
    ended, page = make(tmp_path, **{"3.99": text})
    assert ended.returncode == 1
    assert said in ended.stderr
    assert page == ""
