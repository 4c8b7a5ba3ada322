//! Reads the nodes and CPUs of a machine from the text files of a sysfs.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{CpuSet, LOCAL_DISTANCE, Node, REMOTE_DISTANCE, Topology};

/// See [`Topology::from_sysfs`].
pub fn read(root: &Path) -> io::Result<Topology> {
    let (system, proc) = locate(root)?;
    let online = online_cpus(&system.join("cpu"))?;
    let folder = system.join("node");
    let ids = numbered(&folder, "node")?;
    if ids.is_empty() {
        let memory = proc.and_then(|proc| memory_bytes(&proc.join("meminfo")));
        let mut only = Topology::single_node(online.unwrap_or_default(), memory.unwrap_or(0));
        let node = &mut only.nodes[0];
        (node.cores, node.caches) = divided(&system.join("cpu"), &node.cpus);
        return Ok(only);
    }
    let mut claimed = CpuSet::new();
    let nodes = ids
        .iter()
        .map(|&id| {
            let folder = folder.join(format!("node{id}"));
            let mut cpus = listed_cpus(&folder).difference(&claimed);
            if let Some(online) = &online {
                cpus = cpus.intersection(online);
            }
            claimed.extend(cpus.iter());
            let (cores, caches) = divided(&system.join("cpu"), &cpus);
            Node {
                id,
                memory_bytes: memory_bytes(&folder.join("meminfo")).unwrap_or(0),
                distances: distances(&folder.join("distance"), id, &ids),
                cores,
                caches,
                cpus,
            }
        })
        .collect();
    Ok(
        Topology::new(nodes)
            .expect("ids differ, claimed CPUs are left out, each row names each id"),
    )
}

/// Where `devices/system` is, and the `proc` beside that sysfs.
fn locate(root: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let sysfs = root.join("devices/system");
    if sysfs.is_dir() {
        let named_sys = root.file_name().is_some_and(|name| name == "sys");
        return Ok((sysfs, named_sys.then(|| root.with_file_name("proc"))));
    }
    let recording = root.join("sys/devices/system");
    fs::read_dir(&recording)?;
    Ok((recording, Some(root.join("proc"))))
}

/// The numbers N of the entries `{name}N` of `folder`, in order; none where there is no such folder.
fn numbered(folder: &Path, name: &str) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry?.file_name();
        let digits = entry.to_str().and_then(|entry| entry.strip_prefix(name));
        let number = digits.and_then(|digits| digits.parse::<u32>().ok());
        // Only the kernel's own spelling: `node01` is not `node1`.
        numbers.extend(number.filter(|number| digits == Some(&number.to_string())));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The text of a file; `None` where there is none to read. Some kernels write a null character behind a `cpulist`.
fn text_of(file: &Path) -> Option<String> {
    let mut text = fs::read_to_string(file).ok()?;
    text.truncate(text.trim_end_matches('\0').len());
    Some(text)
}

/// The online CPUs; `None` where nothing tells, so that each CPU a node lists counts.
fn online_cpus(folder: &Path) -> io::Result<Option<CpuSet>> {
    let listed = text_of(&folder.join("online"));
    if let Some(online) = listed.and_then(|text| CpuSet::parse_list(&text))
        && !online.is_empty()
    {
        return Ok(Some(online));
    }
    // Kernels before 2.6.26 have no list. A CPU that cannot be taken offline has no file of its own either.
    let is_online = |cpu: &u32| {
        let state = text_of(&folder.join(format!("cpu{cpu}/online")));
        state.is_none_or(|text| text.trim() != "0")
    };
    let online: CpuSet = numbered(folder, "cpu")?
        .into_iter()
        .filter(|cpu| *cpu < super::CPU_LIMIT && is_online(cpu))
        .collect();
    Ok((!online.is_empty()).then_some(online))
}

/// The CPUs of a file with a list, or of the one with a map that was there before it.
fn cpus_in(folder: &Path, list: &str, map: &str) -> Option<CpuSet> {
    text_of(&folder.join(list))
        .and_then(|text| CpuSet::parse_list(&text))
        .or_else(|| text_of(&folder.join(map)).and_then(|text| CpuSet::parse_map(&text)))
}

/// The CPUs a node lists.
fn listed_cpus(folder: &Path) -> CpuSet {
    cpus_in(folder, "cpulist", "cpumap").unwrap_or_default()
}

