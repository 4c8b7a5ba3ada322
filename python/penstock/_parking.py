"""Whether plain tasks can park as fibers in this interpreter: found out once, when a runtime starts."""

from __future__ import annotations

from penstock import _core


def fibers_work() -> bool:
    """Whether a stack that is left behind comes back whole."""
    return _core._frames_match()
