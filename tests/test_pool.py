"""What a pool does with memory: nodes, huge pages, warming, trimming when asked and on the clock."""

from __future__ import annotations

import inspect
import os
import re
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import Buffer, BufferNodeStats, BufferPool, Node, Topology

MAX_CPUS = 1 << 16
ON_LINUX = sys.platform == "linux"


def made_up(**cpus: list[int]) -> Topology:
    """Nodes with these CPUs: ``made_up(n3=[0, 1], n8=[])``."""
    ids = [int(name[1:]) for name in cpus]
    return Topology(
        [
            Node(id, of_node, 0, {to: 10 if to == id else 20 for to in ids})
            for id, of_node in zip(ids, cpus.values(), strict=True)
        ]
    )


ALL_CPUS = list(range(os.cpu_count() or 1))
HERE_3 = made_up(n3=ALL_CPUS, n8=[])
HERE_8 = made_up(n3=[], n8=ALL_CPUS)


def by_node(pool: BufferPool) -> dict[int, tuple[int, int]]:
    """What is in use and what is cached, by node; and the sums agree."""
    stats = pool.stats()
    for figure in ("in_use", "cached", "reserved"):
        assert sum(getattr(node, figure) for node in stats.nodes) == getattr(stats, figure)
    assert stats.in_use + stats.cached == stats.reserved
    return {node.id: (node.in_use, node.cached) for node in stats.nodes}


# Nodes


def test_all_arguments_may_be_positional() -> None:
    pool = BufferPool(4096, HERE_3, False, True)
    assert list(by_node(pool)) == [3, 8]
    assert pool.acquire(100, 8, timeout=0) == bytes(100)
    signature = "(max_bytes=None, numa='auto', huge_pages=False, zero=False)"
    assert str(inspect.signature(BufferPool)) == signature


def test_auto_is_this_machine_and_off_is_one_node(run_program: Any) -> None:
    machine = [node.id for node in Topology.detect().nodes]
    assert list(by_node(BufferPool(numa="auto"))) == machine
    assert list(by_node(BufferPool())) == machine
    assert list(by_node(BufferPool(numa="off"))) == [0]


@pytest.mark.parametrize("numa", ["on", "", 0, None, [0]])
def test_another_numa_is_refused(numa: object) -> None:
    expected = ValueError if isinstance(numa, str) else TypeError
    message = f'numa must be "auto", "off" or a Topology, not {re.escape(repr(numa))}'
    with pytest.raises(expected, match=message):
        BufferPool(numa=numa)  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", ["huge_pages", "zero"])
