//! Locks by name: of several tasks that would do the same, one does it, and the others wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Whoever has it locked does it.
pub(crate) type KeyedLock = tokio::sync::Mutex<()>;

/// A lock for each name, as long as somebody has or waits for it.
#[derive(Default)]
pub(crate) struct KeyedLocks(Mutex<BTreeMap<String, Weak<KeyedLock>>>);

impl KeyedLocks {
    /// The lock called `name`.
    pub(crate) fn lock_of(&self, name: &str) -> Arc<KeyedLock> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = all.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        all.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_wants_the_same_waits_and_nobody_else() {
        let locks = KeyedLocks::default();
        let first = locks.lock_of("a").lock_owned().await;
        assert!(locks.lock_of("a").try_lock_owned().is_err());
        assert!(locks.lock_of("b").try_lock_owned().is_ok());
        drop(first);
        assert!(locks.lock_of("a").try_lock_owned().is_ok());
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
