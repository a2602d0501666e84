//! `holdfast events`: what happened; with `--follow`, as it happens; `holdfast events verify`: whether all of it is
//! one unbroken chain.

use anyhow::bail;
use holdfast_core::event::{Event, verify_chain};

use super::output::{print, print_error, print_json, try_print};
use super::{Common, Exit, agent, block_on, client, unless_not_running};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Go on printing as things happen
    #[arg(long, short)]
    follow: bool,
    /// Only those after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    since: u64,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Action {
    /// Check that no event was changed, left out or put in later; exit 1 if one was
    Verify,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(Action::Verify) = arguments.action {
        return verify(common);
    }
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
    for event in all_events(common, arguments.since)? {
        if !try_print(&line(&event, common.json)) {
            break;
        }
    }
    Ok(Exit::Done)
}

/// The events after `since`, from the agent or from disk. All are taken before the first is shown: a pager that waits
/// must not keep the agent waiting.
fn all_events(common: &Common, since: u64) -> anyhow::Result<Vec<Event>> {
    let config = common.load()?;
    let asked = client(&config.api.socket);
    let mut events = Vec::new();
    let keep = |event: Event| {
        events.push(event);
        true
    };
    if unless_not_running(block_on(asked.events(since, false, keep))?)?.is_none() {
        return agent::offline_events(&config, since);
    }
    Ok(events)
}

fn verify(common: &Common) -> anyhow::Result<Exit> {
    let events = all_events(common, 0)?;
    let head = match verify_chain(&events) {
        Ok(head) => head,
        Err(broken) => {
            if common.json {
                print_json(
                    &serde_json::json!({ "whole": false, "seq": broken.seq, "reason": broken.reason }),
                )?;
            }
            print_error(&format!("{broken}; what came before it can be trusted, what follows can't"));
            return Ok(Exit::Error);
        }
    };
    let oldest = events.first().map(|event| event.seq);
    match (common.json, oldest, &head) {
        (true, ..) => print_json(&serde_json::json!({ "whole": true, "oldest": oldest, "head": head }))?,
        (false, Some(oldest), Some(head)) => {
            print(&format!(
                "events {oldest} to {} are one unbroken chain; its head is {}",
                head.seq, head.hash
            ));
            if oldest > 1 {
                print("the older ones were dropped for their age");
            }
        }
        (false, ..) => print("nothing happened yet"),
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
