"""Channels: the compiled `Channel` and its ends, those of a clock, and what `Channel.stats()` returns."""

from __future__ import annotations

from dataclasses import dataclass

from penstock._core import Channel, Receiver, Sender, after, tick

__all__ = ["Channel", "ChannelStats", "Receiver", "Sender", "after", "tick"]


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
    """Values taken out or handed over, without those that came back."""
    dropped: int
    """Values that nobody will receive: ticks not taken, and what is left or came back when no receiver is."""
    send_waits: int
    """Sends that had to wait."""
    recv_waits: int
    """Receives that had to wait."""
