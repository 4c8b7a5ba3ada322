//! Pages from the system: mapped, bound to a node, backed by huge pages, and given back.
//!
//! What the system may deny without harm (binding, huge pages) it is asked for and no more: [`Denied`] says
//! what it did not do. Pages are bound with `MPOL_PREFERRED`, so a node that is full costs locality and not the
//! process.

use std::{io, ptr::NonNull};

/// What a huge page is, and is aligned to, where pages of other sizes are 4 KiB.
pub const HUGE_BYTES: usize = 2 << 20;

/// How pages are to be mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// The node, by the kernel's number, that they should lie on.
    pub bind_to: Option<u32>,
    /// Whether they should be huge.
    pub huge: bool,
}

/// What the system was asked for, and did not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    pub binding: bool,
    pub huge: bool,
}

impl std::ops::BitOrAssign for Denied {
    fn bitor_assign(&mut self, other: Self) {
        self.binding |= other.binding;
        self.huge |= other.huge;
    }
}

/// Pages from the system, given back when it is dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is memory that nobody else knows of; it may be given back from any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `bytes` of zeroes, a multiple of the page size.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let base = system::map(bytes)?;
        Ok(Self { base, bytes })
    }

    /// The same, as `backing` wants it as far as the system does it. Less than a huge page is no huge page.
    pub fn backed(bytes: usize, backing: Backing) -> io::Result<(Self, Denied)> {
        let huge = backing.huge && bytes >= HUGE_BYTES;
        let mapping = if huge {
            Self::aligned(bytes)?
        } else {
            Self::new(bytes)?
        };
        // Before anybody touches a page: that is when it gets its place.
        let denied = Denied {
            binding: backing
                .bind_to
                .is_some_and(|node| !system::bind(mapping.base, bytes, node)),
            huge: huge && !system::advise_huge(mapping.base, bytes),
        };
        Ok((mapping, denied))
    }

    /// `bytes` that start where a huge page may.
    fn aligned(bytes: usize) -> io::Result<Self> {
        if cfg!(miri) {
            return Self::new(bytes); // whose allocator is no system that takes parts of a mapping back
        }
        let whole = bytes
            .checked_add(HUGE_BYTES - page_bytes())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let base = system::map(whole)?;
        let before = base.as_ptr().align_offset(HUGE_BYTES);
        let after = whole - before - bytes;
        // SAFETY: the three parts lie in the mapping that was just made, and nobody knows of it yet.
        unsafe {
            if before > 0 {
                system::unmap(base, before);
            }
            let base = base.add(before);
            if after > 0 {
                system::unmap(base.add(bytes), after);
            }
            Ok(Self { base, bytes })
        }
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Gives up the mapping without unmapping it; [`from_raw`](Self::from_raw) takes it back.
    pub fn into_raw(self) -> NonNull<u8> {
        let base = self.base;
        std::mem::forget(self);
        base
    }

    /// # Safety
    /// `base` came from [`into_raw`](Self::into_raw) of a mapping of `bytes`, and is given up here.
    pub unsafe fn from_raw(base: NonNull<u8>, bytes: usize) -> Self {
        Self { base, bytes }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of a live mapping, whose owner goes here.
        unsafe { system::unmap(self.base, self.bytes) };
    }
}

/// The page size, which direct mappings are rounded to.
pub fn page_bytes() -> usize {
    // SAFETY: no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every system has a page size")
}

/// Tells the system that the pages wholly inside `start..start + bytes` hold nothing of value. A system
/// that says no keeps them; that costs memory and nothing else.
///
/// # Safety
/// The range lies in a live mapping and nobody uses it.
pub unsafe fn decommit(start: NonNull<u8>, bytes: usize) {
    let page = page_bytes();
    let skipped = start.addr().get().next_multiple_of(page) - start.addr().get();
    let Some(inside) = bytes.checked_sub(skipped) else {
        return;
    };
    let inside = inside / page * page;
    if inside > 0 {
        // SAFETY: `skipped + inside <= bytes`, so the range stays in the caller's, which nobody uses.
        unsafe { system::discard(start.add(skipped), inside) };
    }
}

/// Writes to each page of `start..start + bytes`, so that it is there from now on; what is in it stays as it is.
///
/// # Safety
/// The range lies in a live mapping and nobody else uses it.
pub unsafe fn touch(start: NonNull<u8>, bytes: usize) {
    let page = page_bytes();
    // One byte in each page, and the last one, for a range that ends early in a page.
    for offset in (0..bytes).step_by(page).chain(bytes.checked_sub(1)) {
        // SAFETY: `offset < bytes`; the caller alone uses the range.
        unsafe {
            let byte = start.add(offset);
            byte.write_volatile(byte.read_volatile());
        }
    }
}

#[cfg(not(miri))]
mod system {
    use super::{NonNull, io};

    pub fn map(bytes: usize) -> io::Result<NonNull<u8>> {
        // SAFETY: a fresh private mapping, placed by the system, touches no memory that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(NonNull::new(base.cast()).expect("the system maps nothing at address 0"))
    }

