//! How many CPUs this process may use, and so how many workers it starts with.

use std::path::Path;

use super::{CpuSet, affinity, cgroup};

/// The CPUs this process may use: which (the affinity mask) and how much of them (the cgroup quota).
#[derive(Clone, Debug, PartialEq)]
pub struct CpuBudget {
    /// The CPUs the main thread may run on. A cgroup's cpuset is in this already.
    pub allowed: CpuSet,
    /// CPU time per time that the tightest cgroup allows, in CPUs; `None` where none limits it.
    pub quota: Option<f64>,
}

impl CpuBudget {
    /// What holds now: a mask and a quota may change while the process runs. Reads two files of `/proc`, and one for each
    /// group on the way up; nothing is remembered.
    pub fn detect() -> Self {
        Self::detect_below(Path::new("/"))
    }

    /// The same with the files below `root`.
    fn detect_below(root: &Path) -> Self {
        Self {
            allowed: affinity::allowed_cpus(),
            quota: cgroup::cpu_quota(root),
        }
    }

    /// How many workers keep these CPUs busy: no more than may run at once, and no more than the quota,
    /// rounded up, pays for. A part of a CPU counts as a whole one, since rounding down would leave it unused;
    /// there is always one.
    pub fn workers(&self) -> usize {
        let allowed = self.allowed.len();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and below 0 there is 0"
        )]
        let paid = self.quota.map_or(allowed, |cpus| cpus.ceil() as usize);
        allowed.min(paid).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sysfs::tests::Tree, *};

    fn workers(allowed: &str, quota: Option<f64>) -> usize {
        let allowed = CpuSet::parse_list(allowed).unwrap();
        CpuBudget { allowed, quota }.workers()
    }

    #[test]
    fn the_tighter_of_mask_and_quota_decides() {
        assert_eq!(workers("0-7", None), 8);
        assert_eq!(workers("0-7", Some(3.0)), 3);
        assert_eq!(workers("2,5", Some(3.0)), 2);
    }

    #[test]
    fn a_part_of_a_cpu_counts_as_a_whole_one() {
        assert_eq!(workers("0-7", Some(1.5)), 2);
        assert_eq!(workers("0-7", Some(0.05)), 1);
    }

    #[test]
    fn there_is_always_a_worker() {
        assert_eq!(workers("", None), 1);
        assert_eq!(workers("", Some(0.0)), 1);
    }

    #[test]
    fn a_quota_that_changes_is_seen_at_the_next_look() {
        let tree = Tree::new(&[
            (
                "proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            ("proc/self/cgroup", "0::/box\n"),
            ("sys/fs/cgroup/box/cpu.max", "max 100000\n"),
        ]);
        let of = || CpuBudget {
            allowed: CpuSet::parse_list("0-7").unwrap(),
            ..CpuBudget::detect_below(tree.path())
        };
        assert_eq!(of().workers(), 8);
        let file = tree.path().join("sys/fs/cgroup/box/cpu.max");
        for (text, workers) in [
            ("150000 100000\n", 2),
            ("50000 100000\n", 1),
            ("max 100000\n", 8),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(of().workers(), workers, "{text}");
        }
    }

    #[test]
    fn this_process_may_use_a_cpu() {
        assert!(!CpuBudget::detect().allowed.is_empty());
    }
}
