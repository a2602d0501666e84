//! The local API: HTTP/1 with JSON on a unix socket, for whoever stands in front of the box.
//!
//! ```text
//! client -> socket (who is it?) -> server (limits) -> Request by channel -> the loop -> reply by oneshot
//! ```
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/plan` | [`PlanReport`] |
//! | `GET /v1/events?since=N&follow=1` | one [`Event`] a line, those after N; with `follow` it doesn't end |
//! | `GET /v1/events/seal` | [`Seal`]: what those that were dropped are checked by |
//! | `GET /v1/diagnosis?app=NAME` | [`Diagnosis`], what was kept of an app when it last failed |
//! | `GET /v1/doctor` | [`Finding`]s of the agent's own process, which sees what its unit lets it see |
//! | `POST /v1/retry?app=NAME` | `{}`, once what failed of the app may be tried again |
//! | `POST /v1/poll` | `{}`, once the loop has taken it |
//!
//! Errors are `{"error": "…"}` with a fitting status. The loop only receives [`Request`]s and answers those it
//! can; whatever a client does (hang, flood, vanish) stays in `server`.

pub mod client;
mod routes;
mod server;
mod socket;

use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::event::Event;
use holdfast_core::event::segment::Seal;
use holdfast_core::name::AppName;
use holdfast_core::report::{PlanReport, Status};
use tokio::sync::oneshot;

#[cfg(doc)]
use crate::doctor::Finding;

pub use client::{Client, ClientError};
pub use server::{Doctor, Server};
pub use socket::BindError;

/// How many events are asked of the loop at a time.
pub const EVENTS_AT_ONCE: usize = 256;

/// Requests that may wait for the loop; what comes on top waits in the server.
pub const WAITING_REQUESTS: usize = 16;

/// What a client wants of the loop. The loop answers by the sender; a client that has gone meanwhile is no
/// error. A sender that is dropped without an answer tells the client that the agent couldn't.
#[derive(Debug)]
pub enum Request {
    /// How the box is.
    Status(oneshot::Sender<Status>),
    /// What would be done now. The error says why that can't be told.
    Plan(oneshot::Sender<Result<PlanReport, String>>),
    /// Events, oldest first.
    Events {
        /// Only those with a greater `seq`.
        since: u64,
        /// At most so many, the oldest of them.
        limit: usize,
        /// The error says why they can't be read.
        reply: oneshot::Sender<Result<Vec<Event>, String>>,
    },
    /// What the audit log is checked by.
    Seal(oneshot::Sender<Seal>),
    /// What was kept of an app when it last failed. The error says why there is nothing.
    Diagnosis(AppName, oneshot::Sender<Result<Diagnosis, String>>),
    /// Try what failed of an app again, though nothing of it has changed.
    Retry {
        /// The app.
        app: AppName,
        /// Who asks, for the audit log.
        who: String,
        /// The error says why there is nothing to try.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Poll the source now; answered as soon as that is on its way.
    Poll(oneshot::Sender<()>),
}

#[cfg(test)]
mod tests;
