//! What the keeper writes down, and reads when it starts: the seam between it and the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_core::app::App;
use holdfast_core::clock::{BootId, Now};
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::generation::{Apps, Failed, Failure, Inventory, Owned};
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::Release;

/// The disk did not take a write, or did not give back what it holds.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause}")]
pub struct JournalError {
    /// What was being done, and why it failed.
    pub cause: String,
    /// What the disk said, if it is the reason.
    pub trouble: Option<Trouble>,
}

/// A change of one app that has begun. While it is worked on, a death of the agent is held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The app.
    pub app: AppName,
    /// The release that it is changed to.
    pub release: ReleaseId,
    /// The boot in which it was last opened.
    pub boot: BootId,
    /// How often the agent died under it in that boot.
    pub deaths: u32,
    /// Whether it is worked on. One that waits for its turn after a death has no part in the next one.
    pub under_way: bool,
}

/// What was found at the start.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// All apps.
    pub apps: Apps,
    /// What we made.
    pub inventory: Inventory,
    /// What failed.
    pub failed: Failed,
    /// The changes that were open when the agent ended.
    pub transactions: Vec<Transaction>,
}

/// One line of the audit log, before it is chained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Such as `app.rolledback`.
    pub kind: &'static str,
    /// The app that it is about.
    pub app: Option<AppName>,
    /// The revision that it is about.
    pub revision: Option<String>,
    /// What happened, for people; no secret in it.
    pub message: String,
}

impl Note {
    /// A note about an app.
    pub fn of(kind: &'static str, app: &AppName, message: impl Into<String>) -> Self {
        Note { kind, app: Some(app.clone()), revision: None, message: message.into() }
    }
}

/// Durable memory. What is written is on disk once [`Journal::commit`] has returned: until then a crash may leave any part of
/// it. Releases that failed and changes that are set aside are on disk at once, and so is what was written before them. Writing
/// what is there already writes nothing.
pub trait Journal {
    /// Everything that was written down.
    fn load(&mut self) -> Result<Loaded, JournalError>;

    /// Returns once everything that was written is on disk.
    fn commit(&mut self) -> Result<(), JournalError>;

    /// Whether that the newest revision was accepted is on disk, as it may be though the rest isn't.
    fn is_accepted_on_disk(&self) -> bool;

    /// Keeps these apps' records; `None` forgets one. All of them or none.
    fn save_apps(&mut self, apps: &[(&AppName, Option<&App>)]) -> Result<(), JournalError>;

    /// Keeps what we made for one app; an empty list forgets it.
    fn save_inventory(&mut self, app: &AppName, owned: &[(&ObjectKey, &Owned)]) -> Result<(), JournalError>;

    /// Keeps releases for as long as [`Journal::collect`] is told of them.
    fn pin(&mut self, releases: &[Arc<Release>]) -> Result<(), JournalError>;

    /// A pinned release; `None` when it is not there or was damaged.
    fn release(&mut self, id: &ReleaseId) -> Option<Release>;

    /// Opens a transaction, or replaces the open one of its app.
    fn open_transaction(&mut self, transaction: &Transaction, now: &Now) -> Result<(), JournalError>;

    /// Closes the open transaction of `app`. `settled` forgets how often its change was set aside.
    fn close_transaction(&mut self, app: &AppName, settled: bool) -> Result<(), JournalError>;

    /// How often a change was set aside before.
    fn times_set_aside(&mut self, app: &AppName, release: &ReleaseId) -> u32;

    /// Remembers a change that was set aside `times`.
    fn set_aside(
        &mut self,
        app: &AppName,
        release: &ReleaseId,
        times: u32,
        now: &Now,
    ) -> Result<(), JournalError>;

    /// Remembers a release that failed.
    fn remember_failed(
        &mut self,
        app: &AppName,
        release: &ReleaseId,
        failure: &Failure,
        now: &Now,
    ) -> Result<(), JournalError>;

    /// Forgets what failed of an app.
    fn forget_failed(&mut self, app: &AppName) -> Result<(), JournalError>;

    /// The keeper came by a place after which a death of the agent must leave nothing undone: a test's crash point.
    fn passed(&self, _point: &'static str) {}

    /// Keeps what was seen of an app that failed, in the place of what was kept of it before. What can't be kept is
    /// lost: it keeps nothing from going back.
    fn keep_diagnosis(&mut self, app: &AppName, diagnosis: Diagnosis);

    /// What was kept of an app that failed.
    fn diagnosis(&mut self, app: &AppName) -> Option<Diagnosis>;

    /// Adds to the audit log. A log that can't be written stops nothing: it is reported elsewhere.
    fn note(&mut self, note: Note, now: &Now);

    /// Drops pinned content that is not among these.
    fn collect(&mut self, keep: &BTreeSet<Digest>);
}
