"""Counts the instructions of penstock's hot calls under callgrind, and holds them to a committed budget.

    python asv_bench/instructions.py [--calls NAME ...] [--functions] [--update]

A count does not depend on what else the machine does, so unlike a time it can fail a build. A call that
takes 10 % more instructions than instructions.toml allows is an error that names it; one that takes 10 %
less says that its budget should be lowered, which `--update` does. It needs valgrind, and an optimised
penstock that is installed.

Counted is our own code: the instructions inside the compiled module, whoever called them. All there were,
the interpreter's, greenlet's and the C library's too, are printed beside and have no budget: they differ
from one build of CPython to the next. Neither says how fast a call is: a missed cache, a wait and a locked
bus are one instruction, or none. A count says whether a path has grown.

The calls are those of `benchmarks/`, loops included. One process makes them all, on one worker. Each is
made 2n times to warm up, then by turns n and 2n times, with marks between, at which callgrind writes down
what it has counted since the last; the difference of a turn divided by n is one call, for what begins and
ends a run falls out of it, and the turn in the middle counts, because in another the process may have done
something else as well: a collection, a look of sysmon's. A mark is a call of getppid, which nothing else
makes here.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections import Counter
from functools import partial
from pathlib import Path

TOLERANCE = 0.10
TURNS = 3
BUDGET = Path(__file__).with_name("instructions.toml")
PATIENCE = 1200.0  # seconds until the counted process is given up

HEADER = """\
# What a call may spend in penstock's own code, in instructions, by the build of CPython that the module is
# for. `nox -s instructions` fails above 110 % of it, and `asv_bench/instructions.py --update` writes it. A
# number that rises has its reason in the commit that raises it.
"""


def calls():
    """Every counted call: a function of a count, and n."""
    from benchmarks import atomic, buffer, channel, lock, many, objects, pingpong, select, task

    return {
        "spawn": (task.spawn_penstock, 2000),
        "spawn, own context": (partial(task.spawn_penstock, own_context=True), 2000),
        "spawn, async def": (partial(task.spawn_penstock, fn=task.empty_coroutine), 2000),
        "send + recv": (channel.pairs_penstock, 5000),
        "send + recv, unbounded": (channel.pairs_penstock_unbounded, 5000),
        "send_many + recv_many, an item": (many.batches_penstock, 10_000),
        "ping-pong, plain": (pingpong.pingpong_penstock, 2000),
        "ping-pong, async def": (pingpong.pingpong_penstock_async, 2000),
        "send + select over 4": (select.ready_penstock, 4000),
        "AtomicInt.add": (atomic.adds_penstock, 10_000),
        "with Lock": (lock.blocks_penstock, 5000),
        "async with Lock": (lock.blocks_penstock_async, 4000),
        "acquire + release, 64 KiB": (buffer.buffers_penstock, 5000),
        "acquire + release, an object": (objects.objects_penstock, 5000),
    }


def make_calls(names):
    """Be the counted process: warm each call up, then make it n and 2n times by turns, between marks."""
    table, mark = calls(), os.getppid
    for name in names:
        run, count = table[name]
        run(2 * count)
        mark()
        for _ in range(TURNS):
            for times in (count, 2 * count):
                run(times)
                mark()


def self_cost(lines):
    """The instructions spent in each function, with its object file, by one of callgrind's profiles.

    A cost line is a position and a number. The one after `calls=` says what the callee cost, which stands
    where the callee does, too. A name is spelled out once, with its number, and is its number from then on.
    """
    spent, names, here, is_callee = Counter(), {}, {"ob": "", "fn": ""}, False
    for line in lines:
        if named := re.match(r"(c?)(ob|fn)=(\(\d+\))(?: (.+))?", line):
            name = names.setdefault((named[2], named[3]), named[4])
            if not named[1]:
                here[named[2]] = name
        elif line.startswith("calls="):
            is_callee = True
        elif re.match(r"[+\-*\d]", line):
            if not is_callee:
                spent[here["ob"], here["fn"]] += int(line.split()[1])
            is_callee = False
    return spent


def ours(spent):
    """The instructions that are the compiled module's."""
    return sum(
        count
        for (path, _), count in spent.items()
        if Path(path).name.startswith("_core.") and Path(path).parent.name == "penstock"
    )


