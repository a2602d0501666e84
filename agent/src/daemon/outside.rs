//! What comes from outside of the process: requests on the socket, signals, the service manager's watchdog.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::api::{self, Request};
use crate::config::Config;
use crate::doctor;
use crate::notify::Notifier;

/// What comes from outside of the process.
pub(super) struct Outside {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) hangup: Signal,
    pub(super) stop: StopSignals,
    pub(super) watchdog: Watchdog,
}

impl Outside {
    /// Opens the socket.
    pub(super) fn open(
        config: &Config,
        signals: Signals,
        notifier: &Notifier,
        newest_event: watch::Receiver<u64>,
    ) -> Result<Self> {
        let looked_at = config.clone();
        // It is run where it may wait for files.
        let handle = tokio::runtime::Handle::current();
        let doctor = Arc::new(move || handle.block_on(doctor::checks::of_the_agent(&looked_at)));
        let server = api::Server::bind(&config.api.socket, doctor)?;
        let (sender, requests) = mpsc::channel(api::WAITING_REQUESTS);
        tokio::spawn(server.serve(sender, newest_event));
        Ok(Outside {
            requests,
            hangup: signals.hangup,
            stop: signals.stop,
            watchdog: Watchdog::every(notifier.watchdog_interval()),
        })
    }
}

/// The signals that the agent acts on. Those that come before the loop turns are kept for it.
pub(super) struct Signals {
    hangup: Signal,
    stop: StopSignals,
}

impl Signals {
    /// From here on, none of them ends the process by itself.
    pub(super) fn catch() -> Result<Self> {
        let signal = |kind| signal(kind).context("cannot wait for signals");
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            stop: StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
        })
    }
}

/// The signals that end the agent.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// When the service manager wants to hear that the loop turns; never, where nobody asks.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    fn every(pause: Option<Duration>) -> Self {
        Watchdog(pause.map(|every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
