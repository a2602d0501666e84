//! Hooks: what is done after a container's start and before its stop.

use super::container::Port;
use super::probe::{exec, http};
use super::record::Record;
use super::support::{HOOK, LIFECYCLE, SLEEP};
use crate::model::decode::Context;
use crate::pod::{Hook, Lifecycle};
use crate::yaml::Node;

/// Reads the hooks of a container.
pub(super) fn read(node: Option<&Node>, ports: &[Port], context: &mut Context<'_>) -> Lifecycle {
    let Some(mut record) = node.and_then(|node| Record::of(&LIFECYCLE, node, context)) else {
        return Lifecycle::default();
    };
    let lifecycle = Lifecycle {
        post_start: record.node("postStart").and_then(|node| hook(node, ports, context)),
        pre_stop: record.node("preStop").and_then(|node| hook(node, ports, context)),
    };
    record.finish();
    lifecycle
}

fn hook(node: &Node, ports: &[Port], context: &mut Context<'_>) -> Option<Hook> {
    let errors_before = context.errors.len();
    let mut record = Record::of(&HOOK, node, context)?;
    let hooks = [
        record.node("exec").map(|node| exec(node, context).map(Hook::Exec)),
        record.node("httpGet").map(|node| http(node, ports, context).map(Hook::Http)),
        record.node("sleep").map(|node| sleep(node, context).map(Hook::Sleep)),
    ];
    record.finish();
    let mut hooks = hooks.into_iter().flatten();
    let (first, second) = (hooks.next(), hooks.next());
    // What was refused was told already.
    if (first.is_none() && context.errors.len() == errors_before) || second.is_some() {
        context.error(node.at, "the hook must have one of exec, httpGet, sleep");
    }
    first?
}

fn sleep(node: &Node, context: &mut Context<'_>) -> Option<u32> {
    let mut record = Record::of(&SLEEP, node, context)?;
    record.required_node("seconds", context);
    let seconds = record.number::<0, 86_400>("seconds", context);
    record.finish();
    seconds.and_then(|seconds| u32::try_from(seconds).ok())
}
