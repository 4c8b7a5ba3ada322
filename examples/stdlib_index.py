"""Indexes Python's own standard library: which identifier stands in which file, and how often.

    penstock run examples/stdlib_index.py [ROOT] [--output index.json]

Four stages run at the same time, and a bounded channel joins each to the next:

    walk --paths--> read (2 tasks) --sources--> tokenise (4 tasks) --tallies--> merge

A full channel makes its senders wait, so however large the tree is, only a few files are in memory at once.
A stage that ends closes its channel, which ends the loop ``for item in channel`` of the next one. If a task
fails, or Ctrl-C comes, the group cancels all of them.
"""

import argparse
import io
import json
import keyword
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import penstock

READERS, TOKENISERS = 2, 4  # tasks of the two stages that have several
SKIPPED = {"site-packages", "dist-packages"}  # no part of the standard library


@dataclass(frozen=True)
class Source:
    """A file that was read: the first ``size`` bytes of ``buffer``."""

    path: Path
    buffer: penstock.Buffer
    size: int


@dataclass(frozen=True)
class Tally:
    """How often each identifier stands in a file, or why nobody can say."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    error: str | None = None


class Progress:
    """A progress bar on a terminal that has rich to draw it, plain lines elsewhere."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.total = self.done = 0
        self.bar: Any = None

    def expect(self, total: int) -> None:
        """The walk is over: there are ``total`` files to index."""
        self.total = total
        print(f"{total:,} files under {self.root}", flush=True)
        if sys.stdout.isatty() and find_spec("rich"):
            import rich.progress  # only where it is shown

            self.bar = rich.progress.Progress(auto_refresh=False)
            self.bar.start()
            self.bar.add_task("indexing", total=total)

    def advance(self) -> None:
        """One more file is in the index."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], advance=1, refresh=True)
        elif self.done % 200 == 0 or self.done == self.total:
            print(f"{self.done:,} of {self.total:,} files indexed", flush=True)

    def close(self) -> None:
        """Gives the terminal back."""
        if self.bar is not None:
            self.bar.stop()


class Indexer:
    """The pipeline over one tree, and what came out of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = penstock.Channel[Path](64, name="paths")
        self.sources = penstock.Channel[Source](8, name="sources")
        self.tallies = penstock.Channel[Tally](8, name="tallies")
        self.index: dict[str, dict[str, int]] = {}  # identifier -> file -> count
        self.failures: dict[str, str] = {}  # file -> why it is not in the index
        self.launched: list[str] = []  # a name for each call of `go`
        self.bytes_in_use: list[int] = []  # of the buffer pool, each time a buffer was taken

    def run(self) -> None:
        """Indexes the tree, and returns when all tasks have ended."""
        progress = Progress(self.root)
        with closing(progress), penstock.Group() as group:
            self.go(group, self.walk, progress)
            self.go(group, self.stage, READERS, self.read, self.sources)
            self.go(group, self.stage, TOKENISERS, self.tokenise, self.tallies)
            self.go(group, self.merge, progress)

    def go(self, group: penstock.Group, fn: Callable[..., None], *args: object) -> None:
        """Starts a task of ``group``, and notes that it did."""
        self.launched.append(fn.__name__)
        group.go(fn, *args)

    def stage(self, workers: int, work: Callable[[], None], output: penstock.Channel[Any]) -> None:
        """Runs ``work`` in several tasks, and closes their common output after the last of them."""
        with penstock.Group() as group:
            for _ in range(workers):
                self.go(group, work)
        output.close()

    def walk(self, progress: Progress) -> None:
        """First stage: find the files."""
        modules = self.root.glob("**/*.py")
        found = sorted(path for path in modules if SKIPPED.isdisjoint(path.relative_to(self.root).parts))
        progress.expect(len(found))
        for path in found:
            self.paths.send(path)
        self.paths.close()

    def read(self) -> None:
        """Second stage: read each file into a buffer of the pool."""
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    buffer = penstock.buffers.acquire(path.stat().st_size)
                    self.bytes_in_use.append(penstock.buffers.stats().in_use)
                    size = file.readinto(buffer)
                self.sources.send(Source(path, buffer, size))
            except OSError as error:
                self.tallies.send(Tally(path, error=str(error)))

    def tokenise(self) -> None:
        """Third stage: count the identifiers of each file, read in the encoding that it declares."""
        for source in self.sources:
            with source.buffer as buffer:  # goes back to the pool at the end of this block
                content = io.BytesIO(buffer[: source.size])
            counts = Counter[str]()
            try:
                encoding, _ = tokenize.detect_encoding(content.readline)
                content.seek(0)
                lines = io.TextIOWrapper(content, encoding)
                for number, token in enumerate(tokenize.generate_tokens(lines.readline)):
                    if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                        counts[token.string] += 1
                    if number % 5_000 == 0:
                        penstock.yield_now()  # a long file lets others run, and can be cancelled
            except (SyntaxError, UnicodeError, tokenize.TokenError) as error:
                self.tallies.send(Tally(source.path, error=f"{type(error).__name__}: {error}"))
            else:
                self.tallies.send(Tally(source.path, counts))

    def merge(self, progress: Progress) -> None:
        """Last stage: the only one that touches the index, so no lock is needed."""
        for tally in self.tallies:
            path = tally.path.relative_to(self.root).as_posix()
            for name, count in tally.counts.items():
                self.index.setdefault(name, {})[path] = count
            if tally.error is not None:
                self.failures[path] = tally.error
            progress.advance()


def main() -> None:
    """Indexes the tree named on the command line, by default the standard library, and reports."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--output", type=Path, default=Path("index.json"))
    options = parser.parse_args()
    indexer = Indexer(options.root)
    indexer.run()
    part = options.output.with_name(options.output.name + ".part")  # whoever stops this leaves no half index
    part.write_text(json.dumps(indexer.index, sort_keys=True), encoding="utf-8")
    part.replace(options.output)

    for path, reason in sorted(indexer.failures.items()):
        print(f"not indexed: {path}: {reason}")
    totals = Counter({name: sum(files.values()) for name, files in indexer.index.items()})
    for name, total in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:50]:
        print(f"{total:9,}  {name}  in {len(indexer.index[name]):,} files")
    print(f"{len(indexer.index):,} identifiers in {options.output}")

    stats = penstock.default_runtime().stats()
    items = sum(channel.stats().received for channel in (indexer.paths, indexer.sources, indexer.tallies))
    peak = max(indexer.bytes_in_use, default=0)
    print(f"{stats.tasks_started:,} tasks, {stats.parks:,} parks, {stats.steals:,} steals,", end=" ")
    print(f"{items:,} items through channels, {peak:,} bytes in buffers at the peak")


if __name__ == "__main__":
    main()
