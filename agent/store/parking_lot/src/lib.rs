//! What sled uses of parking_lot 0.11, on the standard library's locks: the workspace puts it in that crate's place.
//!
//! For one reason: sled keeps seven threads, each of which wakes once a second to see whether it is still needed. On a box
//! that runs on a battery, these were nearly all that woke an idle processor. Here they look once an hour, and only those
//! beyond seven, which sled starts for much work at once, as soon as they want to; work wakes them at once, as ever. It also leaves out four crates, of which one (instant) isn't maintained any more.
//!
//! As in parking_lot a panic while a lock is held doesn't poison it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{self, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use std::sync::{RwLockReadGuard, RwLockWriteGuard};

/// How long one of sled's threads waits for work at least before it looks whether it is still needed.
const IDLE: Duration = Duration::from_secs(3600);

/// As `std::sync::Mutex`.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A free one.
    pub const fn new(value: T) -> Self {
        Mutex(sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until it is free.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard(Some(poisoned.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Holds a [`Mutex`]. It is only empty while a [`Condvar`] waits with it.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized>(Option<sync::MutexGuard<'a, T>>);

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(guard) => guard,
            None => unreachable!("a guard is whole whenever its borrower has it"),
        }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(guard) => guard,
            None => unreachable!("a guard is whole whenever its borrower has it"),
        }
    }
}

/// As `std::sync::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A free one.
    pub const fn new(value: T) -> Self {
        RwLock(sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is free.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a wait ended since its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it did.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

/// So many of sled's threads wait for work at all times.
const WORKERS: usize = 7;

/// As `std::sync::Condvar`.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar, AtomicUsize);

impl Condvar {
    /// One that nobody waits for.
    pub const fn new() -> Self {
        Condvar(sync::Condvar::new(), AtomicUsize::new(0))
    }

    /// Wakes one that waits; gives whether somebody may have.
    pub fn notify_one(&self) -> bool {
        self.0.notify_one();
        true
    }

    /// Wakes all that wait. How many these were isn't known.
    pub fn notify_all(&self) -> usize {
        self.0.notify_all();
        0
    }

    /// Waits until somebody notifies.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.0.take() {
            guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Waits until somebody notifies, and no longer than `timeout`.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        let Some(held) = guard.0.take() else { return WaitTimeoutResult(true) };
        let (held, ended) = self.0.wait_timeout(held, timeout).unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(held);
        WaitTimeoutResult(ended.timed_out())
    }

    /// Waits until somebody notifies. In sled only its threads call this, which wait for work: `until` says when they want to
    /// look whether they are still needed, and that has time.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        let asked = until.saturating_duration_since(Instant::now());
        let before = self.1.fetch_add(1, Ordering::Relaxed);
        let ended = self.wait_for(guard, if before < WORKERS { asked.max(IDLE) } else { asked });
        self.1.fetch_sub(1, Ordering::Relaxed);
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_that_waits_for_work_is_woken_by_it_and_not_by_its_deadline() {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let worker = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut work = worker.0.lock();
            while *work == 0 {
                assert!(!worker.1.wait_until(&mut work, Instant::now()).timed_out());
            }
            *work
        });
        *shared.0.lock() = 7;
        shared.1.notify_all();
        assert_eq!(thread.join().unwrap(), 7);
    }

    #[test]
    fn a_thread_beyond_those_that_always_wait_ends_its_wait_when_it_wants_to() {
        let bell = Condvar::new();
        bell.1.store(WORKERS, Ordering::Relaxed);
        assert!(bell.wait_until(&mut Mutex::new(()).lock(), Instant::now()).timed_out());
        assert_eq!(bell.1.load(Ordering::Relaxed), WORKERS);
    }

    #[test]
    fn a_wait_with_a_limit_ends_with_it_and_a_panic_leaves_the_lock_usable() {
        let (lock, bell) = (Arc::new(Mutex::new(1)), Condvar::new());
        assert!(bell.wait_for(&mut lock.lock(), Duration::from_millis(1)).timed_out());
        let held = Arc::clone(&lock);
        let panicked = thread::spawn(move || {
            let _guard = held.lock();
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert_eq!(*lock.lock(), 1);
    }
}
