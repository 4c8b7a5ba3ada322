"""Prints how late a 1 ms ticker is beside a thread that retains objects, with `manage_gc` and without.

    python asv_bench/gc_lateness.py [--objects 8000000] [--growth 1.0] [--cycles N] [--rounds 1] [--json]

8 million objects are a heap of 1 GB; with growth 1.0 each process ends with twice that. The sides run one
after the other, each in a process of its own, with a switch interval of 0.5 ms on both. The goal (docs of the
project, "Performance goals"): with the GIL worst and p99.9 at most 0.16 of the default's, where the default
exceeds 50 ms.
"""

import argparse
import json
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIDES = {"manage_gc": "lateness_penstock", "default": "lateness_default"}
ASK = """
import json, sys
sys.path.insert(0, {folder!r})
from benchmarks.gc import {function}
print(json.dumps({function}({objects}, growth={growth}, cycles={cycles})))
"""


def ask(side, options):
    """What a side answers, in a process of its own."""
    program = ASK.format(
        folder=str(HERE),
        function=SIDES[side],
        objects=options.objects,
        growth=options.growth,
        cycles=options.cycles,
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return json.loads(output.stdout)


def say(line):
    """A line to the standard output."""
    sys.stdout.write(f"{line}\n")


def show(side, answer):
    """Print three lines about a side."""
    ms = {name: answer[name] * 1000 for name in ("worst", "p99.9", "median")}
    pauses = [pause * 1000 for pause in sorted(answer["pauses"])] or [0.0]
    middle, high = (pauses[int(len(pauses) * share)] for share in (0.5, 0.99))
    late = f"worst {ms['worst']:8.1f} ms   p99.9 {ms['p99.9']:8.1f} ms   median {ms['median']:6.2f} ms"
    say(f"{side:10} {late}   {answer['ticks']:,} ticks in {answer['seconds']:.1f} s")
    collections = f"{len(answer['pauses']):,} collections, {answer['whole']} of the oldest generation"
    say(f"{'':10} {collections} {answer['by_trigger'] or ''}")
    lengths = f"median {middle:.2f} ms, p99 {high:.2f} ms, longest {pauses[-1]:.1f} ms"
    memory = f"peak memory {answer['peak_bytes'] / 1e6:,.0f} MB"
    say(f"{'':10} pauses: {lengths}, {sum(pauses) / 1000:.2f} s in all; {memory}")


def main():
    """Ask the sides, and print what they answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=8_000_000)
    parser.add_argument("--growth", type=float, default=1.0)
    parser.add_argument("--cycles", type=int, default=0, help="every so many objects one garbage cycle")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = [{side: ask(side, options) for side in SIDES} for _ in range(options.rounds)]
    if options.json:
        say(json.dumps(rounds))
        return
    kind = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "GIL"
    load = f"{options.objects:,} objects, then {options.growth:.0%} more"
    say(f"CPython {platform.python_version()} ({kind}), {load}")
    for answers in rounds:
        for side, answer in answers.items():
            show(side, answer)
        ours, default = answers["manage_gc"], answers["default"]
        worst, high = (ours[name] / default[name] for name in ("worst", "p99.9"))
        say(f"ratio: worst {worst:.3f}, p99.9 {high:.3f}")


if __name__ == "__main__":
    main()
