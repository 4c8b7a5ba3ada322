//! The CPU time that control groups leave to this process, of either version.
//!
//! A group's limit holds for all below it, so the tightest on the way up counts. Inside a container the way
//! ends at the container's own group, which looks like the root. Whatever cannot be read limits nothing.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// A mounted hierarchy that controls CPU time.
#[derive(Debug, PartialEq)]
struct Hierarchy {
    version: Version,
    /// Which of its groups the mount shows as its root.
    root: PathBuf,
    /// Where it is mounted.
    at: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    One,
    Two,
}

/// The tightest quota on this process, in CPUs. All files are read below `root`.
pub fn cpu_quota(root: &Path) -> Option<f64> {
    let own = root.join("proc/self");
    let mounts = fs::read_to_string(own.join("mountinfo")).ok()?;
    let groups = fs::read_to_string(own.join("cgroup")).ok()?;
    mounts
        .lines()
        .filter_map(hierarchy)
        .filter_map(|hierarchy| {
            let group = groups
                .lines()
                .find_map(|line| group(line, hierarchy.version))?;
            tightest(root, &hierarchy, group)
        })
        .reduce(f64::min)
}

/// Reads a line of `mountinfo`: `ID PARENT DEVICE ROOT AT OPTIONS [TAGS...] - TYPE SOURCE SUPER-OPTIONS`.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let mut system = system.split(' ');
    let version = match system.next()? {
        "cgroup2" => Version::Two,
        "cgroup" if system.nth(1)?.split(',').any(|option| option == "cpu") => Version::One,
        _ => return None,
    };
    Some(Hierarchy {
        version,
        root: unescape(mount.next()?).into(),
        at: unescape(mount.next()?).into(),
    })
}

/// Blanks and backslashes are written as `\040`: an octal byte.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).map(|octal| u8::from_str_radix(octal, 8)) {
            Some(Ok(byte)) if byte.is_ascii() => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Reads a line of `cgroup`, `ID:CONTROLLERS:GROUP`: our group, if the line is of this version's CPU hierarchy.
fn group(line: &str, version: Version) -> Option<&Path> {
    let (id, rest) = line.split_once(':')?;
    let (controllers, group) = rest.split_once(':')?;
    let ours = match version {
        Version::One => controllers.split(',').any(|name| name == "cpu"),
        Version::Two => id == "0" && controllers.is_empty(),
    };
    ours.then_some(Path::new(group))
}

/// The tightest quota from our `group` up to the root of the mount.
fn tightest(root: &Path, hierarchy: &Hierarchy, group: &Path) -> Option<f64> {
    let top = root.join(hierarchy.at.strip_prefix("/").ok()?);
    // A group outside what the mount shows (`/../other`, seen from a namespace): only the root is ours to see.
    let below = group
        .strip_prefix(&hierarchy.root)
        .ok()
        .filter(|path| {
            path.components()
                .all(|part| matches!(part, Component::Normal(_)))
        })
        .unwrap_or(Path::new(""));
    below
        .ancestors()
        .filter_map(|group| quota(&top.join(group), hierarchy.version))
        .reduce(f64::min)
}

/// The quota of one group, in CPUs.
fn quota(folder: &Path, version: Version) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let (quota, period): (f64, f64) = match version {
        // `QUOTA PERIOD`, where the quota may be `max`.
        Version::Two => {
            let text = read("cpu.max")?;
            let mut words = text.split_whitespace();
            (words.next()?.parse().ok()?, words.next()?.parse().ok()?)
        }
        // A quota of -1 is none.
        Version::One => (
            read("cpu.cfs_quota_us")?.trim().parse().ok()?,
            read("cpu.cfs_period_us")?.trim().parse().ok()?,
        ),
    };
    let cpus = quota / period;
    (cpus.is_finite() && cpus > 0.0).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use super::{super::sysfs::tests::Tree, *};

    const MOUNT_2: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const MOUNT_1: &str =
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let tree = Tree::new(&[
            ("proc/self/mountinfo", MOUNT_2),
            ("proc/self/cgroup", "0::/pod/box/leaf\n"),
            ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pod/box/cpu.max", "400000 100000\n"),
            ("sys/fs/cgroup/pod/box/leaf/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pod/other/cpu.max", "10000 100000\n"),
        ]);
        assert_eq!(cpu_quota(tree.path()), Some(1.5));
    }

    #[test]
    fn version_one_reads_quota_and_period() {
        let files = |quota| {
            [
                ("proc/self/mountinfo", MOUNT_1),
                ("proc/self/cgroup", "4:memory:/m\n3:cpu,cpuacct:/box\n"),
                ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "50000\n"),
            ]
        };
        assert_eq!(cpu_quota(Tree::new(&files("200000\n")).path()), Some(4.0));
        assert_eq!(cpu_quota(Tree::new(&files("-1\n")).path()), None);
    }

    #[test]
    fn both_versions_at_once_give_the_tighter() {
        let tree = Tree::new(&[
            (
                "proc/self/mountinfo",
                &(MOUNT_1.to_owned()
                    + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"),
            ),
            ("proc/self/cgroup", "1:cpu,cpuacct:/\n0::/box\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
            ("sys/fs/cgroup/unified/box/cpu.max", "200000 100000"),
        ]);
        assert_eq!(cpu_quota(tree.path()), Some(2.0));
    }

    #[test]
    fn a_container_without_a_namespace_finds_its_group_at_the_mount() {
        let tree = Tree::new(&[
            (
                "proc/self/mountinfo",
                "9 1 0:5 /docker/ab\\040c /sys/fs/cg\\134x rw - cgroup2 none rw\n",
            ),
            ("proc/self/cgroup", "0::/docker/ab c/inner\n"),
            ("sys/fs/cg\\x/cpu.max", "50000 100000\n"),
            ("sys/fs/cg\\x/inner/cpu.max", "70000 100000\n"),
        ]);
        assert_eq!(cpu_quota(tree.path()), Some(0.5));
    }

    #[test]
    fn a_group_outside_the_mount_sees_only_its_root() {
        let tree = Tree::new(&[
            ("proc/self/mountinfo", MOUNT_2),
            ("proc/self/cgroup", "0::/../other\n"),
            ("sys/fs/other/cpu.max", "10000 100000\n"),
            ("sys/fs/cgroup/cpu.max", "300000 100000\n"),
        ]);
        assert_eq!(cpu_quota(tree.path()), Some(3.0));
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        assert_eq!(cpu_quota(Tree::new(&[]).path()), None);
        for text in ["", "max", "x 100000", "100000 0", "0 100000", "100000"] {
            let tree = Tree::new(&[
                ("proc/self/mountinfo", MOUNT_2),
                ("proc/self/cgroup", "garbage\n0::/\n"),
                ("sys/fs/cgroup/cpu.max", text),
            ]);
            assert_eq!(cpu_quota(tree.path()), None, "{text:?}");
        }
    }
}