/// `cpus` by core and by the last cache that they share. None where that divides nothing: each is a core by itself; all
/// share a cache, or each core has its own.
fn divided(folder: &Path, cpus: &CpuSet) -> (Vec<CpuSet>, Vec<CpuSet>) {
    let mut cores = grouped(cpus, |cpu| {
        let folder = folder.join(format!("cpu{cpu}/topology"));
        cpus_in(&folder, "core_cpus_list", "core_cpus") // since 5.3
            .or_else(|| cpus_in(&folder, "thread_siblings_list", "thread_siblings"))
    });
    let mut caches = grouped(cpus, |cpu| {
        let folder = folder.join(format!("cpu{cpu}/cache"));
        let indices = numbered(&folder, "index").ok()?;
        let level = |index: &u32| -> Option<(u32, PathBuf)> {
            let folder = folder.join(format!("index{index}"));
            let level = text_of(&folder.join("level"))?.trim().parse().ok()?;
            Some((level, folder))
        };
        let (_, last) = indices.iter().filter_map(level).max()?;
        cpus_in(&last, "shared_cpu_list", "shared_cpu_map")
    });
    if caches.len() < 2 || caches == cores {
        caches.clear();
    }
    if cores.len() == cpus.len() {
        cores.clear();
    }
    (cores, caches)
}

/// `cpus` in groups, each as `group_of` its first CPU says: of a large machine few files are read.
fn grouped(cpus: &CpuSet, group_of: impl Fn(u32) -> Option<CpuSet>) -> Vec<CpuSet> {
    let mut left = cpus.clone();
    let mut groups = Vec::new();
    while let Some(first) = left.first() {
        let mut group = group_of(first).unwrap_or_default().intersection(&left);
        group.insert(first);
        left = left.difference(&group);
        groups.push(group);
    }
    groups
}

