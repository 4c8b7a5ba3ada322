"""The stress of a channel with producers and consumers of every kind, for a few seconds. `stress.py` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STRESS = Path(__file__).with_name("stress.py")


@pytest.mark.thread_unsafe(
    reason="runs a program in a process of its own: several at once would test nothing more"
)
@pytest.mark.parametrize("parking", ["auto", "thread"])
def test_nothing_is_lost_or_twice_among_tasks_and_threads(parking: str) -> None:
    ended = subprocess.run(
        [sys.executable, STRESS, "--only-mixed", "--items=20000", "--seconds=1", f"--parking={parking}"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "no error" in ended.stdout
