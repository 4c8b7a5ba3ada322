"""Prints what the core costs by itself, without Python, beside a Go program.

    python asv_bench/core_figures.py [--rounds N] [--quick] [--rows spawn,pair,...]

Builds rust/core/benches/core.rs with cargo and go/main.go with the `go` on the PATH, and asks both in
interleaved rounds, as figures.py does for Python: medians, quartiles, and the ratio of each round beside
the project's goal. Go runs on two Ps, the core on as many workers as a row says. Without a `go` only our own
figures are there. The exit status is 1 where a side failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from figures import HERE, WORKERS, Goal, Peer, Row, Side, go_side, measure, show, tell

ROWS = tuple(
    Row(name, title, count, peers, side="core", whole=whole)
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
            "the same, one worker",
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
            "the same, a plain cell",
            1_000_000,
            False,
            (Peer("go", "mutex", "Go mutex"), Peer("go", "atomic", "Go atomic")),
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
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "core":
            return message["executable"]
    raise RuntimeError("cargo built no benchmark called core")


def main():
    """Measure and print; the exit status is 1 where a side failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="rounds per row (15, or 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help="short samples: a smoke test, not a figure")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="the rows to measure")
    options = parser.parse_args()
    wanted = options.rows.split(",")
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"--rows: no row is called {', '.join(sorted(unknown))}")
    rounds = options.rounds or (3 if options.quick else 15)
    environment = {**os.environ, "GOMAXPROCS": str(WORKERS)}
    found = {"core": Side("core", [build_core(), "--questions"], environment)}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        go = go_side(folder, "wall", environment)
        if go:
            found["go"] = go
        try:
            for row in ROWS:
                if row.name not in wanted:
                    continue
                samples = measure(row, found, rounds=rounds, sample_ns=10e6 if options.quick else 60e6)
                for line in show(row, samples, gil=True):
                    tell(line)
                failed |= any(sample.error for sample in samples.values())
        finally:
            for side in found.values():
                side.stop()
    tell("")
    tell(f"rounds       {rounds}")
    tell(f"load         {os.getloadavg()[0]:.2f}, {len(os.sched_getaffinity(0))} cores")
    tell(found["go"].hello["version"] if go else "NO GO ON THE PATH: its lines are missing")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
