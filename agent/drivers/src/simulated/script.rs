//! Faults, delays and crashes by script: of a release by the annotations of its objects, and of the whole
//! runtime by `script.json`.
//!
//! An annotation is `simulated.holdfast.dev/<what>: <how>` under `metadata.annotations` of any of the
//! release's objects; all of them together speak for the release:
//!
//! | what | how |
//! |---|---|
//! | `prepare` | `fail` (the release is at fault), `retry` (the runtime is), `hang` |
//! | `apply` | `fail`, `retry`, `hang`, `partial` (is left half made, once for each object), `not-yet` (the runtime never takes it), `not-yet:5s` (takes it so long after the first try) |
//! | `health` | `healthy`, `unhealthy`, `never`, `flapping`, `slow:5s` (well after), `dies:5s` (ill after) |
//! | `exec` | `ok`, `fail`, `hang`: how the program of a health check ends |
//! | `delay` | such as `200ms`, before each prepare and apply |
//! | `crash` | `prepare`, `apply`, `applied`: the agent's process is killed before or after that |
//! | `change` | `recreate`: this object cannot be changed in place; `immutable`: nor may it be recreated unless the app's policy says so |
//! | `address` | `host:port` where a health check with a target reaches this object |
//!
//! `script.json` is
//! `{"runtime": "up|down|hang", "delay": "10ms", "limit": "1s", "apps": {"pos": {"health": "unhealthy"}}}`;
//! what it says of an app replaces what the release says of itself, and `limit` is how long a call waits for a
//! runtime that hangs. `"hold": ["pos:apply", "menu:*", "*:observe"]` has calls wait until the script no longer says so:
//! `fingerprint`, `prepare`, `observe`, `apps`, `apply`, `probe`, `exec`, `logs` or `collect`, for one app or all;
//! the log has a line `held` for each call that waits. `"keep": ["pos"]` has the removals of an app, or with
//! `*` of all, refused until the script no longer says so.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::duration;
use holdfast_core::name::AppName;
use holdfast_core::release::Release;
use serde::Deserialize;

/// What the names of the annotations begin with.
pub const PREFIX: &str = "simulated.holdfast.dev/";

/// What happens when something is asked of the runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reaction {
    /// It works.
    #[default]
    Works,
    /// It fails, and the release is the reason.
    Fails,
    /// It fails, and the runtime is the reason.
    Retry,
    /// It never answers.
    Hangs,
    /// It fails half way, once for each object: apply only.
    Partial,
    /// The runtime doesn't take it yet, or not before so long after the first try: apply only.
    NotYet(Option<Duration>),
}

/// How the release is once it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthScript {
    /// Well at once.
    #[default]
    Healthy,
    /// Ill at once.
    Unhealthy,
    /// Starting for ever.
    Never,
    /// Every second look finds it ill.
    Flapping,
    /// Well after this time since its start.
    Slow(Duration),
    /// Ill after this time since its start.
    Dies(Duration),
}

/// Where the agent's process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// When a prepare begins.
    Prepare,
    /// When a step begins.
    Apply,
    /// When a step has been done and nobody has heard of it.
    Applied,
}

/// What is scripted for one release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Of prepare.
    pub prepare: Reaction,
    /// Of apply.
    pub apply: Reaction,
    /// Of probe.
    pub health: HealthScript,
    /// Of the program of a health check.
    pub exec: Reaction,
    /// Before each prepare and apply.
    pub delay: Duration,
    /// Where the agent is killed.
    pub crash: Option<Crash>,
}

/// How the runtime as a whole is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// It answers.
    #[default]
    Up,
    /// It refuses.
    Down,
    /// It never answers.
    Hang,
    /// Its script cannot be read, for this reason.
    #[serde(skip)]
    Broken(String),
}

/// What `script.json` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// How the runtime is.
    #[serde(default)]
    pub runtime: Runtime,
    /// Before each call: a number and `ms`, `s` or `m`.
    #[serde(default, deserialize_with = "duration_field")]
    pub delay: Duration,
    /// How long a call waits for a runtime that hangs; the driver's own limit if it isn't said.
    #[serde(default, deserialize_with = "limit_field")]
    pub limit: Option<Duration>,
    /// The calls that wait until this is no longer said: an app or `*`, a colon, a call or `*`.
    #[serde(default)]
    pub hold: Vec<String>,
    /// The apps whose removals are refused until this is no longer said; `*` is all of them.
    #[serde(default)]
    pub keep: Vec<String>,
    /// For an app, what replaces the annotations of its releases.
    #[serde(default)]
    pub apps: BTreeMap<AppName, BTreeMap<String, String>>,
}

impl Script {
    /// Reads `script.json`. A text that is no script is a runtime that is broken, and says why.
    pub fn parse(text: &[u8]) -> Self {
        serde_json::from_slice(text).unwrap_or_else(|error| Script {
            runtime: Runtime::Broken(format!("its script.json is wrong: {error}")),
            ..Script::default()
        })
    }

    /// Whether a call waits, about this app or about none.
    pub fn holds(&self, call: &str, app: Option<&AppName>) -> bool {
        self.hold
            .iter()
            .filter_map(|held| held.split_once(':'))
            .any(|(of, held)| fits(of, app.map(AppName::as_str)) && fits(held, Some(call)))
    }

