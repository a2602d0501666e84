//! How objects are judged: tables of them, each with what is to be made of it.

mod helm;
mod properties;
mod without_pods;
mod workloads;

use serde_json::{Value, json};

use super::{Status, status};

/// What is to be made of an object; the reason must have this in it.
#[derive(Clone, Copy, Debug)]
enum Is {
    Current,
    InProgress(&'static str),
    Failed(&'static str),
    Terminating(&'static str),
}
use Is::*;

#[track_caller]
fn check(what: &str, seen: &Status, wanted: Is) {
    let (matches, reason, part) = match (seen, wanted) {
        (Status::Current, Current) => (true, "", ""),
        (Status::InProgress { reason }, InProgress(part)) => (true, reason.as_str(), part),
        (Status::Failed { reason }, Failed(part)) => (true, reason.as_str(), part),
        (Status::Terminating { reason }, Terminating(part)) => (true, reason.as_str(), part),
        _ => (false, "", ""),
    };
    assert!(matches, "{what}: {seen:?} instead of {wanted:?}");
    assert!(reason.contains(part), "{what}: {reason:?} doesn't say {part:?}");
}

/// Judges each object of a kind: what it shows, its spec, its status, and the verdict.
#[track_caller]
fn table(version: &str, kind: &str, rows: &[(&str, Value, Value, Is)]) {
    for (what, spec, state, wanted) in rows {
        check(what, &status(&object(version, kind, spec, state)), *wanted);
    }
}

fn object(version: &str, kind: &str, spec: &Value, state: &Value) -> Value {
    let metadata = json!({ "name": "one", "namespace": "shop", "generation": 3 });
    json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec, "status": state })
}

/// A condition.
fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message })
}
