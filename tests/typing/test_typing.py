"""The types users see are the ones the contract promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.thread_unsafe(reason="several mypy processes would share one cache")
def test_mypy_agrees_with_the_contract(tmp_path: Path) -> None:
    contract = Path(__file__).with_name("contract.py")
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--warn-unused-ignores",
            "--cache-dir",
            str(tmp_path),
            str(contract),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
