//! A start on a disk that refuses writes: the agent can't open its state folder. It waits for the disk, answers
//! meanwhile, and goes on as if it had only been started when that was mended. What runs is left alone.

use std::io;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use holdfast_core::clock::Now;
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::held::Held;
use holdfast_core::report::{ClockStatus, PlanReport, RevisionStatus, SourceStatus, Status};
use holdfast_drivers::DriverError;
use holdfast_store::StoreError;

use super::fetch_and_render::SharedSource;
use super::images::BoxImages;
use super::journal::{SharedStore, StoreJournal, lock};
use super::outside::Outside;
use super::progress::Progress;
use super::{DISK_PAUSE, setup};
use crate::api::Request;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::allowance::Allowance;
use crate::keeper::{JournalError, Keeper};
use crate::notify::Notifier;
use crate::source::SourceError;

/// What the daemon keeps on disk, and what reads and writes there.
pub(super) struct Opened {
    pub(super) store: SharedStore,
    pub(super) allowance: Allowance,
    pub(super) keeper: Keeper<StoreJournal>,
    pub(super) source: SharedSource,
    pub(super) images: BoxImages,
    pub(super) progress: Progress,
}

impl Opened {
    pub(super) async fn open(config: &Config, clock: &Clock) -> Result<Self> {
        let now = clock.now();
        let store = setup::wait_for_store(config, &now).await?;
        setup::resume(clock, &lock(&store))?;
        let allowance = Allowance::open(Arc::clone(&store), clock.clone());
        let drivers = setup::open_drivers(config, &store, &allowance)?;
        let keeper = Keeper::open(StoreJournal::new(Arc::clone(&store)), drivers)?;
        let source = setup::open_source(config, &allowance)?;
        let images = BoxImages::new(config, lock(&store).shared_content(), &allowance);
        let mut progress = Progress::before(&store)?;
        progress.recall(&*source);
        let source = Arc::new(Mutex::new(source));
        Ok(Opened { store, allowance, keeper, source, images, progress })
    }
}

/// Whether the disk is why the agent can't start, so that waiting helps.
pub(super) fn is_of_disk(error: &anyhow::Error) -> bool {
    error.chain().any(|error| trouble_of(error).is_some_and(Trouble::may_pass))
}

/// What an error says of the disk: the types that know it, and what the operating system itself says.
fn trouble_of(error: &(dyn std::error::Error + 'static)) -> Option<Trouble> {
    None.or_else(|| error.downcast_ref::<StoreError>().and_then(StoreError::trouble))
        .or_else(|| error.downcast_ref::<JournalError>().and_then(|error| error.trouble))
        .or_else(|| error.downcast_ref::<SourceError>().and_then(SourceError::trouble))
        .or_else(|| error.downcast_ref::<DriverError>().and_then(DriverError::trouble))
        .or_else(|| error.downcast_ref::<io::Error>().map(Trouble::of))
}

/// Waits until the state folder can be opened; `None` when the agent is told to stop before.
pub(super) async fn wait_for_disk(
    config: &Config,
    clock: &Clock,
    outside: &mut Outside,
    notifier: &Notifier,
    mut error: anyhow::Error,
) -> Result<Option<Opened>> {
    // Whoever manages services must not take this for a start that failed: starting again helps nothing.
    notifier.ready();
    notifier.status("waiting for the disk");
    loop {
        tracing::error!(%error, "the state folder can't be opened; workloads keep running, and the agent waits for \
                                 the disk");
        let over = tokio::time::sleep(DISK_PAUSE);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                Some(request) = outside.requests.recv() => answer(request, config, clock, &error),
                _ = outside.hangup.recv() => break,
                () = outside.stop.received() => return Ok(None),
                () = outside.watchdog.due() => notifier.alive(),
            }
        }
        match Opened::open(config, clock).await {
            Ok(parts) => return Ok(Some(parts)),
            Err(again) if is_of_disk(&again) => error = again,
            Err(other) => return Err(other),
        }
    }
}

/// What can be said without the state folder.
fn answer(request: Request, config: &Config, clock: &Clock, error: &anyhow::Error) {
    let why = || format!("the agent can't open its state folder: {error}");
    // A client that went away meanwhile is no error.
    match request {
        Request::Status(reply) => {
            let now = clock.now();
            let next = Some(now.wall_in(DISK_PAUSE));
            let held = Held { cause: why(), next, unblock: UNBLOCK.to_owned() };
            let _ = reply.send(status(config, held, &now));
        }
        Request::Plan(reply) => {
            let _ = reply.send(Err::<PlanReport, _>(why()));
        }
        Request::Events { reply, .. } => {
            let _ = reply.send(Err(why()));
        }
        // No answer says that the agent can't.
        Request::Seal(reply) => drop(reply),
        Request::Diagnosis(_, reply) => {
            let _ = reply.send(Err(why()));
        }
        Request::Retry { reply, .. } => {
            let _ = reply.send(Err(why()));
        }
        Request::Poll(reply) => {
            let _ = reply.send(());
        }
    }
}

const UNBLOCK: &str = "free space on the disk, or repair it; the agent then continues automatically";

fn status(config: &Config, held: Held, now: &Now) -> Status {
    let source =
        SourceStatus { url: config.source.url.clone(), last_poll: None, next_poll: None, error: None };
    Status {
        device: config.device.name.clone(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        running: true,
        trust: config.trust.mode.word().to_owned(),
        converged: false,
        source,
        revision: RevisionStatus::default(),
        change: None,
        clock: ClockStatus::of(&now.time),
        runtimes: Vec::new(),
        apps: Vec::new(),
        held: vec![held],
        downloads: None,
        orphans: Vec::new(),
    }
}
