//! Gates: signs on the box itself that it is in use.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// For people, and for messages.
    pub name: String,
    /// How the box is asked.
    pub probe: GateKind,
    /// So long at the most a change is held by it.
    pub max_hold: Duration,
}

/// How a gate is asked. Whatever can't be asked counts as in use, until `max_hold` has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum GateKind {
    /// The box is in use while this file is there.
    File {
        /// Its path on the box.
        path: PathBuf,
    },
    /// The box is free when this program ends with 0.
    Command {
        /// The program and its arguments; no shell is in between.
        command: Vec<String>,
        /// How long it may take.
        timeout: Duration,
    },
    /// The box is free when a GET is answered with 200 to 299.
    Http {
        /// A whole `http://` URL.
        url: String,
    },
}

/// What a gate said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateAnswer {
    /// A change may begin.
    Free,
    /// It may not, for this reason.
    InUse(String),
}
