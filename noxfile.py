"""One session per check. People and CI run the same names: `nox` runs them all, `nox -s NAME` is one.

The module is compiled once per interpreter and run: each session that needs it installs that wheel, so
what is tested is what ships, never the checkout. Compiled files stay in `target/`, so that a second run
compiles only what changed.

Interpreters are looked for on the PATH, in pyenv's folder and in the cache of
`tools/free_threaded_python.py`. One that is not there is named in capitals and left out, except the
free-threaded build, which is made.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = [  # quick ones first; "pytest" is the suite on every interpreter
    *("rustfmt", "ruff", "typos", "mypy", "pyright", "clippy", "deny"),
    *("cargo_test", "loom", "stubtest", "doctests", "pytest", "package", "instructions", "asv_quick"),
]

ROOT = Path(__file__).parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

FREE_THREADED = "3.14t"
OWN = f"{sys.version_info.major}.{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
"""The interpreter that runs nox: also the one of every check that needs only one."""

WANTED = tuple(dict.fromkeys([OWN, "3.11", "3.13", FREE_THREADED]))
PARALLEL_THREADS = "4"
LOOM_PREEMPTIONS = "3"
"""How many times loom takes a thread off at any point; more finds little and takes hours."""


def group(*names: str) -> tuple[str, ...]:
    """The requirements of dependency groups in pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def is_version(python: Path, version: str) -> bool:
    """Whether `python` runs (a pyenv shim may not) and is what its name says."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2] + sys.abiflags)"
    try:
        reply = subprocess.run([python, "-c", ask], check=False, capture_output=True, text=True)
    except OSError:
        return False
    return reply.returncode == 0 and reply.stdout.strip() == version


def find_interpreter(version: str) -> Path | None:
    """The first interpreter of that version that works."""
    if version == OWN:
        return Path(sys.executable)
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = [Path(folder) / name for folder in os.get_exec_path()]
    installed = sorted(pyenv.glob(f"versions/*/bin/{name}"), reverse=True)
    return next((it for it in [*on_path, *installed, built_here()] if is_version(it, version)), None)


def built_here() -> Path:
    """Where `tools/free_threaded_python.py` puts what it builds."""
    tool = runpy.run_path(str(ROOT / "tools/free_threaded_python.py"))
    python: Path = tool["interpreter"](tool["cache_folder"]() / f"cpython-{FREE_THREADED}")
    return python


INTERPRETERS = {version: path for version in WANTED if (path := find_interpreter(version))}
INTERPRETERS.setdefault(FREE_THREADED, built_here())  # the session below makes it
MISSING = [version for version in WANTED if version not in INTERPRETERS]

wheels: dict[str, Path] = {}


def wheel(session: nox.Session, version: str) -> Path:
    """Compile the module for the session's interpreter, once per run of nox."""
    if not is_version(Path(session.bin) / "python", version):
        session.error(
            f"the environment is not of {version}: `nox --reuse-venv=never -s {session.name}` makes it anew"
        )
    if version not in wheels:
        session.install(*group("build"))
        folder = TARGET / "wheels" / version
        shutil.rmtree(folder, ignore_errors=True)
        # A folder of its own: the bindings' dependencies depend on the interpreter, and would be
        # compiled again at every change from one to the other.
        compiled = TARGET / "python" / version
        session.run(
            *("maturin", "build", "--release", "--locked", "--interpreter", f"{session.bin}/python"),
            *("--out", str(folder)),
            env={"CARGO_TARGET_DIR": str(compiled)},
        )
        (wheels[version],) = folder.glob("*.whl")
    return wheels[version]


def install_penstock(session: nox.Session, version: str = OWN) -> None:
    """Install the wheel and what it needs into the session's environment."""
    built = str(wheel(session, version))
    session.install(built)  # its requirements; the same version again would be left as it is
    session.install("--force-reinstall", "--no-deps", built)


def cargo(session: nox.Session, *arguments: str, **variables: str) -> None:
    """Run cargo as installed; the bindings are checked for the interpreter that runs nox."""
    session.run("cargo", *arguments, external=True, env={"PYO3_PYTHON": sys.executable, **variables})


