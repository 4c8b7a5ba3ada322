"""The command line: how a program runs under ``penstock run``, and every way it can end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Protocol

import pytest
from penstock import cli, topology

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 60.0  # only a hang takes this long
pytestmark = pytest.mark.thread_unsafe(
    reason="runs programs in processes of their own, or sets what a process has once"
)


class Write(Protocol):
    """Writes a program and returns its path."""

    def __call__(self, source: str, name: str = ...) -> Path: ...


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_program(source: str, name: str = "program.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    return write_program


def penstock(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-m", "penstock", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, cwd=cwd)


def summaries(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("penstock: ")]


@pytest.fixture
def started(write: Write) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes a test started; none outlives it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with process:
            process.kill()


def start(program: Path, started: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Starts a program and returns when it has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "run", str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_version_tells_how_this_build_runs() -> None:
    ended = penstock("--version")
    assert ended.returncode == 0, ended.stderr
    gil = "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"
    python = re.escape(".".join(map(str, sys.version_info[:3])))
    pattern = (
        rf"penstock \d+\.\d+\.\S+ \(CPython {python}\S*, GIL {gil}, (release|debug) build, "
        r"[1-9]\d* workers?, [1-9]\d* nodes?\)\n"
    )
    assert re.fullmatch(pattern, ended.stdout), ended.stdout
    assert ended.stderr == ""


def test_topology_prints_what_describe_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["topology"]) == 0
    assert capsys.readouterr().out == topology.describe() + "\n"


@pytest.mark.parametrize("arguments", [[], ["run"], ["no-such-command"]])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str]) -> None:
    ended = penstock(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: penstock")


def test_main_runs_as_a_task_and_a_summary_ends_the_run(write: Write) -> None:
    ended = penstock(
        "run",
        write(
            """
            import threading
            import penstock

            def main():
                assert threading.current_thread() is not threading.main_thread()
                print(penstock.go(sum, [1, 2]).result())
            """
        ),
    )
    assert (ended.returncode, ended.stdout) == (0, "3\n"), ended.stderr
    assert re.fullmatch(
        r"penstock: 2 tasks, \d+ parks, \d+ steals on \d+ workers? in \d+\.\d+ s\n", ended.stderr
    )


def test_an_async_main_is_awaited(write: Write) -> None:
    ended = penstock(
        "run",
        write(
            """
            import penstock

            async def main():
                await penstock.asleep(0)
                print(await penstock.go(sum, [1, 2]))
            """
        ),
    )
    assert (ended.returncode, ended.stdout) == (0, "3\n"), ended.stderr


def test_the_program_sees_its_name_arguments_and_folder(write: Write) -> None:
    write("VALUE = 'from beside'", name="folder/beside_program.py")
    program = write(
        """
        import os, sys
        import beside_program

        def main():
            print(__name__, os.path.isabs(__file__), os.path.basename(__file__))
            print(sys.argv)
            print(os.path.samefile(sys.path[0], os.path.dirname(__file__)), beside_program.VALUE)
        """,
        name="folder/program.py",
    )
    ended = penstock("run", "folder/program.py", "--help", "--", "-x", cwd=program.parent.parent)
    assert ended.stdout.splitlines() == [
        "__penstock__ True program.py",
        "['folder/program.py', '--help', '--', '-x']",
        "True from beside",
    ], ended.stderr
    assert not (program.parent / "__pycache__" / f"program.{sys.implementation.cache_tag}.pyc").exists()


def test_the_folder_of_a_linked_program_is_that_of_the_file(write: Write, tmp_path: Path) -> None:
    write("VALUE = 'from beside'", name="folder/beside_program.py")
    program = write(
        """
        import beside_program

        def main():
            print(beside_program.VALUE)
        """,
        name="folder/program.py",
    )
    link = tmp_path / "link"
    link.symlink_to(program)
    ended = penstock("run", link)
    assert ended.stdout == "from beside\n", ended.stderr


def test_the_program_is_a_module_that_others_can_look_up(write: Write) -> None:
    ended = penstock(
        "run",
        write(
            """
            import dataclasses, inspect, pickle, sys, typing

            @dataclasses.dataclass
            class Point:
                x: "int"

            def main():
                assert pickle.loads(pickle.dumps(Point(1))) == Point(1)
                assert pickle.loads(pickle.dumps(main)) is main
                assert typing.get_type_hints(Point) == {"x": int}
                assert inspect.getsource(Point).startswith("@dataclasses.dataclass")
                assert inspect.getmodule(main) is sys.modules["__penstock__"]
                assert not typing.get_type_hints(annotated)["x"] is str
                print("found")

            def annotated(x: int): ...

            assert annotated.__annotations__ == {"x": int}, "the command's future import got here"
            """
        ),
    )
    assert (ended.returncode, ended.stdout) == (0, "found\n"), ended.stderr


@pytest.mark.parametrize(
    ("call", "status", "stderr"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('the reason')", 1, "the reason\n"),
        ("raise SystemExit(True)", 1, ""),
    ],
)
@pytest.mark.parametrize("where", ["main", "module"])
def test_system_exit_sets_the_status(write: Write, call: str, status: int, stderr: str, where: str) -> None:
    source = f"import sys\ndef main():\n    {call}\n" if where == "main" else f"import sys\n{call}\n"
    ended = penstock("run", write(source))
    without_summary = "".join(
        line for line in ended.stderr.splitlines(keepends=True) if not line.startswith("penstock: ")
    )
    assert (ended.returncode, without_summary) == (status, stderr)
    assert len(summaries(ended.stderr)) == (1 if where == "main" else 0)


def test_an_exception_prints_the_traceback_of_the_program_alone(write: Write) -> None:
    program = write(
        """
        def inner():
            raise ValueError("the reason")

        def main():
            inner()
        """
    )
    ended = penstock("run", program)
    assert ended.returncode == 1
    files = re.findall(r'File "([^"]+)", line \d+, in (\w+)', ended.stderr)
    assert files == [(str(program), "main"), (str(program), "inner")], ended.stderr
    assert '    raise ValueError("the reason")\n' in ended.stderr
    assert "\nValueError: the reason\n" in ended.stderr
    assert len(summaries(ended.stderr)) == 1


def test_the_traceback_of_a_group_shows_the_program_alone(write: Write) -> None:
    program = write(
        """
        import penstock

        def child():
            try:
                [].pop()
            except IndexError as error:
                closed = penstock.Channel(1)
                closed.close()
                try:
                    closed.send(1)
                except penstock.ChannelClosed:
                    raise RuntimeError("in the child") from error

        def main():
            with penstock.Group() as group:
                group.go(child)
        """
    )
    ended = penstock("run", program)
    assert ended.returncode == 1
    assert "in the child" in ended.stderr
    assert "IndexError" in ended.stderr
    assert set(re.findall(r'File "([^"]+)"', ended.stderr)) == {str(program)}, ended.stderr


def test_an_exception_of_the_module_itself_fails_the_run(write: Write) -> None:
    program = write("1 / 0\n")
    ended = penstock("run", program)
    assert ended.returncode == 1
    assert re.findall(r'File "([^"]+)"', ended.stderr) == [str(program)], ended.stderr
    assert "ZeroDivisionError" in ended.stderr


def test_a_syntax_error_shows_the_line_and_nothing_else(write: Write) -> None:
    program = write("x = (\n")
    ended = penstock("run", program)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f'  File "{program}", line 1\n    x = (\n'), ended.stderr
    assert "SyntaxError: '(' was never closed" in ended.stderr


def test_the_programs_own_excepthook_is_asked(write: Write) -> None:
    ended = penstock(
        "run",
        write(
            """
            import sys
            sys.excepthook = lambda kind, error, traceback: print("hook", kind.__name__, traceback.tb_lineno)

            def main():
                raise KeyError("x")
            """
        ),
    )
    assert (ended.returncode, ended.stdout) == (1, "hook KeyError 6\n"), ended.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [("x = 1\n", "defines no main()"), ("main = 3\n", "has a main that is not callable: 3")],
)
def test_a_program_without_main_is_an_error_that_says_so(write: Write, source: str, said: str) -> None:
    ended = penstock("run", write(source))
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "program.py" in ended.stderr


def test_a_file_that_cannot_be_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    missing = penstock("run", tmp_path / "missing.py")
    assert missing.returncode == 2
    assert "missing.py': No such file or directory" in missing.stderr
    folder = penstock("run", tmp_path)
    assert folder.returncode == 2
    assert "Is a directory" in folder.stderr


def test_ctrl_c_cancels_main_which_may_clean_up(write: Write, started: list[subprocess.Popen[str]]) -> None:
    program = write(
        """
        import penstock

        def child(never):
            try:
                never.recv()
            except penstock.Cancelled:
                print("child cancelled")
                raise

        def main():
            never = penstock.Channel(1)
            try:
                with penstock.Group() as group:
                    group.go(child, never)
                    print("ready")
            finally:
                penstock.sleep(0.01)  # clean-up may wait
                print("cleaned up")
        """
    )
    process = start(program, started)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, stderr
    assert stdout in {"child cancelled\ncleaned up\n", "cleaned up\n"}  # the child may not have started
    assert "Traceback" not in stderr
    assert len(summaries(stderr)) == 1


def test_ctrl_c_cancels_an_async_main(write: Write, started: list[subprocess.Popen[str]]) -> None:
    program = write(
        """
        import penstock

        async def main():
            print("ready")
            try:
                await penstock.asleep(3600)
            finally:
                print("cleaned up")
        """
    )
    process = start(program, started)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stdout) == (130, "cleaned up\n"), stderr


def test_a_second_ctrl_c_leaves_at_once(write: Write, started: list[subprocess.Popen[str]]) -> None:
    program = write(
        """
        import penstock

        def main():
            print("ready")
            try:
                penstock.sleep(3600)
            finally:
                print("cleaning up")
                penstock.sleep(3600)
        """
    )
    process = start(program, started)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning up\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, stderr
    assert stderr == ""


def test_ctrl_c_while_the_module_runs_ends_it(write: Write, started: list[subprocess.Popen[str]]) -> None:
    process = start(write("import time\nprint('ready')\ntime.sleep(3600)\n"), started)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 130


def test_an_exception_of_the_clean_up_is_shown(write: Write, started: list[subprocess.Popen[str]]) -> None:
    program = write(
        """
        import penstock

        def main():
            print("ready")
            try:
                penstock.sleep(3600)
            finally:
                raise OSError("disk full")
        """
    )
    process = start(program, started)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "OSError: disk full" in stderr
