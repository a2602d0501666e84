//! `holdfast status`: the state of the box.

use holdfast_core::report::Status;
use jiff::Timestamp;

use super::output::{print, print_json};
use super::{Common, Exit, agent, ask_or, block_on, client};

pub(super) fn run(common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let status = ask_or(|| block_on(client(&config.api.socket).status()), || agent::offline_status(&config))?;
    show(common, &status)?;
    Ok(exit_of(&status))
}

pub(super) fn show(common: &Common, status: &Status) -> anyhow::Result<()> {
    if common.json {
        return print_json(status);
    }
    print(&status.render(Timestamp::now()));
    Ok(())
}

pub(super) fn exit_of(status: &Status) -> Exit {
    if status.converged && status.ill().next().is_none() { Exit::Done } else { Exit::NotConverged }
}
