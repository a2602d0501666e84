//! What the doctor looks at, and what it found. The command line looks as whoever calls it; a running agent looks as its
//! unit lets it, and answers `GET /v1/doctor` with that: what it can't see or write isn't there for a workload either.
//! It changes nothing (but for a file in the state folder, to see whether it can be written, which goes at once).

pub mod checks;
mod firewall;

use std::borrow::Cow;

use holdfast_core::report::text::printable;
use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but not as it should.
    Warn,
    /// It doesn't work.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Cow<'static, str>,
    /// How it came out.
    pub state: State,
    /// What was seen.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// The finding as text: a line, and one with what to do.
    pub fn render(&self) -> String {
        let word = match self.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let mut text = format!("{word}  {:<14} {}", self.check, printable(&self.message));
        if let Some(advice) = &self.advice {
            text.push_str(&format!("\n      {:<14} -> {}", "", printable(advice)));
        }
        text
    }

    pub(crate) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Finding { check: check.into(), state: State::Ok, message: message.into(), advice: None }
    }

    pub(crate) fn warn(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding {
            check: check.into(),
            state: State::Warn,
            message: message.into(),
            advice: Some(advice.into()),
        }
    }

    pub(crate) fn fail(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding {
            check: check.into(),
            state: State::Fail,
            message: message.into(),
            advice: Some(advice.into()),
        }
    }
}