/// `MemTotal`, from the machine's `meminfo` or a node's, whose lines begin with `Node N`.
fn memory_bytes(file: &Path) -> Option<u64> {
    let text = text_of(file)?;
    let (_, rest) = text.split_once("MemTotal:")?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// How far node `id` is from each of `ids`, itself included.
fn distances(file: &Path, id: u32, ids: &[u32]) -> BTreeMap<u32, u32> {
    let row: Option<Vec<u32>> = text_of(file).and_then(|text| {
        text.split_whitespace()
            .map(|word| word.parse().ok())
            .collect()
    });
    // The kernel writes one number per online node, in order of the ids.
    if let Some(row) = row
        && row.len() == ids.len()
    {
        let row: BTreeMap<u32, u32> = ids.iter().copied().zip(row).collect();
        if row[&id] > 0 && row.values().all(|distance| *distance >= row[&id]) {
            return row;
        }
    }
    let assumed = |other| {
        if other == id {
            LOCAL_DISTANCE
        } else {
            REMOTE_DISTANCE
        }
    };
    ids.iter().map(|&other| (other, assumed(other))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A folder of files, removed with it.
    pub struct Tree(PathBuf);

    impl Tree {
        pub fn new(files: &[(&str, &str)]) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            // Ordering: Relaxed, a counter that only has to give each tree another number.
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("penstock-topology-{}-{number}", std::process::id());
            let tree = Self(std::env::temp_dir().join(name));
            fs::create_dir_all(&tree.0).unwrap();
            for (path, text) in files {
                let path = tree.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            tree
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Reads files whose paths are below `sys/devices/system`.
    fn machine(files: &[(&str, &str)]) -> Vec<Node> {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (format!("sys/devices/system/{path}"), *text))
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        let tree = Tree::new(&files);
        read(tree.path()).unwrap().nodes().to_vec()
    }

    fn row(pairs: &[(u32, u32)]) -> BTreeMap<u32, u32> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn nodes_have_cpus_memory_and_distances() {
        let nodes = machine(&[
            ("cpu/online", "0-3\n"),
            ("node/node0/cpulist", "0-1\n"),
            (
                "node/node0/meminfo",
                "Node 0 MemTotal:       2048 kB\nNode 0 MemFree: 5 kB\n",
            ),
            ("node/node0/distance", "10 21\n"),
            ("node/node1/cpulist", "2-3\n"),
            ("node/node1/meminfo", "Node 1 MemTotal: 4096 kB\n"),
            ("node/node1/distance", "21 10\n"),
            ("node/possible", "0-1\n"),
        ]);
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[0].cpus.to_string(), "0-1");
        assert_eq!(nodes[0].memory_bytes, 2 << 20);
        assert_eq!(nodes[1].memory_bytes, 4 << 20);
        assert_eq!(nodes[1].distances, row(&[(0, 21), (1, 10)]));
    }

    #[test]
    fn sparse_ids_meet_their_columns() {
        let nodes = machine(&[
            ("node/node0/cpulist", "0"),
            ("node/node0/distance", "10 16 80"),
            ("node/node4/cpulist", "1"),
            ("node/node4/distance", "16 10 80"),
            ("node/node250/cpulist", ""),
            ("node/node250/distance", "80 80 10"),
        ]);
        assert_eq!(nodes[1].id, 4);
        assert_eq!(nodes[1].distances, row(&[(0, 16), (4, 10), (250, 80)]));
    }

    #[test]
    fn an_older_kernel_s_cpumap_is_read() {
        let nodes = machine(&[
            ("node/node0/cpumap", "00000000,0000000f\n"),
            ("node/node1/cpumap", "00000001,000000f0\n"),
        ]);
        assert_eq!(nodes[0].cpus.to_string(), "0-3");
        assert_eq!(nodes[1].cpus.to_string(), "4-7,32");
    }

    #[test]
    fn a_null_character_behind_the_text_does_no_harm() {
        let nodes = machine(&[
            ("cpu/online", "0-3\n"),
            ("node/node0/cpulist", "0-1\n\0"),
            ("node/node0/distance", "10 21\n\0"),
            ("node/node1/cpumap", "0000000c\n\0"),
        ]);
        assert_eq!(nodes[0].cpus.to_string(), "0-1");
        assert_eq!(nodes[0].distances[&1], 21);
        assert_eq!(nodes[1].cpus.to_string(), "2-3");
    }

    #[test]
    fn a_damaged_cpulist_falls_back_to_the_cpumap() {
        let nodes = machine(&[("node/node0/cpulist", "0-"), ("node/node0/cpumap", "3")]);
        assert_eq!(nodes[0].cpus.to_string(), "0-1");
    }

    #[test]
    fn offline_cpus_are_left_out() {
        let nodes = machine(&[("cpu/online", "0,2-3"), ("node/node0/cpulist", "0-3")]);
        assert_eq!(nodes[0].cpus.to_string(), "0,2-3");
    }

    #[test]
    fn without_a_list_each_cpu_says_whether_it_is_online() {
        let nodes = machine(&[
            ("cpu/cpu0/topology/core_id", "0"),
            ("cpu/cpu1/online", "0\n"),
            ("cpu/cpu2/online", "1\n"),
            ("cpu/cpufreq/boost", "1"),
            ("node/node0/cpumap", "7"),
        ]);
        assert_eq!(nodes[0].cpus.to_string(), "0,2");
    }

    #[test]
    fn nodes_may_have_only_memory_or_only_cpus() {
        let nodes = machine(&[
            ("cpu/online", "0-1"),
            ("node/node0/cpulist", "0-1"),
            ("node/node1/cpulist", "\n"),
            ("node/node1/meminfo", "Node 1 MemTotal: 8 kB\n"),
        ]);
        assert_eq!((nodes[0].cpus.len(), nodes[0].memory_bytes), (2, 0));
        assert_eq!((nodes[1].cpus.len(), nodes[1].memory_bytes), (0, 8192));
    }

    #[test]
    fn a_row_of_distances_that_cannot_be_true_is_replaced() {
        let good = "20 10 30";
        for bad in [
            "",
            "10",
            "10 20",
            "10 20 30 40",
            "10 x 20",
            "0 0 0",
            "20 10 20",
            "10 -1 20",
        ] {
            let nodes = machine(&[
                ("node/node0/distance", bad),
                ("node/node1/distance", good),
                ("node/node2/cpulist", "0"),
            ]);
            assert_eq!(
                nodes[0].distances,
                row(&[(0, 10), (1, 20), (2, 20)]),
                "{bad:?}"
            );
            assert_eq!(nodes[1].distances, row(&[(0, 20), (1, 10), (2, 30)]));
            assert_eq!(nodes[2].distances, row(&[(0, 20), (1, 20), (2, 10)]));
        }
    }

    #[test]
    fn a_cpu_that_several_nodes_claim_is_on_the_first() {
        let nodes = machine(&[
            ("node/node0/cpulist", "0-3"),
            ("node/node1/cpulist", "2-5"),
            ("node/node1/distance", "10 10"),
        ]);
        assert_eq!(nodes[0].cpus.to_string(), "0-3");
        assert_eq!(nodes[1].cpus.to_string(), "4-5");
        assert_eq!(nodes[1].distances, row(&[(0, 10), (1, 10)]));
    }

    #[test]
    fn without_nodes_there_is_one_with_every_online_cpu() {
        let tree = Tree::new(&[
            ("sys/devices/system/cpu/online", "0-5\n"),
            (
                "proc/meminfo",
                "MemTotal:       16 kB\nMemFree:        1 kB\n",
            ),
        ]);
        let expected = Topology::single_node((0..6).collect(), 16 << 10);
        assert_eq!(read(tree.path()).unwrap(), expected);
        assert_eq!(read(&tree.path().join("sys")).unwrap(), expected);
    }

    #[test]
    fn cores_and_last_caches_divide_a_node() {
        let nodes = machine(&[
            ("cpu/online", "0-7"),
            ("node/node0/cpulist", "0-7"),
            ("cpu/cpu0/topology/core_cpus_list", "0,4"),
            ("cpu/cpu0/topology/thread_siblings_list", "0-7"), // not looked at
            ("cpu/cpu1/topology/thread_siblings_list", "1,5"),
            ("cpu/cpu2/topology/thread_siblings", "00000044"),
            ("cpu/cpu0/cache/index0/level", "1"),
            ("cpu/cpu0/cache/index0/shared_cpu_list", "0,4"),
            ("cpu/cpu0/cache/index3/level", "3"),
            ("cpu/cpu0/cache/index3/shared_cpu_list", "0-1,4-5,9"),
            ("cpu/cpu2/cache/index0/level", "1"),
            ("cpu/cpu2/cache/index0/shared_cpu_map", "cc"),
        ]);
        let shown = |sets: &[CpuSet]| sets.iter().map(CpuSet::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&nodes[0].cores), ["0,4", "1,5", "2,6", "3", "7"]);
        assert_eq!(shown(&nodes[0].caches), ["0-1,4-5", "2-3,6-7"]);
    }

    #[test]
    fn one_cache_for_all_and_cores_of_one_cpu_divide_nothing() {
        let nodes = machine(&[
            ("cpu/online", "0-1"),
            ("cpu/cpu0/topology/core_cpus_list", "0"),
            ("cpu/cpu1/topology/core_cpus_list", "1"),
            ("cpu/cpu0/cache/index2/level", "2"),
            ("cpu/cpu0/cache/index2/shared_cpu_list", "0-1"),
        ]);
        assert_eq!((nodes[0].cores.len(), nodes[0].caches.len()), (0, 0));
    }

    #[test]
    fn an_empty_node_folder_is_as_none() {
        let nodes = machine(&[
            ("cpu/online", "0"),
            ("node/online", "0"),
            ("node/nodex", ""),
        ]);
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].cpus.to_string(), "0");
    }

    #[test]
    fn sixty_four_nodes_are_read_in_order_of_their_numbers() {
        let row: String = "20 ".repeat(63) + "10";
        let files: Vec<_> = (0..64)
            .flat_map(|id| {
                let cpus = format!("{}-{}", 2 * id, 2 * id + 1);
                [
                    (format!("node/node{id}/cpulist"), cpus),
                    (format!("node/node{id}/distance"), row.clone()),
                ]
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        let nodes = machine(&files);
        assert!((0..64).eq(nodes.iter().map(|node| node.id)));
        assert_eq!(nodes[10].cpus.to_string(), "20-21");
        assert_eq!(
            (nodes[63].distances[&0], nodes[63].distances[&63]),
            (20, 10)
        );
    }

    #[test]
    fn a_place_without_a_sysfs_is_an_error() {
        let tree = Tree::new(&[("file", "")]);
        for path in ["", "nothing", "nothing/sys"] {
            let error = read(&tree.path().join(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{path}");
        }
        assert!(
            read(&tree.path().join("file"))
                .unwrap_err()
                .raw_os_error()
                .is_some()
        );
    }
}