def per_call(runs, count):
    """What one call spends, by function: from runs of ``count`` and of twice as many calls in turn.

    Of the turns it is the one in the middle, by what is ours.
    """
    turns = [
        {at: (more[at] - less[at]) / count for at in less | more}
        for less, more in zip(runs[::2], runs[1::2], strict=True)
    ]
    return sorted(turns, key=ours)[len(turns) // 2]


def measure(names, folder):
    """Make the calls under callgrind: by name, what one spends in each function."""
    # Of the environment only what finds programs: a variable of ours would change what is counted. Hashes
    # of strings decide how dictionaries are laid out; with one worker no other looks for work meanwhile.
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PENSTOCK_WORKERS": "1"}
    command = (
        *("valgrind", "-q", "--tool=callgrind", "--dump-before=getppid"),
        *(f"--callgrind-out-file={folder}/profile", f"--log-file={folder}/valgrind.log"),
        *(sys.executable, __file__, "--make", *names),
    )
    ended = subprocess.run(command, check=False, env=environment, timeout=PATIENCE)
    if ended.returncode:
        said = (Path(folder) / "valgrind.log").read_text()
        raise SystemExit(f"{said}the calls ended with status {ended.returncode}")
    marks = 1 + 2 * TURNS
    profiles = []
    for number in range(1, marks * len(names) + 1):
        with (Path(folder) / f"profile.{number}").open() as lines:
            profiles.append(self_cost(lines))
    table = calls()
    return {  # the first profile of a call is what went before
        name: per_call(profiles[marks * at + 1 : marks * (at + 1)], table[name][1])
        for at, name in enumerate(names)
    }


def verdict(measured, budget):
    """What there is to say of a count: a word, which is OVER where it is too much, and a sentence."""
    if budget is None:
        return "NEW", "it has no budget yet: --update gives it one"
    change = f"{measured / budget - 1:+.1%}"
    if measured > budget * (1 + TOLERANCE):
        return "OVER", f"{measured:.0f} instructions, the budget is {budget}: {change}"
    if measured < budget * (1 - TOLERANCE):
        return "UNDER", f"{change}: lower the budget with --update"
    return "", change


def compare(spent, budget):
    """A line for each call beside its budget, and what is over, by name."""
    lines, over = [f"{'instructions of a call':32}{'ours':>8}{'all':>8}{'budget':>8}"], {}
    for name, mine in spent.items():
        count = ours(mine)
        word, sentence = verdict(count, budget.get(name))
        everything = sum(mine.values())
        lines.append(f"{name:32}{count:8.0f}{everything:8.0f}{budget.get(name, '-'):>8}  {word:5} {sentence}")
        if word == "OVER":
            over[name] = sentence
    return lines, over


def rustc():
    """The compiler on the PATH, which is most likely the one that made what is measured."""
    reply = subprocess.run(["rustc", "--version"], check=False, capture_output=True, text=True)
    return reply.stdout.split()[1] if reply.returncode == 0 else "unknown"


def by_function(spent):
    """A line for each function in which a call spends at least one instruction, the dearest first."""
    dearest = sorted(spent.items(), key=lambda each: -each[1])
    return [f"{count:8.0f}  {Path(path).name}: {name}" for (path, name), count in dearest if count >= 1]


def tell(*lines):
    """Print."""
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))


def written(budgets):
    """The budget file's text."""
    lines = [HEADER]
    for build, budget in sorted(budgets.items()):
        lines.append(f"[{build}]\n")
        lines += [f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in budget.items()]
        lines.append("\n")
    return "".join(lines).rstrip("\n") + "\n"


def main():
    """Count, print, and compare or write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", nargs="+", choices=calls(), default=list(calls()), metavar="NAME")
    parser.add_argument("--update", action="store_true", help="write what is counted as the budget")
    parser.add_argument("--functions", action="store_true", help="print what each function spends, too")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed: nothing was counted")

    with tempfile.TemporaryDirectory() as folder:
        measured = measure(options.calls, folder)

    build = sysconfig.get_config_var("SOABI")
    budgets = tomllib.loads(BUDGET.read_text())
    budget = budgets.get(build, {})
    lines, over = compare(measured, budget)
    tell(f"{build}, rustc {rustc()}", *lines)
    if options.functions:
        for name, spent in measured.items():
            tell(name, *by_function(spent))

    if options.update:
        kept = {name: count for name, count in budget.items() if name in calls()}
        new = {name: round(ours(spent)) for name, spent in measured.items()}
        budgets[build] = {"rustc": rustc(), **kept, **new}
        BUDGET.write_text(written(budgets))
        return
    if not budget:
        tell(f"NO BUDGET FOR {build}: instructions were NOT compared")
    elif gone := budget.keys() - {"rustc", *calls()}:
        raise SystemExit(f"{BUDGET.name} has calls that nobody makes: {', '.join(sorted(gone))}")
    if over:
        if budget["rustc"] != rustc():
            tell(f"The budget is of rustc {budget['rustc']}, and this is {rustc()}: its counts may differ.")
        raise SystemExit("\n".join(f"OVER BUDGET: {name}: {sentence}" for name, sentence in over.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make_calls(sys.argv[2:])
    else:
        main()
