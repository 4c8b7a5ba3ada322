//! What is known of buffers beyond their memory, for those that somebody wants to know it of: where they were acquired,
//! and since when.
//!
//! How much is asked for is a level, once for the process, as in Netty's leak detector:
//!
//! | level | which buffers | what |
//! | --- | --- | --- |
//! | off | none | nothing |
//! | simple | one in 128 | the site |
//! | advanced | one in 128 | the site and the frames around it |
//! | paranoid | all | that, and the checks of [`poison`] |
//!
//! Which one in 128 is drawn by lot, since a program that acquires in a fixed order would have the same ones sampled
//! again and again. Whoever is not drawn pays for a count.
//!
//! A buffer with a [`Record`] also has one if it belongs to a [scope](super::scope), whatever the level.

use std::{
    cell::Cell,
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Instant,
};

use penstock_core::{
    memory::{Block, cache::LINK_BYTES, poison},
    sync::Guarded,
};
use pyo3::{exceptions::PyValueError, ffi, prelude::*};

use super::{
    scope::Membership,
    site::{AS_IT_IS, FRAMES_MAX, Site, text_for_c},
};
use crate::{
    error::{Raised, raise},
    mode::Mode,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Level {
    Off,
    Simple,
    Advanced,
    Paranoid,
}

/// Written by the package's import, before there is a pool.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Simple as u8);

impl Level {
    fn now() -> Self {
        // Ordering: Relaxed, a constant after the import.
        match LEVEL.load(Ordering::Relaxed) {
            0 => Self::Off,
            1 => Self::Simple,
            2 => Self::Advanced,
            _ => Self::Paranoid,
        }
    }

    /// How many frames a site has.
    fn frames(self) -> usize {
        match self {
            Self::Off | Self::Simple => 1,
            Self::Advanced | Self::Paranoid => FRAMES_MAX,
        }
    }
}

/// From now on as much is known of buffers as `level` says.
#[pyfunction]
pub fn _watch_buffers(level: &str) -> PyResult<()> {
    let level = match level {
        "off" => Level::Off,
        "simple" => Level::Simple,
        "advanced" => Level::Advanced,
        "paranoid" => Level::Paranoid,
        _ => return Err(PyValueError::new_err(format!("no such level: {level:?}"))),
    };
    LEVEL.store(level as u8, Ordering::Relaxed); // Ordering: Relaxed, see `Level::now`.
    Ok(())
}

/// Where the caller stands, if it may be asked for later: for calls that end elsewhere than they began.
pub(super) fn site_of_call(py: Python<'_>) -> Option<Site> {
    let level = Level::now();
    (level != Level::Off).then(|| Site::here(py, level.frames()))
}

/// The same for a call in a scope, which asks whatever the level.
pub(super) fn site_of_member(py: Python<'_>) -> Site {
    Site::here(py, Level::now().frames())
}

/// How many acquisitions there are to the next sample. With the GIL, which guards it, there is one of these; without it,
/// one for each thread.
struct Lot {
    left: Cell<u32>,
    /// What the next number is made from; 0 before the first.
    seed: Cell<u32>,
}

impl Lot {
    const fn new() -> Self {
        Self {
            left: Cell::new(1),
            seed: Cell::new(0),
        }
    }

    #[inline]
    fn count(&self) -> bool {
        let left = self.left.get() - 1;
        self.left.set(left);
        left == 0
    }

    /// The count is over: begins the next one, and says whether this acquisition is a sample.
    #[cold]
    fn draw(&self) -> bool {
        let begins = self.seed.get() == 0;
        if begins {
            let random = RandomState::new().build_hasher().finish();
            self.seed.set((random & 0xFFFF_FFFF) as u32 | 1);
        }
        match Level::now() {
            Level::Off => {
                self.left.set(u32::MAX);
                false
            }
            Level::Simple | Level::Advanced => {
                // Marsaglia's xorshift, which never comes to 0. From 1 to 255: 128 on average.
                let mut next = self.seed.get();
                next ^= next << 13;
                next ^= next >> 17;
                next ^= next << 5;
                self.seed.set(next);
                self.left.set(1 + next % 255);
                !begins
            }
            Level::Paranoid => {
                self.left.set(1);
                true
            }
        }
    }
}

#[cfg(not(Py_GIL_DISABLED))]
struct Static(Lot);

// SAFETY: the GIL guards it; see `is_due` and `is_sample`.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl Sync for Static {}

#[cfg(not(Py_GIL_DISABLED))]
static LOT: Static = Static(Lot::new());
#[cfg(Py_GIL_DISABLED)]
thread_local! {
    static LOT: Lot = const { Lot::new() };
}

#[inline]
fn with_lot<R>(_py: Python<'_>, ask: impl FnOnce(&Lot) -> R) -> R {
    #[cfg(not(Py_GIL_DISABLED))]
    return ask(&LOT.0);
    #[cfg(Py_GIL_DISABLED)]
    LOT.with(ask)
}

/// Counts an acquisition. If this says so, [`is_sample`] has to be asked.
#[inline]
pub(super) fn is_due(py: Python<'_>) -> bool {
    with_lot(py, Lot::count)
}

pub(super) fn is_sample(py: Python<'_>) -> bool {
    with_lot(py, Lot::draw)
}

/// What is known of one buffer. Made and dropped by attached threads; the buffer has a share in it until it is
/// deallocated.
pub(super) struct Record {
    /// Orders records by when they were made.
    number: u64,
    address: usize,
    nbytes: usize,
    site: Site,
    since: Instant,
    /// Whether it is listed in its pool's [`Watch`], as a sample.
    is_sample: bool,
    /// Which loan of its slot it is, where that is counted.
    generation: Option<u64>,
    /// The scope that bounds its life. Set before anybody else has the buffer.
    pub membership: OnceLock<Membership>,
}

impl Record {
    /// Of a buffer that is no sample.
    pub fn of_member(py: Python<'_>, block: &Block, site: Option<Site>) -> Arc<Self> {
        Arc::new(Self::new(py, block, site, false, None))
    }

    fn new(
        py: Python<'_>,
        block: &Block,
        site: Option<Site>,
        is_sample: bool,
        generation: Option<u64>,
    ) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed), // Ordering: Relaxed, a count.
            address: block.address().addr().get(),
            nbytes: block.len(),
            site: site.unwrap_or_else(|| Site::here(py, Level::now().frames())),
            since: Instant::now(),
            is_sample,
            generation,
            membership: OnceLock::new(),
        }
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Whether the end of its last reference is a leak, if it is not released by then. A scope bounds lifetimes itself.
    pub fn tells_leak(&self) -> bool {
        self.is_sample && self.membership.get().is_none()
    }

    /// Warns that `buffer`, which was never released, is gone.
    pub fn report_leak(&self, py: Python<'_>, buffer: *mut ffi::PyObject) {
        let text = text_for_c(format!(
            "a Buffer of {} bytes, acquired at {}, was never released: use 'with', release() or a scope{}",
            self.nbytes,
            self.site.line(py),
            self.site.stack(py)
        ));
        // SAFETY: attached, with a live object; the text is one for the format.
        unsafe {
            if ffi::PyErr_ResourceWarning(buffer, 1, AS_IT_IS, text.as_ptr()) < 0 {
                ffi::PyErr_WriteUnraisable(buffer);
            }
        }
    }
}

