//! What the agent and a workload's process say to each other, and what is written down about the process.
//!
//! At the start, over the process's standard input and output: the agent writes one line, a [`StartOrder`];
//! the process loads the code, asks the process before it for the listening socket (`handover.rs`), and writes
//! [`Progress::Loaded`]; the agent stops what ran before and writes one more line, [`GO`]; the process takes its
//! lock, listens if it has no socket yet, and writes [`Progress::Ready`]. End of input before `GO` ends the process.
//!
//! From then on over `control.sock`: one JSON object a line, one [`Request`] a connection. The answer is one
//! line, except for `watch`, which gets a [`Status`] at once and at each change until either side is gone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::name::{AppName, DeviceName};
use holdfast_core::release::WasmWorkload;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::user::User;

/// The line after which a loaded process begins to serve.
pub(super) const GO: &str = "go";
/// No line of the protocol is longer, in bytes.
pub(super) const LONGEST_LINE: usize = 1 << 20;

/// Whose a process is, and what runs in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mark {
    pub(super) device: DeviceName,
    pub(super) app: AppName,
    pub(super) release: ReleaseId,
    /// The digest of the object's spec.
    pub(super) spec: Digest,
}

/// Everything that a process needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartOrder {
    pub(super) mark: Mark,
    /// Compiled code; the agent has proved that it is its own.
    pub(super) code: PathBuf,
    pub(super) workload: WasmWorkload<Digest>,
    /// The app's folder in the run directory.
    pub(super) dir: PathBuf,
    /// The folder that the app's volumes are in.
    pub(super) volumes: PathBuf,
    /// Where the end of a workload that isn't started again is written down.
    pub(super) outcome: PathBuf,
    pub(super) user: Option<User>,
    /// The process that serves until this one has loaded its code. It is asked for its listening socket.
    #[serde(default)]
    pub(super) takes_over_from: Option<i32>,
}

/// How the start goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "camelCase")]
pub(super) enum Progress {
    /// The code is in memory; what runs now may be stopped.
    Loaded,
    /// It serves, or the command has been started.
    Ready,
    /// It won't run.
    Failed { because: Because, what: String },
}

/// What the reason of a failed start lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Because {
    /// The release.
    Release,
    /// The box.
    Box,
    /// Compiled code that this engine doesn't take: of another version, or for another processor.
    Code,
}

/// What a probe's process is told, over its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProbeOrder {
    /// Compiled code; the agent has proved that it is its own.
    pub(super) code: PathBuf,
    /// A command that runs once.
    pub(super) workload: WasmWorkload<Digest>,
    /// How long it may run.
    pub(super) limit: Duration,
    /// Where it may connect to beside the loopback.
    pub(super) target: Option<SocketAddr>,
    pub(super) user: Option<User>,
}

/// What a probe's process says before it ends, over its standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "camelCase")]
pub(super) enum ProbeReport {
    /// The probe ended with 0.
    Well,
    /// It ended otherwise, or was ended.
    Ill { what: String },
    /// It didn't begin.
    NotRun { because: Because, what: String },
}

/// `workload.json`: which process it is. Written by the process itself once it holds the app's lock, so that
/// no crash of the agent can come between a process and its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The format's version.
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) mark: Mark,
    pub(super) pid: i32,
    /// Field 22 of `/proc/PID/stat`: with the boot it makes a process's number unmistakable.
    pub(super) started: u64,
    pub(super) boot: String,
}

/// The version of [`Record`] and [`Outcome`].
pub(super) const FORMAT: u32 = 1;

/// How a workload that isn't started again has ended. Kept with the state, so that a job runs once for a
/// release and not once for a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) mark: Mark,
    pub(super) ok: bool,
    pub(super) what: String,
    pub(super) at: Timestamp,
    /// The last lines that it wrote.
    #[serde(default)]
    pub(super) log: Vec<String>,
}

/// What a workload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// The guest is being made.
    Starting,
    /// It runs, or serves.
    Running,
    /// It ended, and is started again after a pause.
    Backoff,
    /// It ended well, for good.
    Exited,
    /// It ended badly, for good.
    Failed,
    /// It was told to stop.
    Stopping,
}

/// How a workload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(flatten)]
    pub(super) mark: Mark,
    pub(super) state: State,
    /// How often it was started again since it last ran well.
    pub(super) restarts: u32,
    /// How it last ended.
    pub(super) last_exit: Option<String>,
    /// Since when it is in this state, by the clock on the wall.
    pub(super) since: Timestamp,
    /// For how long it has been in this state, by a clock that doesn't jump.
    pub(super) for_millis: u64,
}

/// What the agent asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub(super) enum Request {
    Status,
    /// Take no more requests, finish those in flight within this time, and end.
    #[serde(rename_all = "camelCase")]
    Stop {
        grace_millis: u64,
    },
    /// The last lines of the log.
    Logs {
        lines: usize,
    },
    Watch,
    /// A duplicate of the listening socket, with the answer.
    Listener,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub(super) enum Answer {
    Status(Status),
    Stopping,
    Listener,
    Logs { lines: Vec<String> },
    Refused { why: String },
}

/// A value as one line.
pub(super) fn line<T: Serialize>(value: &T) -> String {
    // Every type of this file has a JSON form: no map with other keys than text, no number that isn't one.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}
