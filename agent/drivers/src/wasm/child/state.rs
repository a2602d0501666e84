//! The state of the workload, for those who ask and those who watch.

use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::watch;

use super::super::protocol::{Mark, State, Status};

/// The state with the moment of its last change.
#[derive(Clone, Debug)]
pub(super) struct Current {
    state: State,
    restarts: u32,
    last_exit: Option<String>,
    since: Timestamp,
    at: Instant,
}

/// The one place where the state is kept.
pub(super) struct Board {
    mark: Mark,
    current: watch::Sender<Current>,
}

impl Board {
    pub(super) fn new(mark: Mark) -> Self {
        let current = Current {
            state: State::Starting,
            restarts: 0,
            last_exit: None,
            since: Timestamp::now(),
            at: Instant::now(),
        };
        Board { mark, current: watch::Sender::new(current) }
    }

    /// Moves on to `state`.
    pub(super) fn set(&self, state: State) {
        self.change(|current| current.state = state);
    }

    /// The guest ended as `what` says, and runs again or doesn't.
    pub(super) fn ended(&self, state: State, restarts: u32, what: &str) {
        self.change(|current| {
            current.state = state;
            current.restarts = restarts;
            current.last_exit = Some(what.to_owned());
        });
    }

    /// It has run well for long enough that what was before doesn't count.
    pub(super) fn forgive(&self) {
        self.current.send_modify(|current| current.restarts = 0);
    }

    fn change(&self, change: impl FnOnce(&mut Current)) {
        self.current.send_modify(|current| {
            change(current);
            current.since = Timestamp::now();
            current.at = Instant::now();
        });
    }

    /// How it is now.
    pub(super) fn status(&self) -> Status {
        let current = self.current.borrow().clone();
        Status {
            mark: self.mark.clone(),
            state: current.state,
            restarts: current.restarts,
            last_exit: current.last_exit,
            since: current.since,
            for_millis: u64::try_from(current.at.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Sees each change that isn't overtaken by the next.
    pub(super) fn changes(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }
}
