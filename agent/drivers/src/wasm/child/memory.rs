//! A workload's memory: one account for all of its instances, memories and tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

use super::log::Ring;

/// What an entry of a table takes, in bytes.
const TABLE_ENTRY: u64 = 16;
/// Core instances of one store; a component is made of several.
const INSTANCES: usize = 200;
/// Memories, and tables, of one store.
const MEMORIES_AND_TABLES: usize = 100;

/// What all instances of a workload share.
pub(in super::super) struct Account {
    limit: u64,
    used: AtomicU64,
    refused: AtomicBool,
    log: Arc<Ring>,
}

impl Account {
    pub(in super::super) fn new(limit: u64, log: Arc<Ring>) -> Arc<Self> {
        Arc::new(Account { limit, used: AtomicU64::new(0), refused: AtomicBool::new(false), log })
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        if taken.is_err() {
            self.refused.store(true, Ordering::Relaxed);
            self.log.note(&format!("memory: {bytes} more bytes were refused, the limit is {}", self.limit));
        }
        taken.is_ok()
    }

    /// Whether somebody wanted more than there is.
    pub(in super::super) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one store uses of the account; it is given back with the store.
pub(in super::super) struct Usage {
    account: Arc<Account>,
    held: u64,
    last: u64,
}

impl Usage {
    pub(in super::super) fn of(account: &Arc<Account>) -> Self {
        Usage { account: Arc::clone(account), held: 0, last: 0 }
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let granted = self.account.take(bytes);
        self.last = if granted { bytes } else { 0 };
        self.held += self.last;
        granted
    }

    /// The engine couldn't do what had been granted.
    fn take_back(&mut self) {
        self.account.give_back(self.last);
        self.held -= self.last;
        self.last = 0;
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.account.give_back(self.held);
    }
}

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, now: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(now) as u64))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, now: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow((desired.saturating_sub(now) as u64).saturating_mul(TABLE_ENTRY)))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        MEMORIES_AND_TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES_AND_TABLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_share_one_limit_and_give_back_what_they_had() {
        let account = Account::new(100, Ring::new());
        let mut first = Usage::of(&account);
        assert!(first.memory_growing(0, 80, None).unwrap());
        let mut second = Usage::of(&account);
        assert!(!second.memory_growing(0, 21, None).unwrap());
        drop(first);
        assert!(second.memory_growing(0, 100, None).unwrap());
    }

    #[test]
    fn what_the_engine_could_not_give_is_not_counted_and_nothing_is_given_back_twice() {
        let account = Account::new(100, Ring::new());
        let mut usage = Usage::of(&account);
        assert!(usage.memory_growing(0, 60, None).unwrap());
        usage.memory_grow_failed(wasmtime::Error::msg("no room")).unwrap();
        assert!(!usage.memory_growing(0, 101, None).unwrap());
        usage.memory_grow_failed(wasmtime::Error::msg("refused")).unwrap();
        assert!(usage.memory_growing(0, 100, None).unwrap());
    }

    #[test]
    fn tables_count_as_memory() {
        let mut usage = Usage::of(&Account::new(1 << 20, Ring::new()));
        assert!(!usage.table_growing(0, usize::MAX, None).unwrap());
        assert!(usage.table_growing(0, 1000, None).unwrap());
    }
}
