"""Who may answer beside us: what has to be installed for it, and what is."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from importlib.util import find_spec

__all__ = ["LIBRARIES", "Library"]


@dataclass(frozen=True)
class Library:
    """A package that a side is made of."""

    module: str
    distribution: str
    since: tuple[int, int] = (3, 11)  # its first Python with wheels

    @property
    def installed(self) -> bool:
        """Whether it can be imported. It is not imported here: some switch the GIL back on."""
        return find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """What is installed of it."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "of unknown version"

    @property
    def missing(self) -> str:
        """The line that stands for it where it is not installed."""
        if sys.version_info < self.since:
            return f"{self.module}: not for this Python, from {'.'.join(map(str, self.since))} on"
        return f"{self.module}: not installed (pip install {self.distribution}), its lines are missing"


LIBRARIES: dict[str, Library] = {
    library.module: library
    for library in (
        Library("uvloop", "uvloop"),
        Library("numpy", "numpy"),
        Library("gevent", "gevent"),
        Library("trio", "trio"),
        Library("anyio", "anyio"),
        Library("janus", "janus"),
        Library("culsans", "culsans"),
        Library("aiologic", "aiologic"),
        Library("ft_utils", "ft-utils", (3, 13)),
        Library("cereggii", "cereggii"),
        Library("tonio", "tonio", (3, 14)),
    )
}
"""By the name of their side. asyncio, the standard library's threads and penstock are always there."""
