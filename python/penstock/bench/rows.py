"""The rows of the table: what is asked of whom, and the goal that the answer is held against."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PENSTOCK", "ROWS", "Goal", "Peer", "Row"]

PENSTOCK = "penstock"
"""The side that is ours."""

NOT_SLOWER = 1.03
"""Rounds of the same thing differ by as much."""


@dataclass(frozen=True)
class Goal:
    """The most that ours may cost: as a share of a peer's, or in the row's unit.

    ``None`` where a kind of build has no goal. A stretch is the reason to go on once a goal is met.
    """

    gil: float | None
    free_threaded: float | None
    stretch_gil: float | None = None
    stretch_free_threaded: float | None = None

    def most(self, *, gil: bool) -> float | None:
        """The goal on this kind of build."""
        return self.gil if gil else self.free_threaded

    def stretch(self, *, gil: bool) -> float | None:
        """The stretch on this kind of build."""
        return self.stretch_gil if gil else self.stretch_free_threaded


@dataclass(frozen=True)
class Peer:
    """A side that answers a row of ours, maybe under a name of its own there."""

    side: str
    row: str
    label: str
    goal: Goal | None = None
    seed: float | None = None  # the ratio that the seed project reached on this question
    count: int | None = None  # of a sample, where it is not the row's


@dataclass(frozen=True)
class Row:
    """One question: its name, the peers that answer it, and how many operations one sample has."""

    name: str
    title: str
    count: int
    peers: tuple[Peer, ...]
    whole: bool = False  # the count is part of the question
    each: bool = True  # the figure is for one operation, not for all
    question: str | None = None  # what ours is asked, where it is not the row's name
    part: str | None = None  # of an answer with several figures, which other rows share
    ours: str = PENSTOCK
    unit: str = "ns"
    limit: Goal | None = None  # what ours may cost, in the unit
    fresh: bool = False  # each answer from a new process
    linux: bool = False  # the system that can answer
    rounds: int | None = None  # at most, for samples that take seconds


def _memory(name: str, title: str, count: int, most: float, *peers: Peer) -> Row:
    return Row(
        *(name, title, count, peers),
        whole=True,
        unit="B",
        limit=Goal(most, most),
        fresh=True,
        linux=True,  # which tells a process its resident memory
        rounds=3,
    )


def _spawn_by_workers(place: str, said: str, *go: Peer) -> Row:
    return Row(
        f"spawn_{place}",
        f"spawn + run + finish {said}, four workers",
        100_000,
        (
            Peer("penstock", f"spawn_{place}_two", "two workers", Goal(None, NOT_SLOWER)),
            Peer("penstock", f"spawn_{place}_one", "one worker", Goal(None, NOT_SLOWER)),
            *go,
        ),
        whole=True,
    )


def _lateness(part: str, said: str) -> Row:
    return Row(
        f"gc_{part}",
        f"GC pause at a 1 GB heap: {said} lateness of a 1 ms ticker beside a load that retains objects",
        8_000_000,
        (
            Peer("penstock", "gc_default", "CPython's default", Goal(0.16, None), seed=0.16),
            Peer("penstock", "gc_frozen", "gc.freeze() alone"),
            Peer("go", "gc", "Go"),
        ),
        whole=True,
        each=False,
        question="gc",
        part=part,
        fresh=True,
        rounds=3,
    )


ROWS: tuple[Row, ...] = (
    Row(
        "spawn",
        "task creation: spawn + run + finish, batches of 100,000 from inside a task, empty context",
        100_000,
        (
            Peer("go", "spawn", "Go goroutine", Goal(0.40, 0.50, stretch_gil=0.33), seed=0.33),
            Peer("asyncio", "spawn", "asyncio.gather", Goal(0.03, 0.04)),
            Peer("uvloop", "spawn", "gather on uvloop"),
            Peer("stdlib", "spawn", "ThreadPoolExecutor", Goal(0.03, 0.04)),
            Peer("stdlib", "spawn_threads", "a thread each", count=5_000),
            Peer("gevent", "spawn", "gevent.spawn"),
        ),
        whole=True,
    ),
    Row(
        "spawn_context",
        "spawn + run + finish, the creator's context holding one variable",
        100_000,
        (
            Peer("go", "spawn", "Go goroutine", Goal(0.60, 0.75)),
            Peer("asyncio", "spawn_context", "asyncio.gather"),
        ),
        whole=True,
    ),
    Row(
        "spawn_async",
        "spawn + run + finish of async def tasks, empty context",
        100_000,
        (
            Peer("go", "spawn", "Go goroutine"),
            Peer("asyncio", "spawn", "asyncio.gather"),
            Peer("uvloop", "spawn", "gather on uvloop"),
            Peer("trio", "spawn", "trio nursery"),
            Peer("anyio", "spawn", "anyio task group"),
            Peer("tonio", "spawn", "TonIO spawn"),
        ),
        whole=True,
    ),
    Row(
        "pair",
        "channel send: send + recv pair, nobody waiting, capacity 16",
        300_000,
        (
            Peer("go", "pair", "Go buffered channel", Goal(0.65, 1.3, 0.40, 1.0), seed=0.40),
            Peer("stdlib", "pair_simple_queue", "queue.SimpleQueue", Goal(0.75, 1.0)),
            Peer("stdlib", "pair_queue", "queue.Queue", Goal(0.02, 0.04)),
            Peer("stdlib", "pair_deque", "collections.deque"),
            Peer("gevent", "pair", "gevent SimpleQueue"),
            Peer("culsans", "pair", "culsans Queue"),
            Peer("aiologic", "pair", "aiologic Queue"),
            Peer("janus", "pair", "janus Queue"),
        ),
    ),
    Row(
        "pair_async",
        "asend + arecv pair, nobody waiting, capacity 16",
        200_000,
        (
            Peer("go", "pair", "Go buffered channel"),
            Peer("asyncio", "pair_async", "asyncio.Queue"),
            Peer("trio", "pair_async", "trio memory channel"),
            Peer("anyio", "pair_async", "anyio object stream"),
            Peer("culsans", "pair_async", "asyncio, culsans"),
            Peer("aiologic", "pair_async", "asyncio, aiologic"),
            Peer("janus", "pair_async", "asyncio, janus"),
            Peer("tonio", "pair_async", "TonIO channel"),
        ),
    ),
    Row(
        "many",
        "an item of send_many + recv_many, batches of 1,000",
        1_000_000,
        (
            Peer("penstock", "many_singles", "send + recv, one by one"),
            Peer("stdlib", "many_simple_queue", "queue.SimpleQueue"),
            Peer("stdlib", "many_queue", "queue.Queue"),
        ),
    ),
    Row(
        "pingpong",
        "channel ping-pong: round trip, plain tasks, rendezvous",
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
        "round trip, async def tasks, rendezvous",
        50_000,
        (
            Peer("go", "pingpong", "Go unbuffered channels", Goal(1.0, 1.1)),
            Peer("asyncio", "pingpong", "asyncio.Queue", Goal(0.055, 0.055)),
            Peer("uvloop", "pingpong", "asyncio.Queue on uvloop"),
            Peer("trio", "pingpong_async", "trio memory channels"),
            Peer("anyio", "pingpong_async", "anyio object streams"),
            Peer("culsans", "pingpong_async", "asyncio, culsans"),
            Peer("aiologic", "pingpong_async", "asyncio, aiologic"),
            Peer("janus", "pingpong_async", "asyncio, janus"),
            Peer("tonio", "pingpong_async", "TonIO channels"),
        ),
    ),
    Row(
        "select",
        "select over 4 receives of which one is ready, and the send that makes it so",
        100_000,
        (
            Peer("go", "select", "Go select", Goal(1.0, 1.5)),
            Peer("asyncio", "select", "asyncio.wait", Goal(0.01, 0.02)),
            Peer("uvloop", "select", "asyncio.wait on uvloop"),
        ),
    ),
    *(
        Row(
            name,
            f"an item from {said}, capacity 1024",
            300_000,
            (
                Peer("go", name, "Go buffered channel", Goal(1.0, 1.5)),
                Peer("stdlib", name, "threads, queue.Queue", Goal(0.03, 0.06)),
                Peer("asyncio", name, "tasks, asyncio.Queue"),
                Peer("gevent", name, "gevent SimpleQueue"),
                Peer("culsans", name, "threads, culsans"),
            ),
        )
        for name, said in (
            ("pipeline", "a producer to a consumer"),
            ("pipeline_four", "four producers to four consumers"),
        )
    ),
    Row(
        "atomic",
        "atomic add against a lock: adding 1 to a shared number, one thread",
        1_000_000,
        (
            Peer("stdlib", "atomic", "with threading.Lock", Goal(0.15, None), seed=0.20),
            Peer("go", "atomic", "Go atomic"),
            Peer("go", "mutex", "Go mutex"),
            Peer("cereggii", "atomic", "cereggii AtomicInt64"),
            Peer("ft_utils", "atomic", "ft_utils AtomicInt64"),
        ),
    ),
    Row(
        "atomic_two",
        "adding 1 to a shared number, two threads",
        1_000_000,
        (
            Peer("stdlib", "atomic_two", "with threading.Lock", Goal(None, 0.25), seed=0.20),
            Peer("go", "atomic_two", "Go atomic"),
            Peer("go", "mutex_two", "Go mutex"),
            Peer("cereggii", "atomic_two", "cereggii AtomicInt64"),
            Peer("ft_utils", "atomic_two", "ft_utils AtomicInt64"),
        ),
    ),
    Row(
        "lock",
        "an empty `with lock`, nobody waiting",
        500_000,
        (
            Peer("stdlib", "lock", "threading.Lock"),
            Peer("stdlib", "lock_rlock", "threading.RLock"),
            Peer("go", "mutex", "Go mutex"),
            Peer("aiologic", "lock", "aiologic Lock"),
            Peer("gevent", "lock", "gevent RLock"),
        ),
    ),
    Row(
        "lock_async",
        "an empty `async with lock`, nobody waiting",
        200_000,
        (
            Peer("asyncio", "lock_async", "asyncio.Lock"),
            Peer("trio", "lock_async", "trio.Lock"),
            Peer("anyio", "lock_async", "anyio.Lock"),
            Peer("aiologic", "lock_async", "asyncio, aiologic"),
        ),
    ),
    Row(
        "buffer",
        "buffer acquire + release, 64 KiB",
        100_000,
        (
            Peer("stdlib", "bytearray", "bytearray(65536)", Goal(0.10, 0.10)),
            Peer("numpy", "empty", "numpy.empty", Goal(0.5, 0.5)),
            Peer("go", "pool", "Go sync.Pool"),
        ),
    ),
    *(
        Row(
            name,
            f"an item from a thread into an asyncio loop, {said}",
            count,
            (
                Peer("asyncio", name, "run_coroutine_threadsafe"),
                Peer("uvloop", name, "the same, on uvloop"),
                Peer("janus", name, "janus Queue"),
                Peer("culsans", name, "culsans Queue"),
                Peer("aiologic", name, "aiologic Queue"),
            ),
        )
        for name, said, count in (
            ("loop_burst", "in a burst", 10_000),
            ("loop_hop", "each once the one before has arrived", 2_000),
        )
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
        whole=True,
    ),
    _spawn_by_workers("outside", "from an ordinary thread"),
    _spawn_by_workers("inside", "from one task", Peer("go", "spawn", "Go goroutine, two Ps")),
    _spawn_by_workers("tree", "from a tree of tasks", Peer("go", "spawn_tree", "Go goroutine, two Ps")),
    _memory(
        *("parked", "memory of a parked plain task, 100,000 at once", 100_000, 7200),
        Peer("go", "parked", "Go goroutine"),
        Peer("gevent", "parked", "gevent greenlet", count=50_000),
    ),
    _memory(
        *("parked_async", "memory of a parked async def task, 1,000,000 at once, empty context"),
        *(1_000_000, 560),
        Peer("go", "parked", "Go goroutine", count=100_000),
        Peer("asyncio", "parked", "asyncio.Task", count=100_000),
        Peer("trio", "parked", "trio task", count=100_000),
    ),
    _memory(
        *(
            "parked_own_context",
            "memory of a parked async def task, 1,000,000 at once, own context",
            1_000_000,
            650,
        ),
        Peer("go", "parked", "Go goroutine", count=100_000),
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
    _lateness("worst", "worst"),
    _lateness("late", "p99.9"),
)
"""Every row, in the order of the table."""
