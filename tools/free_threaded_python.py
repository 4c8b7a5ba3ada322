#!/usr/bin/env python3
"""Build a free-threaded CPython 3.14 once and print the path of its interpreter.

The source is Debian's, from the mirror that this machine's own apt configuration names, checked
against the SHA-256 of Debian's signed package description. Nothing is installed outside the cache
folder, and no root is needed unless the C libraries' headers are missing.

The cache is ``$PENSTOCK_CACHE``, else ``$XDG_CACHE_HOME/penstock``, else ``~/.cache/penstock``: always
outside a checkout, so that a clean clone finds what an earlier one built.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

SERIES = "3.14"
SOURCES = {  # version: SHA-256 of Debian's orig.tar.xz, the one we test first
    "3.14.7": "3b48dac8fb59f62eaa67ac83c1eb12bda1b7a08406dd286e252c11a66be27f81",
    "3.14.8": "c2215904f02b175596dc49351585104f4bc20341e1c47378b26a2c274360ce73",
    "3.14.10": "de414a57119abef52784d8993e341d53aed635fc2b05c2607d9f98a2c5b72032",
    "3.14.6": "143b1dddefaec3bd2e21e3b839b34a2b7fb9842272883c576420d605e9f30c63",
}
BUILD_PACKAGES = (
    "build-essential",
    "ca-certificates",
    "libbz2-dev",
    "libffi-dev",
    "liblzma-dev",
    "libreadline-dev",
    "libsqlite3-dev",
    "libssl-dev",
    "pkg-config",
    "uuid-dev",
    "xz-utils",
    "zlib1g-dev",
)


def say(message: str) -> None:
    print(f"free_threaded_python: {message}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    if named := os.environ.get("PENSTOCK_CACHE"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "penstock"


def interpreter(prefix: Path) -> Path:
    return prefix / "bin" / f"python{SERIES}t"


def is_complete(python: Path) -> bool:
    """Whether ``python`` is a free-threaded build that has the modules the suite imports."""
    if not python.exists():
        return False
    probe = "import bz2, ctypes, lzma, sqlite3, ssl, sys; raise SystemExit(sys._is_gil_enabled())"
    return subprocess.run([python, "-X", "gil=0", "-c", probe], check=False).returncode == 0


def debian_mirror() -> str:
    """The archive that this machine's apt uses for Debian itself (not security, not others)."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    sites = [line.split(" ", 1)[0] for line in listed.splitlines() if line.endswith(" Debian Debian")]
    if not sites:
        raise SystemExit("free_threaded_python: apt names no Debian mirror; run 'apt-get update' first")
    return sites[0].rstrip("/")


def install_build_packages() -> None:
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *BUILD_PACKAGES],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    present = {line.split()[0] for line in query.splitlines() if line.endswith("ok installed")}
    missing = [name for name in BUILD_PACKAGES if name not in present]
    if not missing:
        return
    say(f"installing {' '.join(missing)}")
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, "apt-get", "update", "-q"], check=True, stdout=sys.stderr)
    subprocess.run(
        [*sudo, "apt-get", "install", "-qy", "--no-install-recommends", *missing],
        check=True,
        stdout=sys.stderr,
    )


def fetch_source(work: Path) -> Path:
    """Download one of ``SOURCES`` from the pool of this machine's mirror, check it and unpack it."""
    pool = f"{debian_mirror()}/pool/main/p/python{SERIES}"
    for version, sha256 in SOURCES.items():
        url = f"{pool}/python{SERIES}_{version}.orig.tar.xz"
        try:
            with urllib.request.urlopen(url, timeout=120) as reply:
                content = reply.read()
        except urllib.error.HTTPError as error:
            say(f"{url}: {error}")  # a pool keeps a few releases only: try the next one
            continue
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SystemExit(f"free_threaded_python: {url} does not have the SHA-256 {sha256}")
        say(f"unpacking CPython {version}")
        archive = work / "source.tar.xz"
        archive.write_bytes(content)
        source = work / "source"
        source.mkdir()
        subprocess.run(["tar", "-xJf", archive, "-C", source, "--strip-components=1"], check=True)
        return source
    raise SystemExit(f"free_threaded_python: {pool} has none of {', '.join(SOURCES)}")


def build(prefix: Path) -> None:
    install_build_packages()
    with tempfile.TemporaryDirectory(prefix="penstock-cpython-") as folder:
        source = fetch_source(Path(folder))
        staged = prefix.with_suffix(".partial")
        shutil.rmtree(staged, ignore_errors=True)
        say("configuring and compiling (about six minutes on two cores)")
        configure = ["./configure", "-q", "--disable-gil", "--with-ensurepip=install", f"--prefix={prefix}"]
        subprocess.run(configure, check=True, cwd=source, stdout=sys.stderr)
        jobs = str(len(os.sched_getaffinity(0)))
        subprocess.run(["make", "-s", "-j", jobs], check=True, cwd=source, stdout=sys.stderr)
        # Installed aside and renamed, so that a build that was interrupted is never taken for a finished one.
        install = ["make", "-s", f"DESTDIR={staged}", "install"]
        subprocess.run(install, check=True, cwd=source, stdout=sys.stderr)
        shutil.rmtree(prefix, ignore_errors=True)
        (staged / prefix.relative_to("/")).rename(prefix)
        shutil.rmtree(staged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--find", action="store_true", help="print the path if it is built, else exit 1")
    arguments = parser.parse_args()
    cache = cache_folder()
    prefix = cache / f"cpython-{SERIES}t"
    python = interpreter(prefix)
    if arguments.find:
        if not is_complete(python):
            raise SystemExit(1)
        print(python)
        return
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"cpython-{SERIES}t.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second waits and finds it done
        if not is_complete(python):
            build(prefix)
        if not is_complete(python):
            raise SystemExit(f"free_threaded_python: {python} was built but does not work")
    print(python)


if __name__ == "__main__":
    main()