/// What a pool knows of the buffers it has lent.
pub(super) struct Watch {
    /// The samples that are out, by their numbers, and so by how long.
    held: Guarded<BTreeMap<u64, Arc<Record>>, Mode>,
    /// At the highest level.
    slots: Option<Guarded<poison::Slots<Arc<Record>>, Mode>>,
    /// Whether it has to clear memory in the core's place, which would clear the pattern before it is looked at.
    clears: bool,
}

impl Watch {
    /// Of a pool that clears what it lends, if `zero`.
    pub fn new(zero: bool) -> Self {
        let is_paranoid = Level::now() == Level::Paranoid;
        Self {
            held: Guarded::new(BTreeMap::new()),
            slots: is_paranoid.then(|| Guarded::new(poison::Slots::default())),
            clears: is_paranoid && zero,
        }
    }

    /// Whether the core's pool has to leave memory as it is.
    pub fn clears(&self) -> bool {
        self.clears
    }

    /// A sample was lent: the record of it, and of who had the slot before and has written to it since.
    pub fn lent(
        &self,
        py: Python<'_>,
        block: &Block,
        site: Option<Site>,
    ) -> (Arc<Record>, Option<Damage>) {
        let address = block.address();
        let mut generation = None;
        let mut damage = None;
        if let Some(slots) = &self.slots {
            if let Some(bytes) = block.slot_bytes() {
                let lent = slots.with(|slots| slots.lend(address.addr().get(), bytes));
                generation = Some(lent.generation);
                damage = lent.former.and_then(|former| {
                    // SAFETY: the slot was lent to the caller alone, just now.
                    let offset = unsafe { poison::first_damage(address, bytes, former.skipped) }?;
                    Some(Damage {
                        former: former.owner,
                        offset,
                    })
                });
            }
            if self.clears {
                // SAFETY: as above, and the block is `len` bytes long.
                unsafe { address.write_bytes(0, block.len()) };
            }
        }
        let record = Arc::new(Record::new(py, block, site, true, generation));
        let share = Arc::clone(&record);
        self.held.with(|held| held.insert(record.number, share));
        (record, damage)
    }

