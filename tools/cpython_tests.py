#!/usr/bin/env python3
"""Print the folder with CPython's own tests for this interpreter, where it came without them.

They are those of Debian's ``libpythonX.Y-testsuite``, which apt downloads and checks; nothing is installed.
What is printed belongs on the ``__path__`` of the interpreter's package ``test``, whose ``support`` stays.

The cache is that of ``free_threaded_python.py``.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SERIES = f"{sys.version_info.major}.{sys.version_info.minor}"
PACKAGE = f"libpython{SERIES}-testsuite"


def download(folder: Path) -> None:
    """Put the package's tests into ``folder``, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="penstock-tests-") as name:
        work = Path(name)
        try:
            subprocess.run(["apt-get", "download", "-q", PACKAGE], check=True, cwd=work, stdout=sys.stderr)
            (archive,) = work.glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, work / "unpacked"], check=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            raise SystemExit(f"cpython_tests: {PACKAGE} is not to be had: {error}") from None
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        shutil.copytree(work / "unpacked/usr/lib" / f"python{SERIES}" / "test", staged, dirs_exist_ok=True)
        try:
            staged.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(staged)


def main() -> None:
    cache: Path = runpy.run_path(str(Path(__file__).with_name("free_threaded_python.py")))["cache_folder"]()
    folder = cache / PACKAGE
    if not folder.exists():
        download(folder)
    print(folder)


if __name__ == "__main__":
    main()