    /// # Safety
    /// The range is whole pages of a live mapping, and nobody uses it, now or later.
    pub unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
        // SAFETY: as promised by the caller.
        let failed = unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
        debug_assert_eq!(failed, 0, "munmap: {}", io::Error::last_os_error());
    }

    /// # Safety
    /// The range is whole pages of a live mapping, and nobody uses what is in them.
    pub unsafe fn discard(base: NonNull<u8>, bytes: usize) {
        // SAFETY: as promised by the caller.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_DONTNEED) };
    }

    /// Whether the kernel prefers `node` for these pages from now on.
    #[cfg(target_os = "linux")]
    pub fn bind(base: NonNull<u8>, bytes: usize, node: u32) -> bool {
        const MPOL_PREFERRED: libc::c_ulong = 1; // the name that <numaif.h> has for it
        let bits = libc::c_ulong::BITS;
        let mut mask: Vec<libc::c_ulong> = vec![0; (node / bits) as usize + 1];
        mask[(node / bits) as usize] = 1 << (node % bits);
        // The kernel reads one bit less than it is told.
        let length = mask.len() * bits as usize + 1;
        // SAFETY: the range is a mapping of ours, whose content the call does not touch; the kernel reads the
        // bits of `mask` and keeps no pointer to it.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                base.as_ptr(),
                bytes,
                MPOL_PREFERRED,
                mask.as_ptr(),
                length,
                0,
            )
        };
        failed == 0
    }

    #[cfg(not(target_os = "linux"))]
    pub fn bind(_: NonNull<u8>, _: usize, _: u32) -> bool {
        false
    }

    /// Whether the kernel makes huge pages of these, as far as it can find any.
    #[cfg(target_os = "linux")]
    pub fn advise_huge(base: NonNull<u8>, bytes: usize) -> bool {
        // Turned off, the advice is taken without an error, and without an effect.
        let off = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .is_ok_and(|modes| modes.contains("[never]"));
        // SAFETY: asks for a flag of this process.
        let off = off || unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) } == 1;
        // SAFETY: the range is a mapping of ours, whose content the call does not touch.
        let failed = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        !off && failed == 0
    }

    #[cfg(not(target_os = "linux"))]
    pub fn advise_huge(_: NonNull<u8>, _: usize) -> bool {
        false
    }
}

/// Under Miri, which follows an allocator and not a system: pages are memory from the ordinary one.
#[cfg(miri)]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    use super::{NonNull, io};

    fn layout(bytes: usize) -> io::Result<Layout> {
        Layout::from_size_align(bytes, super::HUGE_BYTES)
            .map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    pub fn map(bytes: usize) -> io::Result<NonNull<u8>> {
        if bytes > 1 << 32 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // SAFETY: nothing of size 0 is mapped.
        NonNull::new(unsafe { alloc_zeroed(layout(bytes)?) })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
        // SAFETY: from `map`, with the same size.
        unsafe { dealloc(base.as_ptr(), layout(bytes).unwrap()) };
    }

    pub unsafe fn discard(base: NonNull<u8>, bytes: usize) {
        // SAFETY: by the caller's promise nobody uses what is in them.
        unsafe { base.write_bytes(0, bytes) };
    }

    pub fn bind(_: NonNull<u8>, _: usize, _: u32) -> bool {
        false
    }

    pub fn advise_huge(_: NonNull<u8>, _: usize) -> bool {
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_for_huge_pages_starts_where_one_may_and_is_no_larger() {
        let backing = Backing {
            huge: true,
            ..Backing::default()
        };
        for bytes in [HUGE_BYTES, HUGE_BYTES + page_bytes(), 5 << 20] {
            let (mapping, _) = Mapping::backed(bytes, backing).unwrap();
            assert_eq!(mapping.base().addr().get() % HUGE_BYTES, 0);
            // SAFETY: the mapping is ours.
            unsafe { mapping.base().write_bytes(0xAB, bytes) };
        }
        let (_, denied) = Mapping::backed(page_bytes(), backing).unwrap();
        assert!(!denied.huge, "nobody asked for so small a one");
    }

    #[test]
    fn binding_is_done_or_said_to_be_denied() {
        let bound = |node| {
            let backing = Backing {
                bind_to: Some(node),
                ..Backing::default()
            };
            let (mapping, denied) = Mapping::backed(page_bytes(), backing).unwrap();
            // SAFETY: the mapping is ours.
            unsafe { mapping.base().write(1) };
            (mapping, denied.binding)
        };
        let (_, denied) = bound(1023);
        assert!(denied, "nobody has that many nodes");
        let (mapping, denied) = bound(0);
        if cfg!(target_os = "linux") && !denied {
            let text = std::fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
            let start = format!("{:x} ", mapping.base().addr());
            if let Some(line) = text.lines().find(|line| line.starts_with(&start)) {
                assert!(line.contains("prefer"), "{line}");
            }
        }
    }

    #[test]
    fn touching_makes_pages_resident_and_changes_nothing() {
        let page = page_bytes();
        let mapping = Mapping::new(3 * page).unwrap();
        // SAFETY: the mapping is ours.
        unsafe {
            touch(mapping.base().add(64), 2 * page);
            #[cfg(all(target_os = "linux", not(miri)))]
            {
                let mut resident = [0_u8; 3];
                let (base, states) = (mapping.base().as_ptr(), resident.as_mut_ptr());
                assert_eq!(libc::mincore(base.cast(), 3 * page, states), 0);
                assert!(resident.iter().all(|state| state & 1 == 1), "{resident:?}");
            }
            mapping.base().write_bytes(7, 3 * page);
            touch(mapping.base(), 3 * page);
            let bytes = std::slice::from_raw_parts(mapping.base().as_ptr(), 3 * page);
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
    }
}