    /// Whether nothing of an app is let go.
    pub fn keeps(&self, app: &AppName) -> bool {
        self.keep.iter().any(|pattern| fits(pattern, Some(app.as_str())))
    }

    /// What is scripted for `release`: its annotations, and over them what is said of its app here.
    pub fn behaviour(&self, release: &Release) -> Result<Behaviour, String> {
        let mut behaviour = Behaviour::default();
        for object in &release.objects {
            for (what, how) in annotations(&object.spec) {
                behaviour
                    .set(what, how)
                    .map_err(|why| format!("{} of {}: {why}", object.key, release.app))?;
            }
        }
        for (what, how) in self.apps.get(&release.app).into_iter().flatten() {
            behaviour.set(what, how).map_err(|why| format!("{} in script.json: {why}", release.app))?;
        }
        Ok(behaviour)
    }
}

impl Behaviour {
    fn set(&mut self, what: &str, how: &str) -> Result<(), String> {
        let wrong = || format!("{PREFIX}{what} cannot be {how:?}");
        match what {
            "prepare" => {
                let known = |r: &Reaction| !matches!(r, Reaction::Partial | Reaction::NotYet(_));
                self.prepare = reaction(how).filter(known).ok_or_else(wrong)?;
            }
            "apply" => self.apply = reaction(how).ok_or_else(wrong)?,
            "health" => self.health = health(how).ok_or_else(wrong)?,
            "exec" => {
                let known =
                    |r: &Reaction| !matches!(r, Reaction::Partial | Reaction::Retry | Reaction::NotYet(_));
                self.exec = reaction(how).filter(known).ok_or_else(wrong)?;
            }
            "delay" => self.delay = duration::parse(how).map_err(|_| wrong())?,
            "crash" => self.crash = Some(crash(how).ok_or_else(wrong)?),
            "change" if ["recreate", "in-place", "immutable"].contains(&how) => {}
            "change" => return Err(wrong()),
            "address" => {}
            _ => return Err(format!("there is no annotation {PREFIX}{what}")),
        }
        Ok(())
    }
}

fn fits(pattern: &str, name: Option<&str>) -> bool {
    pattern == "*" || name == Some(pattern)
}

/// The annotations of an object that are for this driver, without their prefix.
pub(super) fn annotations(spec: &serde_json::Value) -> impl Iterator<Item = (&str, &str)> {
    spec.pointer("/metadata/annotations")
        .and_then(|value| value.as_object())
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str().unwrap_or_default())))
}

/// One annotation of an object.
pub(super) fn annotation<'a>(spec: &'a serde_json::Value, what: &str) -> Option<&'a str> {
    annotations(spec).find(|(name, _)| *name == what).map(|(_, how)| how)
}

fn reaction(how: &str) -> Option<Reaction> {
    Some(match how {
        "ok" => Reaction::Works,
        "fail" => Reaction::Fails,
        "retry" => Reaction::Retry,
        "hang" => Reaction::Hangs,
        "partial" => Reaction::Partial,
        "not-yet" => Reaction::NotYet(None),
        _ => Reaction::NotYet(Some(duration::parse(how.strip_prefix("not-yet:")?).ok()?)),
    })
}

fn health(how: &str) -> Option<HealthScript> {
    Some(match how.split_once(':') {
        None => match how {
            "healthy" => HealthScript::Healthy,
            "unhealthy" => HealthScript::Unhealthy,
            "never" => HealthScript::Never,
            "flapping" => HealthScript::Flapping,
            _ => return None,
        },
        Some(("slow", after)) => HealthScript::Slow(duration::parse(after).ok()?),
        Some(("dies", after)) => HealthScript::Dies(duration::parse(after).ok()?),
        Some(_) => return None,
    })
}

fn crash(how: &str) -> Option<Crash> {
    Some(match how {
        "prepare" => Crash::Prepare,
        "apply" => Crash::Apply,
        "applied" => Crash::Applied,
        _ => return None,
    })
}

fn duration_field<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).map_err(serde::de::Error::custom)
}

fn limit_field<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration_field(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_held_by_app_and_by_name() {
        let script = Script::parse(br#"{"hold": ["pos:apply", "*:apps"]}"#);
        let [pos, menu] = ["pos", "menu"].map(|name| name.parse().unwrap());
        assert!(script.holds("apply", Some(&pos)) && script.holds("apps", None));
        assert!(!script.holds("apply", Some(&menu)) && !script.holds("apply", None));
        assert!(!script.holds("observe", Some(&pos)));
    }

    #[test]
    fn a_script_that_cannot_be_read_is_a_broken_runtime_that_says_why() {
        for text in ["", "{", r#"{"runtim":"up"}"#, r#"{"delay":"5"}"#, r#"{"runtime":"sideways"}"#] {
            let Runtime::Broken(why) = Script::parse(text.as_bytes()).runtime else { panic!("{text}") };
            assert!(why.contains("script.json"), "{why}");
        }
        let script = Script::parse(br#"{"runtime":"down","limit":"1s"}"#);
        assert_eq!((script.runtime, script.limit), (Runtime::Down, Some(Duration::from_secs(1))));
    }
}
