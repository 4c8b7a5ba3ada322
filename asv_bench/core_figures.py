"""Prints what the core costs by itself, without Python, beside a Go program.

    python asv_bench/core_figures.py [--rounds N] [--quick] [--rows spawn,pair,...] [--json [FILE]]

Builds rust/core/benches/core.rs with cargo and Go's program with the `go` on the PATH, and asks both in
interleaved rounds, with the machinery of `penstock bench`, which has to be installed. Go runs on two Ps,
the core on as many workers as a row says. Without a `go` only our own figures are there. The exit status is
1 where a side failed.
"""

import json
import subprocess
import sys
from pathlib import Path

from penstock.bench.command import main
from penstock.bench.rows import Goal, Peer, Row

ROWS = tuple(
    Row(name, title, count, peers, ours="core", whole=whole)
    for name, title, count, whole, peers in (
        (
            "spawn",
            "spawn + run + finish of an empty task, from a task, two workers",
            100_000,
            True,
            (Peer("go", "spawn", "Go goroutine", Goal(0.15, 0.15)),),
        ),
        (
            "spawn_one",
            "spawn + run + finish of an empty task, from a task, one worker",
            100_000,
            True,
            (Peer("go", "spawn", "Go goroutine", Goal(0.15, 0.15)),),
        ),
        (
            "pair",
            "send + recv pair, nobody waiting, atomics",
            1_000_000,
            False,
            (Peer("go", "pair", "Go buffered channel", Goal(0.45, 0.45)),),
        ),
        (
            "pair_plain",
            "send + recv pair, nobody waiting, plain cells",
            1_000_000,
            False,
            (Peer("go", "pair", "Go buffered channel", Goal(0.20, 0.20)),),
        ),
        (
            "atomic",
            "adding 1 to a number, one thread",
            1_000_000,
            False,
            (Peer("go", "mutex", "Go mutex", Goal(0.35, 0.35)), Peer("go", "atomic", "Go atomic")),
        ),
        (
            "atomic_plain",
            "adding 1 to a number, one thread, a plain cell",
            1_000_000,
            False,
            (Peer("go", "mutex", "Go mutex"), Peer("go", "atomic", "Go atomic")),
        ),
        (
            "objects",
            "taking and giving back a pooled object, atomics",
            1_000_000,
            False,
            (Peer("go", "pool", "Go sync.Pool"),),
        ),
        (
            "objects_plain",
            "taking and giving back a pooled object, plain cells",
            1_000_000,
            False,
            (Peer("go", "pool", "Go sync.Pool"),),
        ),
        (
            "pingpong",
            "round trip between two tasks with stacks, rendezvous",
            50_000,
            False,
            (Peer("go", "pingpong", "Go unbuffered channels"),),
        ),
    )
)


def build_core():
    """The benchmark as cargo builds it: the path of its program."""
    command = ["cargo", "bench", "--locked", "-p", "penstock-core", "--bench", "core", "--no-run"]
    built = subprocess.run(
        [*command, "--message-format=json-render-diagnostics"],
        check=True,
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "core":
            return message["executable"]
    raise RuntimeError("cargo built no benchmark called core")


if __name__ == "__main__":
    program = "python asv_bench/core_figures.py"
    sys.exit(main(sys.argv[1:], ROWS, program=program, others={"core": [build_core(), "--questions"]}))
