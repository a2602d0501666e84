//! Which of a cluster's nodes leads: the election of client-go (k8s.io/client-go, tools/leaderelection), over a Lease
//! of coordination.k8s.io/v1. Whoever is its holder leads; a holder that falls silent loses it.
//!
//! Why no two ever believe at the same time that they lead, whatever the network does:
//! - A holder believes for `Times::deadline` from the *start* of its last request that succeeded, and no longer.
//! - Another takes the Lease only after it has seen it unchanged for `Times::lease`, which is longer, on its own boot
//!   clock. No clock on the wall has a part in it: the times in a Lease are for people.
//! - Every write names the version that it builds upon, so that of two only one is taken, and one that comes late is
//!   refused if anybody wrote in between.
//!
//! What that doesn't cover: a box whose boot clock stands still while the others' go on (a virtual machine that its
//! hypervisor halts) believes on for what was left of its deadline when it goes on.
//!
//! `record` is the Lease as data, `election` decides (pure), `runner` asks the server and tells the others.

mod election;
mod record;
mod runner;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

pub(super) use self::record::Record;
pub(super) use self::runner::Leadership;

/// How long the parts of an election take. The first three are client-go's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a holder may be silent before another takes its place.
    pub(super) lease: Duration,
    /// How long a holder goes on without having been able to renew; shorter than `lease`.
    pub(super) deadline: Duration,
    /// How often it renews, and how often the others look.
    pub(super) retry: Duration,
    /// How long one request may take: two of them fit between the first renewal that fails and the deadline.
    pub(super) call: Duration,
}

impl Times {
    /// What everybody uses who takes part in an election.
    pub(super) const USUAL: Times = Times {
        lease: Duration::from_secs(15),
        deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
        call: Duration::from_secs(4),
    };
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It leads.
    Leads {
        /// Since when, by this box's clock on the wall.
        since: Option<Timestamp>,
    },
    /// Another leads.
    StandsBy {
        /// The other's device.
        leader: String,
        /// Since when, by the other's clock on the wall.
        since: Option<Timestamp>,
    },
    /// Nobody leads yet, or the server doesn't tell.
    Unknown {
        /// Why, for people.
        reason: String,
    },
}

/// Where the Lease is kept. A request may be dropped before it has its answer: it counts as one that may have
/// happened.
#[async_trait]
pub(super) trait LeaseStore: Send + Sync + 'static {
    /// Reads the Lease; `None` if there is none. Errors are for people.
    async fn get(&self) -> Result<Option<Record>, String>;

    /// Makes it (`Record::lease` is what to send), and tells what the server made of it.
    async fn create(&self, record: &Record) -> Result<Record, Refused>;

    /// Puts it in the place of the version that `record` was read as, which `Record::lease` carries: that the server
    /// refuses any other version is what everything here rests upon.
    async fn replace(&self, record: &Record) -> Result<Record, Refused>;
}

/// Why a write was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Somebody else has written, made or deleted it meanwhile (HTTP 409; of `replace` also 404).
    #[error("somebody else wrote the Lease at the same time")]
    Conflict,
    /// Anything else, for people.
    #[error("{0}")]
    Failed(String),
}

/// What the time is, for an election.
#[derive(Clone)]
pub(super) struct Clock {
    /// Time since some moment of the past; it goes on in suspend, and never jumps.
    uptime: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// The clock on the wall, which may be wrong.
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Clock {
    /// The box's clocks.
    pub(super) fn of_the_box() -> Self {
        // Refused only by a sandbox. A clock at the end of time then: every belief is over, and nobody leads here.
        let uptime = || clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from);
        Clock { uptime: Arc::new(uptime), wall: Arc::new(Timestamp::now) }
    }
}

/// What a process calls itself in a Lease: its device, and a random end. A device that was started anew is another
/// candidate than the one before, and so are two that were given the same name by mistake.
pub(super) fn identity(device: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{device}_{random:016x}")
}

/// The device in an identity; all of it, where another's tool wrote it.
fn device_in(identity: &str) -> &str {
    match identity.rsplit_once('_') {
        Some((device, end)) if end.len() == 16 && !device.is_empty() => device,
        _ => identity,
    }
}
