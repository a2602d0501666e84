//! `holdfast plan`: what would be done now, and why. It changes nothing.

use jiff::Timestamp;

use super::output::{print, print_json};
use super::{Common, Exit, agent, block_on, client, unless_not_running};

pub(super) fn run(common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let answer = unless_not_running(block_on(client(&config.api.socket).plan())?)?;
    let plan = match answer {
        Some(plan) => plan,
        None => agent::offline_plan(&config)?,
    };
    if common.json {
        print_json(&plan)?;
    } else {
        print(&plan.render(Timestamp::now()));
    }
    Ok(Exit::Done)
}
