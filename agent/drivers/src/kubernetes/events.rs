//! The cluster's events about an object: controllers and the kubelet report there what they tried and what went wrong,
//! and often nowhere else.

use serde_json::Value;

use super::KubernetesDriver;
use super::discovery::own;
use super::status::fields::{number, text, words};

impl KubernetesDriver {
    /// The newest warning about an object. None where there is none, and where events may not be read: they are a hint.
    pub(super) async fn last_warning(&self, namespace: Option<&str>, uid: Option<&str>) -> Option<String> {
        // Events of what stands in no namespace are in this one.
        let namespace = namespace.unwrap_or("default");
        let kind = own("", "Event", "events", true);
        let events = self.api.list_by_field(&kind, namespace, &format!("involvedObject.uid={}", uid?)).await;
        newest_warning(&events.inspect_err(|error| tracing::debug!(%error, "events can't be read")).ok()?)
    }
}

/// What the newest warning among these says.
fn newest_warning(events: &[Value]) -> Option<String> {
    let warnings = events.iter().filter(|event| text(event, "/type") == Some("Warning"));
    // At the same moment the one that is said more often.
    let newest = warnings.max_by_key(|event| (last_seen(event), times(event)))?;
    Some(words(text(newest, "/reason"), text(newest, "/message")))
}

/// When an event was last seen, as the server writes times: texts that are in order, to the second at least.
fn last_seen(event: &Value) -> &str {
    const FIELDS: [&str; 4] =
        ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let seen = FIELDS.iter().find_map(|field| text(event, field)).unwrap_or_default();
    // One kind has fractions of a second, another hasn't.
    seen.get(..19).unwrap_or(seen)
}

fn times(event: &Value) -> i64 {
    number(event, "/series/count").or_else(|| number(event, "/count")).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_warning_is_told_whichever_way_its_time_is_written() {
        let event = |kind: &str, reason: &str, time: Value| {
            let mut event = json!({ "type": kind, "reason": reason, "message": "said" });
            event.as_object_mut().unwrap().extend(time.as_object().unwrap().clone());
            event
        };
        let old = event("Warning", "FailedScheduling", json!({ "eventTime": "2026-01-01T00:00:01.123456Z" }));
        let new =
            event("Warning", "FailedMount", json!({ "lastTimestamp": "2026-01-01T00:00:05Z", "count": 3 }));
        let fine = event("Normal", "Pulled", json!({ "lastTimestamp": "2026-01-01T00:00:09Z" }));
        let told = newest_warning(&[new, old, fine.clone()]);
        assert_eq!(told.as_deref(), Some("FailedMount: said"));
        assert_eq!(newest_warning(&[fine]), None);
    }
}
