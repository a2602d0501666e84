//! Where an allowance is kept across restarts.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast_store::Store;
use holdfast_store::records::LinkUsage;

/// Keeps the record of an allowance.
pub trait Keep: Send + Sync {
    /// What was kept; an error says why it is lost.
    fn load(&self) -> Result<Option<LinkUsage>, String>;
    /// Returns once it is on disk; an error says why it isn't.
    fn save(&self, usage: &LinkUsage) -> Result<(), String>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Keep for Nowhere {
    fn load(&self) -> Result<Option<LinkUsage>, String> {
        Ok(None)
    }

    fn save(&self, _: &LinkUsage) -> Result<(), String> {
        Ok(())
    }
}

/// In the box's store.
impl Keep for Arc<Mutex<Store>> {
    fn load(&self) -> Result<Option<LinkUsage>, String> {
        let store = self.lock().unwrap_or_else(PoisonError::into_inner);
        store.link_usage().map_err(|error| error.to_string())
    }

    fn save(&self, usage: &LinkUsage) -> Result<(), String> {
        let mut store = self.lock().unwrap_or_else(PoisonError::into_inner);
        let written = store.set_link_usage(usage).and_then(|_| store.flush());
        written.map(|_| ()).map_err(|error| error.to_string())
    }
}
