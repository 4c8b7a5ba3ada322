"""Buffers against a plain model: what was lent holds what was written until it comes back."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from penstock import Buffer, BufferPool

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


@dataclass(eq=False)
class Loan:
    """A buffer, what is in it, and who uses it."""

    buffer: Buffer | None
    content: bytes
    views: list[memoryview] = field(default_factory=list)
    released: bool = False

    @property
    def out(self) -> bool:
        return bool(self.views) or not (self.released or self.buffer is None)


class Buffers(RuleBasedStateMachine):
    """Memory is out while its buffer is not released or an export is left, and out once at most."""

    loans = Bundle("loans")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BufferPool()
        self.out: list[Loan] = []
        self.mark = 0

    def mark_next(self, nbytes: int) -> bytes:
        self.mark = self.mark % 255 + 1
        return bytes([self.mark]) * nbytes

    @rule(target=loans, nbytes=SIZES)
    def acquire(self, nbytes: int) -> Loan:
        buffer = self.pool.acquire(nbytes)
        assert len(buffer) == nbytes
        loan = Loan(buffer, self.mark_next(nbytes))
        buffer[:] = loan.content
        self.out.append(loan)
        return loan

    @rule(loan=loans)
    def export(self, loan: Loan) -> None:
        if loan.buffer is None:
            return
        if loan.released:
            with pytest.raises(ValueError, match="released"):
                memoryview(loan.buffer)
        else:
            loan.views.append(memoryview(loan.buffer))

    @rule(loan=loans)
    def write(self, loan: Loan) -> None:
        if loan.views:
            loan.content = self.mark_next(len(loan.content))
            loan.views[-1][:] = loan.content

    @rule(loan=loans)
    def end_export(self, loan: Loan) -> None:
        if loan.views:
            loan.views.pop(0).release()

    @rule(loan=loans)
    def release(self, loan: Loan) -> None:
        if loan.buffer is None:
            return
        if loan.views and not loan.released:
            with pytest.raises(BufferError):
                loan.buffer.release()
        else:
            loan.buffer.release()
            loan.released = True

    @rule(loan=loans, fails=st.booleans())
    def leave_with(self, loan: Loan, fails: bool) -> None:
        if loan.buffer is None or loan.released:
            return
        expected: type[Exception]
        expected = KeyError if fails else BufferError
        if fails or loan.views:
            with pytest.raises(expected), loan.buffer:
                if fails:
                    raise KeyError
        else:
            with loan.buffer:
                pass
        loan.released = True

    @rule(target=loans, loan=consumes(loans))
    def drop(self, loan: Loan):  # type: ignore[no-untyped-def]
        loan.buffer = None
        gc.collect(0)
        return loan if loan.views else multiple()

    @invariant()
    def what_is_out_holds_what_was_written(self) -> None:
        self.out = [loan for loan in self.out if loan.out]
        for loan in self.out:
            if loan.views:
                assert loan.views[0] == loan.content
            else:
                assert loan.buffer == loan.content

    @invariant()
    def the_books_balance(self) -> None:
        stats = self.pool.stats()
        assert stats.in_use + stats.cached == stats.reserved <= stats.reserved_peak
        assert stats.in_use == sum(class_bytes(len(loan.content)) for loan in self.out if loan.out)


Buffers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBuffers = Buffers.TestCase
