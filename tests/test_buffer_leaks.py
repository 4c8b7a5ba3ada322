"""What ``PENSTOCK_DEBUG=buffers=LEVEL`` switches on: each in a process of its own, which reads it at import."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

TESTS = str(Path(__file__).parent)
LEVELS = ("off", "simple", "advanced", "paranoid")
SAMPLING = ("simple", "advanced")
# A sample comes after 255 acquisitions at the latest.
SAMPLE = 256

PRELUDE = f"""
import gc, warnings, penstock
from penstock import BufferPool
SAMPLE = {SAMPLE}
pool = BufferPool()

def told(category=ResourceWarning):
    return [warning for warning in seen if warning.category is category]

catcher = warnings.catch_warnings(record=True)
seen = catcher.__enter__()
warnings.simplefilter("always")
"""


def run(run_program: Any, level: str | None, program: str, **options: Any) -> str:
    """What the program prints, with buffers watched at ``level``."""
    # One list for all contexts: what drops the last reference to a buffer may be no task, without the GIL.
    env = {"PYTHON_CONTEXT_AWARE_WARNINGS": "0"}
    if level is not None:
        env["PENSTOCK_DEBUG"] = f"buffers={level}"
    said: str = run_program(PRELUDE + textwrap.dedent(program), env=env, **options).stdout
    return said


# Leaks


@pytest.mark.parametrize("level", [None, *SAMPLING, "paranoid"])
def test_a_buffer_that_is_dropped_without_a_release_is_a_resource_warning_with_its_site(
    run_program: Any, level: str | None
) -> None:
    program = """
        def leak():
            line = sys._getframe().f_lineno + 1
            pool.acquire(1000)
            return line

        lines = {leak() for _ in range(SAMPLE)}
        [line] = lines
        for warning in told():
            message = str(warning.message)
            assert message.startswith(f"a Buffer of 1000 bytes, acquired at <string>:{line}, was never released"), message
            assert repr(warning.source).endswith("1000 bytes, released>"), warning.source
        assert pool.stats().in_use == 0, "the memory goes back at once, although the warnings keep their sources"
        print(1 <= len(told()), len(told()) == SAMPLE)
    """
    every = level == "paranoid"
    assert run(run_program, level, program) == f"True {every}\n"


def test_off_tells_nothing(run_program: Any) -> None:
    program = """
        kept = []
        for _ in range(10 * SAMPLE):
            pool.acquire(10)
            kept.append(pool.acquire(10))
        print(seen, pool._held())
    """
    assert run(run_program, "off", program) == "[] []\n"


def test_one_in_128_is_a_sample_on_average(run_program: Any) -> None:
    program = """
        for _ in range(128 * 400):
            pool.acquire(10)
        print(300 < len(told()) < 500)
    """
    assert run(run_program, "simple", program) == "True\n"


def test_a_program_that_leaks_every_other_buffer_is_not_passed_over(run_program: Any) -> None:
    program = """
        for _ in range(128 * 20):
            pool.acquire(10)
            pool.acquire(20).release()
        print(5 < len(told()))
    """
    assert run(run_program, "simple", program) == "True\n"


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_released_in_any_way_is_no_leak(run_program: Any, level: str) -> None:
    program = """
        for _ in range(SAMPLE):
            pool.acquire(10).release()
            with pool.acquire(10):
                pass
            with pool.scope() as scope:
                scope.acquire(10)  # dropped in a scope, which bounds it
                kept = scope.acquire(10)
            try:
                with pool.acquire(10) as buffer:
                    view = memoryview(buffer)
            except BufferError:
                del buffer  # released; the memory goes back with the view
            assert pool.stats().in_use == 64
            del view
            assert pool.stats().in_use == 0
        print(seen)
    """
    assert run(run_program, level, program) == "[]\n"


def test_a_leak_in_a_cycle_is_told_by_the_collector(run_program: Any) -> None:
    program = """
        class Holder: pass
        gc.disable()
        holder = Holder()
        holder.itself, holder.buffer = holder, pool.acquire(10)
        del holder
        assert not told() and pool.stats().in_use == 64
        gc.collect()
        print(len(told()), pool.stats().in_use)
    """
    assert run(run_program, "paranoid", program) == "1 0\n"


def test_a_buffer_that_only_an_export_kept_is_told_when_that_ends(run_program: Any) -> None:
    program = """
        import numpy
        array = numpy.frombuffer(pool.acquire(8), "u1")
        assert not told()
        del array
        print(len(told()), pool.stats().in_use)
    """
    assert run(run_program, "paranoid", program) == "1 0\n"


def test_a_warning_that_is_an_error_is_unraisable_and_the_memory_goes_back(run_program: Any) -> None:
    program = """
        warnings.simplefilter("error")
        errors = []
        sys.unraisablehook = lambda error: errors.append(str(error.exc_value))
        try:
            raise KeyError
        except KeyError:
            pool.acquire(10)
        print(len(errors), "a Buffer of 10 bytes" in errors[0], pool.stats().in_use)
    """
    assert run(run_program, "paranoid", program) == "1 True 0\n"


def test_an_exception_on_its_way_passes_through_a_leak(run_program: Any) -> None:
    program = """
        def leak():
            buffer = pool.acquire(10)
            raise KeyError("mine")
        try:
            leak()
        except KeyError as error:
            caught = str(error)
        print(caught, len(told()))
    """
    assert run(run_program, "paranoid", program) == "'mine' 1\n"


def test_it_is_silent_unless_warnings_are_on(run_program: Any) -> None:
    program = """
        import penstock
        for _ in range(2000):
            penstock.buffers.acquire(10)
        kept = penstock.buffers.acquire(10)
    """
    for level in LEVELS:
        run_program(program, env={"PENSTOCK_DEBUG": f"buffers={level}"}, stdout="")
    told = run_program(
        program, env={"PENSTOCK_DEBUG": "buffers=paranoid"}, options=("-Walways",), stderr=None
    ).stderr
    assert told.count("ResourceWarning: a Buffer of 10 bytes, acquired at <string>:") == 2001


def test_a_buffer_that_the_warning_brought_back_is_an_ordinary_released_one(run_program: Any) -> None:
    program = """
        import weakref
        buffer = pool.acquire(10)
        reference = weakref.ref(buffer)
        del buffer
        [warning] = told()
        again = warning.source
        assert reference() is again
        seen.clear()
        del warning
        try:
            again[0]
        except ValueError as error:
            print(error)
        again.release()
        del again
        print(reference(), len(told()), pool.stats().in_use)
    """
    assert run(run_program, "paranoid", program) == "the buffer has been released\nNone 0 0\n"


# Sites


@pytest.mark.parametrize("level", ["advanced", "paranoid"])
def test_a_stack_of_several_frames(run_program: Any, level: str) -> None:
    program = """
        class Reader:
            def read(self):
                pool.acquire(10)

        def serve():
            Reader().read()

        for _ in range(SAMPLE):
            serve()
        [line, *stack] = str(told()[0].message).splitlines()
        assert [entry.rpartition(" in ")[2] for entry in stack] == ["Reader.read", "serve", "<module>"], stack
        assert all(entry.startswith("  <string>:") for entry in stack)
        print("ok")
    """
    assert run(run_program, level, program) == "ok\n"


def test_simple_has_no_stack(run_program: Any) -> None:
    program = """
        for _ in range(SAMPLE):
            pool.acquire(10)
        print({str(warning.message).count("\\n") for warning in told()})
    """
    assert run(run_program, "simple", program) == "{0}\n"


def test_the_site_in_tasks_coroutines_and_calls_from_c(run_program: Any) -> None:
    program = """
        import asyncio
        first = sys._getframe().f_lineno
        def task():
            pool.acquire(1)                                      # + 2
        async def coroutine():
            await pool.aacquire(2)                               # + 4
        async def in_loop():
            await asyncio.wait_for(kept(pool.aacquire(3)), 60)   # + 6
        async def kept(call):
            return await call
        penstock.go(task).result(60)
        penstock.go(coroutine).result(60)
        asyncio.run(in_loop())
        list(map(pool.acquire, [4]))                             # + 12
        gc.collect()
        for warning in told():
            words = str(warning.message).split()
            print(words[3], int(words[7].strip(",").rpartition(":")[2]) - first)
    """
    assert sorted(run(run_program, "paranoid", program).splitlines()) == ["1 2", "2 4", "3 6", "4 12"]


def test_a_waiting_acquire_is_watched_like_any(run_program: Any) -> None:
    program = """
        pool = BufferPool(max_bytes=4096)
        full = pool.acquire(4096)
        def wait():
            pool.acquire(100)
        async def await_():
            await pool.aacquire(100)
        tasks = [penstock.go(wait), penstock.go(await_)]
        for task in tasks:
            try:
                task.result(0.01)  # that they wait is likely, and it is right if they do not
            except TimeoutError:
                pass
        full.release()
        for task in tasks:
            task.result(60)
        # Without the GIL the last reference may go a moment later, on the thread that made the object.
        wait_until(lambda: len(told()) == 2)
        print(pool.stats().in_use)
    """
    assert run(run_program, "paranoid", program) == "0\n"


# What is out


def test_held_lists_the_samples_that_are_out_the_longest_first(run_program: Any) -> None:
    program = """
        import numpy
        line = sys._getframe().f_lineno + 1
        buffers = [pool.acquire(1000 + number) for number in range(5)]
        other = BufferPool().acquire(10)
        held = pool._held()
        assert [entry[0] for entry in held] == [numpy.frombuffer(b, "u1").ctypes.data for b in buffers]
        assert [entry[1] for entry in held] == [1000, 1001, 1002, 1003, 1004]
        assert {entry[2] for entry in held} == {f"<string>:{line}"}
        seconds = [entry[3] for entry in held]
        assert seconds == sorted(seconds, reverse=True) and 0 <= seconds[-1] and seconds[0] < 60
        buffers[1].release()
        with buffers[2]:
            pass
        del buffers[3]
        assert [entry[1] for entry in pool._held()] == [1000, 1004]
        view = memoryview(buffers[0])
        try:
            with buffers[0]:
                pass
        except BufferError:
            pass
        assert [entry[1] for entry in pool._held()] == [1000, 1004]
        view.release()
        print([entry[1] for entry in pool._held()])
        buffers[-1].release()
        other.release()
    """
    assert run(run_program, "paranoid", program) == "[1004]\n"


@pytest.mark.parametrize("level", [None, *SAMPLING])
def test_held_has_the_samples_of_each_thread(run_program: Any, level: str | None) -> None:
    program = """
        kept = []
        def work():
            kept.extend(pool.acquire(10) for _ in range(2 * SAMPLE))
        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(4 <= len(pool._held()) < 100)
        for buffer in kept:
            buffer.release()
        print(pool._held(), seen)
    """
    assert run(run_program, level, program) == "True\n[] []\n"


# Writes after a release


WRITES = """
import ctypes
def pointer(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))

