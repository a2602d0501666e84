//! `holdfast plan`: what would be done now, and why. It changes nothing.

use jiff::Timestamp;

use super::output::{print, print_json};
use super::{Common, Exit, agent, ask_or, block_on, client};

pub(super) fn run(common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let plan = ask_or(|| block_on(client(&config.api.socket).plan()), || agent::offline_plan(&config))?;
    if common.json {
        print_json(&plan)?;
    } else {
        print(&plan.render(Timestamp::now()));
    }
    Ok(Exit::Done)
}
