//! What may interrupt the waits of one task or thread: the scopes it is in.
//!
//! A *scope* is a block of code that one task or thread has entered and not left: a group, or a deadline. Scopes are
//! numbered as they are entered, so of two that a task is in the one with the smaller number is the outer one. A
//! group asks for an interrupt when a child has failed; a deadline brings one by itself.
//!
//! An interrupt is raised once, at the next call that has to wait: `Cancelled` for a group, `TimeoutError` for a
//! deadline. The exception carries the number of its scope (a [`Mark`]), so that each scope knows its own from what is
//! meant for another. It leads out of every scope inside that one, and so does a cancellation of the whole task out of
//! all: the deadlines on the way are *spent* with it, so that the clean-up there may wait as long as it has to, and
//! none of them takes the place of an interrupt that leads further.
//!
//! Inside a garbage collection an interrupt ends a wait as elsewhere, but what a finalizer raises is lost, and the finalizer
//! may be that of anything. So it is *kept*, and raised once more after the collection, by [`Interrupts::restore`].
//!
//! Which deadline an expiry belongs to does not depend on how late it is noticed. A wait ends by the deadline that
//! comes first, its own `timeout=` included; but one that had passed before the wait began outranks those inside it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use penstock_core::wait::{Claim, WaiterRef};
use pyo3::{exceptions::PyTimeoutError, prelude::*, types::PyType};

use crate::{
    error::{Failure, Raised, classes, raise},
    interpreter::is_collecting_here,
};

/// The number of a scope. No two of a process are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScopeId(u64);

impl ScopeId {
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed)) // Ordering: Relaxed, numbers are only unique.
    }
}

/// A deadline that its task or thread has entered.
struct Deadline {
    scope: ScopeId,
    /// `None` is later than anyone will wait.
    at: Option<Instant>,
    seconds: f64,
    /// It has been raised, or something that leads further out has.
    spent: bool,
    /// It has been raised.
    expired: bool,
    /// It was spent in a collection, which gives it back.
    kept: bool,
}

#[derive(Default)]
struct Scopes {
    /// Those that want to interrupt.
    asked: Vec<ScopeId>,
    /// Those whose interrupt was raised in a collection.
    kept: Vec<ScopeId>,
    /// So was the cancellation of the whole task.
    cancel_kept: bool,
    /// The outermost first.
    deadlines: Vec<Deadline>,
    /// The thread that the task blocks now, because it must not park.
    blocked: Option<WaiterRef>,
}

impl Scopes {
    /// What is raised now leads out of everything from `scope` on.
    fn spend_from(&mut self, scope: ScopeId, is_kept: bool) {
        let of_scope = |deadline: &&mut Deadline| deadline.scope >= scope && !deadline.spent;
        for deadline in self.deadlines.iter_mut().filter(of_scope) {
            deadline.spent = true;
            deadline.kept = is_kept;
        }
    }

    /// The deadline that comes first; of several at one moment the outermost.
    fn first(&mut self) -> Option<&mut Deadline> {
        self.deadlines
            .iter_mut()
            .filter(|deadline| !deadline.spent && deadline.at.is_some())
            .min_by_key(|deadline| deadline.at)
    }
}

/// How a deadline was left.
#[must_use = "a deadline that is left out of its turn is an error"]
pub enum Left {
    /// The last one entered; says whether it has expired.
    InTurn(bool),
    /// Another one was entered later and is not left yet.
    OutOfTurn,
    /// It is not among those of this task or thread.
    NotHere,
}

/// The interrupts of one task or thread. Made by the first scope; most never see one.
///
/// Everything below is under one lock, which is held for a few lines without Python code: the owner takes it, and who
/// cancels the owner or interrupts it.
#[derive(Default)]
pub struct Interrupts(AtomicPtr<Mutex<Scopes>>);

