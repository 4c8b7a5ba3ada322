"""hwloc's recordings of machines: what we read from each is what hwloc's own tests expect to read.

Its source package holds sysfs trees of machines of all kinds, each with the output that ``lstopo`` has to give. The
package is Debian's, from the mirror that apt is set up for, kept outside the checkout.
"""

from __future__ import annotations

import hashlib
import os
import re
import runpy
import tarfile
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
from penstock import Topology

VERSION = "2.9.0"
SHA256 = "b3fb1a43a14d8fbcd8e976de5ede2ea7ce1d768ed173adb33c7ceaaf098dc970"
FOLDERS = ("linux", "x86+linux")
TOOLS = Path(__file__).parents[1] / "tools"

PARTIAL = {
    "16amd64-4n4c-cgroup-distance-merge": "only what the recorded process's cpuset allows",
    "16amd64-8n2c-cpusets": "only what the recorded process's cpuset allows",
    "16amd64-8n2c-cpusets.xml": "only what the recorded process's cpuset allows",
    "16em64t-4s2ca2c-cpusetreorder": "only what the recorded process's cpuset allows",
    "16em64t-4s2ca2c-cpusetreorder-merge": "only what the recorded process's cpuset allows",
    "32amd64-4s2n4c-cgroup2": "only what the recorded process's cpuset allows",
    "32amd64-4s2n4c-cgroup2.xml": "only what the recorded process's cpuset allows",
    "4fake-4gr1nu1pu": "only what the recorded process's cpuset allows",
    "8em64t-2s2ca2c-buggynuma": "only the first of nodes that all claim the same CPUs",
    "fakeheterocpunuma": "also CPUs that are on no node",
    "fakememinitiators-1np2c+1npp+gi": "no node without memory",
    "nvidiagpunumanodes": "no node of a GPU",
    "offline-cpu0-node0": "also CPUs that are on no node",
}
"""What these outputs show of the recorded machine; compared is what is in both."""

UNLIKE = {
    "64amd64-4p2n4ca2co: cores": "the kernel took two cores that share a unit for one; hwloc asked the processor",
    "64amd64-4p2n4ca2co.topoextnuma: cores": "the kernel took two cores that share a unit for one; hwloc asked the processor",
    "64amd64-4s2n4ca2co: cores": "the kernel took two cores that share a unit for one; hwloc knows that processor",
}
"""Where we say what the kernel says, and hwloc knows better."""


@dataclass
class Expected:
    """What one output says."""

    nodes: set[int] = field(default_factory=set)
    memory: dict[int, int] = field(default_factory=dict)
    """By node id, in KiB; empty where it is not told."""
    cpus: dict[frozenset[int], frozenset[int]] = field(default_factory=dict)
    """By the ids of the nodes at one place, less those of nodes farther inside: a node without CPUs of its own is shown at
    those that are near."""
    pus: frozenset[int] = frozenset()
    cores: set[frozenset[int]] = field(default_factory=set)
    distances: dict[int, dict[int, int]] = field(default_factory=dict)


@dataclass
class Item:
    """An object of the tree that an output shows."""

    kind: str
    id: int
    memory: int
    children: list[Item] = field(default_factory=list)

    def walk(self) -> Iterator[Item]:
        yield self
        for child in self.children:
            yield from child.walk()

    def of_kind(self, kind: str) -> list[Item]:
        return [item for item in self.walk() if item.kind == kind]

    def cpus(self) -> frozenset[int]:
        return frozenset(item.id for item in self.of_kind("PU"))


def tree_of_text(text: str) -> Item:
    root = Item("", -1, 0)
    open_items = [(-1, root)]
    for line in text.splitlines():
        if line.startswith(("depth", "Special")):
            break
        kind = re.match(r"\s*(\w+)", line)
        number = re.search(r"\bP#(\d+)", line)
        memory = re.search(r"\blocal=(\d+)KB", line)
        depth = len(line) - len(line.lstrip())
        while open_items[-1][0] >= depth:
            open_items.pop()
        item = Item(
            kind[1] if kind else "", int(number[1]) if number else -1, int(memory[1]) if memory else 0
        )
        open_items[-1][1].children.append(item)
        open_items.append((depth, item))
    return root


def tree_of_xml(element: ET.Element) -> Item:
    return Item(
        element.get("type", ""),
        int(element.get("os_index", "-1")),
        int(element.get("local_memory", "0")) // 1024,
        [tree_of_xml(child) for child in element.findall("object")],
    )


def matrix_of_text(text: str) -> dict[int, dict[int, int]]:
    """The matrix of latencies, whose rows and columns are numbered as hwloc numbers nodes."""
    found = re.search(r"Relative latency matrix \(name NUMALatency[^\n]*NUMANodes.*\n index (.*)\n", text)
    if not found:
        return {}
    ids = dict(re.findall(r"NUMANode\S* L#(\d+) \(P#(\d+)", text))
    columns = [int(ids[number]) for number in found[1].split()]
    rows = [line.split() for line in text[found.end() :].splitlines()[: len(columns)]]
    return {int(ids[first]): dict(zip(columns, map(int, row), strict=True)) for first, *row in rows}


def matrix_of_xml(root: ET.Element) -> dict[int, dict[int, int]]:
    for matrix in root.findall("distances2"):
        if matrix.get("name") == "NUMALatency":
            ids = [int(number) for part in matrix.findall("indexes") for number in (part.text or "").split()]
            values = [
                int(number) for part in matrix.findall("u64values") for number in (part.text or "").split()
            ]
            width = len(ids)
            return {
                row: dict(zip(ids, values[at * width : (at + 1) * width], strict=True))
                for at, row in enumerate(ids)
            }
    return {}


