//! `holdfast events`: what happened; with `--follow`, as it happens.

use anyhow::bail;
use holdfast_core::event::Event;

use super::output::try_print;
use super::{Common, Exit, agent, block_on, client, unless_not_running};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Go on printing as things happen
    #[arg(long, short)]
    follow: bool,
    /// Only those after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    since: u64,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let asked = client(&config.api.socket);
    if arguments.follow {
        let show = |event: Event| try_print(&line(&event, common.json));
        let answer = block_on(asked.events(arguments.since, true, show))?;
        if unless_not_running(answer)?.is_some() {
            return Ok(Exit::Done);
        }
        bail!(
            "no holdfast answers at {}, so nothing happens to follow; leave out --follow",
            config.api.socket.display()
        );
    }
    // All are taken before the first is shown: a pager that waits must not keep the agent waiting.
    let mut events = Vec::new();
    let keep = |event: Event| {
        events.push(event);
        true
    };
    if unless_not_running(block_on(asked.events(arguments.since, false, keep))?)?.is_none() {
        events = agent::offline_events(&config, arguments.since)?;
    }
    for event in events {
        if !try_print(&line(&event, common.json)) {
            break;
        }
    }
    Ok(Exit::Done)
}

/// One line: JSON always is one; for people, the message is kept to one.
fn line(event: &Event, json: bool) -> String {
    if json {
        // Strings, numbers and nulls always have a JSON form.
        return serde_json::to_string(event).unwrap_or_default();
    }
    event.render()
}
