"""`Barrier`: all parties go on, or none."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from collections.abc import Callable
from threading import BrokenBarrierError
from typing import Any

import pytest
from penstock import Barrier, Cancelled, Event, PenstockError, go, move_on_after, yield_now
from penstock.exceptions import BarrierTimeout

LIMIT = 30.0  # seconds; only a hang reaches it
WaitForWaiters = Callable[[object, int], None]


def wait_for_parties(barrier: Barrier, count: int, wait_until: Callable[..., None]) -> None:
    wait_until(lambda: barrier.n_waiting == count)


def test_all_go_on_once_all_have_come(wait_until: Any, threads: Any) -> None:
    barrier = Barrier(4)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (4, 0, False)
    indexes: list[int] = []

    async def coroutine() -> int:
        return await barrier.await_()

    for _ in range(3):  # it can be used again
        first = go(barrier.wait)
        wait_for_parties(barrier, 1, wait_until)
        second = go(coroutine)
        wait_for_parties(barrier, 2, wait_until)
        threads.start(lambda: indexes.append(barrier.wait()))
        wait_for_parties(barrier, 3, wait_until)
        assert barrier.wait() == 3
        assert (first.result(timeout=LIMIT), second.result(timeout=LIMIT)) == (0, 1)
        threads.join()
        assert barrier.n_waiting == 0
    assert indexes == [2, 2, 2]


def test_one_party_waits_for_nobody() -> None:
    barrier = Barrier(1)
    assert barrier.wait() == 0
    assert barrier.wait(timeout=0) == 0

    async def body() -> tuple[int, int]:
        return barrier.wait(), await barrier.await_()  # the plain call need not wait

    assert go(body).result(timeout=LIMIT) == (0, 0)


@pytest.mark.parametrize("last", ["plain", "async"])
def test_the_last_one_calls_the_action_before_the_others_go_on(last: str, wait_until: Any) -> None:
    seen: list[str] = []

    def action() -> None:
        assert barrier.n_waiting == 0
        yield_now()
        seen.append("action")

    barrier = Barrier(3, action)

    def party() -> None:
        barrier.wait()
        seen.append("party")

    async def coroutine() -> None:
        await barrier.await_()
        seen.append("party")

    if last == "async":
        barrier = Barrier(3, action=lambda: seen.append("action"))
    tasks = [go(party)]
    wait_for_parties(barrier, 1, wait_until)
    tasks.append(go(coroutine))
    wait_for_parties(barrier, 2, wait_until)
    tasks.append(go(party if last == "plain" else coroutine))
    for task in tasks:
        task.result(timeout=LIMIT)
    assert seen == ["action", "party", "party", "party"]


def test_an_action_that_raises_breaks_the_barrier(wait_until: Any) -> None:
    def action() -> None:
        raise KeyError("action")

    barrier = Barrier(2, action)
    other = go(barrier.wait)
    wait_for_parties(barrier, 1, wait_until)
    with pytest.raises(KeyError, match="action"):
        barrier.wait()
    with pytest.raises(BrokenBarrierError):
        other.result(timeout=LIMIT)
    assert barrier.broken

    async def coroutine() -> None:
        await Barrier(1, action).await_()

    with pytest.raises(KeyError, match="action"):
        go(coroutine).result(timeout=LIMIT)


def test_who_comes_while_the_action_runs_belongs_to_the_next_round(
    wait_until: Any, wait_for_waiters: WaitForWaiters
) -> None:
    running, go_on = Event(), Event()

    def action() -> None:
        running.set()
        go_on.wait()

    barrier = Barrier(2, action)
    tasks = [go(barrier.wait), go(barrier.wait)]
    running.wait(timeout=LIMIT)
    late = go(barrier.wait)
    go_on.set()
    assert sorted(task.result(timeout=LIMIT) for task in tasks) == [0, 1]
    wait_for_parties(barrier, 1, wait_until)
    assert barrier.wait(timeout=LIMIT) == 1
    assert late.result(timeout=LIMIT) == 0


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_who_waits_is_told_of_an_abort_and_of_a_reset(how: str, wait_until: Any) -> None:
    barrier = Barrier(3)

    async def coroutine() -> None:
        await barrier.await_()

    tasks = [go(barrier.wait), go(coroutine)]
    wait_for_parties(barrier, 2, wait_until)
    getattr(barrier, how)()
    for task in tasks:
        with pytest.raises(BrokenBarrierError):
            task.result(timeout=LIMIT)
    assert barrier.broken is (how == "abort")
    if barrier.broken:
        with pytest.raises(BrokenBarrierError):
            barrier.wait()
        with pytest.raises(BrokenBarrierError):
            go(coroutine).result(timeout=LIMIT)
        barrier.reset()
    tasks = [go(barrier.wait), go(barrier.wait)]
    assert barrier.wait(timeout=LIMIT) in {0, 1, 2}
    for task in tasks:
        task.result(timeout=LIMIT)


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_an_action_may_break_or_reset_its_barrier(how: str) -> None:
    barrier = Barrier(2, action=lambda: getattr(barrier, how)())
    tasks = [go(barrier.wait), go(barrier.wait)]
    for task in tasks:
        with pytest.raises(BrokenBarrierError):
            task.result(timeout=LIMIT)
    assert barrier.broken is (how == "abort")


def test_a_timeout_breaks_the_barrier_for_all(wait_until: Any) -> None:
    barrier = Barrier(3)
    other = go(barrier.wait)
    wait_for_parties(barrier, 1, wait_until)
    with pytest.raises(BarrierTimeout, match="did not come in time") as caught:
        barrier.wait(timeout=0.001)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, BrokenBarrierError)
    assert isinstance(caught.value, PenstockError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(BrokenBarrierError) as told:
        other.result(timeout=LIMIT)
    assert not isinstance(told.value, TimeoutError)
    assert barrier.broken


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_the_timeout_of_the_barrier_holds_for_each_wait_without_one(kind: str, seconds: float) -> None:
    barrier = Barrier(2, timeout=seconds)

    async def coroutine() -> None:
        await barrier.await_()

    with pytest.raises(BarrierTimeout):
        go(barrier.wait if kind == "plain" else coroutine).result(timeout=LIMIT)
    assert barrier.broken
    barrier.reset()
    task = go(barrier.wait, LIMIT)
    assert barrier.wait(timeout=LIMIT) + task.result(timeout=LIMIT) == 1


def test_a_cancelled_party_breaks_the_barrier(wait_until: Any) -> None:
    barrier = Barrier(3)
    gone, stays = go(barrier.wait), go(barrier.wait)
    wait_for_parties(barrier, 2, wait_until)
    gone.cancel()
    with pytest.raises(Cancelled):
        gone.result(timeout=LIMIT)
    with pytest.raises(BrokenBarrierError):
        stays.result(timeout=LIMIT)
    assert barrier.broken


def test_a_deadline_breaks_the_barrier(wait_until: Any) -> None:
    barrier = Barrier(2)
    with move_on_after(0.001) as scope:
        barrier.wait()
    assert scope.expired
    assert barrier.broken


def test_a_party_that_leaves_while_the_action_runs_breaks_the_barrier(wait_until: Any) -> None:
    running, go_on = Event(), Event()

    def action() -> None:
        running.set()
        go_on.wait()

    barrier = Barrier(2, action)
    gone = go(barrier.wait)
    wait_for_parties(barrier, 1, wait_until)
    last = go(barrier.wait)
    running.wait(timeout=LIMIT)
    gone.cancel()
    with pytest.raises(Cancelled):
        gone.result(timeout=LIMIT)
    go_on.set()
    with pytest.raises(BrokenBarrierError):
        last.result(timeout=LIMIT)
    assert barrier.broken


def test_bad_arguments_are_refused() -> None:
    for parties in (0, -1, 2**40):
        with pytest.raises(ValueError, match=rf"parties must be an int from 1 to 2\*\*32 - 1, not {parties}"):
            Barrier(parties)
    with pytest.raises(TypeError, match=r"parties must be an int .*, not 1.5"):
        Barrier(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="action must be None or a plain function, not 3"):
        Barrier(1, action=3)  # type: ignore[arg-type]

    async def action() -> None:
        pass

    with pytest.raises(TypeError, match="action must be None or a plain function, not <function"):
        Barrier(1, action=action)
    with pytest.raises(ValueError, match=r"timeout must be None or a number of seconds >= 0, not -1"):
        Barrier(1, timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        Barrier(2).wait(timeout=-1)


def test_a_plain_call_that_would_have_to_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    barrier = Barrier(2)

    async def body() -> None:
        barrier.wait()

    with pytest.raises(RuntimeError, match=r"await barrier\.await_\(\)"):
        go(body).result(timeout=LIMIT)
    assert (barrier.n_waiting, barrier.broken) == (0, False), "it did not arrive"


def test_a_cycle_through_the_action_is_collected() -> None:
    class Meeting:
        def __init__(self) -> None:
            self.barrier = Barrier(1, self.all_there)

        def all_there(self) -> None:
            pass

    meeting = Meeting()
    meeting.barrier.wait()
    reference = weakref.ref(meeting)
    del meeting
    gc.collect()
    assert reference() is None


def test_the_object(wait_until: Any) -> None:
    barrier = Barrier(2)
    assert re.fullmatch(r"<penstock\.Barrier at 0x[0-9a-f]+: 0/2 waiting>", repr(barrier))
    task = go(barrier.wait)
    wait_for_parties(barrier, 1, wait_until)
    assert repr(barrier).endswith(": 1/2 waiting>")
    barrier.abort()
    assert repr(barrier).endswith(": broken, 0/2 waiting>")
    assert isinstance(task.exception(timeout=LIMIT), BrokenBarrierError)
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Barrier cannot be pickled or copied"):
            refused(barrier)
    assert weakref.ref(barrier)() is barrier


def test_after_a_fork_nobody_has_arrived(run_program: Any) -> None:
    run_program(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from penstock import Barrier, go
        barrier = Barrier(2)
        waiter = go(barrier.wait)
        wait_until(lambda: barrier.n_waiting == 1)
        pid = os.fork()
        if pid == 0:
            assert barrier.n_waiting == 0
            task = go(barrier.wait)
            wait_until(lambda: barrier.n_waiting == 1)
            assert barrier.wait(timeout=5) + task.result(timeout=5) == 1
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print(barrier.wait(timeout=5), waiter.result(timeout=5))
        """,
        stdout="1 0\n",
    )


def test_ctrl_c_in_a_wait_breaks_the_barrier(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import Barrier, go
        barrier = Barrier(3)
        other = go(barrier.wait)
        def interrupt():
            wait_until(lambda: barrier.n_waiting == 2)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            barrier.wait()
        except KeyboardInterrupt:
            print(barrier.broken, type(other.exception(timeout=5)).__name__)
        """,
        stdout="True BrokenBarrierError\n",
    )