@nox.session(venv_backend="none")
def rustfmt(session: nox.Session) -> None:
    """Rust sources are laid out as rustfmt lays them out."""
    cargo(session, "fmt", "--all", "--check")


@nox.session(venv_backend="none")
def clippy(session: nox.Session) -> None:
    """Clippy, pedantic, has nothing to say; nor has rustdoc."""
    cargo(session, "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings")
    cargo(
        session,
        *("doc", "--locked", "-p", "penstock-core", "--no-deps", "--document-private-items"),
        RUSTDOCFLAGS="-D warnings",
    )


@nox.session(venv_backend="none")
def cargo_test(session: nox.Session) -> None:
    """The core's tests; the bindings are tested from Python."""
    cargo(session, "test", "--locked", "-p", "penstock-core")


@nox.session(venv_backend="none")
def loom(session: nox.Session) -> None:
    """The models of the lock-free pieces, in every order loom can think of."""
    cargo(
        session,
        *("test", "--locked", "-p", "penstock-core", "--release", "--lib", "--tests"),
        *session.posargs,
        RUSTFLAGS="--cfg loom",
        CARGO_TARGET_DIR=str(TARGET / "loom"),
        CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS="true",
        CARGO_PROFILE_RELEASE_LTO="off",
        LOOM_MAX_PREEMPTIONS=os.environ.get("LOOM_MAX_PREEMPTIONS", LOOM_PREEMPTIONS),
    )


