//! A set of CPU numbers, and the two ways in which the kernel writes one.

use std::fmt;

/// CPU numbers are below this: eight times what any kernel is built for. A list that names a higher
/// one is damaged, and must not decide how much memory we take.
pub const CPU_LIMIT: u32 = 1 << 16;

/// A set of CPU numbers.
///
/// # Invariants
/// The last word is not 0, so that equal sets compare equal and hash alike.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct CpuSet {
    /// Bit `b` of word `w` is CPU `64 * w + b`.
    words: Vec<u64>,
}

impl CpuSet {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a list, as in `cpulist` and `online`: `0-3,8,10-11`. Nothing at all is the empty set.
    pub fn parse_list(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut set = Self::new();
        if text.is_empty() {
            return Some(set);
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= CPU_LIMIT {
                return None;
            }
            for cpu in first..=last {
                set.insert(cpu);
            }
        }
        Some(set)
    }

    /// Reads a map, as in `cpumap`: words of 32 bits in hexadecimal, the highest first.
    pub fn parse_map(text: &str) -> Option<Self> {
        let mut set = Self::new();
        for (index, word) in (0..=CPU_LIMIT / 32).zip(text.trim().rsplit(',')) {
            let digits = word.bytes().all(|digit| digit.is_ascii_hexdigit());
            if !digits || index == CPU_LIMIT / 32 {
                return None;
            }
            let word = u32::from_str_radix(word, 16).ok()?;
            for bit in (0..32).filter(|bit| word >> bit & 1 == 1) {
                set.insert(32 * index + bit);
            }
        }
        Some(set)
    }

    /// Adds `cpu`.
    ///
    /// # Panics
    /// `cpu` is not below [`CPU_LIMIT`].
    pub fn insert(&mut self, cpu: u32) {
        assert!(cpu < CPU_LIMIT, "CPU {cpu} is over the limit");
        let word = (cpu / 64) as usize;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        // INVARIANT: if the set grew, its last word is this one, and gets a bit.
        self.words[word] |= 1 << (cpu % 64);
    }

    pub fn contains(&self, cpu: u32) -> bool {
        let word = self.words.get((cpu / 64) as usize);
        word.is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }

    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The lowest CPU.
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The CPUs, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.words).flat_map(|(index, word)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| 64 * index + bit)
        })
    }

    /// The CPUs that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.iter().filter(|cpu| other.contains(*cpu)).collect()
    }

    /// The CPUs of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.iter().filter(|cpu| !other.contains(*cpu)).collect()
    }
}

impl Extend<u32> for CpuSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, cpus: I) {
        cpus.into_iter().for_each(|cpu| self.insert(cpu));
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut set = Self::new();
        set.extend(cpus);
        set
    }
}

/// As [`CpuSet::parse_list`] reads it.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[u32]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn a_list_reads_ranges_and_single_cpus() {
        assert_eq!(
            CpuSet::parse_list("0-2,63-64,200\n"),
            Some(set(&[0, 1, 2, 63, 64, 200]))
        );
        assert_eq!(CpuSet::parse_list("\n"), Some(CpuSet::new()));
    }

    #[test]
    fn a_map_reads_32_bit_words_highest_first() {
        assert_eq!(
            CpuSet::parse_map("1,00000000,80000003\n"),
            Some(set(&[0, 1, 31, 64]))
        );
        assert_eq!(CpuSet::parse_map("ff"), CpuSet::parse_list("0-7"));
        assert_eq!(CpuSet::parse_map("00000000,00000000"), Some(CpuSet::new()));
    }

    #[test]
    fn damaged_text_is_no_set() {
        for text in ["3-1", "a", "0-", "-1", "0,,1", "0-4294967295", "65536"] {
            assert_eq!(CpuSet::parse_list(text), None, "{text}");
        }
        for text in ["", "xyz", "+1", "123456789", "1,,1"] {
            assert_eq!(CpuSet::parse_map(text), None, "{text}");
        }
        let too_long = vec!["0"; 2049].join(",");
        assert_eq!(CpuSet::parse_map(&too_long), None);
        assert!(CpuSet::parse_map(&too_long[2..]).is_some());
    }

    #[test]
    fn equal_sets_compare_equal_however_they_were_made() {
        let shrunk = set(&[1, 500]).difference(&set(&[500]));
        assert_eq!(shrunk, set(&[1]));
        assert_eq!(set(&[1, 500]).intersection(&set(&[1, 2])), set(&[1]));
        assert!(set(&[500]).difference(&set(&[500])).is_empty());
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_set() {
        let cpus = set(&[0, 1, 2, 5, 7, 8, 64]);
        assert_eq!(cpus.to_string(), "0-2,5,7-8,64");
        assert_eq!(CpuSet::parse_list(&cpus.to_string()), Some(cpus));
    }
}
