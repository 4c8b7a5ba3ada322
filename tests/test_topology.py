"""The machine as users see it: nodes of made-up trees, the CPU budget, and where workers go."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import Node, Topology
from penstock.topology import CpuBudget, describe

TWO_NODES = {
    "cpu/online": "0-3\n",
    "node/node0/cpulist": "0-1\n",
    "node/node0/distance": "10 21\n",
    "node/node0/meminfo": "Node 0 MemTotal:  2048 kB\nNode 0 MemFree: 1 kB\n",
    "node/node2/cpulist": "2-4\n",
    "node/node2/distance": "21 10\n",
    "node/node2/meminfo": "Node 2 MemTotal:  4096 kB\n",
}
FIRST = Node(0, [0, 1], 2 << 20, {0: 10, 2: 21})
SECOND = Node(2, [2, 3], 4 << 20, {0: 21, 2: 10})  # CPU 4 is offline
ALONE = Node(0, [0, 1], 0, {0: 10})


def write(system: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = system / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def machine(root: Path, files: dict[str, str]) -> list[Node]:
    write(root / "devices" / "system", files)
    return Topology.from_sysfs(root).nodes


# What a tree says


@pytest.mark.parametrize("below", ["devices/system", "sys/devices/system"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_tree_is_found_from_sys_and_from_above_it(
    tmp_path: Path, below: str, kind: type[str | Path]
) -> None:
    write(tmp_path / below, TWO_NODES)
    topology = Topology.from_sysfs(kind(tmp_path))
    assert topology.nodes == [FIRST, SECOND]
    node = topology.nodes[1]
    assert (node.id, node.cpus, node.memory, node.distances) == (2, [2, 3], 4 << 20, {0: 21, 2: 10})


def test_an_older_kernels_cpumap_is_read(tmp_path: Path) -> None:
    files = {"node/node0/cpumap": "00000001,00000005\n"}
    assert [node.cpus for node in machine(tmp_path, files)] == [[0, 2, 32]]


def test_a_node_may_have_only_memory(tmp_path: Path) -> None:
    nodes = machine(tmp_path, TWO_NODES | {"node/node2/cpulist": "\n"})
    assert (nodes[1].cpus, nodes[1].memory) == ([], 4 << 20)


@pytest.mark.parametrize("row", ["", "10", "10 21 30", "10 x", "0 0", "20 10"])
def test_distances_that_cannot_be_true_become_10_and_20(tmp_path: Path, row: str) -> None:
    nodes = machine(tmp_path, TWO_NODES | {"node/node0/distance": row})
    assert nodes[0].distances == {0: 10, 2: 20}


def test_missing_distances_become_10_and_20(tmp_path: Path) -> None:
    files = {name: text for name, text in TWO_NODES.items() if not name.endswith("distance")}
    assert [node.distances for node in machine(tmp_path, files)] == [{0: 10, 2: 20}, {0: 20, 2: 10}]


def test_without_a_node_folder_there_is_one_node_with_every_online_cpu(tmp_path: Path) -> None:
    nodes = machine(tmp_path, {"cpu/online": "0,2-3\n"})
    assert [(node.id, node.cpus, node.distances) for node in nodes] == [(0, [0, 2, 3], {0: 10})]


def test_offline_cpus_are_on_no_node(tmp_path: Path) -> None:
    nodes = machine(tmp_path, TWO_NODES | {"cpu/online": "0,3\n"})
    assert [node.cpus for node in nodes] == [[0], [3]]


def test_where_no_list_tells_each_cpu_says_whether_it_is_online(tmp_path: Path) -> None:
    files = {"cpu/cpu0/topology/core_id": "0", "cpu/cpu1/online": "0\n", "cpu/cpu2/online": "1\n"}
    assert machine(tmp_path, files | {"node/node0/cpumap": "7\n"})[0].cpus == [0, 2]


def test_a_cpu_that_two_nodes_claim_is_on_the_first(tmp_path: Path) -> None:
    nodes = machine(tmp_path, TWO_NODES | {"node/node2/cpulist": "0-3\n"})
    assert [node.cpus for node in nodes] == [[0, 1], [2, 3]]


def test_a_null_character_behind_a_list_does_no_harm(tmp_path: Path) -> None:
    nodes = machine(tmp_path, TWO_NODES | {"node/node0/cpulist": "0-1\n\0"})
    assert nodes == [FIRST, SECOND]


def test_sixty_four_nodes_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    files = {f"node/node{id}/cpulist": f"{2 * id}-{2 * id + 1}" for id in range(64)}
    nodes = machine(tmp_path, files)
    assert [(node.id, node.cpus) for node in nodes] == [(id, [2 * id, 2 * id + 1]) for id in range(64)]
    assert len(nodes[0].distances) == 64


def test_an_absent_path_is_an_os_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    with pytest.raises(FileNotFoundError) as caught:
        Topology.from_sysfs(path)
    assert caught.value.errno == errno.ENOENT
    assert os.fspath(path) in str(caught.value)


def test_a_path_that_is_none_is_named_with_its_value() -> None:
    with pytest.raises(TypeError, match=r"path must be a str or an os\.PathLike, not 3"):
        Topology.from_sysfs(3)  # type: ignore[arg-type]


def test_a_folder_without_a_sysfs_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="devices/system"):
        Topology.from_sysfs(tmp_path)


def test_a_path_that_no_system_call_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="path must be a path without null characters"):
        Topology.from_sysfs("a\0b")
    with pytest.raises(TypeError, match="path"):
        Topology.from_sysfs(3)  # type: ignore[arg-type]


# Values


def test_nodes_and_topologies_are_values() -> None:
    topology = Topology([SECOND, FIRST])
    assert topology == Topology([FIRST, SECOND])
    assert hash(topology) == hash(Topology([FIRST, SECOND]))
    assert FIRST != SECOND
    assert topology != Topology([Node(0, [0, 1], 0, {0: 10})])
    assert topology.nodes is not topology.nodes


def test_a_repr_makes_an_equal_value() -> None:
    topology = Topology([FIRST, SECOND])
    assert repr(FIRST) == "Node(id=0, cpus=[0, 1], memory=2097152, distances={0: 10, 2: 21})"
    for value in (topology, FIRST, CpuBudget([1, 2], 1.5), CpuBudget([0])):
        assert eval(repr(value)) == value


CORES = {"cpu/cpu0/topology/core_cpus_list": "0,2", "cpu/cpu1/topology/thread_siblings_list": "1,3"}
CACHES = {
    "cpu/cpu0/cache/index0/level": "1",
    "cpu/cpu0/cache/index0/shared_cpu_list": "0",
    "cpu/cpu0/cache/index3/level": "3",
    "cpu/cpu0/cache/index3/shared_cpu_list": "0-1",
    "cpu/cpu2/cache/index3/level": "3",
    "cpu/cpu2/cache/index3/shared_cpu_map": "c",
}


def test_cores_and_last_caches_divide_a_node(tmp_path: Path) -> None:
    (node,) = machine(tmp_path, {"cpu/online": "0-3", "node/node0/cpulist": "0-3"} | CORES | CACHES)
    assert (node.cores, node.caches) == ([[0, 2], [1, 3]], [[0, 1], [2, 3]])
    assert eval(repr(node)) == pickle.loads(pickle.dumps(node)) == node
    assert node == Node(0, range(4), 0, {0: 10}, cores=[[1, 3], [0, 2]], caches=[[0, 1], [2, 3]])
    assert node != Node(0, range(4), 0, {0: 10})


@pytest.mark.parametrize("value", [FIRST, Topology([FIRST, SECOND]), CpuBudget([1, 2], 1.5)])
def test_a_value_is_copied_and_pickled_like_any_other(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == copy.deepcopy(value) == value


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Node(-1, [], 0, {}), ValueError, "id must be an int from 0 to 4294967295, not -1"),
        (lambda: Node("0", [], 0, {}), TypeError, "id must be an int .*, not '0'"),  # type: ignore[arg-type]
        (lambda: Node(0, 4, 0, {}), TypeError, "cpus must be an iterable of ints, not 4"),  # type: ignore[arg-type]
        (lambda: Node(0, [65536], 0, {}), ValueError, "each of cpus must be .* to 65535, not 65536"),
        (lambda: Node(0, [], -5, {}), ValueError, "memory must be an int >= 0, not -5"),
        (lambda: Node(0, [], 0, []), TypeError, r"distances must be a dict .*, not \[\]"),  # type: ignore[arg-type]
        (lambda: Node(0, [], 0, {0: 0}), ValueError, "each of distances must be an int from 1 .*, not 0"),
        (lambda: Node(0, [0], 0, {}, cores=[0]), TypeError, r"cores must be an iterable of .*, not \[0\]"),  # type: ignore[list-item]
        (
            lambda: Node(0, [0], 0, {}, cores=[[1]]),
            ValueError,
            r"cores must be .* of the node's CPUs, .*, not \[\[1\]\]",
        ),
        (lambda: Node(0, [0], 0, {}, caches=[[0], [0]]), ValueError, "caches must be .* in one at most"),
        (lambda: Topology([1]), TypeError, "each of nodes must be a Node, not 1"),  # type: ignore[list-item]
        (lambda: CpuBudget([0], 0), ValueError, "quota must be None or a number of CPUs > 0, not 0"),
        (lambda: CpuBudget([0], "x"), TypeError, "quota must be .*, not 'x'"),  # type: ignore[arg-type]
        (lambda: Topology([ALONE]).place(-1), ValueError, "workers must be an int from 0 .*, not -1"),
    ],
)
def test_a_bad_argument_is_named_with_its_value_and_what_is_allowed(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", [CpuBudget, Node, Topology])
def test_each_class_is_where_it_says_it_is(kind: type) -> None:
    assert getattr(sys.modules[kind.__module__], kind.__name__) is kind


def test_nothing_about_them_can_be_changed() -> None:
    with pytest.raises(AttributeError):
        FIRST.id = 3  # type: ignore[misc]
    FIRST.cpus.append(9)
    assert FIRST.cpus == [0, 1]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "at least one Node"),
        ([FIRST, FIRST], "different ids"),
        ([FIRST, Node(2, [1], 0, {0: 20, 2: 10})], "CPU 1"),
        ([FIRST], "distance"),
    ],
)
def test_nodes_that_contradict_each_other_are_refused(nodes: list[Node], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Topology(nodes)


# Budget and placement


@pytest.mark.parametrize(
    ("cpus", "quota", "workers"), [(8, None, 8), (8, 1.5, 2), (8, 0.01, 1), (2, 64.0, 2)]
)
def test_the_tighter_of_mask_and_quota_rounded_up_decides(
    cpus: int, quota: float | None, workers: int
) -> None:
    assert CpuBudget(range(cpus), quota).workers == workers


def test_workers_follow_the_allowed_cpus_of_each_node() -> None:
    near = Node(0, [0, 1, 2], 0, {0: 10, 1: 20})
    far = Node(1, [3], 0, {0: 20, 1: 10})
    topology = Topology([near, far])
    assert sorted(topology.place(4)) == [0, 0, 0, 1]
    assert topology.place(3, [3]) == [1, 1, 1]
    assert topology.place(8)[:5] == topology.place(5)


def test_this_machine_has_the_cpus_it_lets_us_use() -> None:
    detected = {cpu for node in Topology.detect().nodes for cpu in node.cpus}
    assert set(CpuBudget.detect().cpus) <= detected


@pytest.mark.skipif(sys.platform != "linux", reason="there is no affinity mask elsewhere")
def test_the_default_runtime_has_a_worker_for_each_cpu_of_the_mask(run_program: Any) -> None:
    run_program(
        """
        import penstock.topology
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(penstock.topology.CpuBudget.detect().workers, penstock.default_runtime().stats().workers)
        """,
        stdout="1 1\n",
    )


def test_the_command_prints_the_machine_and_why_so_many_workers(run_program: Any) -> None:
    shown = run_program(
        "from penstock.cli import main; sys.exit(main(['topology']))", env={"PENSTOCK_WORKERS": "3"}
    ).stdout
    assert "3 workers" in shown
    assert "PENSTOCK_WORKERS" in shown


def test_describe_shows_each_node_with_its_workers() -> None:
    lines = describe(Topology([FIRST, SECOND]), CpuBudget([0, 1, 2, 3], 2.0)).splitlines()
    assert lines[0] == "2 nodes, 4 CPUs online, 6.0 MiB"
    assert any(line.split() == ["2", "10", "21"] or line.split() == ["2", "21", "10"] for line in lines)
    assert penstock.Topology is Topology


def test_describe_says_that_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_WORKERS", "12")
    text = describe(Topology([ALONE]), CpuBudget([0, 1]))
    assert "12 workers by default" in text
    assert "PENSTOCK_WORKERS  12: it decides" in text
    assert "12: 0, 1, 2, 3, 4, 5, ... 11" in text
    monkeypatch.setenv("PENSTOCK_WORKERS", "many")
    with pytest.raises(ValueError, match=r"PENSTOCK_WORKERS must be a number from 1 to .*many"):
        describe()
