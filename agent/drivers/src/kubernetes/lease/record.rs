//! A Lease as data (k8s.io/api, coordination/v1, LeaseSpec).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::{Map, Value, json};

use super::Times;
use crate::kubernetes::status::fields::{number, text};

/// The longest time that a silent holder keeps a Lease, whatever is written in it.
const LONGEST: Duration = Duration::from_secs(600);

/// What a Lease says, and the object it says it in.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Who holds it, if anybody does.
    pub(crate) holder: Option<String>,
    /// How long its holder may be silent.
    pub(crate) duration: Option<Duration>,
    /// When the holder came to hold it, by the holder's clock on the wall.
    pub(crate) acquired: Option<Timestamp>,
    /// When the holder last renewed it, by the same clock.
    pub(crate) renewed: Option<Timestamp>,
    /// How often it went from one holder to another.
    pub(crate) transitions: i32,
    /// The object it was read from, with its version and uid; null for a new one.
    object: Value,
}

impl Record {
    /// Reads a Lease. What is of a wrong type is absent.
    pub(crate) fn read(object: Value) -> Self {
        let time = |pointer: &str| text(&object, pointer).and_then(|text| text.parse().ok());
        let transitions = number(&object, "/spec/leaseTransitions").unwrap_or(0).clamp(0, i32::MAX.into());
        let seconds =
            number(&object, "/spec/leaseDurationSeconds").and_then(|seconds| u64::try_from(seconds).ok());
        Record {
            holder: text(&object, "/spec/holderIdentity").map(str::to_owned),
            duration: seconds.map(Duration::from_secs),
            acquired: time("/spec/acquireTime"),
            renewed: time("/spec/renewTime"),
            transitions: i32::try_from(transitions).unwrap_or(i32::MAX),
            object,
        }
    }

    /// The Lease to send: the object that it was read from, its version and uid included, with these values.
    pub(crate) fn lease(&self, namespace: &str, name: &str) -> Value {
        let mut lease = match &self.object {
            Value::Object(object) => object.clone(),
            _ => Map::new(),
        };
        lease.insert("apiVersion".to_owned(), json!("coordination.k8s.io/v1"));
        lease.insert("kind".to_owned(), json!("Lease"));
        let metadata = part(&mut lease, "metadata");
        metadata.insert("namespace".to_owned(), json!(namespace));
        metadata.insert("name".to_owned(), json!(name));
        let spec = part(&mut lease, "spec");
        // An empty holder is none, as client-go writes it on release.
        spec.insert("holderIdentity".to_owned(), json!(self.holder.as_deref().unwrap_or_default()));
        // Zero is refused by the server.
        let seconds = self.duration.map_or(1, |duration| duration.as_secs().clamp(1, LONGEST.as_secs()));
        spec.insert("leaseDurationSeconds".to_owned(), json!(seconds));
        spec.insert("leaseTransitions".to_owned(), json!(self.transitions));
        for (key, time) in [("acquireTime", self.acquired), ("renewTime", self.renewed)] {
            spec.insert(key.to_owned(), time.map_or(Value::Null, |time| json!(micro_time(time))));
        }
        Value::Object(lease)
    }

    /// The Lease that `holder` makes where there is none.
    pub(super) fn new(holder: &str, times: &Times, wall: Timestamp) -> Self {
        let wall = to_micros(wall);
        Record {
            holder: Some(holder.to_owned()),
            duration: Some(times.lease),
            acquired: Some(wall),
            renewed: Some(wall),
            transitions: 0,
            object: Value::Null,
        }
    }

    /// This Lease, renewed by the one who holds it.
    pub(super) fn renewal(&self, times: &Times, wall: Timestamp) -> Self {
        Record { duration: Some(times.lease), renewed: Some(self.later(wall)), ..self.clone() }
    }

    /// This Lease, taken by another.
    pub(super) fn taken(&self, holder: &str, times: &Times, wall: Timestamp) -> Self {
        let now = self.later(wall);
        Record {
            holder: Some(holder.to_owned()),
            duration: Some(times.lease),
            acquired: Some(now),
            renewed: Some(now),
            transitions: self.transitions.saturating_add(1),
            object: self.object.clone(),
        }
    }

    /// This Lease, given up by the one who holds it.
    pub(super) fn released(&self, wall: Timestamp) -> Self {
        let now = self.later(wall);
        let duration = Some(Duration::from_secs(1));
        Record { holder: None, duration, acquired: Some(now), renewed: Some(now), ..self.clone() }
    }

    /// Whether both say the same, whoever touched the rest of the object.
    pub(super) fn says_what(&self, other: &Record) -> bool {
        let words =
            |one: &Record| (one.holder.clone(), one.duration, one.acquired, one.renewed, one.transitions);
        words(self) == words(other)
    }

    /// How long its holder may be silent: never shorter than what `times` say, which holders go by.
    pub(super) fn patience(&self, times: &Times) -> Duration {
        self.duration.unwrap_or(times.lease).min(LONGEST).max(times.lease)
    }

    /// The time to write. Others tell by it that the Lease was renewed, so that it must differ even if the clock on
    /// the wall stands or was set back.
    fn later(&self, wall: Timestamp) -> Timestamp {
        let wall = to_micros(wall);
        let Some(before) = self.renewed.map(to_micros).filter(|before| *before >= wall) else { return wall };
        let tick = SignedDuration::from_micros(1);
        // At the end of time it goes back by one: that differs, too.
        before.checked_add(tick).or_else(|_| before.checked_sub(tick)).unwrap_or(wall)
    }
}

/// A member that is an object, made so if it isn't.
fn part<'a>(object: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let member = object.entry(name).or_insert(Value::Null);
    if !member.is_object() {
        *member = Value::Object(Map::new());
    }
    match member {
        Value::Object(map) => map,
        // It was just made one.
        _ => unreachable!("a member that is no object"),
    }
}

/// The format of `MicroTime` (k8s.io/apimachinery, pkg/apis/meta/v1/micro_time.go): RFC 3339 in UTC with six digits.
fn micro_time(time: Timestamp) -> String {
    format!("{time:.6}")
}

fn to_micros(time: Timestamp) -> Timestamp {
    use jiff::{RoundMode, TimestampRound};
    // Only times at the very edge can't be rounded.
    time.round(TimestampRound::new().smallest(Unit::Microsecond).mode(RoundMode::Trunc)).unwrap_or(time)
}
