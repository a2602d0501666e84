//! The health of a standalone Pod (those of a workload count for the workload).

use serde_json::Value;

use super::Status;
use super::fields::{Condition, list, number, text, words};
use crate::kubernetes::pods;

/// How a Pod is.
///
/// Other than in kstatus, a pod that failed is a failure ("current" means there: nothing more will change), and one
/// that can't be scheduled isn't yet: a volume or another pod's end may make room, and the app's own deadline judges.
pub(super) fn pod(object: &Value) -> Status {
    let policy = text(object, "/spec/restartPolicy").unwrap_or("Always");
    match text(object, "/status/phase") {
        Some("Succeeded") if policy == "Always" => {
            Status::failed(format!("it ended and is not restarted: {}", own_words(object)))
        }
        Some("Succeeded") => Status::Current,
        Some("Failed") => Status::failed(trouble(object).unwrap_or_else(|| own_words(object))),
        Some("Running") if Condition::that_is_true(object, "Ready").is_some() => Status::Current,
        Some("Running" | "Pending") => not_ready(object, policy),
        Some("Unknown") => Status::in_progress("its node doesn't answer"),
        _ => Status::in_progress("no kubelet has reported a status for it yet"),
    }
}

fn not_ready(object: &Value, policy: &str) -> Status {
    let trouble = pods::trouble(std::slice::from_ref(object));
    if let Some(dead) = ended_for_good(object, policy) {
        return Status::failed(format!("the container {dead} failed and is not restarted"));
    }
    match (trouble, Condition::of(object, "Ready")) {
        // As in kstatus.
        (Some(trouble), _) if trouble.crashes => Status::failed(trouble.reason),
        (Some(trouble), _) => Status::in_progress(trouble.reason),
        (None, Some(ready)) => Status::in_progress(ready.says()),
        (None, None) => Status::in_progress("it isn't ready yet"),
    }
}

/// A container that failed while others run, in a pod whose containers aren't started again: the pod can't become
/// ready any more, though its phase says `Running` until the others end.
fn ended_for_good<'a>(object: &'a Value, policy: &str) -> Option<&'a str> {
    if policy != "Never" {
        return None;
    }
    // A container may have a policy of its own.
    let has_own_policy = |name: &str| {
        let mut specs = list(object, "/spec/containers").iter();
        specs.any(|spec| text(spec, "/name") == Some(name) && spec.get("restartPolicy").is_some())
    };
    let failed = |one: &&Value| number(one, "/state/terminated/exitCode").is_some_and(|code| code != 0);
    let mut ended = list(object, "/status/containerStatuses").iter().filter(failed);
    ended.find_map(|one| text(one, "/name").filter(|name| !has_own_policy(name)))
}

fn trouble(object: &Value) -> Option<String> {
    pods::trouble(std::slice::from_ref(object)).map(|trouble| trouble.reason)
}

/// What the pod's status says of itself: why it was evicted, and the like.
fn own_words(object: &Value) -> String {
    words(text(object, "/status/reason"), text(object, "/status/message"))
}
