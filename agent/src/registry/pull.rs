//! Fetching one image: mirrors first, then the registry, in rounds with growing pauses, until one of them
//! has it.

use std::thread;
use std::time::{Duration, Instant};

use holdfast_core::image::ImageReference;
use holdfast_core::oci::Descriptor;
use holdfast_store::StoreError;
use holdfast_store::content::Content;

use super::blob;
use super::connection::Connection;
use super::error::{Reason, RegistryError, Tried};
use super::limits::{Deadline, Limits};
use super::server::Server;
use super::token::Tokens;
use crate::backoff::Backoff;
use crate::http::allowance::{Line, Purpose, UsedUp};

/// One operation on one image.
pub(super) struct Pull<'a> {
    pub(super) image: &'a ImageReference,
    places: Vec<Place<'a>>,
    tokens: &'a Tokens,
    limits: Limits,
    deadline: Deadline,
}

/// One server, and how it did so far.
struct Place<'a> {
    server: Server,
    connection: Option<Connection<'a>>,
    /// How often it couldn't be had. Others go first then, so that a dead mirror isn't waited for with each
    /// layer.
    failures: u32,
    /// Until then it doesn't want to be asked.
    not_before: Option<Instant>,
    /// What it said last to what is wanted now.
    said: Option<Reason>,
}

/// Why a server's answer is the end of a try.
pub(super) enum Stop {
    /// Another server may do better.
    Server(Reason),
    /// No server would.
    Disk(StoreError),
    /// None may be asked now.
    UsedUp(UsedUp),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::UsedUp(cause) => Stop::UsedUp(cause),
            reason => Stop::Server(reason),
        }
    }
}

impl<'a> Pull<'a> {
    pub(super) fn new(
        image: &'a ImageReference,
        servers: Vec<Server>,
        tokens: &'a Tokens,
        limits: Limits,
        total: Duration,
        line: Line,
    ) -> Self {
        let place = |server| Place { server, connection: None, failures: 0, not_before: None, said: None };
        let deadline = Deadline::new(total, limits.patience, line);
        Pull { image, places: servers.into_iter().map(place).collect(), tokens, limits, deadline }
    }

    /// Whether `missing` bytes of content may be downloaded now.
    pub(super) fn check_budget(&self, missing: u64) -> Result<(), RegistryError> {
        if missing == 0 {
            return Ok(());
        }
        let begun = self.deadline.line().begin(Purpose::Content(missing));
        begun.map(drop).map_err(|cause| RegistryError::UsedUp { what: self.image.to_string(), cause })
    }

    /// Brings one blob into `content`.
    pub(super) fn blob(&mut self, wanted: &Descriptor, content: &Content) -> Result<(), RegistryError> {
        let what = format!("{} of {}", wanted.digest, self.image);
        let disk = |cause| RegistryError::Disk { what: what.clone(), cause };
        if content.verify(&wanted.digest).map_err(disk)? {
            return Ok(());
        }
        let mut partial = content.partial(wanted.digest, wanted.size, self.deadline.left()).map_err(disk)?;
        // Somebody else may have fetched it while this waited for them.
        if content.verify(&wanted.digest).map_err(disk)? {
            return Ok(());
        }
        let repository = self.image.repository.clone();
        let purpose = Purpose::Content(wanted.size.saturating_sub(partial.length()));
        self.ask_everybody(&what, purpose, |connection| {
            blob::download(connection, &repository, wanted, &mut partial)
        })
    }

    /// Asks everybody until one gives what `ask` wants, if the box may download that now.
    pub(super) fn ask_everybody<T>(
        &mut self,
        what: &str,
        purpose: Purpose,
        mut ask: impl FnMut(&mut Connection<'a>) -> Result<T, Stop>,
    ) -> Result<T, RegistryError> {
        let used_up = |cause| RegistryError::UsedUp { what: what.to_owned(), cause };
        // Before anybody is asked. As long as this lives, the download runs.
        let _transfer = self.deadline.line().begin(purpose).map_err(used_up)?;
        self.places.iter_mut().for_each(|place| place.said = None);
        let mut backoff = Backoff::new(self.limits.first_pause, self.limits.longest_pause);
        for round in 1..=self.limits.rounds {
            for index in self.order() {
                match self.try_one(index, &mut ask) {
                    Ok(done) => return Ok(done),
                    Err(Stop::Disk(cause)) => {
                        return Err(RegistryError::Disk { what: what.to_owned(), cause });
                    }
                    Err(Stop::UsedUp(cause)) => return Err(used_up(cause)),
                    Err(Stop::Server(reason)) => self.note(index, what, reason),
                }
            }
            let Some(pause) = self.pause(&mut backoff).filter(|_| round < self.limits.rounds) else { break };
            thread::sleep(pause);
        }
        Err(RegistryError::Failed { what: what.to_owned(), tried: self.tried() })
    }

    /// Who is asked in this round, in which order.
    fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let mut order: Vec<usize> = (0..self.places.len())
            .filter(|index| self.places[*index].is_open())
            .filter(|index| self.places[*index].not_before.is_none_or(|time| time <= now))
            .collect();
        // Stable: mirrors stay before the registry as long as they do as well.
        order.sort_by_key(|index| self.places[*index].failures);
        order
    }

    fn try_one<T>(
        &mut self,
        index: usize,
        ask: &mut impl FnMut(&mut Connection<'a>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let place = &mut self.places[index];
        let connection = match place.connection.take() {
            Some(connection) => connection,
            None => {
                let (server, repository) = (place.server.clone(), &self.image.repository);
                Connection::new(server, repository, self.tokens, self.deadline.clone(), &self.limits)?
            }
        };
        ask(place.connection.insert(connection))
    }

    fn note(&mut self, index: usize, what: &str, reason: Reason) {
        let place = &mut self.places[index];
        let server = &place.server.name;
        if place.failures == 0 {
            tracing::warn!(%server, what, %reason, "a registry did not give what was asked for");
        } else {
            // Said once for an image is enough.
            tracing::debug!(%server, what, %reason, "a registry still does not give what was asked for");
        }
        if matches!(reason, Reason::Unreachable { .. } | Reason::TimedOut { .. }) {
            place.failures += 1;
        }
        place.not_before = reason.retry_after().map(|wait| Instant::now() + wait);
        place.said = Some(reason);
    }

    /// How long to wait before the next round; `None` if there is nothing left to wait for.
    fn pause(&self, backoff: &mut Backoff) -> Option<Duration> {
        let now = Instant::now();
        let open = self.places.iter().filter(|place| place.is_open());
        let waits =
            open.map(|place| place.not_before.map_or(Duration::ZERO, |time| time.duration_since(now)));
        let soonest = waits.min()?;
        let pause = backoff.failed(random()).max(soonest);
        (soonest <= self.limits.retry_after && pause < self.deadline.left()).then_some(pause)
    }

    fn tried(&mut self) -> Vec<Tried> {
        let tried = |place: &mut Place<'_>| {
            let reason = place.said.take()?;
            let Server { name, is_mirror, .. } = &place.server;
            Some(Tried { server: name.clone(), is_mirror: *is_mirror, reason })
        };
        self.places.iter_mut().filter_map(tried).collect()
    }
}

impl Place<'_> {
    /// Whether it is worth asking (again).
    fn is_open(&self) -> bool {
        self.said.as_ref().is_none_or(Reason::may_pass)
    }
}

/// For the jitter; without any, boxes only ask more evenly than they should.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
