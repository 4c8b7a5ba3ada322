"""Channels: the compiled `Channel`, those of a clock, and what `Channel.stats()` returns."""

from __future__ import annotations

from dataclasses import dataclass

from penstock._core import Channel, after, tick

__all__ = ["Channel", "ChannelStats", "after", "tick"]


@dataclass(frozen=True)
class ChannelStats:
    """What happened in a channel since it was made.

    >>> from penstock import Channel
    >>> numbers = Channel[int](capacity=2)
    >>> numbers.send(1)
    >>> numbers.stats()
    ChannelStats(sent=1, received=0, dropped=0, send_waits=0, recv_waits=0)
    """

    sent: int
    """Values put in or handed over; ticks that came due."""
    received: int
    """Values taken out or handed over."""
    dropped: int
    """Values that the channel threw away: ticks that nobody took. A channel that blocks throws none."""
    send_waits: int
    """Sends that had to wait."""
    recv_waits: int
    """Receives that had to wait."""
