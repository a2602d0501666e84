//! `holdfast doctor`: looks at this box and says what is missing and what to do. What is looked at is in
//! `doctor`; this file only runs and prints it.

use super::output::{print, print_json};
use super::{Common, Exit};
use crate::config::Config;
use crate::doctor::{Finding, State, checks};

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
        findings.iter().for_each(|finding| print(&finding.render()));
    }
    let worst = findings.iter().map(|finding| finding.state).max();
    Ok(if worst == Some(State::Fail) { Exit::Error } else { Exit::Done })
}