    /// The buffer is about to go back to its pool. `may_link` says whether the pool will write to the slot's start.
    pub fn returned(&self, record: &Arc<Record>, block: &Block, may_link: bool) {
        if let Some(membership) = record.membership.get() {
            membership.end();
        }
        if record.is_sample {
            let share = self.held.with(|held| held.remove(&record.number));
            drop(share);
        }
        if let (Some(slots), Some(generation)) = (&self.slots, record.generation) {
            let bytes = block.slot_bytes().expect("it was one when it was lent");
            // SAFETY: the buffer is released and has no exports, so its memory is the caller's alone.
            unsafe { poison::fill(block.address(), bytes) };
            let former = poison::Former {
                owner: Arc::clone(record),
                skipped: if may_link { LINK_BYTES } else { 0 },
            };
            slots.with(|slots| slots.give_back(record.address, generation, former));
        }
    }

    /// # Panics
    /// If the slot was lent to somebody else since.
    pub fn check(&self, record: &Record) {
        if let (Some(slots), Some(generation)) = (&self.slots, record.generation) {
            let is_lent = slots.with(|slots| slots.is_lent(record.address, generation));
            assert!(is_lent, "the memory of a buffer in use was lent again");
        }
    }

    /// Address, bytes, site and seconds of each sample that is out, the longest first.
    pub fn held(&self, py: Python<'_>) -> Vec<(usize, usize, String, f64)> {
        let held: Vec<_> = self.held.with(|held| held.values().cloned().collect());
        let now = Instant::now();
        let describe = |record: Arc<Record>| {
            let seconds = now.duration_since(record.since).as_secs_f64();
            (record.address, record.nbytes, record.site.line(py), seconds)
        };
        held.into_iter().map(describe).collect()
    }
}

/// A write to memory after its release.
pub(super) struct Damage {
    former: Arc<Record>,
    /// How far into the slot.
    offset: usize,
}

impl Damage {
    /// Warns of it.
    pub fn report(&self, py: Python<'_>) -> Result<(), Raised> {
        let text = format!(
            "the memory of a Buffer of {} bytes, acquired at {}, was written to after its release, {} bytes from its \
             start{}",
            self.former.nbytes,
            self.former.site.line(py),
            self.offset,
            self.former.site.stack(py)
        );
        let class = py.get_type::<pyo3::exceptions::PyRuntimeWarning>();
        PyErr::warn(py, &class, &text_for_c(text), 1).map_err(|error| raise(py, error))
    }
}
