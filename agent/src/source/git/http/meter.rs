//! What an operation may still use: bytes, time, and how long it waits for the server. And why it failed.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::allowance::Line;
use crate::http::{Pace, Waits};
use crate::source::error::{Limit, SourceError};

/// The account of one poll or fetch, over all of its requests.
#[derive(Debug)]
pub(crate) struct Meter {
    url: String,
    deadline: Instant,
    total: Duration,
    patience: Duration,
    limit: u64,
    line: Line,
    /// How long the line was held up before this.
    waited_before: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    received: u64,
    pace: Pace,
    failure: Option<SourceError>,
}

impl Meter {
    /// An operation on `url` that may take `total` in all and receive `limit` bytes; averaged over `patience`
    /// of waiting it must receive `slowest` bytes a second. Time in which the box itself holds up `line`, to keep to
    /// a rate, counts for neither.
    pub(crate) fn new(
        url: &str,
        total: Duration,
        patience: Duration,
        slowest: u64,
        limit: u64,
        line: Line,
    ) -> Arc<Self> {
        Arc::new(Meter {
            url: url.to_owned(),
            deadline: Instant::now() + total,
            total,
            patience,
            limit,
            waited_before: line.waited(),
            line,
            state: Mutex::new(State { received: 0, pace: Pace::new(patience, slowest), failure: None }),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much time is left.
    fn left(&self) -> Duration {
        let waited = self.line.waited().saturating_sub(self.waited_before);
        let deadline = self.deadline.checked_add(waited).unwrap_or(self.deadline);
        deadline.saturating_duration_since(Instant::now())
    }

    /// How long a request may take now.
    pub(crate) fn waits(&self) -> Waits {
        Waits { left: self.left(), total: self.total, patience: self.patience }
    }

    /// Remembers why the operation fails; the first reason stands. gix's errors around it say less.
    pub(crate) fn fail(&self, error: SourceError) -> io::Error {
        let text = error.to_string();
        self.state().failure.get_or_insert(error);
        io::Error::other(text)
    }

    /// The reason, if one was remembered.
    pub(crate) fn failure(&self) -> Option<SourceError> {
        self.state().failure.clone()
    }

    /// Books what a read brought.
    fn book(&self, waited: Duration, bytes: usize) -> Result<(), SourceError> {
        let mut state = self.state();
        state.received += bytes as u64;
        if state.received > self.limit {
            return Err(SourceError::TooLarge {
                what: format!("what {} sends", self.url),
                limit: Limit::Bytes(self.limit),
            });
        }
        let paced = state.pace.book(waited, bytes);
        paced.map_err(|why| SourceError::TimedOut { url: self.url.clone(), why })?;
        if bytes > 0 && self.left().is_zero() {
            return Err(SourceError::TimedOut {
                url: self.url.clone(),
                why: format!("it took longer than {:?} in all", self.total),
            });
        }
        Ok(())
    }
}

type Explain = Box<dyn Fn(&Meter, io::Error) -> io::Error + Send>;

/// A body whose reading is booked.
pub(crate) struct Metered<R> {
    inner: R,
    meter: Arc<Meter>,
    explain: Explain,
}

impl<R: Read> Metered<R> {
    pub(crate) fn new(inner: R, meter: Arc<Meter>, explain: Explain) -> Self {
        Metered { inner, meter, explain }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.line.wait();
        let began = Instant::now();
        let read = self.inner.read(buffer);
        let bytes = read.map_err(|error| (self.explain)(&self.meter, error))?;
        self.meter.book(began.elapsed(), bytes).map_err(|error| self.meter.fail(error))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::allowance::Allowance;

    fn meter(slowest: u64, limit: u64) -> Arc<Meter> {
        let line = Allowance::unlimited().line();
        Meter::new("https://x", Duration::from_secs(100), Duration::from_secs(10), slowest, limit, line)
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let meter = meter(0, 10);
        meter.book(Duration::ZERO, 10).unwrap();
        assert!(matches!(
            meter.book(Duration::ZERO, 1),
            Err(SourceError::TooLarge { limit: Limit::Bytes(10), .. })
        ));
    }

    #[test]
    fn a_server_that_drips_is_given_up() {
        let slow = meter(100, u64::MAX);
        for _ in 0..9 {
            slow.book(Duration::from_secs(1), 99).unwrap();
        }
        assert!(matches!(slow.book(Duration::from_secs(1), 99), Err(SourceError::TimedOut { .. })));
    }

    #[test]
    fn the_first_reason_stands() {
        let meter = meter(0, 0);
        meter.fail(SourceError::here("first"));
        meter.fail(SourceError::here("second"));
        assert_eq!(meter.failure(), Some(SourceError::here("first")));
    }
}
