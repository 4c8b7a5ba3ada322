"""The error tree.

Errors are a `PenstockError` and the standard class that a user would catch. `Cancelled` is no error:
it is how a task learns that it should end, and like `KeyboardInterrupt` it passes ``except Exception``.
"""

from __future__ import annotations

import queue

__all__ = ["Cancelled", "ChannelClosed", "Empty", "Full", "PenstockError"]


class PenstockError(Exception):
    """The base of all errors that penstock raises of its own."""


class ChannelClosed(PenstockError):
    """The channel is closed: nothing can be sent, and what was in it has been received."""


class Full(PenstockError, queue.Full):
    """The channel has no room now; also a `queue.Full`."""


class Empty(PenstockError, queue.Empty):
    """The channel has nothing now; also a `queue.Empty`."""


class Cancelled(BaseException):
    """Raised in a task that was cancelled, and by ``result()`` of one that ended so."""
