"""`Group`: leaving waits for all, the first failure cancels the rest, and errors come out together."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import sys
import threading
import weakref
from collections.abc import Generator
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Channel, Group, go

LIMIT = 30.0  # seconds; only a hang reaches it


class First(Exception):
    pass


class Second(Exception):
    pass


def raise_(error: BaseException) -> None:
    raise error


# Waiting


def test_leaving_waits_for_all() -> None:
    done: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            penstock.yield_now()
        done.append(i)

    with Group() as group:
        for i in range(100):
            group.go(work, i)
    assert sorted(done) == list(range(100))


def test_go_returns_the_task_and_passes_arguments() -> None:
    with Group() as group:
        task = group.go(int, "ff", base=16)
    assert task.result(timeout=0) == 255


def test_an_empty_group_ends_at_once() -> None:
    with Group():
        pass


def test_a_child_may_start_siblings_while_the_group_waits() -> None:
    done: list[int] = []
    with Group() as group:

        def work(n: int) -> None:
            done.append(n)
            if n:
                group.go(work, n - 1)

        group.go(work, 20)
    assert done == list(range(20, -1, -1))


def test_a_group_works_inside_a_task_and_nests() -> None:
    def outer() -> list[int]:
        results: list[int] = []
        with Group() as one:
            for i in range(3):

                def inner(i: int = i) -> None:
                    with Group() as two:
                        for j in range(3):
                            two.go(results.append, 10 * i + j)

                one.go(inner)
        return sorted(results)

    assert go(outer).result(timeout=LIMIT) == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_async_and_plain_children_mix() -> None:
    channel = Channel[int]()
    with Group() as group:

        async def produce() -> None:
            for i in range(10):
                await channel.asend(i)
            channel.close()

        group.go(produce)
        consumed = group.go(list, channel)
    assert consumed.result(timeout=0) == list(range(10))


# Failure


def test_the_first_failure_cancels_the_rest_and_comes_out_in_a_group() -> None:
    cancelled: list[int] = []
    gate = Channel[None]()

    def wait(i: int) -> None:
        try:
            gate.recv()
        except Cancelled:
            cancelled.append(i)
            raise

    started = Channel[None](10)

    def body(i: int) -> None:
        started.send(None)
        wait(i)

    with pytest.raises(ExceptionGroup) as caught, Group() as group:
        for i in range(10):
            group.go(body, i)
        for _ in range(10):
            started.recv()
        group.go(raise_, First("x"))
    assert [type(error) for error in caught.value.exceptions] == [First]
    assert sorted(cancelled) == list(range(10))


def test_all_failures_come_out() -> None:
    gate = Channel[None]()
    started = Channel[None](1)

    def fails_while_cleaning_up() -> None:
        started.send(None)
        try:
            gate.recv()
        finally:
            raise Second("clean-up")

    with pytest.raises(ExceptionGroup) as caught, Group() as group:
        group.go(fails_while_cleaning_up)
        started.recv()
        group.go(raise_, First("x"))
    assert sorted(type(error).__name__ for error in caught.value.exceptions) == ["First", "Second"]


def test_a_failure_in_the_body_cancels_the_children() -> None:
    gate = Channel[None]()
    with pytest.raises(ExceptionGroup) as caught, Group() as group:
        task = group.go(gate.recv)
        raise First("body")
    assert [type(error) for error in caught.value.exceptions] == [First]
    assert task.cancelled()


@pytest.mark.parametrize("place", ["main", "task"])
def test_a_failure_in_a_child_interrupts_a_blocked_body(place: str) -> None:
    gate = Channel[None]()
    after: list[str] = []

    def run() -> None:
        with Group() as group:
            group.go(raise_, First("child"))
            gate.recv()
            after.append("went on")

    with pytest.raises(ExceptionGroup) as caught:
        if place == "main":
            run()
        else:
            go(run).result(timeout=LIMIT)
    assert [type(error) for error in caught.value.exceptions] == [First]
    assert after == []


def test_the_body_and_a_child_may_both_fail(wait_until: Any) -> None:
    with pytest.raises(ExceptionGroup) as caught, Group() as group:
        child = group.go(raise_, First("child"))
        wait_until(child.done)
        raise Second("body")
    assert {type(error) for error in caught.value.exceptions} == {First, Second}


def test_a_failure_that_is_no_exception_makes_a_base_exception_group() -> None:
    with pytest.raises(BaseExceptionGroup) as caught, Group() as group:
        group.go(sys.exit, 3)
    assert not isinstance(caught.value, ExceptionGroup)
    assert [type(error) for error in caught.value.exceptions] == [SystemExit]


def test_a_childs_own_cancelled_is_no_failure() -> None:
    gate = Channel[None]()
    started = Channel[None](1)

    def wait() -> None:
        started.send(None)
        gate.recv()

    with Group() as group:
        task = group.go(wait)
        other = group.go(int)
        started.recv()
        task.cancel()
    assert task.cancelled()
    assert other.result(timeout=0) == 0


def test_errors_the_group_raised_are_not_reported_again(run_program: Any) -> None:
    run_program(
        """
        import gc, penstock
        def fail():
            raise ValueError("once")
        try:
            with penstock.Group() as group:
                group.go(fail)
        except* ValueError as caught:
            print(len(caught.exceptions))
        del group
        gc.collect()
        """,
        stdout="1\n",
    )


# Cancelled from outside


def test_cancelled_from_outside_the_group_leaves_after_its_children_ended() -> None:
    gate, finish = Channel[None](), Channel[None]()
    log: list[str] = []
    started = Channel[None](1)

    def child() -> None:
        started.send(None)
        try:
            gate.recv()
        finally:
            finish.recv()  # clean-up may block
            log.append("child ended")

    def parent() -> None:
        try:
            with Group() as group:
                group.go(child)
        except Cancelled:
            log.append("group left")
            raise

    task = go(parent)
    started.recv(timeout=LIMIT)
    task.cancel()
    finish.send(None, timeout=LIMIT)
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert log == ["child ended", "group left"]


def test_cancelling_the_task_of_a_nested_group_cancels_all_levels() -> None:
    gate = Channel[None]()
    started = Channel[None](3)
    cancelled: list[int] = []

    def level(n: int) -> None:
        try:
            started.send(None)
            with Group() as group:
                if n:
                    group.go(level, n - 1)
                gate.recv()
        except Cancelled:
            cancelled.append(n)
            raise

    task = go(level, 2)
    for _ in range(3):
        started.recv(timeout=LIMIT)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert sorted(cancelled) == [0, 1, 2]


# limit


def test_limit_bounds_how_many_run_at_once() -> None:
    lock = threading.Lock()
    running, most = [0], [0]

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        for _ in range(3):
            penstock.yield_now()
        with lock:
            running[0] -= 1

    with Group(limit=3) as group:
        tasks = [group.go(work) for _ in range(60)]
    assert all(task.done() for task in tasks)
    assert most[0] <= 3


def test_go_over_the_limit_returns_a_queued_task_at_once() -> None:
    gate = Channel[None]()
    ran: list[int] = []
    with Group(limit=1) as group:
        group.go(gate.recv)
        queued = [group.go(ran.append, i) for i in range(5)]
        assert not any(task.done() for task in queued)
        assert ran == []
        gate.send(None)
    assert ran == list(range(5))


def test_queued_children_never_run_once_the_group_failed() -> None:
    gate = Channel[None]()
    ran: list[int] = []
    with pytest.raises(ExceptionGroup) as caught, Group(limit=1) as group:
        group.go(gate.recv)
        queued = group.go(ran.append, 1)
        raise First("body")
    assert [type(error) for error in caught.value.exceptions] == [First]
    assert queued.cancelled()
    assert ran == []


def test_a_child_that_ends_while_the_group_is_being_cancelled_starts_no_queued_one(wait_until: Any) -> None:
    """`cancel` takes its time with many tasks; one that it has ended must not let another begin."""
    gate = Channel[None]()
    ran: list[int] = []
    with Group(limit=1) as group:
        group.go(gate.recv)
        queued = group.go(ran.append, 1)
        group._state = "cancelled"  # what `cancel` does first
        gate.send(None)
        wait_until(lambda: len(group._tasks) == 1)
        assert not queued.done()
        group.cancel()
    assert queued.cancelled()
    assert ran == []


def test_a_queued_child_that_was_cancelled_makes_room_for_the_next() -> None:
    gate = Channel[None]()
    ran: list[int] = []
    with Group(limit=1) as group:
        group.go(gate.recv)
        queued = [group.go(ran.append, i) for i in range(4)]
        assert queued[0].cancel()
        assert queued[2].cancel()
        gate.send(None)
    assert ran == [1, 3]


def test_many_queued_children_take_time_in_proportion_to_their_number() -> None:
    """Each end once searched the whole queue, and each wait of leaving the whole set: minutes, for so many."""
    done: list[int] = []
    with Group(limit=2) as group:
        for i in range(30_000):
            group.go(done.append, i)
    assert len(done) == 30_000


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"limit.*{limit}"):
        Group(limit=limit)


def test_a_limit_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match="limit"):
        Group(limit="3")  # type: ignore[arg-type]


def test_a_group_shows_its_id_and_state_and_is_neither_copied_nor_pickled() -> None:
    group = Group()
    assert re.fullmatch(r"<penstock\.Group at 0x[0-9a-f]+: new, 0 tasks>", repr(group))
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a Group cannot be pickled or copied: its tasks run"):
            refused(group)
    assert weakref.ref(group)() is group
    gate = Channel[None]()
    with group:
        group.go(gate.recv)
        assert repr(group).endswith(": open, 1 tasks>")
        gate.send(None)
    assert repr(group).endswith(": closed, 0 tasks>")
    with pytest.raises(RuntimeError, match="closed"):
        group.go(int)
    with pytest.raises(RuntimeError, match="once"), group:
        pass


def test_go_of_a_group_refuses_what_go_does_and_leaves_the_group_open() -> None:
    async def work() -> None: ...

    coroutine = work()
    with Group() as group:
        with pytest.raises(TypeError, match="fn must be callable, not 3"):
            group.go(3)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r"go\(fn, \*args\)"):
            group.go(coroutine)  # type: ignore[call-overload]
        assert group.go(int).result(timeout=LIMIT) == 0
    coroutine.close()


def test_go_never_adds_to_a_group_that_has_been_left(threads: Any) -> None:
    """A child that is started at the moment of leaving is waited for, or refused."""
    for _ in range(200):
        ended: list[int] = []
        accepted: list[int] = []
        group = Group()

        def start(group: Group = group, accepted: list[int] = accepted, ended: list[int] = ended) -> None:
            try:
                for i in range(20):
                    group.go(ended.append, i)
                    accepted.append(i)
            except RuntimeError:
                pass

        group.__enter__()
        threads.start(start)
        group.__exit__(None, None, None)
        at_exit = len(ended)
        threads.join()
        assert len(accepted) == at_exit


def test_a_generator_that_is_closed_in_a_group_waits_and_ends() -> None:
    log: list[str] = []
    started = Channel[None]()

    def child() -> None:
        started.send(None)
        try:
            Channel[None]().recv()
        finally:
            log.append("child ended")

    def generate() -> Generator[int]:
        with Group() as group:
            group.go(child)
            started.recv()
            yield 1

    generator = generate()
    assert next(generator) == 1
    generator.close()
    assert log == ["child ended"]


def test_a_coroutine_that_is_closed_in_a_group_cancels_and_does_not_wait(wait_until: Any) -> None:
    children: list[Any] = []

    async def main() -> None:
        async with Group() as group:
            children.append(group.go(Channel[None]().recv))
            await Suspended()

    class Suspended:
        def __await__(self) -> Generator[None]:
            yield None

    coroutine = main()
    coroutine.send(None)
    coroutine.close()
    wait_until(children[0].done)
    assert children[0].cancelled()


def test_a_failure_interrupts_the_body_once_and_never_after_the_group() -> None:
    """The interrupt comes from another thread: it must not reach a wait behind the group."""

    def body() -> None:
        for _ in range(300):
            with pytest.raises(ExceptionGroup), Group() as group:
                group.go(int, "x")
            penstock.yield_now()
            penstock.sleep(0)

    body()
    go(body).result(timeout=LIMIT)


# async with


def test_async_with_waits_for_all_in_asyncio() -> None:
    done: list[int] = []

    async def work(i: int) -> None:
        await penstock.asleep(0)
        done.append(i)

    async def main() -> None:
        beats = 0

        async def heart() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        beating = asyncio.create_task(heart())
        async with Group() as group:
            for i in range(10):
                group.go(work, i)
            group.go(penstock.sleep, 0.1)
        assert beats > 1, "the loop went on while the group waited"
        beating.cancel()

    asyncio.run(main())
    assert sorted(done) == list(range(10))


def test_async_with_waits_for_all_in_an_async_task() -> None:
    async def main() -> list[int]:
        results: list[int] = []
        async with Group() as group:
            for i in range(10):
                group.go(results.append, i)
        return sorted(results)

    assert go(main).result(timeout=LIMIT) == list(range(10))


@pytest.mark.parametrize("place", ["task"])
def test_async_with_a_failing_child_interrupts_the_body(place: str) -> None:
    gate = Channel[None]()

    async def main() -> None:
        async with Group() as group:
            group.go(raise_, First("child"))
            await gate.arecv()

    with pytest.raises(ExceptionGroup) as caught:
        if place == "asyncio":
            asyncio.run(main())
        else:
            go(main).result(timeout=LIMIT)
    assert [type(error) for error in caught.value.exceptions] == [First]


def test_plain_with_in_an_async_task_that_would_wait_names_the_async_form() -> None:
    gate = Channel[None]()

    async def main() -> None:
        child: Any = None
        try:
            with Group() as group:
                child = group.go(gate.recv)
        finally:
            if child is not None:
                child.cancel()

    error = go(main).exception(timeout=LIMIT)
    assert error is not None
    assert "async with" in str(error)
    gate.close()


@pytest.mark.thread_unsafe(reason="replaces a class for as long as it runs")
def test_asyncios_own_cancellation_is_kept_beside_the_groups() -> None:
    """Both cancel the task before it runs on: the group takes back its own only."""
    ready = threading.Event()

    async def body(failing: Channel[None]) -> None:
        async with Group() as group:
            group.go(fails, failing)
            await asyncio.sleep(LIMIT)

    def fails(failing: Channel[None]) -> None:
        failing.recv()
        raise First("child")

    async def main() -> None:
        failing = Channel[None](1)
        task = asyncio.create_task(body(failing))
        await asyncio.sleep(0)
        scopes[0].interrupt()  # as the group does
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ready.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1

    scopes: list[Any] = []
    from penstock import group as module

    class Recording(module._AsyncioScope):
        def __init__(self, task: Any) -> None:
            super().__init__(task)
            scopes.append(self)

    original, module._AsyncioScope = module._AsyncioScope, Recording  # type: ignore[misc]
    try:
        asyncio.run(main())
    finally:
        module._AsyncioScope = original  # type: ignore[misc]


# Ctrl-C

INTERRUPT = """
    import penstock, signal
    gate = penstock.Channel()
    log = []
    started = penstock.Channel(8)
    def child():
        started.send(None)
        try:
            gate.recv()
        finally:
            penstock.sleep(0)
            log.append("child ended")
    def interrupt():
        for _ in range(3):
            started.recv()
        wait_until(lambda: gate.stats().recv_waits >= 3)
        signal.raise_signal(signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with penstock.Group() as group:
            for _ in range(3):
                group.go(child)
    except KeyboardInterrupt:
        log.append("interrupted")
    print(log)
"""


def test_ctrl_c_cancels_the_children_waits_and_raises_keyboard_interrupt(run_program: Any) -> None:
    run_program(INTERRUPT, stdout="['child ended', 'child ended', 'child ended', 'interrupted']\n")


def test_a_second_ctrl_c_leaves_at_once(run_program: Any) -> None:
    run_program(
        """
        import penstock, signal
        gate, never = penstock.Channel(), penstock.Channel()
        def child():
            try:
                gate.recv()
            finally:
                never.recv()
        def interrupt():
            wait_until(lambda: gate.stats().recv_waits == 1)
            signal.raise_signal(signal.SIGINT)
            wait_until(lambda: never.stats().recv_waits == 1)
            signal.raise_signal(signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            with penstock.Group() as group:
                group.go(child)
        except KeyboardInterrupt:
            print("left")
        """,
        stdout="left\n",
    )


def test_a_second_ctrl_c_leaves_nested_groups_at_once_too(run_program: Any) -> None:
    run_program(
        """
        import penstock, signal
        gate, never = penstock.Channel(), penstock.Channel()
        def child():
            try:
                gate.recv()
            finally:
                never.recv()
        def interrupt():
            wait_until(lambda: gate.stats().recv_waits == 3)
            signal.raise_signal(signal.SIGINT)
            wait_until(lambda: never.stats().recv_waits == 1)
            signal.raise_signal(signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            with penstock.Group() as one:
                one.go(child)
                with penstock.Group() as two:
                    two.go(child)
                    with penstock.Group() as three:
                        three.go(child)
        except KeyboardInterrupt:
            print("left")
        """,
        stdout="left\n",
    )


def test_the_first_ctrl_c_waits_also_after_a_deadline(run_program: Any) -> None:
    run_program(
        """
        import penstock, signal
        gate, clean = penstock.Channel(), penstock.Channel()
        log = []
        def child():
            try:
                gate.recv()
            finally:
                try:
                    clean.recv()
                finally:
                    log.append("child ended")
        def interrupt():
            wait_until(lambda: clean.stats().recv_waits == 1)
            signal.raise_signal(signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            with penstock.move_on_after(2) as scope:  # by then the child waits
                with penstock.Group() as group:
                    group.go(child)
        except KeyboardInterrupt:
            log.append(f"interrupted, expired: {scope.expired}")
        print(log)
        """,
        stdout="['child ended', 'interrupted, expired: True']\n",
    )


def test_what_another_signal_handler_raises_cancels_the_children_and_waits(run_program: Any) -> None:
    run_program(
        """
        import penstock, signal
        gate = penstock.Channel()
        log = []
        def child():
            try:
                gate.recv()
            finally:
                penstock.sleep(0.01)
                log.append("child ended")
        def stop(*_):
            sys.exit(3)
        signal.signal(signal.SIGTERM, stop)
        main = threading.get_ident()
        def interrupt():
            wait_until(lambda: gate.stats().recv_waits == 1)
            wait_until(lambda: group._state == "leaving")
            wait_until(lambda: sys._current_frames()[main].f_code.co_name == "__exit__")
            signal.raise_signal(signal.SIGTERM)
        threading.Thread(target=interrupt, daemon=True).start()
        group = penstock.Group()
        try:
            with group:
                group.go(child)
        finally:
            print(log)
        """,
        stdout="['child ended']\n",
        returncode=3,
    )


# In a group that is being cancelled


def test_what_is_started_in_a_cancelled_group_never_runs() -> None:
    ran: list[int] = []

    def body() -> None:
        with Group() as group:
            group.cancel()
            task = group.go(ran.append, 1)
            penstock.yield_now()
        assert task.cancelled()

    go(body).result(timeout=LIMIT)
    body()
    assert ran == []


def test_a_clean_up_starts_nothing_in_a_group_that_was_cancelled_as_it_was_left(wait_until: Any) -> None:
    gate, ran = Channel[None](), list[int]()
    groups: list[Group] = []

    def clean_up(group: Group) -> None:
        try:
            gate.recv()
        finally:
            group.go(ran.append, 1)

    def body() -> None:
        with Group() as group:
            groups.append(group)
            group.go(clean_up, group)

    task = go(body)
    wait_until(lambda: groups and ": leaving," in repr(groups[0]) and gate.stats().recv_waits == 1)
    groups[0].cancel()
    task.result(timeout=LIMIT)
    assert ran == []


def test_a_second_failure_does_not_disturb_the_clean_up_after_the_first() -> None:
    waiting, gate = Channel[None](), Channel[None]()
    log: list[str] = []

    def fails_first() -> None:
        for _ in range(2):
            waiting.recv()
        raise KeyError

    def fails_in_its_clean_up() -> None:
        try:
            waiting.send(None)
            penstock.sleep(LIMIT)
        finally:
            gate.recv()
            int("x")

    def cleans_up() -> None:
        try:
            waiting.send(None)
            penstock.sleep(LIMIT)
        finally:
            gate.send(None)
            for _ in range(20):
                penstock.sleep(0.001)
            log.append("clean")

    def body() -> None:
        with Group() as group:
            group.go(fails_first)
            group.go(fails_in_its_clean_up)
            group.go(cleans_up)

    error = go(body).exception(timeout=LIMIT)
    assert isinstance(error, ExceptionGroup)
    assert [type(one) for one in error.exceptions] == [KeyError, ValueError]
    assert log == ["clean"]