impl Interrupts {
    fn scopes(&self) -> Option<&Mutex<Scopes>> {
        // Ordering: SeqCst. The one who waits arms its waiter, then looks here; a scope adds itself, then looks for
        // an armed waiter.
        // SAFETY: null, or a box that lives as long as `self`.
        unsafe { self.0.load(Ordering::SeqCst).as_ref() }
    }

    #[inline]
    fn with<R>(&self, action: impl FnOnce(&mut Scopes) -> R) -> Option<R> {
        self.scopes()
            .map(|scopes| action(&mut scopes.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn with_new<R>(&self, action: impl FnOnce(&mut Scopes) -> R) -> R {
        let scopes = self.scopes().unwrap_or_else(|| self.make());
        action(&mut scopes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cold]
    fn make(&self) -> &Mutex<Scopes> {
        let new = Box::into_raw(Box::<Mutex<Scopes>>::default());
        // Ordering: SeqCst, see `scopes`.
        let put = self.0.compare_exchange(
            std::ptr::null_mut(),
            new,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        match put {
            // SAFETY: it now lives as long as `self`.
            Ok(_) => unsafe { &*new },
            Err(theirs) => {
                // SAFETY: ours was not put in; theirs lives as long as `self`.
                unsafe {
                    drop(Box::from_raw(new));
                    &*theirs
                }
            }
        }
    }

    // ---- interrupts that a scope asks for ----

    #[inline]
    pub fn pending(&self) -> bool {
        self.with(|scopes| !scopes.asked.is_empty()) == Some(true)
    }

    /// Notes that `scope` wants to interrupt, unless it is `closed`; the caller then ends the wait there is.
    pub fn ask(&self, scope: ScopeId, closed: &AtomicBool) {
        self.with_new(|scopes| {
            // Ordering: SeqCst, see `forget`.
            if !closed.load(Ordering::SeqCst) {
                scopes.asked.push(scope);
            }
        });
    }

    /// Closes `scope`, and takes back what it asked for and was not raised.
    pub fn forget(&self, scope: ScopeId, closed: &AtomicBool) {
        // Ordering: SeqCst. This marks, then looks whether there are scopes; `ask` makes them, then looks at the mark.
        closed.store(true, Ordering::SeqCst);
        self.with(|scopes| {
            scopes.asked.retain(|asked| *asked != scope);
            scopes.kept.retain(|kept| *kept != scope);
        });
    }

    /// Raises what the outermost one asked for.
    pub fn raise(&self, py: Python<'_>) -> Raised {
        let is_kept = is_collecting_here(py);
        let outermost = self.with(|scopes| {
            let scope = scopes.asked.iter().copied().min()?;
            scopes.asked.retain(|asked| *asked != scope);
            if is_kept {
                scopes.kept.push(scope);
            }
            scopes.spend_from(scope, is_kept);
            Some(scope)
        });
        let Some(scope) = outermost.flatten() else {
            return Failure::Cancelled.raise(py, "the wait was interrupted");
        };
        let class = classes(py).cancelled.bind(py);
        raise_marked(class, "the group was cancelled", scope)
    }

    /// A cancellation of the whole task is raised, which leads out of every scope.
    pub fn cancelled(&self, py: Python<'_>) {
        if is_collecting_here(py) {
            self.with_new(|scopes| {
                scopes.cancel_kept = true;
                scopes.spend_from(ScopeId(0), true);
            });
        } else {
            self.with(|scopes| scopes.spend_from(ScopeId(0), false));
        }
    }

    /// A collection by the owner has ended: what was raised in it waits to be raised again. Says whether the cancellation of
    /// the whole task was, which is not noted here.
    #[must_use = "the cancellation is the task's to note"]
    pub fn restore(&self) -> bool {
        self.with(|scopes| {
            let Scopes { asked, kept, .. } = scopes;
            asked.append(kept);
            for deadline in &mut scopes.deadlines {
                deadline.spent &= !std::mem::take(&mut deadline.kept);
            }
            std::mem::take(&mut scopes.cancel_kept)
        }) == Some(true)
    }

    // ---- deadlines ----

    /// Enters `scope`, which ends after `seconds`.
    pub fn enter(&self, scope: ScopeId, seconds: f64) {
        let time = Duration::try_from_secs_f64(seconds).ok();
        let deadline = Deadline {
            scope,
            at: time.and_then(|time| Instant::now().checked_add(time)),
            seconds,
            spent: false,
            expired: false,
            kept: false,
        };
        self.with_new(|scopes| scopes.deadlines.push(deadline));
    }

    pub fn leave(&self, scope: ScopeId) -> Left {
        let left = self.with(|scopes| {
            let deadlines = &mut scopes.deadlines;
            let at = deadlines.iter().position(|one| one.scope == scope)?;
            let deadline = deadlines.remove(at);
            Some(if at == deadlines.len() {
                Left::InTurn(deadline.expired)
            } else {
                Left::OutOfTurn
            })
        });
        left.flatten().unwrap_or(Left::NotHere)
    }

    pub fn has_expired(&self, scope: ScopeId) -> bool {
        let is_expired = |one: &Deadline| one.scope == scope && one.expired;
        self.with(|scopes| scopes.deadlines.iter().any(is_expired)) == Some(true)
    }

    /// Whether `inner` lies in the deadline `outer`.
    pub fn encloses(&self, outer: ScopeId, inner: ScopeId) -> bool {
        let is_outer = |one: &Deadline| one.scope == outer;
        outer < inner && self.with(|scopes| scopes.deadlines.iter().any(is_outer)) == Some(true)
    }

    /// When a wait that begins now has to end: `own` is what its call allows.
    #[inline]
    pub fn limit(&self, own: Option<Instant>) -> Option<Instant> {
        if self.scopes().is_none() {
            return own; // most tasks are in no scope
        }
        self.limit_by_scopes(own)
    }

    #[inline(never)]
    fn limit_by_scopes(&self, own: Option<Instant>) -> Option<Instant> {
        let first = self.with(|scopes| {
            scopes.first()?; // no need to look at the clock
            let now = Instant::now();
            let has_passed = |one: &&Deadline| !one.spent && one.at.is_some_and(|at| at <= now);
            if let Some(passed) = scopes.deadlines.iter().find(has_passed) {
                // Those inside it are behind it, and their turn never comes.
                let scope = ScopeId(passed.scope.0 + 1);
                scopes.spend_from(scope, false);
            }
            scopes.first()?.at
        });
        earlier(own, first.flatten())
    }

    /// A wait has ended at its [`limit`](Self::limit): raises the deadline that it was, if it was not `own`.
    pub fn raise_expired(&self, py: Python<'_>, own: Option<Instant>) -> Option<Raised> {
        let is_kept = is_collecting_here(py);
        let expired = self.with(|scopes| {
            let first = scopes.first()?;
            if own.is_some_and(|own| first.at > Some(own)) {
                return None;
            }
            first.expired = true;
            let (scope, seconds) = (first.scope, first.seconds);
            scopes.spend_from(scope, is_kept);
            Some((scope, seconds))
        });
        let (scope, seconds) = expired.flatten()?;
        let message = format!("the {seconds} s of the block around this call are over");
        Some(raise_marked(
            &py.get_type::<PyTimeoutError>(),
            &message,
            scope,
        ))
    }

    /// Raises a deadline that has passed, where a call lets others run but has no wait of its own.
    pub fn raise_passed(&self, py: Python<'_>) -> Option<Raised> {
        let limit = self.limit(None)?;
        if limit > Instant::now() {
            return None;
        }
        self.raise_expired(py, None)
    }

    /// In a forked child: takes over the deadlines of the task or thread that forked.
    pub fn adopt(&self, other: &Self) {
        let Some(scopes) = other.scopes() else { return };
        let Ok(mut scopes) = scopes.try_lock() else {
            return; // its holder does not exist here, and will never let go of it
        };
        let deadlines = std::mem::take(&mut scopes.deadlines);
        self.with_new(|scopes| scopes.deadlines = deadlines);
    }

    // ---- a task that blocks its thread ----

    /// The task waits by the waiter of its thread until [`unblock`](Self::unblock): its own would be woken as if it
    /// were parked.
    pub fn block(&self, thread: WaiterRef) {
        self.with_new(|scopes| scopes.blocked = Some(thread));
    }

    pub fn unblock(&self) {
        drop(self.with(|scopes| scopes.blocked.take()));
    }

    /// Claims the wait of the thread that the task blocks, if it is in one and has something to see in it:
    /// what a scope asked for, or what `cancelled` tells. As `WaiterRef::interrupt` does.
    pub fn claim_blocked(&self, cancelled: impl FnOnce() -> bool) -> Option<Claim> {
        // Under the lock, or the thread could be in a wait of another task by now.
        self.with(|scopes| {
            let waiter = scopes.blocked.as_ref()?;
            let epoch = waiter.armed()?;
            let unseen = !scopes.asked.is_empty() || cancelled();
            unseen.then(|| waiter.claim(epoch)).flatten()
        })
        .flatten()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let scopes = *self.0.get_mut();
        if !scopes.is_null() {
            // SAFETY: made by `Box::into_raw` in `make`, and unused now.
            drop(unsafe { Box::from_raw(scopes) });
        }
    }
}

/// What an exception carries in `_scope`: the scope that it is for.
///
/// Pickled or copied with its exception it becomes `None`: a scope of another process may have the same number.
#[pyclass(frozen, module = "penstock._core", name = "_Mark")]
pub struct Mark {
    pub scope: ScopeId,
}

#[pymethods]
impl Mark {
    /// The smaller, the further out.
    #[getter]
    fn number(&self) -> u64 {
        self.scope.0
    }

    #[expect(clippy::unused_self, reason = "the signature is PyO3's")]
    fn __reduce__(&self, py: Python<'_>) -> (Py<PyAny>, ()) {
        (py.None().bind(py).get_type().into_any().unbind(), ())
    }
}

impl Mark {
    /// The scope that `error` is for.
    pub fn of(error: &Bound<'_, PyAny>) -> PyResult<Option<ScopeId>> {
        let mark = error.getattr_opt(pyo3::intern!(error.py(), "_scope"))?;
        Ok(mark.and_then(|mark| mark.cast::<Mark>().ok().map(|mark| mark.get().scope)))
    }
}

/// Whether `error`, which interrupts a wait that is over but for its clean-up, leads further out than `before`, which did
/// so earlier: then it takes its place.
pub fn outranks(error: &Bound<'_, PyAny>, before: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(match (Mark::of(error)?, Mark::of(before)?) {
        (Some(scope), Some(earlier)) => scope < earlier,
        // Unmarked are the `timeout=` of the wait itself, which is further in than all others, and the cancellation of a
        // whole task, an event loop's and Ctrl-C, which are further out.
        (None, _) => !error.is_instance_of::<PyTimeoutError>(),
        (Some(_), None) => before.is_instance_of::<PyTimeoutError>(),
    })
}

/// The same for Python.
#[pyfunction]
pub fn _outranks(error: &Bound<'_, PyAny>, before: &Bound<'_, PyAny>) -> PyResult<bool> {
    outranks(error, before)
}

fn raise_marked(class: &Bound<'_, PyType>, message: &str, scope: ScopeId) -> Raised {
    let py = class.py();
    let marked = class.call1((message,)).and_then(|error| {
        error.setattr(pyo3::intern!(py, "_scope"), Bound::new(py, Mark { scope })?)?;
        Ok(PyErr::from_value(error))
    });
    match marked {
        Ok(error) | Err(error) => raise(py, error),
    }
}

/// The first of two moments that may both never come.
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