def expected_of(text: str) -> Expected:
    expected = Expected()
    if text.startswith("<?xml"):
        root = ET.fromstring(text.split("?>", 1)[1])
        tree = Item("", -1, 0, [tree_of_xml(element) for element in root.findall("object")])
        expected.distances = matrix_of_xml(root)
    else:
        tree = tree_of_text(text)
        expected.distances = matrix_of_text(text)
    for item in tree.walk():
        inside = [child for child in item.children if child.cpus() and child.of_kind("NUMANode")]
        farther = {node.id for child in inside for node in child.of_kind("NUMANode")}
        here = frozenset(node.id for node in item.of_kind("NUMANode")) - farther
        if here and item.cpus():
            expected.cpus[here] = item.cpus().difference(*(child.cpus() for child in inside))
    nodes = tree.of_kind("NUMANode")
    expected.nodes = {node.id for node in nodes}
    if any(node.memory for node in nodes):
        expected.memory = {node.id: node.memory for node in nodes}
    expected.pus = tree.cpus()
    expected.cores = {core.cpus() for core in tree.of_kind("Core")}
    return expected


def found_in(topology: Topology, expected: Expected, *, partial: bool) -> Expected:
    """The same of ours, as far as the output tells it; if ``partial``, as far as it shows nodes and CPUs."""
    nodes = [node for node in topology.nodes if not partial or node.id in expected.nodes]
    cpus = {node.id: {cpu for cpu in node.cpus if not partial or cpu in expected.pus} for node in nodes}
    ours = frozenset(cpu for node in nodes for cpu in cpus[node.id])
    cores = {frozenset(core) & ours for node in nodes for core in node.cores}
    named = frozenset(cpu for core in cores for cpu in core)
    cores |= {frozenset([cpu]) for cpu in ours - named}
    if partial:
        expected.cores = {core & ours for core in expected.cores}
        expected.cores.discard(frozenset())
        expected.cpus = {here: there & ours for here, there in expected.cpus.items()}
    shown = expected.nodes
    return Expected(
        nodes={node.id for node in nodes},
        memory={node.id: node.memory // 1024 for node in nodes if expected.memory},
        cpus={here: frozenset().union(*(cpus.get(id, ()) for id in here)) for here in expected.cpus},
        pus=ours if not partial else expected.pus,
        cores={core for core in cores if core and expected.cores},
        distances={
            node.id: {id: far for id, far in node.distances.items() if not partial or id in shown}
            for node in nodes
            if expected.distances
        },
    )


def differences(name: str, topology: Topology, expected: Expected) -> dict[str, object]:
    found = found_in(topology, expected, partial=name in PARTIAL)
    return {
        f"{name}: {part.name}": (ours, theirs)
        for part in fields(Expected)
        if (ours := getattr(found, part.name)) != (theirs := getattr(expected, part.name))
    }


@pytest.fixture(scope="session")
def package() -> Path:
    """hwloc's source package, fetched once."""
    tool: dict[str, Any] = runpy.run_path(os.fspath(TOOLS / "free_threaded_python.py"))
    archive: Path = tool["cache_folder"]() / f"hwloc-{VERSION}.tar.bz2"
    if not archive.exists():
        try:
            mirror = tool["debian_mirror"]()
            url = f"{mirror}/pool/main/h/hwloc/hwloc_{VERSION}.orig.tar.bz2"
            with urllib.request.urlopen(url, timeout=60) as reply:
                content = reply.read()
        except (SystemExit, OSError) as error:  # no apt, no mirror, no network
            pytest.skip(f"HWLOC'S RECORDINGS COULD NOT BE FETCHED, NOTHING WAS COMPARED: {error}")
        assert hashlib.sha256(content).hexdigest() == SHA256, url
        archive.parent.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.rename(archive)
    return archive


READ = re.compile(
    r"(?P<root>.*)/(proc/meminfo|sys/devices/system/(cpu/online|cpu/cpu\d+/("
    r"online|topology/(core_cpus|thread_siblings)(_list)?|cache/index\d+/(level|shared_cpu_(list|map)))"
    r"|node/node\d+/(cpulist|cpumap|distance|meminfo)))"
)


def unpacked(recording: Path, folder: Path) -> Path:
    """The recorded machine's root: of its many files those that we may read."""
    root = ""
    with tarfile.open(recording) as archive:
        for member in archive:
            if member.isfile() and (found := READ.fullmatch(member.name)):
                root = found["root"]
                archive.extract(member, folder, filter="data")
    return folder / root


def test_every_recorded_machine_is_read_as_hwloc_reads_it(package: Path, tmp_path: Path) -> None:
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path, filter="data")
    compared: set[str] = set()
    wrong: dict[str, object] = {}
    for kind in FOLDERS:
        folder = tmp_path / f"hwloc-{VERSION}" / "tests" / "hwloc" / kind
        for output in sorted(folder.glob("*.output")):
            source = output.with_suffix(".source")
            recording = source.read_text().strip() if source.exists() else f"{output.stem}.tar.bz2"
            machine = unpacked(folder / recording, tmp_path / kind / output.stem)
            expected = expected_of(output.read_text())
            wrong |= differences(output.stem, Topology.from_sysfs(machine), expected)
            compared.add(output.stem)
    assert {what: parts for what, parts in wrong.items() if what not in UNLIKE} == {}
    assert UNLIKE.keys() <= wrong.keys()
    assert PARTIAL.keys() <= compared
    assert len(compared) == 61
