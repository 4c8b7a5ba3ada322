"""A side: a process that is asked, and sleeps meanwhile.

Each side has a process of its own, so that none pays for another's threads, heap or collector hooks.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["WORKERS", "Side", "SideFailedError", "environment", "python_side"]

WORKERS = 2
"""The workers or threads of every side that can use them; Go's GOMAXPROCS."""

PATIENCE = 300.0
"""Seconds until a side that does not answer is given up."""

GRACE = 2.0
"""Seconds that a side has to end by itself."""


class SideFailedError(Exception):
    """A side raised, died or did not answer in time."""


@dataclass(frozen=True)
class _Running:
    """A side's process, and its three pipes."""

    process: subprocess.Popen[bytes]
    questions: IO[bytes]
    answers: IO[bytes]
    said: IO[bytes]


class Side:
    """A process that answers questions: started by the first, ended by ``stop``."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.hello: dict[str, Any] = {}
        self._command = command
        self._environment = environment
        self._running: _Running | None = None

    def ask(self, row: str, count: int, *, fresh: bool = False) -> dict[str, Any]:
        """The answer to one question, of a new process where it has to be.

        Raises:
            SideFailedError: it has no answer. If it died, the next question starts it anew.
        """
        if fresh:
            self.stop()
        running = self._running or self._start()
        if row not in self.hello["rows"]:
            raise SideFailedError(f"{self.name} has no {row}")
        try:
            running.questions.write(f"{row} {count}\n".encode())
            running.questions.flush()
        except BrokenPipeError:
            pass  # it ended; what it said is read below
        answer = self._read(running)
        if "error" in answer:
            raise SideFailedError(answer["error"])
        return answer

    def _start(self) -> _Running:
        pipe = subprocess.PIPE
        process = subprocess.Popen(self._command, env=self._environment, stdin=pipe, stdout=pipe, stderr=pipe)
        questions, answers, said = process.stdin, process.stdout, process.stderr
        if questions is None or answers is None or said is None:
            raise AssertionError("a process was started without its pipes")
        self._running = _Running(process, questions, answers, said)
        self.hello = self._read(self._running)
        return self._running

    def _read(self, running: _Running) -> dict[str, Any]:
        """Its next line. A side owes one line per question, so a ready pipe means a whole one."""
        ready, _, _ = select.select([running.answers], [], [], PATIENCE)
        line = running.answers.readline() if ready else b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        why = "it ended" if ready else f"no answer within {PATIENCE:.0f} s"
        said = self.stop()
        raise SideFailedError(f"{why}{': ' + said[-1] if said else ''}")

    def stop(self) -> list[str]:
        """End the process, if there is one; the lines that it wrote to stderr."""
        if self._running is None:
            return []
        running, self._running = self._running, None
        try:
            running.questions.close()
        except BrokenPipeError:
            pass  # it ended by itself
        try:
            running.process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
        said = running.said.read().decode(errors="replace").strip().splitlines()
        running.answers.close()
        running.said.close()
        return said


def environment() -> dict[str, str]:
    """What every side's process finds in its environment."""
    return {
        **os.environ,
        "GOMAXPROCS": str(WORKERS),
        "PENSTOCK_WORKERS": str(WORKERS),
        "PYTHONHASHSEED": "0",
    }


def python_side(name: str, clock: str, environment: Mapping[str, str]) -> Side:
    """A side that is this interpreter with one library."""
    served = str(Path(__file__).resolve().with_name("serve.py"))
    return Side(name, [sys.executable, "-P", served, name, clock], environment)
