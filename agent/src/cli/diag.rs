//! `holdfast diag`: what was seen of an app when it last failed, kept before it was taken back.

use clap::Args;
use holdfast_core::name::AppName;
use jiff::Timestamp;

use super::output::{print, print_json};
use super::{Common, Exit, agent, block_on, client, unless_not_running};

/// What `diag` takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The app
    app: AppName,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let answer = unless_not_running(block_on(client(&config.api.socket).diagnosis(&arguments.app))?)?;
    let diagnosis = match answer {
        Some(diagnosis) => diagnosis,
        None => agent::offline_diagnosis(&config, &arguments.app)?,
    };
    if common.json {
        print_json(&diagnosis)?;
    } else {
        print(&diagnosis.render(Timestamp::now()));
    }
    Ok(Exit::Done)
}
