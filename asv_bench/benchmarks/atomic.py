"""What it costs to count: an atomic, beside a lock around an ordinary int.

Each side is a function of a count that returns the nanoseconds it took, its loop included. With several
threads each makes its share of the count, all on one number; the clock runs from the start of the first
until the last has ended, and all are ready before. The number is looked at afterwards: a side that lost
an addition has no figure.
"""

from .work.atomic import adds_lock, adds_penstock


class Add:
    """Time for 100,000 additions to one number, by how many threads make them."""

    params = (["penstock.AtomicInt", "with threading.Lock"], [1, 2])
    param_names = ("side", "threads")
    count = 100_000

    def setup(self, side, threads):
        if side == "penstock.AtomicInt":
            from .versions import needs

            needs("AtomicInt")
        self.run = {"penstock.AtomicInt": adds_penstock, "with threading.Lock": adds_lock}[side]

    def time_add(self, side, threads):
        self.run(self.count, threads=threads)
