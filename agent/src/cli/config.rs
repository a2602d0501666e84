//! `holdfast config`: what is set, with every default. Paths of secrets, never secrets.

use super::output::{print, print_json};
use super::{Common, Exit};

pub(super) fn run(common: &Common) -> anyhow::Result<Exit> {
    let config = common.load()?;
    if common.json {
        print_json(&config)?;
    } else {
        print(&config.to_toml());
    }
    Ok(Exit::Done)
}
