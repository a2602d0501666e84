//! `holdfast doctor`: looks at this box and says what is missing and what to do. `checks` holds what is looked
//! at; this file only runs and prints it. It changes nothing (but for a file in the state folder, to see
//! whether it can be written, which goes at once).

mod checks;

use serde::Serialize;

use super::output::{print, print_json};
use super::{Common, Exit};
use crate::config::Config;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    state: State,
    /// What was seen.
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Finding { check, state: State::Ok, message: message.into(), advice: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { check, state: State::Warn, message: message.into(), advice: Some(advice.into()) }
    }

    fn fail(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { check, state: State::Fail, message: message.into(), advice: Some(advice.into()) }
    }
}

pub(super) fn run(common: &Common) -> anyhow::Result<Exit> {
    let findings = match Config::load(&common.config) {
        Ok(config) => super::block_on(checks::all(&common.config, &config))?,
        // Without it, what it would name can't be looked at.
        Err(error) => {
            let mut findings = vec![Finding::fail(
                "configuration",
                error.to_string(),
                "correct the file; docs/operations.md lists every key",
            )];
            findings.extend(checks::of_the_system());
            findings
        }
    };
    if common.json {
        print_json(&findings)?;
    } else {
        findings.iter().for_each(show);
    }
    let worst = findings.iter().map(|finding| finding.state).max();
    Ok(if worst == Some(State::Fail) { Exit::Error } else { Exit::Done })
}

fn show(finding: &Finding) {
    let word = match finding.state {
        State::Ok => "ok  ",
        State::Warn => "warn",
        State::Fail => "FAIL",
    };
    let printable = holdfast_core::report::text::printable;
    print(&format!("{word}  {:<14} {}", finding.check, printable(&finding.message)));
    if let Some(advice) = &finding.advice {
        print(&format!("      {:<14} -> {}", "", printable(advice)));
    }
}
