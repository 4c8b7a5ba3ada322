"""Refuses, with a sentence, where penstock cannot work. Importing it is the check.

It comes before the compiled module, which is not there on other systems. A subinterpreter is refused by
that one.
"""

from __future__ import annotations

import sys


def _refuse() -> None:
    implementation = sys.implementation.name
    if implementation != "cpython":
        raise ImportError(f"penstock does not support {implementation}: it runs on CPython 3.11 or newer")
    if sys.platform not in ("linux", "darwin"):
        raise ImportError(f"penstock does not support {sys.platform}: it runs on Linux and macOS")
    monkey = sys.modules.get("gevent.monkey")
    # What it has replaced, by module: empty while it was imported only. Some of it is enough, because a lock
    # or a socket would then switch to gevent's hub under a task.
    if monkey is not None and getattr(monkey, "saved", None):
        patched = ", ".join(sorted(monkey.saved))
        raise ImportError(
            f"penstock does not work under gevent's monkey patching (of {patched}): leave it out, and use "
            "penstock's tasks where it made calls cooperative"
        )


_refuse()
