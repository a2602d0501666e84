//! `holdfast run`: the agent.

use std::time::Duration;

use anyhow::anyhow;

use super::{Common, Exit, agent, status};
use crate::log;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Reconcile once, wait until every app has been judged, and stop
    #[arg(long)]
    once: bool,
    /// How long to wait until every app has been judged
    #[arg(long, requires = "once", value_name = "DURATION", default_value = "10m", value_parser = duration)]
    timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    holdfast_core::duration::parse(text).map_err(|error| error.to_string())
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let from_environment = std::env::var(log::VARIABLE).ok().filter(|text| !text.is_empty());
    let filter =
        common.log.clone().or(from_environment).unwrap_or_else(|| config.log.level.word().to_owned());
    let log = log::start(&filter).map_err(|why| anyhow!(why))?;
    let result = agent::run(&config, arguments.once.then_some(arguments.timeout));
    if let Err(error) = &result {
        // In the journal too: whoever looks for the reason looks there.
        tracing::error!("{error:#}");
    }
    log.close();
    match result? {
        Some(end) => {
            status::show(common, &end)?;
            Ok(status::exit_of(&end))
        }
        None => Ok(Exit::Done),
    }
}
