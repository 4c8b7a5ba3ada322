"""Where penstock cannot work, importing it is an `ImportError` with a sentence."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

REFUSED = """
    try:
        import penstock
    except ImportError as error:
        print(error)
    assert "penstock" not in sys.modules
"""


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("sys.implementation.name = 'pypy'", "penstock does not support pypy: it runs on CPython"),
        ("sys.platform = 'win32'", "penstock does not support win32: it runs on Linux and macOS"),
    ],
)
def test_other_interpreters_and_systems_are_refused(run_program: Any, claim: str, said: str) -> None:
    ended = run_program(f"    {claim}\n" + REFUSED)
    assert ended.stdout.startswith(said)


def test_a_subinterpreter_is_refused_whether_it_comes_first_or_not(run_program: Any) -> None:
    if sys.version_info >= (3, 13):
        run = "import _interpreters\n    def run(source): return _interpreters.exec(_interpreters.create('legacy'), source)"
    else:
        run = (
            "import _xxsubinterpreters\n"
            "    def run(source): _xxsubinterpreters.run_string(_xxsubinterpreters.create(), source)"
        )
    source = f"""
    {run}
    import warnings
    warnings.simplefilter("ignore")  # that they are left over
    refused = "try:\\n import penstock\\nexcept ImportError as error:\\n print(error, flush=True)"
    run(refused)
    import penstock
    run(refused)
    print(penstock.go(int).result(timeout=30), flush=True)
    os._exit(0)
    """
    ended = run_program(source)
    first, second, result = ended.stdout.splitlines()
    # From 3.12 on CPython may say it before us, of us or of greenlet.
    assert "subinterpreter" in first
    assert "subinterpreter" in second
    assert result == "0"


GEVENT = """
    import types
    monkey = types.ModuleType("gevent.monkey")
    monkey.saved = {saved}
    sys.modules["gevent.monkey"] = monkey
"""


def test_gevents_monkey_patching_is_refused_and_gevent_alone_is_not(run_program: Any) -> None:
    ended = run_program(GEVENT.format(saved="{'threading': {}, 'socket': {}}") + REFUSED)
    assert "gevent's monkey patching (of socket, threading)" in ended.stdout
    run_program(GEVENT.format(saved="{}") + "    import penstock\n")


def test_the_real_gevent_is_recognised(run_program: Any) -> None:
    gevent: types.ModuleType = pytest.importorskip("gevent", exc_type=ImportError)
    assert gevent is not None
    ended = run_program(
        "    import gevent.monkey; gevent.monkey.patch_all(); out = os.write\n" + REFUSED, limit=120
    )
    assert "gevent's monkey patching" in ended.stdout
