"""The machine: its NUMA nodes, what of it this process may use, and where the workers go.

``describe()`` is what ``penstock topology`` prints.
"""

from __future__ import annotations

from penstock._core import CpuBudget, Node, Topology, _cpu_ranges, _workers_from_environment

__all__ = ["CpuBudget", "Node", "Topology", "describe"]


def describe(topology: Topology | None = None, budget: CpuBudget | None = None) -> str:
    """Nodes, CPUs, memory and distances, how many workers there are by default and why, and where they go.

    Both arguments are by default what holds now, on this machine. ``PENSTOCK_WORKERS`` counts either way.

    Raises:
        ValueError: ``PENSTOCK_WORKERS`` is not a number of workers.

    >>> from penstock import CpuBudget, Node, Topology
    >>> from penstock.topology import describe
    >>> near = Node(0, cpus=range(4), memory=8 << 30, distances={0: 10, 1: 21})
    >>> far = Node(1, cpus=range(4, 8), memory=8 << 30, distances={0: 21, 1: 10})
    >>> print(describe(Topology([near, far]), CpuBudget(cpus=range(6), quota=2.5)))
    2 nodes, 8 CPUs online, 16.0 GiB
      node  CPUs  memory
         0  0-3   8.0 GiB
         1  4-7   8.0 GiB
    <BLANKLINE>
    distance   0   1
           0  10  21
           1  21  10
    <BLANKLINE>
    3 workers by default
      affinity mask     6 CPUs: 0-5
      cgroup quota      2.5 CPUs
      PENSTOCK_WORKERS  not set
    <BLANKLINE>
      node  allowed CPUs  workers
         0  0-3           2: 0, 1
         1  4-5           1: 2
    """
    topology = topology or Topology.detect()
    budget = budget or CpuBudget.detect()
    asked = _workers_from_environment()
    workers = budget.workers if asked is None else asked
    sections = (
        _machine(topology),
        _distances(topology),
        _workers(budget, asked, workers),
        _placement(topology, budget, workers),
    )
    return "\n\n".join("\n".join(section) for section in sections)


def _machine(topology: Topology) -> list[str]:
    nodes = topology.nodes
    cpus = sum(len(node.cpus) for node in nodes)
    memory = sum(node.memory for node in nodes)
    rows = [[str(node.id), _ranges(node.cpus), _size(node.memory)] for node in nodes]
    return [
        f"{_count(len(nodes), 'node')}, {_count(cpus, 'CPU')} online, {_size(memory)}",
        *_table(["node", "CPUs", "memory"], rows),
    ]


def _distances(topology: Topology) -> list[str]:
    ids = [node.id for node in topology.nodes]
    rows: list[list[object]] = [
        [node.id, *(node.distances[other] for other in ids)] for node in topology.nodes
    ]
    width = max(len(str(number)) for row in rows for number in row)
    lines: list[str] = []
    head: list[object] = ["distance", *ids]
    for first, *numbers in (head, *rows):
        lines.append(f"{first:>8}" + "".join(f"  {number:>{width}}" for number in numbers))
    return lines


def _workers(budget: CpuBudget, asked: int | None, workers: int) -> list[str]:
    quota = "none" if budget.quota is None else _count(budget.quota, "CPU")
    return [
        f"{_count(workers, 'worker')} by default",
        f"  affinity mask     {_count(len(budget.cpus), 'CPU')}: {_ranges(budget.cpus)}",
        f"  cgroup quota      {quota}",
        f"  PENSTOCK_WORKERS  {'not set' if asked is None else f'{asked}: it decides'}",
    ]


def _placement(topology: Topology, budget: CpuBudget, workers: int) -> list[str]:
    numbers: dict[int, list[int]] = {node.id: [] for node in topology.nodes}
    for worker, node_id in enumerate(topology.place(workers, budget.cpus)):
        numbers[node_id].append(worker)
    allowed = set(budget.cpus)
    rows: list[list[str]] = []
    for node in topology.nodes:
        placed = numbers[node.id]
        shown = f"{len(placed)}: {_few(placed)}" if placed else "0"
        rows.append([str(node.id), _ranges([cpu for cpu in node.cpus if cpu in allowed]), shown])
    return _table(["node", "allowed CPUs", "workers"], rows)


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines under headings: the first column to the right, the others to the left."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines: list[str] = []
    for first, *others in (heads, *rows):
        cells = [first.rjust(widths[0])]
        cells += [cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _ranges(cpus: list[int]) -> str:
    return _cpu_ranges(cpus) or "none"


def _few(workers: list[int]) -> str:
    """The numbers of the workers, the middle left out where there are many."""
    if len(workers) > 8:
        return ", ".join(map(str, workers[:6])) + f", ... {workers[-1]}"
    return ", ".join(map(str, workers))


def _size(memory: int) -> str:
    if not memory:
        return "memory unknown or none"
    size, unit = memory / 2**20, "MiB"
    for larger in ("GiB", "TiB", "PiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{size:.1f} {unit}"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
