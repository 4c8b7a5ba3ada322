"""What ``PENSTOCK_DEBUG`` and ``PENSTOCK_DEADLOCK`` ask for, read once when penstock is imported."""

from __future__ import annotations

import os

from penstock import _core

_ALLOWED = "schedtrace=N (milliseconds, from 1), detail (with schedtrace) and locks, separated by commas"


def _refusal(item: str) -> ValueError:
    return ValueError(f"PENSTOCK_DEBUG must be of {_ALLOWED}; this is in it: {item!r}")


def start() -> None:
    """Switch on or off what the variables name."""
    deadlock = os.environ.get("PENSTOCK_DEADLOCK", "on")
    if deadlock not in ("on", "off"):
        raise ValueError(f'PENSTOCK_DEADLOCK must be "on" or "off", not {deadlock!r}')
    if deadlock == "off":
        _core._ignore_deadlocks()
    interval: int | None = None
    detail = False
    locks = False
    for item in os.environ.get("PENSTOCK_DEBUG", "").split(","):
        name, _, value = item.strip().partition("=")
        if name == "schedtrace" and value.isdecimal() and 1 <= int(value) <= 86_400_000:
            interval = int(value)
        elif name == "detail" and not value:
            detail = True
        elif name == "locks" and not value:
            locks = True
        elif item:
            raise _refusal(item)
    if detail and interval is None:
        raise _refusal("detail")
    if interval is not None:
        _core._trace_schedule(interval, detail)
    if locks:
        from penstock import _locks

        _locks.watch()
