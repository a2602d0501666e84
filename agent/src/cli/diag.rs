//! `holdfast diag`: what was seen of an app when it last failed, saved before it was rolled back.

use clap::Args;
use holdfast_core::name::AppName;
use jiff::Timestamp;

use super::output::{print, print_json};
use super::{Common, Exit, agent, ask_or, block_on, client};

/// What `diag` takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The app
    app: AppName,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let app = &arguments.app;
    let diagnosis = ask_or(
        || block_on(client(&config.api.socket).diagnosis(app)),
        || agent::offline_diagnosis(&config, app),
    )?;
    if common.json {
        print_json(&diagnosis)?;
    } else {
        print(&diagnosis.render(Timestamp::now()));
    }
    Ok(Exit::Done)
}
