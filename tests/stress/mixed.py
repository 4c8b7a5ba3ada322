"""Producers and consumers of every kind on one channel: what was sent arrives once, what failed never does.

Plain tasks, `async def` tasks and ordinary threads share the ends of a channel. `run_items` counts a given number of items;
`run_chaos` cancels, times out and closes at random moments. Both raise `AssertionError` where an account does not
balance. `stress.py` runs them for long, `test_mixed.py` for a few seconds.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import penstock
from penstock import Cancelled, Channel, ChannelClosed, Empty, Full, Receiver, Sender, Task, go

Item = tuple[int, int]
LIMIT = 240.0  # seconds after which something hangs
KINDS = ("plain", "async", "thread")


@dataclass
class Account:
    """What one producer sent, or one consumer got."""

    items: list[Item] = field(default_factory=list)
    failed: list[Item] = field(default_factory=list)
    waits_cut: int = 0


class Crew:
    """Starts each member in its way, and waits for all."""

    def __init__(self) -> None:
        self.tasks: list[Task[None]] = []
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(
        self,
        kind: str,
        plain: Callable[..., None],
        coroutine: Callable[..., Coroutine[Any, Any, None]],
        *args: Any,
    ) -> None:
        if kind == "thread":

            def run() -> None:
                try:
                    plain(*args)
                except BaseException as error:  # whoever waits raises it
                    self._errors.append(error)

            self._threads.append(threading.Thread(target=run, daemon=True))
            self._threads[-1].start()
        elif kind == "plain":
            self.tasks.append(go(plain, *args))
        else:
            self.tasks.append(go(coroutine, *args))

    def join(self) -> None:
        for task in self.tasks:
            try:
                task.result(timeout=LIMIT)
            except Cancelled:
                pass  # before it started, so it has done nothing; its end went with its arguments
        for thread in self._threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), "a thread hangs"
        if self._errors:
            raise self._errors[0]

    def running(self) -> list[Task[None]]:
        return [task for task in self.tasks if not task.done()]


# A given number of items


def produce(sender: Sender[Item], me: int, count: int) -> None:
    with sender:
        for i in range(count):
            sender.send((me, i))


async def aproduce(sender: Sender[Item], me: int, count: int) -> None:
    with sender:
        for i in range(count):
            await sender.asend((me, i))


def consume(receiver: Receiver[Item], account: Account) -> None:
    with receiver:
        account.items.extend(receiver)


async def aconsume(receiver: Receiver[Item], account: Account) -> None:
    with receiver:
        async for item in receiver:
            account.items.append(item)


def run_items(items: int, capacity: int, *, each: int = 10) -> None:
    """`items` through `each` producers and as many consumers, of mixed kinds; the last end to go closes the channel."""
    channel = Channel[Item](capacity)
    crew, accounts = Crew(), [Account() for _ in range(each)]
    senders = [channel.sender() for _ in range(each)]
    receivers = [channel.receiver() for _ in range(each)]
    for me in range(each):
        crew.start(KINDS[me % 3], consume, aconsume, receivers.pop(), accounts[me])
    counts = [items // each + (me < items % each) for me in range(each)]
    for me in range(each):
        crew.start(KINDS[(me + 1) % 3], produce, aproduce, senders.pop(), me, counts[me])
    crew.join()
    seen = [bytearray(count) for count in counts]
    for account in accounts:
        last = [-1] * each
        for producer, i in account.items:
            assert i > last[producer], f"{producer}'s items came out of order: {i} after {last[producer]}"
            last[producer] = i
            assert not seen[producer][i], f"{(producer, i)} came twice"
            seen[producer][i] = 1
    lost = [(me, flags.index(0)) for me, flags in enumerate(seen) if 0 in flags]
    assert not lost, f"lost: {lost}"
    stats = channel.stats()
    assert (stats.sent, stats.received, stats.dropped, len(channel)) == (items, items, 0, 0), stats


# Cancels, timeouts, closes


def patience(chance: random.Random) -> float | None:
    return chance.choice((None, None, 0, 0.00005, 0.001))


def try_to_produce(sender: Sender[Item], me: int, count: int, account: Account, seed: int) -> None:
    chance = random.Random(seed)
    with sender:
        for i in range(count):
            item = (me, i)
            try:
                if chance.random() < 0.3:
                    sender.send_nowait(item)
                else:
                    sender.send(item, timeout=patience(chance))
            except (Cancelled, TimeoutError, Full):
                account.failed.append(item)
                account.waits_cut += 1
            except ChannelClosed:
                account.failed.append(item)
                return
            else:
                account.items.append(item)


async def atry_to_produce(sender: Sender[Item], me: int, count: int, account: Account, seed: int) -> None:
    chance = random.Random(seed)
    with sender:
        for i in range(count):
            item = (me, i)
            try:
                await sender.asend(item, timeout=patience(chance))
            except (Cancelled, TimeoutError):
                account.failed.append(item)
                account.waits_cut += 1
            except ChannelClosed:
                account.failed.append(item)
                return
            else:
                account.items.append(item)


def try_to_consume(receiver: Receiver[Item], leaves_after: int, account: Account, seed: int) -> None:
    chance = random.Random(seed)
    with receiver:
        while len(account.items) < leaves_after:
            try:
                if chance.random() < 0.2:
                    account.items.append(receiver.recv_nowait())
                else:
                    account.items.append(receiver.recv(timeout=patience(chance)))
            except (Cancelled, TimeoutError):
                account.waits_cut += 1
            except Empty:
                give_up_turn(account)
            except ChannelClosed:
                return


def give_up_turn(account: Account) -> None:
    try:
        penstock.yield_now()
    except Cancelled:
        account.waits_cut += 1


async def atry_to_consume(receiver: Receiver[Item], leaves_after: int, account: Account, seed: int) -> None:
    chance = random.Random(seed)
    with receiver:
        while len(account.items) < leaves_after:
            try:
                account.items.append(await receiver.arecv(timeout=patience(chance)))
            except (Cancelled, TimeoutError):
                account.waits_cut += 1
            except ChannelClosed:
                return


ENDINGS = ("senders go", "receivers go", "close", "close at once")


def run_chaos(seed: int, *, each: int = 6, count: int = 150) -> int:
    """One round of cancels and timeouts that ends in one of the `ENDINGS`. Returns how many waits were cut short."""
    chance = random.Random(seed)
    capacity = chance.choice((0, 0, 1, 2, 5, 64))
    ending = chance.choice(ENDINGS)
    channel = Channel[Item](capacity)
    crew = Crew()
    sent, got = [Account() for _ in range(each)], [Account() for _ in range(each)]
    senders = [channel.sender() for _ in range(each)]
    receivers = [channel.receiver() for _ in range(each)]
    leaves_after = chance.randrange(1, count) if ending == "receivers go" else each * count + 1
    for me in range(each):
        kind, own = chance.choice(KINDS), chance.randrange(2**32)
        crew.start(kind, try_to_consume, atry_to_consume, receivers.pop(), leaves_after, got[me], own)
        kind, own = chance.choice(KINDS), chance.randrange(2**32)
        crew.start(kind, try_to_produce, atry_to_produce, senders.pop(), me, count, sent[me], own)
    closes_at = chance.randrange(1, each * count) if ending == "close" else 0

    def disturb() -> None:
        """Cancels whoever runs, and closes the channel when so many items have gone through it."""
        while running := crew.running():
            chance.choice(running).cancel()
            if ending.startswith("close") and channel.stats().sent >= closes_at:
                channel.close()
            for _ in range(chance.randrange(3)):
                penstock.yield_now()
            if chance.random() < 0.2:
                penstock.sleep(0.0002)

    disturber = go(disturb)
    crew.join()
    disturber.result(timeout=LIMIT)
    check(f"seed {seed}, capacity {capacity}, {ending}", channel, sent, got)
    return sum(account.waits_cut for account in (*sent, *got))


def check(what: str, channel: Channel[Item], sent: list[Account], got: list[Account]) -> None:
    assert channel.closed, what
    assert len(channel) == 0, what
    sent_items = [item for account in sent for item in account.items]
    got_items = [item for account in got for item in account.items]
    assert len(set(got_items)) == len(got_items), f"{what}: twice: {repeated(got_items)}"
    never = set(got_items) - set(sent_items)
    assert not never, f"{what}: delivered although their sends raised: {sorted(never)[:5]}"
    lost = set(sent_items) - set(got_items)
    stats = channel.stats()
    assert len(lost) == stats.dropped, (
        f"{what}: {stats.dropped} dropped, but not received: {sorted(lost)[:5]}"
    )
    assert (stats.sent, stats.received) == (len(sent_items), len(got_items)), f"{what}: {stats}"
    for account in got:
        for me in range(len(sent)):
            mine = [i for producer, i in account.items if producer == me]
            assert mine == sorted(mine), f"{what}: out of order"


def repeated(items: list[Item]) -> list[Item]:
    seen: set[Item] = set()
    return [item for item in items if item in seen or seen.add(item)][:5]  # type: ignore[func-returns-value]
