#!/usr/bin/env python3
"""Boot a machine with two NUMA nodes in QEMU and check where the workers of a runtime and pooled buffers are.

Run with an interpreter that has penstock installed: that one goes into the guest, with its standard library,
penstock and greenlet, as an initial RAM disk, whose first program is ``GUEST`` below. Kernel and emulator are
Debian's, fetched by ``apt-get download`` into the cache of ``free_threaded_python.py`` and unpacked there.
Nothing is installed. The processor is emulated, so that it runs anywhere; nothing in it is about time.

Exits with 0 if the guest says that all is well, with 77 if there is no emulator to be had.
"""

from __future__ import annotations

import fcntl
import io
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

SKIPPED = 77
CONFIRMED = "the guest confirms: each worker and each buffer is where it belongs"
LEFT_OUT = re.compile(
    r"^(test|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|config-.*|__pycache__)$"
)
PACKAGES = ("penstock", "greenlet")

GUEST = """#!{python} -Iu
import ctypes, os, sys, threading
sys.path += {paths!r}
libc = ctypes.CDLL(None, use_errno=True)
try:
    for kind, at in (("proc", "/proc"), ("sysfs", "/sys")):
        os.makedirs(at, exist_ok=True)
        if libc.mount(kind.encode(), at.encode(), kind.encode(), 0, None):
            raise OSError(ctypes.get_errno(), f"cannot mount {{kind}}")
    import penstock

    nodes = penstock.Topology.detect().nodes
    assert [(node.id, node.cpus) for node in nodes] == [(0, [0, 1]), (1, [2, 3])], nodes
    assert [node.distances for node in nodes] == [{{0: 10, 1: 21}}, {{0: 21, 1: 10}}], nodes
    assert all(node.memory > 100 << 20 for node in nodes), nodes

    def where():
        return threading.get_ident(), os.sched_getaffinity(0), libc.sched_getcpu()

    def stay_until_all_run(barrier):
        barrier.wait()
        return where()

    for pin in ("node", "core"):
        with penstock.Runtime(workers=4, pin=pin) as runtime:
            for node in nodes:
                for task in [runtime.spawn(where, node=node.id) for _ in range(50)]:
                    _, mask, cpu = task.result()
                    assert mask <= set(node.cpus) and cpu in mask, (pin, node, mask, cpu)
                    assert pin == "core" or mask == set(node.cpus), (pin, node, mask)
            barrier = threading.Barrier(4)
            tasks = [
                runtime.spawn(stay_until_all_run, (barrier,), node=node.id)
                for node in nodes
                for _ in range(2)
            ]
            found = [task.result() for task in tasks]
            assert len({{thread for thread, _, _ in found}}) == 4, found
            masks = sorted(sorted(mask) for _, mask, _ in found)
            expected = {{"node": [[0, 1], [0, 1], [2, 3], [2, 3]], "core": [[0], [1], [2], [3]]}}
            assert masks == expected[pin], masks
            try:
                runtime.spawn(where, node=2)
                raise AssertionError("there is no node 2")
            except ValueError:
                pass
    assert os.sched_getaffinity(0) == {{0, 1, 2, 3}}, "the main thread is not bound"

    def nodes_of(buffer):
        # Where the pages of a buffer lie that was written to: the kernel's move_pages, which moves none here.
        size = len(buffer)
        view = memoryview(buffer)
        for at in range(0, size, 4096):
            view[at] = 1
        view.release()
        array = (ctypes.c_char * size).from_buffer(buffer)
        first = ctypes.addressof(array) // 4096
        last = (ctypes.addressof(array) + size - 1) // 4096
        del array
        pages = (ctypes.c_void_p * (last - first + 1))(*(page * 4096 for page in range(first, last + 1)))
        found = (ctypes.c_int * len(pages))()
        arguments = (0, ctypes.c_ulong(len(pages)), pages, None, found, 0)
        if libc.syscall(279, *arguments):
            raise OSError(ctypes.get_errno(), "move_pages")
        return set(found)

    def take(pool, node, sizes):
        buffers = [pool.acquire(size) if node is None else pool.acquire(size, node=node) for size in sizes]
        found = [nodes_of(buffer) for buffer in buffers]
        for buffer in buffers:
            buffer.release()
        return found

    sizes = (4096, 65536, 300_000, 4 << 20)
    pool = penstock.BufferPool(numa="auto")
    with penstock.Runtime(workers=4, pin="node") as runtime:
        for _ in range(3):  # new memory first, then what was lent before
            for here in (0, 1):
                # What a worker asks for lies on its node.
                task = runtime.spawn(take, (pool, None, sizes), node=here)
                assert task.result() == [{{here}}] * len(sizes), (here, task.result())
                # What is asked for by node lies there, whoever asks.
                for there in (0, 1):
                    task = runtime.spawn(take, (pool, there, sizes), node=here)
                    assert task.result() == [{{there}}] * len(sizes), (here, there, task.result())
        # Memory that is released on the other node goes home.
        lent = runtime.spawn(pool.acquire, (65536,), node=0).result()
        runtime.spawn(lent.release, node=1).result()
        for here in (0, 1):
            task = runtime.spawn(take, (pool, None, [65536] * 8), node=here)
            assert task.result() == [{{here}}] * 8, (here, task.result())
    for node in (0, 1):
        assert take(pool, node, sizes) == [{{node}}] * len(sizes), node
    print({confirmed!r}, flush=True)
except BaseException:
    import traceback
    traceback.print_exc(file=sys.stdout)
libc.sync()
libc.reboot(0x4321FEDC)  # power off
"""