def test_flags_are_bools(argument: str) -> None:
    with pytest.raises(TypeError, match=f"{argument} must be a bool, not 1"):
        BufferPool(**{argument: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("nbytes", [64, 5120, 65_536, 1 << 18, 2 << 20])
@pytest.mark.parametrize("max_bytes", [None, 8 << 20])
def test_each_node_has_figures_of_its_own_and_memory_goes_home(nbytes: int, max_bytes: int | None) -> None:
    pool = BufferPool(max_bytes, HERE_3)
    first, second = pool.acquire(nbytes), pool.acquire(nbytes, node=8)
    third = pool.acquire(nbytes, 8)
    assert by_node(pool) == {3: (nbytes, 0), 8: (2 * nbytes, 0)}
    cached = nbytes if nbytes <= 1 << 20 else 0  # larger ones are mapped, and unmapped

    def release() -> None:
        for buffer in (first, second, third):
            buffer.release()

    thread = threading.Thread(target=release)
    thread.start()
    thread.join()
    assert by_node(pool) == {3: (0, cached), 8: (0, 2 * cached)}
    with pool.acquire(nbytes, node=8):
        assert by_node(pool) == {3: (0, cached), 8: (nbytes, cached)}


@pytest.mark.parametrize("node", [0, 5, -1, 1 << 40, 1 << 80])
def test_an_unknown_node_is_a_value_error_that_names_those_there_are(node: int) -> None:
    pool = BufferPool(numa=HERE_3)
    allowed = re.escape("None or one of the pool's nodes [3, 8]")
    with pytest.raises((ValueError, OverflowError), match=f"node must be {allowed}, not {node}"):
        pool.acquire(1, node=node)
    with pytest.raises((ValueError, OverflowError), match=f"node must be {allowed}, not {node}"):
        pool.aacquire(1, node)
    assert pool.stats().reserved == 0


def test_a_node_is_an_int() -> None:
    pool = BufferPool(numa=HERE_3)
    for node in ("3", 3.0, [3]):
        with pytest.raises(TypeError, match="node must be None or one of the pool's nodes"):
            pool.acquire(1, node=node)  # type: ignore[arg-type]
    pool.acquire(1, node=None).release()


def test_a_caller_is_where_its_cpu_is_and_a_task_where_its_worker_is() -> None:
    pool = BufferPool(numa=HERE_3)
    pool.acquire(64).release()
    assert by_node(pool) == {3: (0, 64), 8: (0, 0)}

    async def acquire() -> Buffer:
        return await pool.aacquire(64)

    with penstock.Runtime(workers=2, numa=HERE_8) as runtime:
        buffers = [runtime.go(pool.acquire, 64).result(timeout=60), runtime.go(acquire).result(timeout=60)]
    assert by_node(pool) == {3: (0, 64), 8: (128, 0)}
    del buffers
    # Workers of a machine that the pool knows nothing of: their CPUs count.
    with penstock.Runtime(workers=1, numa=made_up(n5=ALL_CPUS)) as runtime:
        buffer = runtime.go(pool.acquire, 64).result(timeout=60)
        assert by_node(pool)[3][0] == 64
    buffer.release()


def test_the_limit_spans_all_nodes() -> None:
    pool = BufferPool(4096, numa=HERE_3)
    buffer = pool.acquire(4096, node=8)
    with pytest.raises(TimeoutError):
        pool.acquire(64, node=3, timeout=0)
    buffer.release()
    with pool.acquire(4096, node=3):  # what is cached on the other node is in nobody's way
        assert by_node(pool) == {3: (4096, 0), 8: (0, 0)}
    with pytest.raises(ValueError, match="max_bytes"):
        pool.acquire(4097, node=8)


def test_who_waits_gets_memory_on_the_node_it_asked_for(
    wait_until: Callable[..., None], threads: Any
) -> None:
    pool = BufferPool(4096, numa=HERE_3)
    buffer = pool.acquire(4096)
    got: list[Buffer] = []
    threads.start(lambda: got.append(pool.acquire(64, 8, timeout=60)))
    task = penstock.go(pool.acquire, 64, 8)
    with pytest.raises(TimeoutError):
        pool.acquire(64, timeout=0.01)
    buffer.release()
    wait_until(lambda: got)
    task_buffer = task.result(timeout=60)
    assert by_node(pool)[8] == (128, 0)
    got.pop().release()
    task_buffer.release()


def test_figures_of_nodes_are_values() -> None:
    pool = BufferPool(numa=HERE_3)
    with pool.acquire(1000):
        (near, far) = pool.stats().nodes
        assert isinstance(near, BufferNodeStats)
        assert repr(near) == "BufferNodeStats(id=3, in_use=1024, cached=0, reserved=1024)"
        assert near == pool.stats().nodes[0] != far
        with pytest.raises(AttributeError):
            near.id = 1  # type: ignore[misc]
    assert pool.stats() != BufferPool(numa=HERE_3).stats()


def test_simulated_nodes_are_bound_to_nothing() -> None:
    pool = BufferPool(numa=made_up(n500=ALL_CPUS, n501=[]))
    with pool.acquire(100, 500), pool.acquire(3 << 20, 501):
        assert not pool.stats().binding_denied


# Huge pages


def advised(address: int) -> bool:
    """Whether the mapping at an address is one for which huge pages were asked for."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("no such mapping")


def address_of(buffer: Buffer) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


@pytest.mark.skipif(not ON_LINUX, reason="madvise is Linux's")
@pytest.mark.parametrize("nbytes", [100, 1 << 20, 5 << 20])
def test_huge_pages_are_asked_for_or_shown_as_denied(nbytes: int) -> None:
    pool = BufferPool(huge_pages=True)
    buffer = pool.acquire(nbytes)
    buffer[:] = b"x" * nbytes
    assert advised(address_of(buffer)) != pool.stats().huge_pages_denied
    ordinary = BufferPool()
    plain = ordinary.acquire(nbytes)
    plain[:] = b"x" * nbytes
    assert not ordinary.stats().huge_pages_denied


# Warming


def faults() -> int:
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_minflt


@pytest.mark.skipif(not ON_LINUX, reason="faults are counted for a thread")
def test_warmed_memory_is_mapped_and_resident() -> None:
    def use(pool: BufferPool, count: int) -> int:
        before = faults()
        buffers = [pool.acquire(65_536) for _ in range(count)]
        for buffer in buffers:
            view = memoryview(buffer)
            for page in range(0, 65_536, 4096):
                view[page] = 1
            view.release()
        return faults() - before

    cold = use(BufferPool(), 64)
    pool = BufferPool()
    pool.warm(65_536, 64)
    assert pool.stats().cached == 64 * 65_536
    warm = use(pool, 64)
    assert warm * 4 < cold
    assert pool.stats().reserved_peak == 64 * 65_536


def test_warming_does_not_add_up() -> None:
    pool = BufferPool()
    pool.warm(1000, 10)
    pool.warm(1000, 20)
    pool.warm(nbytes=1000, count=5)
    pool.warm(0, 0)
    assert pool.stats().cached == 20 * 1024
    buffers = [pool.acquire(1000) for _ in range(20)]
    assert pool.stats().reserved == 20 * 1024
    for buffer in buffers:
        buffer.release()


def test_warming_is_for_the_callers_node() -> None:
    pool = BufferPool(numa=HERE_8)
    pool.warm(4096, 3)
    assert by_node(pool) == {3: (0, 0), 8: (0, 3 * 4096)}


def test_warming_respects_the_limit() -> None:
    pool = BufferPool(10_240)
    with pytest.raises(ValueError, match=r"max_bytes, of which 10240 are free, not 11 \(11264 bytes\)"):
        pool.warm(1024, 11)
    with pool.acquire(1), pytest.raises(ValueError, match="of which 10176 are free, not 10"):
        pool.warm(1024, 10)
    pool.warm(1024, 10)
    assert pool.stats().cached == 10_240
    with pool.acquire(10_240, timeout=0):  # nobody waits for what is only warm
        pass


@pytest.mark.parametrize(
    ("nbytes", "count", "error", "message"),
    [
        (-1, 1, ValueError, "nbytes must be an int >= 0, not -1"),
        (1, -1, ValueError, "count must be an int >= 0, not -1"),
        ("1", 1, TypeError, "nbytes must be an int >= 0, not '1'"),
        (1, 1.5, TypeError, "count must be an int >= 0, not 1.5"),
        ((1 << 20) + 1, 1, ValueError, "nbytes must be at most 1048576, not 1048577"),
        (1, sys.maxsize, ValueError, "max_bytes, of which 1048576 are free"),
    ],
)
def test_what_cannot_be_warmed(nbytes: Any, count: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BufferPool(1 << 20).warm(nbytes, count)


# Trimming


def test_trim_gives_back_what_is_cached_and_says_how_much() -> None:
    pool = BufferPool(numa=HERE_3)
    kept = pool.acquire(100_000)
    kept[:] = b"k" * 100_000
    for nbytes in (64, 1000, 65_536, 1 << 20):
        for buffer in [pool.acquire(nbytes, node) for node in (3, 8) for _ in range(20)]:
            buffer.release()
    pool.warm(5000, 10)
    before = pool.stats()
    assert pool.trim() == before.cached
    after = pool.stats()
    assert (after.in_use, after.cached) == (before.in_use, 0)
    assert bytes(kept) == b"k" * 100_000
    assert pool.trim() == 0
    kept.release()
    assert pool.trim() > 0
    assert pool.stats().reserved == 0


@pytest.mark.skipif(not ON_LINUX, reason="elsewhere a thread's cache is its own")
def test_trim_reaches_into_the_caches_of_other_threads(threads: Any) -> None:
    pool = BufferPool()
    filled, over = threading.Barrier(4), threading.Event()

    def fill() -> None:
        for buffer in [pool.acquire(4096) for _ in range(8)]:
            buffer.release()
        filled.wait(60)
        over.wait(60)
        pool.acquire(4096).release()

    for _ in range(3):
        threads.start(fill)
    filled.wait(60)
    cached = pool.stats().cached
    assert cached >= 8 * 4096
    assert pool.trim() == cached
    assert pool.stats().reserved == 0
    over.set()
    threads.join()
    assert pool.stats().cached >= 4096


TRIM_AND_RSS = """
import penstock

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

pool = penstock.BufferPool()
buffers = [pool.acquire({nbytes}) for _ in range((64 << 20) // {nbytes})]
for buffer in buffers:
    buffer[:] = b"x" * {nbytes}
full = resident()
for buffer in buffers:
    buffer.release()
del buffer
given = pool.trim()
print(given >= 60 << 20, full - resident() >= 48 << 20)
"""


@pytest.mark.skipif(not ON_LINUX, reason="reads /proc")
@pytest.mark.parametrize("nbytes", [1024, 5120, 65_536, 1 << 20])
def test_trimmed_memory_is_the_systems_again(run_program: Any, nbytes: int) -> None:
    assert run_program(TRIM_AND_RSS.format(nbytes=nbytes)).stdout == "True True\n"


def test_threads_trim_and_use_a_pool_at_once(threads: Any) -> None:
    pool = BufferPool(zero=True)
    over = threading.Event()

    def use(nbytes: int) -> None:
        for _ in range(300):
            buffers = [pool.acquire(nbytes) for _ in range(10)]
            for mark, buffer in enumerate(buffers):
                assert not any(buffer[:16])
                buffer[:] = bytes([mark + 1]) * nbytes
            for mark, buffer in enumerate(buffers):
                assert buffer[nbytes - 1] == mark + 1
                buffer.release()

    def trim() -> None:
        while not over.is_set():
            assert pool.trim() >= 0
            stats = pool.stats()
            assert stats.in_use + stats.cached == stats.reserved

    threads.start(trim)
    users = [threads.start(use, nbytes) for nbytes in (100, 5000, 65_536)]
    for user in users:
        user.join(60)
    over.set()
    threads.join()
    assert pool.stats().in_use == 0
    assert pool.trim() == pool.stats().reserved_peak or pool.stats().reserved == 0


# The clock


IDLE = """
import threading, time
import penstock

pool, limited, warmed = penstock.BufferPool(), penstock.BufferPool(64 << 20), penstock.BufferPool()
pools = (pool, limited, warmed)

def use():
    for one in pools:
        for nbytes in (64, 1000, 65_536, 1 << 20):
            for buffer in [one.acquire(nbytes) for _ in range(20)]:
                buffer.release()

use()
penstock.go(use).result()
warmed.warm(4096, 10)
kept = pool.acquire(5000)
assert all(one.stats().cached > 20 << 20 for one in pools)
nothing = threading.Event()
for _ in range(600):  # nobody uses a pool from here on
    nothing.wait(0.05)
    if [one.stats().reserved for one in pools] == [5120, 0, 40_960]:
        print("idle")
        break
else:
    print([one.stats() for one in pools])
assert [one.stats().cached for one in pools] == [0, 0, 40_960]
"""


def test_a_program_that_goes_idle_gives_memory_back_but_for_what_was_warmed(run_program: Any) -> None:
    assert run_program(IDLE).stdout == "idle\n"


WITHOUT_RUNTIME = """
import threading
import penstock

pool = penstock.BufferPool()
for buffer in [pool.acquire(1 << 20) for _ in range(20)]:
    buffer.release()
del buffer
assert pool.stats().cached == 20 << 20
nothing = threading.Event()
for _ in range(600):
    nothing.wait(0.05)
    pool.acquire(300_000).release()  # the slow way
    if pool.stats().reserved <= 320 << 10:
        print("trimmed")
        break
"""


def test_without_a_runtime_memory_goes_back_when_the_pool_is_used(run_program: Any) -> None:
    assert run_program(WITHOUT_RUNTIME).stdout == "trimmed\n"
