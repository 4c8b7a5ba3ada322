"""Buffers against a plain model: what was lent holds what was written until it comes back.

Whatever ends the use of memory (a release, the end of a ``with`` or of a scope, the last reference, the collector, the
end of an export) happens here or on another thread, in any order. The exports are of several makers, since each keeps
memory in its own way.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from penstock import Buffer, BufferPool, BufferScope, Node, Topology

SIZES = st.one_of(
    st.integers(0, 200),
    st.integers(1000, 9000),
    st.sampled_from([65_536, 65_537, 1 << 20, (1 << 20) + 1]),
)


def class_bytes(nbytes: int) -> int:
    """The contract's arithmetic, by search."""
    if nbytes <= 1024:
        return max(64, -(-nbytes // 64) * 64)
    if nbytes > 1 << 20:
        return -(-nbytes // 4096) * 4096
    start = 1 << ((nbytes - 1).bit_length() - 1)
    step = start // 8
    return -(-nbytes // step) * step


LIMIT = 4 << 20
# No machine has them, so nothing depends on where the test runs.
NODES = [300, 301]
TWO_NODES = Topology([Node(id, [], 0, dict.fromkeys(NODES, 10)) for id in NODES])


class View:
    """An export by a ``memoryview``, which can be ended while there are references to it."""

    def __init__(self, buffer: Buffer) -> None:
        self.view = memoryview(buffer)

    def read(self) -> bytes:
        return bytes(self.view)

    def write(self, content: bytes) -> None:
        self.view[:] = content

    def end(self) -> None:
        self.view.release()


class Slice(View):
    """The same by the buffer's own slice, and seen by a view of the view."""

    def __init__(self, buffer: Buffer) -> None:
        self.first = buffer[:]
        self.view = memoryview(self.first)

    def end(self) -> None:
        self.view.release()
        self.first.release()


class Array:
    """An export by a numpy array, and by one that is a part of it; it ends with them."""

    def __init__(self, buffer: Any) -> None:
        whole = numpy.frombuffer(buffer, "u1")
        self.parts = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]

    def read(self) -> bytes:
        return b"".join(part.tobytes() for part in self.parts)

    def write(self, content: bytes) -> None:
        half = len(content) // 2
        for part, piece in zip(self.parts, (content[:half], content[half:]), strict=True):
            part[:] = numpy.frombuffer(piece, "u1")

    def end(self) -> None:
        self.parts.clear()


class Foreign:
    """An export by ctypes."""

    def __init__(self, buffer: Any) -> None:
        self.box = [(ctypes.c_char * len(buffer)).from_buffer(buffer)]

    def read(self) -> bytes:
        return self.box[0].raw

    def write(self, content: bytes) -> None:
        self.box[0].raw = content

    def end(self) -> None:
        self.box.clear()
        gc.collect(0)  # its memory's owner is in a dict of its own


KINDS: list[type[Any]] = [View, Slice, Array, Foreign]


@dataclass(eq=False)
class Loan:
    """A buffer, what is in it, and who uses it."""

    buffer: Buffer | None
    content: bytes
    scope: BufferScope | None
    exports: list[Any] = field(default_factory=list)
    released: bool = False
    node: int = NODES[0]

    @property
    def out(self) -> bool:
        return bool(self.exports) or not (self.released or self.buffer is None)


class Buffers(RuleBasedStateMachine):
    """Memory is out while its buffer is not released or an export is left, and out once at most."""

    loans = Bundle("loans")
    scopes = Bundle("scopes")

    def __init__(self) -> None:
        super().__init__()
        self.out: list[Loan] = []
        self.mark = 0
        self.other = ThreadPoolExecutor(1)

    def teardown(self) -> None:
        self.other.shutdown()

    @initialize(limited=st.booleans(), zero=st.booleans(), huge_pages=st.booleans())
    def make_pool(self, limited: bool, zero: bool, huge_pages: bool) -> None:
        self.zero = zero
        self.limit = LIMIT if limited else None
        self.pool = BufferPool(self.limit, TWO_NODES, huge_pages, zero)

    def in_use(self, node: int | None = None) -> int:
        return sum(
            class_bytes(len(loan.content))
            for loan in self.out
            if loan.out and (node is None or loan.node == node)
        )

    def mark_next(self, nbytes: int) -> bytes:
        self.mark = self.mark % 255 + 1
        return bytes([self.mark]) * nbytes

    def do(self, elsewhere: bool, action: Callable[[], object]) -> None:
        """Does it here, or on the other thread, and raises what it raised."""
        if elsewhere:
            self.other.submit(action).result(60)
        else:
            action()

    def lend(self, nbytes: int, scope: BufferScope | None, node: int | None = None) -> Loan | None:
        fits = self.limit is None or self.in_use() + class_bytes(nbytes) <= self.limit
        owner = self.pool if scope is None else scope
        try:
            buffer = owner.acquire(nbytes, node, timeout=0)
        except TimeoutError:
            assert not fits
            return None
        assert fits
        assert len(buffer) == nbytes
        if self.zero:
            assert buffer == bytes(nbytes)
        # No CPU is on a node that was made up, so callers are taken to be on the first.
        loan = Loan(buffer, self.mark_next(nbytes), scope, node=NODES[0] if node is None else node)
        buffer[:] = loan.content
        self.out.append(loan)
        return loan

    @rule(target=loans, nbytes=SIZES, node=st.sampled_from([None, *NODES]))
    def acquire(self, nbytes: int, node: int | None) -> Any:
        return self.lend(nbytes, None, node) or multiple()

    @rule(nbytes=st.sampled_from([64, 5000, 65_536, 1 << 20]), count=st.integers(0, 8))
    def warm(self, nbytes: int, count: int) -> None:
        wanted = count * class_bytes(nbytes)
        if self.limit is not None and self.in_use() + wanted > self.limit:
            with pytest.raises(ValueError, match="max_bytes"):
                self.pool.warm(nbytes, count)
        else:
            self.pool.warm(nbytes, count)
            assert self.pool.stats().nodes[0].cached >= wanted

    @rule(elsewhere=st.booleans())
    def trim(self, elsewhere: bool) -> None:
        before = self.pool.stats()
        given: list[int] = []
        self.do(elsewhere, lambda: given.append(self.pool.trim()))
        after = self.pool.stats()
        assert given == [before.reserved - after.reserved]
        assert after.cached == 0 or sys.platform != "linux"

    @rule(target=scopes)
    def open_scope(self) -> BufferScope:
        return self.pool.scope().__enter__()

    @rule(target=loans, scope=scopes, nbytes=SIZES)
    def acquire_in(self, scope: BufferScope, nbytes: int) -> Any:
        return self.lend(nbytes, scope) or multiple()

    @rule(scope=consumes(scopes), elsewhere=st.booleans())
    def end_scope(self, scope: BufferScope, elsewhere: bool) -> None:
        mine = [loan for loan in self.out if loan.scope is scope and loan.out and not loan.released]
        assert scope.escapes() == []
        self.do(elsewhere, lambda: scope.__exit__(None, None, None))
        assert len(scope.escapes()) == sum(bool(loan.exports) for loan in mine)
        for loan in mine:
            loan.released = True
        with pytest.raises(RuntimeError, match="has ended"):
            scope.acquire(1)

    @rule(loan=loans, kind=st.sampled_from(KINDS))
    def export(self, loan: Loan, kind: type[Any]) -> None:
        if loan.buffer is None:
            return
        if loan.released:
            with pytest.raises(ValueError, match="released"):
                memoryview(loan.buffer)
        elif loan.content:
            loan.exports.append(kind(loan.buffer))

    @rule(loan=loans)
    def write(self, loan: Loan) -> None:
        if loan.exports:
            loan.content = self.mark_next(len(loan.content))
            loan.exports[-1].write(loan.content)

    @rule(loan=loans, elsewhere=st.booleans())
    def end_export(self, loan: Loan, elsewhere: bool) -> None:
        if loan.exports:
            self.do(elsewhere, loan.exports.pop(0).end)

    @rule(loan=loans, elsewhere=st.booleans())
    def release(self, loan: Loan, elsewhere: bool) -> None:
        if loan.buffer is None:
            return
        if loan.exports and not loan.released:
            with pytest.raises(BufferError):
                self.do(elsewhere, loan.buffer.release)
        else:
            self.do(elsewhere, loan.buffer.release)
            loan.released = True

    @rule(loan=loans, fails=st.booleans())
    def leave_with(self, loan: Loan, fails: bool) -> None:
        if loan.buffer is None or loan.released:
            return
        expected: type[Exception]
        expected = KeyError if fails else BufferError
        if fails or loan.exports:
            with pytest.raises(expected), loan.buffer:
                if fails:
                    raise KeyError
        else:
            with loan.buffer:
                pass
        loan.released = True

    @rule(target=loans, loan=consumes(loans), how=st.sampled_from(["here", "elsewhere", "in a cycle"]))
    def drop(self, loan: Loan, how: str) -> Any:
        box: list[Any] = [loan.buffer]
        loan.buffer = None
        if how == "in a cycle":
            box.append(box)
            del box
            gc.collect()
        else:
            self.do(how == "elsewhere", box.clear)
            gc.collect(0)
        return loan if loan.exports else multiple()

    @invariant()
    def what_is_out_holds_what_was_written(self) -> None:
        self.out = [loan for loan in self.out if loan.out]
        for loan in self.out:
            for export in loan.exports:
                assert export.read() == loan.content
            if not loan.exports:
                assert loan.buffer == loan.content

    @invariant()
    def the_books_balance(self) -> None:
        stats = self.pool.stats()
        assert stats.in_use + stats.cached == stats.reserved <= stats.reserved_peak
        assert stats.in_use == self.in_use()
        for node in stats.nodes:
            assert node.in_use + node.cached == node.reserved
            assert node.in_use == self.in_use(node.id)
        assert sum(node.reserved for node in stats.nodes) == stats.reserved


Buffers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBuffers = Buffers.TestCase