def say(message: str) -> None:
    print(f"numa_guest: {message}", file=sys.stderr, flush=True)


def debian_packages(folder: Path) -> None:
    """Fetch the emulator with the libraries that are not here, and a kernel; unpack them into ``folder``."""
    listed = subprocess.run(
        ["apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", "qemu-system-x86"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = [line.split()[1].split("_")[0] for line in listed.splitlines() if line.startswith("'")]
    shown = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], check=True, capture_output=True, text=True
    ).stdout
    wanted += re.findall(r"Depends: (linux-image-\S+-cloud-amd64)$", shown, re.MULTILINE)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    packages = partial / "packages"
    packages.mkdir(parents=True)
    # apt checks what it downloads against Debian's signed lists.
    subprocess.run(["apt-get", "download", "-q", *wanted], check=True, cwd=packages, stdout=sys.stderr)
    for package in packages.iterdir():
        subprocess.run(["dpkg", "-x", package, partial], check=True)
    shutil.rmtree(packages)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def libraries(file: Path) -> Iterator[Path]:
    """The shared libraries that an ELF file is loaded with, the loader included."""
    shown = subprocess.run(["ldd", file], check=False, capture_output=True, text=True).stdout
    yield from (Path(path) for path in re.findall(r"(/\S+) \(0x", shown))


def files_of_python() -> Iterator[tuple[Path, Path]]:
    """What the guest needs of this interpreter: where it is, and where it is to be."""
    python = Path(sys.executable).resolve()
    yield python, python
    folders = [Path(sysconfig.get_path("stdlib"))]
    folders += [Path(import_module(name).__path__[0]) for name in PACKAGES]
    for folder in folders:
        for base, below, names in os.walk(folder):
            below[:] = [name for name in below if not LEFT_OUT.match(name)]
            yield from ((Path(base, name).resolve(), Path(base, name)) for name in names)


def initial_disk(init: str) -> bytes:
    """A cpio archive (the kernel's "newc") of the interpreter, with ``init`` as its first program."""
    files: dict[Path, bytes] = {Path("/init"): init.encode()}
    for source, target in files_of_python():
        files[target] = source.read_bytes()
        if files[target].startswith(b"\x7fELF"):
            files |= {library: library.read_bytes() for library in libraries(source)}
    folders = {parent for target in files for parent in target.parents} - {Path("/")}
    entries = [(folder, 0o040755, b"") for folder in sorted(folders)]
    entries += [(file, 0o100755, content) for file, content in files.items()]
    entries.append((Path("/TRAILER!!!"), 0, b""))
    disk = io.BytesIO()
    for number, (path, mode, content) in enumerate(entries, start=1):
        name = os.fsencode(path)[1:] + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        disk.write(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        disk.write(b"\0" * (-disk.tell() % 4))
        disk.write(content)
        disk.write(b"\0" * (-disk.tell() % 4))
    return disk.getvalue()


def boot(system: Path, disk: Path) -> str:
    """Run the guest to its end; what it wrote to its console."""
    libraries = [system / "usr/lib/x86_64-linux-gnu", system / "lib/x86_64-linux-gnu"]
    (kernel,) = system.glob("boot/vmlinuz-*")
    nodes = [
        argument
        for node in (0, 1)
        for argument in (
            *("-object", f"memory-backend-ram,id=memory{node},size=512M"),
            *("-numa", f"node,nodeid={node},memdev=memory{node},cpus={2 * node}-{2 * node + 1}"),
        )
    ]
    command: list[str | Path] = [
        *(system / "usr/bin/qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "4", "-m", "1G"),
        *(*nodes, "-numa", "dist,src=0,dst=1,val=21", "-no-reboot", "-nographic", "-nodefaults"),
        *("-serial", "stdio", "-L", system / "usr/share/qemu", "-L", system / "usr/share/seabios"),
        *("-kernel", kernel, "-initrd", disk, "-append", "console=ttyS0 quiet panic=-1"),
    ]
    environment = {"LD_LIBRARY_PATH": ":".join(map(str, libraries)), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, check=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=600
    )
    return done.stdout.decode(errors="replace")


def main() -> int:
    if platform.machine() != "x86_64" or shutil.which("apt-get") is None:
        say("NEEDS AN x86_64 MACHINE WITH apt: NOTHING WAS CHECKED")
        return SKIPPED
    tool: dict[str, Any] = runpy.run_path(os.fspath(Path(__file__).with_name("free_threaded_python.py")))
    cache: Path = tool["cache_folder"]()
    system = cache / "qemu"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "qemu.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second waits and finds it done
        if not system.exists():
            try:
                debian_packages(system)
            except subprocess.CalledProcessError as error:
                say(f"NO EMULATOR TO BE HAD, NOTHING WAS CHECKED: {error}")
                return SKIPPED
    python = Path(sys.executable).resolve()
    paths = sorted({os.fspath(Path(import_module(name).__path__[0]).parent) for name in PACKAGES})
    guest = GUEST.format(python=python, paths=paths, confirmed=CONFIRMED)
    disk = cache / f"guest-{os.getpid()}.cpio"
    try:
        disk.write_bytes(initial_disk(guest))
        console = boot(system, disk)
    finally:
        disk.unlink(missing_ok=True)
    print(console)
    return 0 if CONFIRMED in console else 1


if __name__ == "__main__":
    sys.exit(main())