def has_nightly(session: nox.Session, component: str, unchecked: str) -> bool:
    """Whether the nightly toolchain is there with `component`; says what was not checked where it is not."""
    listed = subprocess.run(
        ["rustup", "component", "list", "--installed", "--toolchain", "nightly"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and component in listed.stdout:
        return True
    session.warn(
        f"NO NIGHTLY RUST WITH {component.upper()}: {unchecked} (rustup +nightly component add {component})"
    )
    return False


@nox.session(venv_backend="none")
def miri(session: nox.Session) -> None:
    """The tests of channels, waiters and pooled memory under Miri, which sees undefined behaviour."""
    if has_nightly(session, "miri", "undefined behaviour was NOT looked for"):
        tests = ("--test", "channel", "--test", "ends", "--test", "in_place")
        for what in (tests, ("--lib", "memory::")):
            cargo(
                session,
                *("+nightly", "miri", "test", "--locked", "-p", "penstock-core"),
                *what,
                *session.posargs,
                CARGO_TARGET_DIR=str(TARGET / "miri"),
                MIRIFLAGS="-Zmiri-disable-isolation",  # clocks, and the files that tell of the machine
            )


@nox.session(venv_backend="none")
def tsan(session: nox.Session) -> None:
    """The same tests, at full length, under ThreadSanitizer, which sees data races; on nightly Rust."""
    if has_nightly(session, "rust-src", "data races were NOT looked for"):
        host = subprocess.run(["rustc", "--print", "host-tuple"], capture_output=True, text=True, check=True)
        cargo(
            session,
            *("+nightly", "test", "--locked", "-Zbuild-std", "--target", host.stdout.strip()),
            *("-p", "penstock-core", "--test", "channel", "--test", "ends", "--test", "in_place"),
            *session.posargs,
            RUSTFLAGS="-Zsanitizer=thread",
            CARGO_TARGET_DIR=str(TARGET / "tsan"),
        )


@nox.session(venv_backend="none")
def deny(session: nox.Session) -> None:
    """Licences, sources and bans of the crates, where cargo-deny is installed."""
    if shutil.which("cargo-deny") is None:
        session.warn("CARGO-DENY IS NOT INSTALLED: licences and sources of crates were NOT checked")
        return
    cargo(session, "deny", "--locked", "check", "licenses", "bans", "sources")


@nox.session
def ruff(session: nox.Session) -> None:
    """Python sources follow the rules of pyproject.toml and are laid out by ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check", *(session.posargs or ["."]))
    session.run("ruff", "format", "--check", *(session.posargs or ["."]))


@nox.session
def typos(session: nox.Session) -> None:
    """Words are spelled as in a dictionary."""
    session.install(*group("spelling"))
    session.run("typos", *session.posargs)


@nox.session
def mypy(session: nox.Session) -> None:
    """The package, its tests and tools are typed, strictly, against the checkout's stubs."""
    session.install(*group("types"), *PYPROJECT["project"]["dependencies"])
    session.run("mypy", *session.posargs)


@nox.session
def pyright(session: nox.Session) -> None:
    """Pyright, strict, agrees with mypy about the package and about what its users see."""
    session.install(*group("pyright"), *PYPROJECT["project"]["dependencies"])
    # Checker and node are in the wheels; nothing is fetched, and nobody is asked for a newer one.
    quiet = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    session.run("pyright", "--pythonpath", f"{session.bin}/python", *session.posargs, env=quiet)


@nox.session(python=str(INTERPRETERS[FREE_THREADED]), requires=["free_threaded_python"])
def stubtest(session: nox.Session) -> None:
    """`_core.pyi` says what the compiled module is, with nothing allowed to differ.

    On the one interpreter that every machine has: before 3.12 `__buffer__`, which type checkers need on
    every version, is not an attribute of a compiled class.
    """
    session.install(*group("types"))
    install_penstock(session, FREE_THREADED)
    session.chdir(session.create_tmp())  # so that the installed package is read, not the checkout
    session.run("python", "-m", "mypy.stubtest", "penstock._core")


@nox.session
def doctests(session: nox.Session) -> None:
    """The programs in README.md and docs/ run; the examples of docstrings run with the suite."""
    session.install(*group("test"))
    install_penstock(session)
    # What runs a test on many threads knows functions only, and refuses a page's programs.
    session.run("pytest", "-p", "no:run-parallel", "README.md", "docs")


@nox.session
def free_threaded_python(session: nox.Session) -> None:
    """CPython 3.14t is there: built from Debian's source, once, into a cache outside the checkout."""
    if is_version(INTERPRETERS[FREE_THREADED], FREE_THREADED):
        session.log(f"found {INTERPRETERS[FREE_THREADED]}")
        return
    session.run("python", "tools/free_threaded_python.py")


def test_on(version: str) -> str:
    """Declare the session that runs the suite on one interpreter; the result is its name."""
    name = f"pytest-{version}"

    @nox.session(
        name=name,
        python=str(INTERPRETERS[version]),
        requires=["free_threaded_python"] if version == FREE_THREADED else [],
    )
    def suite(session: nox.Session) -> None:
        session.install(*group("test"))
        install_penstock(session, version)
        if session.posargs:
            session.run("pytest", *session.posargs)
            return
        session.run("pytest")
        if version == FREE_THREADED:
            # Hypothesis lets one thread at a time through, so its tests would only take four times as long.
            session.run(
                *("pytest", f"--parallel-threads={PARALLEL_THREADS}", "--skip-thread-unsafe=1"),
                "--mark-hypothesis-as-unsafe",
            )

    return name


@nox.session(venv_backend="none", requires=[test_on(version) for version in INTERPRETERS])
def pytest(session: nox.Session) -> None:
    """The Python suite on every interpreter there is."""
    session.log(f"tested on {', '.join(INTERPRETERS)}")
    for version in MISSING:
        session.warn(f"PYTHON {version} IS NOT ON THIS MACHINE: the suite did NOT run on it")


@nox.session(python=str(INTERPRETERS[FREE_THREADED]), requires=["free_threaded_python"])
def numa_guest(session: nox.Session) -> None:
    """Workers and buffers are on their nodes, in an emulated machine with two. Not a default session.

    Without the GIL, because with it one worker runs, on one node.
    """
    session.install(*PYPROJECT["project"]["dependencies"])
    install_penstock(session, FREE_THREADED)
    session.run("python", "tools/numa_guest.py", success_codes=[0, 77])


@nox.session
def package(session: nox.Session) -> None:
    """The sdist builds, the wheel is portable and complete, and both say what they are."""
    session.install(*group("package"))
    work = Path(session.create_tmp()).absolute()
    shutil.rmtree(work, ignore_errors=True)
    session.run("maturin", "sdist", "--out", str(work))
    (sdist,) = work.glob("*.tar.gz")
    built = wheel(session, OWN)
    session.run("twine", "check", "--strict", str(sdist), str(built))
    if sys.platform == "linux":
        session.run("auditwheel", "show", str(built))
    with tarfile.open(sdist) as archive:
        archived = {name.split("/", 1)[1] for name in archive.getnames()}
    with zipfile.ZipFile(built) as archive_of_wheel:
        packed = set(archive_of_wheel.namelist())
        (bill,) = (name for name in packed if re.search(r"/sboms/.*cyclonedx\.json$", name))
        parts = {part["name"] for part in json.loads(archive_of_wheel.read(bill))["components"]}
    licences = {"LICENSE-APACHE", "LICENSE-MIT"}
    for missing in [
        *({"Cargo.lock", "README.md", "pyproject.toml", "python/penstock/bench/go/main.go"} - archived),
        *(licences - archived),
        *({"penstock/_core.pyi", "penstock/bench/go/main.go", "penstock/py.typed"} - packed),
        *(licences - {Path(name).name for name in packed}),
        *({"penstock-core", "pyo3"} - parts),
    ]:
        session.error(f"{missing} is not in the distribution")

    # From here on as a user: a clean environment, a folder that is not the checkout, the sdist.
    user = work / "user"
    session.run("python", "-m", "venv", "--clear", str(user))
    python = str(user / "bin" / "python")
    # Never a folder with earlier results: an sdist's files are as old as its epoch, so cargo, which goes
    # by their age, would take what it compiled from the last one for up to date.
    compiled = {"CARGO_TARGET_DIR": str(work / "compiled")}
    session.run(python, "-m", "pip", "install", "--quiet", str(sdist), env=compiled, external=True)
    session.chdir(work)
    session.run(python, "-W", "error", "-c", "import penstock", external=True)
    session.run(str(user / "bin" / "penstock"), "--version", external=True)
    # What it measures with, Go's program too, is a part of what is installed.
    quick = ("--quick", "--rounds", "1", "--rows", "pair")
    session.run(str(user / "bin" / "penstock"), "bench", *quick, external=True)


def counted_on(version: str) -> str:
    """Declare the session that counts instructions on one interpreter; the result is its name."""
    name = f"instructions-{version}"

    @nox.session(
        name=name,
        python=str(INTERPRETERS[version]),
        requires=["free_threaded_python"] if version == FREE_THREADED else [],
    )
    def count(session: nox.Session) -> None:
        if shutil.which("valgrind") is None:
            session.warn("VALGRIND IS NOT INSTALLED: instructions were NOT counted")
            return
        install_penstock(session, version)
        session.run("python", "asv_bench/instructions.py", *session.posargs)

    return name


BUDGETED = ("3.11", FREE_THREADED)
"""A build with the GIL and one without, of which asv_bench/instructions.toml holds the budgets."""


@nox.session(
    venv_backend="none", requires=[counted_on(version) for version in BUDGETED if version in INTERPRETERS]
)
def instructions(session: nox.Session) -> None:
    """No hot call takes 10 % more instructions than its budget."""
    for version in BUDGETED:
        if version in MISSING:
            session.warn(f"PYTHON {version} IS NOT ON THIS MACHINE: instructions were NOT counted on it")


@nox.session
def asv_quick(session: nox.Session) -> None:
    """Every benchmark runs once on the last commit; the figures are for nobody."""
    session.install(*group("bench"))
    session.chdir("asv_bench")
    session.run("asv", "machine", "--yes")
    session.run(
        *("asv", "run", "--quick", "--show-stderr", "HEAD^!"),
        env={"CARGO_TARGET_DIR": str(TARGET / "asv")},
    )
