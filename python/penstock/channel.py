"""Channels: the compiled `Channel`, its ends, those of a clock, `Rate`, and what `Channel.stats()` gives."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

from penstock._core import Channel, Receiver, Sender, after, tick

__all__ = ["Channel", "ChannelStats", "Rate", "Receiver", "Sender", "after", "tick"]


@dataclass(frozen=True)
class Rate:
    """How fast values may be sent: ``per_second`` of them, and after a pause up to ``burst`` at once.

    A token bucket: it holds up to ``burst`` tokens, starts full, and fills evenly, ``per_second`` tokens a
    second. A send takes a token when it succeeds, and waits for one first, in the order the senders came.
    `Channel.send_nowait` without a token raises `Full`. A send that fails, times out or is cancelled takes
    none. One rate may be given to several channels; each has a bucket of its own.

    Raises:
        TypeError: ``per_second`` is no number, or ``burst`` no int.
        ValueError: ``per_second`` is not finite and above 0, or ``burst`` is below 1.

    >>> from penstock import Channel, Full, Rate
    >>> requests = Channel[str](capacity=100, rate=Rate(per_second=0.001, burst=2))
    >>> requests.send_many(["a", "b"])
    >>> try:
    ...     requests.send_nowait("c")
    ... except Full as error:
    ...     print(error)
    the channel's rate allows no send now
    """

    per_second: float
    """How many tokens come in a second."""
    burst: int = 1
    """How many there are at most."""

    def __post_init__(self) -> None:
        given: object = self.per_second
        if isinstance(given, str | bytes | bytearray):  # `float` would read a number in it
            raise TypeError(f"per_second must be a number, not {given!r}")
        try:
            per_second = float(self.per_second)
        except TypeError:
            raise TypeError(f"per_second must be a number, not {given!r}") from None
        except OverflowError:
            per_second = math.inf
        if not 0 < per_second < math.inf:
            raise ValueError(f"per_second must be a finite number > 0, not {given!r}")
        try:
            burst = operator.index(self.burst)
        except TypeError:
            raise TypeError(f"burst must be an int >= 1, not {self.burst!r}") from None
        if burst < 1:
            raise ValueError(f"burst must be an int >= 1, not {self.burst!r}")
        object.__setattr__(self, "per_second", per_second)
        object.__setattr__(self, "burst", burst)


@dataclass(frozen=True)
class ChannelStats:
    """What happened in a channel since it was made.

    >>> from penstock import Channel
    >>> numbers = Channel[int](capacity=2)
    >>> numbers.send(1)
    >>> stats = numbers.stats()
    >>> stats.sent, stats.received, stats.dropped, stats.send_waits, stats.send_wait_seconds
    (1, 0, 0, 0, 0.0)
    """

    sent: int
    """Values put in or handed over; ticks that came due."""
    received: int
    """Values taken out or handed over, without those that came back."""
    dropped: int
    """Values that nobody will receive: with ``overflow="drop_oldest"`` those that made way (``sent`` counts
    them too), with ``"drop_newest"`` those that were never sent; ticks that nobody took; and what is left, or
    comes back, when there is no receiver any more."""
    send_waits: int
    """Waits of senders: for room or a receiver, and for a token."""
    recv_waits: int
    """Receives that had to wait."""
    send_wait_seconds: float
    """How long senders have waited, all together, those included that wait now: two senders that wait for a
    second each make two seconds. By a coarse clock, so a single wait is right to a few milliseconds."""
    recv_wait_seconds: float
    """The same of receivers."""