def write(address, data):
    ctypes.memmove(address, data, len(data))

def warned():
    return [str(warning.message) for warning in told(RuntimeWarning)]
"""


@pytest.mark.parametrize("nbytes", [1, 64, 1000, 5000, 65_536, 1 << 20])
@pytest.mark.parametrize("zero", [False, True])
def test_a_write_after_a_release_is_told_when_the_slot_is_lent_again(
    run_program: Any, nbytes: int, zero: bool
) -> None:
    program = f"""
        pool = BufferPool(zero={zero})
        def first():
            return pool.acquire({nbytes})
        line = sys._getframe().f_lineno - 1
        for at in (0, {nbytes // 2}, {nbytes - 1}):
            buffer = first()
            address = pointer(buffer)
            buffer.release()
            write(address + at, b"x")
            buffer = pool.acquire({nbytes})
            assert pointer(buffer) == address
            [message] = warned()
            seen.clear()
            assert f"a Buffer of {nbytes} bytes, acquired at <string>:{{line}}, was written to" in message, message
            assert f" {{at}} bytes from its start" in message, message
            if {zero}:
                assert bytes(buffer) == bytes({nbytes})
            buffer.release()
            pool.acquire({nbytes}).release()
            assert not seen  # what was told once is over
        print("ok")
    """
    assert run(run_program, "paranoid", WRITES + textwrap.dedent(program)) == "ok\n"


def test_a_write_after_a_release_that_is_an_error_gives_nothing_away(run_program: Any) -> None:
    program = """
        buffer = pool.acquire(100)
        address = pointer(buffer)
        buffer.release()
        write(address, b"x")
        warnings.simplefilter("error")
        try:
            pool.acquire(100)
        except RuntimeWarning as error:
            assert "was written to after its release" in str(error)
        print(pool.stats().in_use, pool._held())
        pool.acquire(100).release()
    """
    assert run(run_program, "paranoid", WRITES + textwrap.dedent(program)) == "0 []\n"


@pytest.mark.parametrize("zero", [False, True])
def test_ordinary_use_is_never_taken_for_a_late_write(run_program: Any, zero: bool) -> None:
    """Slots of all sizes, cut from the same pages in turn, with pages given back to the system in between."""
    program = f"""
        import random
        chance = random.Random(1)
        limited = BufferPool(max_bytes=1 << 20, zero={zero})
        free = BufferPool(zero={zero})
        for pool in (limited, free):
            for turn in range(3000):
                size = chance.choice([1, 100, 700, 3000, 5000, 40_000, 66_000, 300_000, 1 << 20])
                kept = []
                for _ in range(chance.randrange(1, 8)):
                    try:
                        kept.append(pool.acquire(size, timeout=0))
                    except TimeoutError:
                        break
                    if {zero}:
                        assert not any(kept[-1][:8])
                    kept[-1][:] = bytes([turn % 256]) * size
                chance.shuffle(kept)
                for buffer in kept:
                    buffer.release()
        print(seen)
    """
    assert run(run_program, "paranoid", program, limit=240) == "[]\n"


def test_a_release_on_another_thread_is_no_late_write(run_program: Any) -> None:
    program = """
        import queue
        todo = queue.SimpleQueue()
        def release():
            while (buffer := todo.get()) is not None:
                buffer.release()
        thread = threading.Thread(target=release)
        thread.start()
        for turn in range(2000):
            buffer = pool.acquire(100)
            buffer[:] = b"a" * 100
            todo.put(buffer)
        todo.put(None)
        thread.join()
        kept = [pool.acquire(100) for _ in range(2000)]
        for buffer in kept:
            buffer.release()
        print(seen)
    """
    assert run(run_program, "paranoid", program) == "[]\n"


def test_a_late_write_to_a_buffer_released_on_another_thread_is_told(run_program: Any) -> None:
    """Behind the first 64 bytes, where the pool may have written itself."""
    program = """
        buffers = [pool.acquire(1000) for _ in range(10)]
        addresses = [pointer(buffer) for buffer in buffers]
        def release():
            for buffer in buffers:
                buffer.release()
        thread = threading.Thread(target=release)
        thread.start()
        thread.join()
        for address in addresses:
            write(address + 500, b"x")
        again = [pool.acquire(1000) for _ in range(100)]
        print(len(warned()))
        for buffer in again:
            buffer.release()
    """
    assert run(run_program, "paranoid", WRITES + textwrap.dedent(program)) == "10\n"


def test_all_that_buffers_do_they_do_with_every_check_on(run_program: Any) -> None:
    """The other tests of buffers, watched at the highest level: late writes in them would be errors."""
    program = f"""
        import pytest
        files = [{TESTS!r} + name for name in ("/model/test_buffers.py", "/test_memory.py")]
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", f"--rootdir={TESTS}/.."]
        sys.exit(pytest.main([*options, *files]))
    """
    run_program(program, env={"PENSTOCK_DEBUG": "buffers=paranoid"}, stderr=None, limit=600)


# The variable


@pytest.mark.parametrize(
    "value", ["buffers", "buffers=", "buffers=some", "buffers=Simple", "buffers=simple=1"]
)
def test_another_level_is_refused_at_import(run_program: Any, value: str) -> None:
    ended = run_program("import penstock", env={"PENSTOCK_DEBUG": value}, returncode=1, stderr=None)
    assert "ValueError: PENSTOCK_DEBUG must be of schedtrace=N" in ended.stderr
    assert "buffers=LEVEL (off, simple, advanced or paranoid)" in ended.stderr
    assert f"this is in it: {value!r}" in ended.stderr


def test_it_goes_together_with_the_others(run_program: Any) -> None:
    program = "import penstock; penstock.buffers.acquire(1); print(len(penstock.buffers._held()))"
    run_program(program, env={"PENSTOCK_DEBUG": "locks, buffers=paranoid"}, stdout="0\n")
