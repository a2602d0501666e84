//! `holdfast retry`: a failed release is tried again unchanged.

use clap::Args;
use holdfast_core::name::AppName;

use super::output::{print, print_json};
use super::{Common, Exit, block_on, client};

/// What `retry` takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The app
    app: AppName,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = common.load()?;
    block_on(client(&config.api.socket).retry(&arguments.app))??;
    if common.json {
        print_json(&serde_json::json!({}))?;
    } else {
        print(&format!("{} is being retried; `holdfast status` shows the progress", arguments.app));
    }
    Ok(Exit::Done)
}
