//! `holdfast events`: what happened; with `--follow`, as it happens; `holdfast events verify`: whether all of it is
//! one unbroken chain.

use anyhow::bail;
use holdfast_core::event::Event;
use holdfast_core::event::segment::{Seal, verify_log};

use super::output::{print, print_error, print_json, try_print};
use super::{Common, Exit, agent, ask_or, block_on, client, unless_not_running};

/// How often the log is read when its oldest events are sealed meanwhile.
const SEAL_TRIES: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep printing new events
    #[arg(long, short)]
    follow: bool,
    /// Show only the events after this sequence number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    since: u64,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Action {
    /// Verify the hash chain: exit code 1 if an event was changed, removed or inserted
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
            "no agent answers at {}, so there are no new events to follow; omit --follow",
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
    let ask = || {
        let mut events = Vec::new();
        let keep = |event: Event| {
            events.push(event);
            true
        };
        Ok(block_on(asked.events(since, false, keep))?.map(|_| events))
    };
    ask_or(ask, || agent::offline_events(&config, since))
}

/// Who says what the log is checked by.
enum Audited {
    /// The agent, which is asked for the events as well.
    Running(Seal),
    /// The state folder, with all events.
    Offline((Vec<Event>, Seal)),
}

/// All events and what they are checked by, as they were at one moment.
fn audit(common: &Common) -> anyhow::Result<(Vec<Event>, Seal)> {
    let config = common.load()?;
    let asked = client(&config.api.socket);
    let ask = || Ok(block_on(asked.seal())?.map(Audited::Running));
    let mut before = match ask_or(ask, || agent::offline_audit(&config).map(Audited::Offline))? {
        Audited::Running(seal) => seal,
        Audited::Offline(all) => return Ok(all),
    };
    for _ in 0..SEAL_TRIES {
        let events = all_events(common, 0)?;
        match unless_not_running(block_on(asked.seal())?)? {
            // The anchor may have moved on, which the events of before can't show.
            Some(after) if after.segments == before.segments => return Ok((events, before)),
            Some(after) => before = after,
            None => return agent::offline_audit(&config),
        }
    }
    bail!("the agent seals events faster than they can be read; try again")
}

fn verify(common: &Common) -> anyhow::Result<Exit> {
    let (events, seal) = audit(common)?;
    let verified = verify_log(&seal, &events);
    let oldest = events.first().map(|event| event.seq);
    if common.json {
        print_json(&match &verified {
            Ok(head) => serde_json::json!({
                "whole": true, "oldest": oldest, "head": head, "segments": seal.segments,
            }),
            Err(broken) => serde_json::json!({
                "whole": false, "seq": broken.seq, "reason": broken.reason, "oldest": oldest,
                "segments": seal.segments,
            }),
        })?;
    } else {
        seal.segments.iter().for_each(|segment| print(&segment.render()));
    }
    let head = match verified {
        Ok(head) => head,
        Err(broken) => {
            print_error(&format!("{broken}; the events before it can be trusted, those after it can't"));
            return Ok(Exit::Error);
        }
    };
    match (oldest, &head) {
        _ if common.json => {}
        (Some(oldest), Some(head)) => {
            if oldest > 1 {
                print(&format!("events {oldest} to {} are stored in full", head.seq));
            }
            print(&format!("events 1 to {} are one unbroken chain; its head is {}", head.seq, head.hash));
        }
        _ => print("there are no events yet"),
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
