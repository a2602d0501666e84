//! Runtimes: what a box runs workloads with. Each is known by the name of its driver, and says as data what it takes and
//! what it can do.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{BadName, ObjectKey, is_label};

/// The longest name of a driver, in bytes.
const LONGEST: usize = 31;

const RULE: &str = "use 1 to 31 of a-z, 0-9 and '-', beginning and ending with a letter or digit";

/// The name of a driver: an RFC 1123 label of at most 31 characters. Several drivers of a kind have names of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DriverName {
    /// Filled up with zeros, so that names compare as their texts do.
    bytes: [u8; LONGEST],
    length: u8,
}

impl DriverName {
    /// WebAssembly in a child process.
    pub const WASM: DriverName = DriverName::of("wasm");
    /// podman's REST API.
    pub const PODMAN: DriverName = DriverName::of("podman");
    /// A Kubernetes API server.
    pub const KUBERNETES: DriverName = DriverName::of("kubernetes");
    /// A folder that stands for a runtime, for tests and benchmarks.
    pub const SIMULATED: DriverName = DriverName::of("simulated");

    const fn of(text: &str) -> Self {
        let mut bytes = [0; LONGEST];
        let mut at = 0;
        while at < text.len() {
            bytes[at] = text.as_bytes()[at];
            at += 1;
        }
        DriverName { bytes, length: text.len() as u8 }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl FromStr for DriverName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match text.len() <= LONGEST && is_label(text) {
            true => Ok(DriverName::of(text)),
            false => Err(BadName::new("a driver", text, RULE)),
        }
    }
}

impl TryFrom<String> for DriverName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<DriverName> for String {
    fn from(name: DriverName) -> String {
        name.as_str().to_owned()
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// In which form a runtime takes a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Kubernetes' objects as they are.
    Manifests,
    /// The pods and claims that come of Kubernetes' objects: see [`crate::lower`].
    Pods,
    /// One WebAssembly component, and its volumes.
    Component,
}

/// Whose the names of a runtime's objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Names {
    /// A name is the same object whichever app has it.
    Shared,
    /// That is so for what holds data; of all else each app has names of its own.
    OfData,
    /// Each app has names of its own.
    PerApp,
}

/// What a runtime takes and can do. Its driver declares it; the planner decides by this, never by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abilities {
    /// In which form it takes a workload.
    pub takes: Form,
    /// Where an app doesn't care which runtime its containers are on, the box's one with the lowest rank has them.
    pub rank: u8,
    /// Whether an object's name is the same object whichever app has it.
    pub names: Names,
    /// Whether new can run beside old until it is ready, where an app wants that (`update.strategy: start-stop`); else
    /// old goes first. Where this isn't so, the runtime itself says in which order they come and go.
    pub start_stop: bool,
    /// Whether a check's program can be run in a workload.
    pub exec: bool,
    /// Whether it tells where a workload's ports are reached.
    pub addresses: bool,
    /// Whether something of it outlives a release: claims, volumes.
    pub holds_data: bool,
    /// Whether an app can be applied with the rights of a service account.
    pub accounts: bool,
    /// Whether the box gives it the images that are named by digest. Then they are part of what a release needs, and are
    /// kept on disk as long as it is; else the runtime pulls them.
    pub stages_images: bool,
    /// Whether it runs probe components, whatever the apps themselves run on.
    pub engine: bool,
}

impl Abilities {
    /// Whether it takes containers. Their objects can move between apps: manifests are files of an app's folder.
    pub fn takes_containers(&self) -> bool {
        self.takes != Form::Component
    }
}

/// What can be done, as `doctor` lists it.
impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.start_stop, "start-stop"),
            (self.exec, "exec checks"),
            (self.addresses, "checks by target"),
            (self.holds_data, "data"),
            (self.accounts, "service accounts"),
            (self.stages_images, "images by the agent"),
            (self.engine, "wasm checks"),
        ];
        let words: Vec<&str> = all.into_iter().filter(|(can, _)| *can).map(|(_, word)| word).collect();
        f.write_str(&words.join(", "))
    }
}

/// What a runtime on this box is and can do now, as its driver says. A missing runtime is a fingerprint too, not an
/// error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fingerprint {
    /// The driver.
    pub driver: DriverName,
    /// Whether it could run something now.
    pub usable: bool,
    /// The runtime's version, where it has one and could be asked.
    pub version: Option<String>,
    /// Why it isn't usable, or what is special about it, for people.
    pub detail: String,
    /// What it takes and can do; not known of a driver that this program was built without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
}

impl Fingerprint {
    /// A runtime that can't be used now, and why.
    pub fn unusable(
        driver: DriverName,
        abilities: impl Into<Option<Abilities>>,
        detail: impl Into<String>,
    ) -> Self {
        Fingerprint {
            driver,
            usable: false,
            version: None,
            detail: detail.into(),
            abilities: abilities.into(),
        }
    }

    /// The driver with the runtime's version, as in `podman 5.4.2`.
    pub fn title(&self) -> String {
        let version = self.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        format!("{}{version}", self.driver)
    }
}

/// The runtimes that a box has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtimes(BTreeMap<DriverName, Abilities>);

impl Runtimes {
    /// What a runtime can do; `None` if the box doesn't have it.
    pub fn get(&self, driver: DriverName) -> Option<&Abilities> {
        self.0.get(&driver)
    }

    /// The runtime for containers where an app doesn't care which.
    pub fn for_containers(&self) -> Option<DriverName> {
        let takers = self.0.iter().filter(|(_, abilities)| abilities.takes_containers());
        takers.min_by_key(|(_, abilities)| abilities.rank).map(|(name, _)| *name)
    }

    /// The runtime for WebAssembly.
    pub fn for_components(&self) -> Option<DriverName> {
        self.0.iter().find(|(_, abilities)| abilities.takes == Form::Component).map(|(name, _)| *name)
    }

    /// Whether one of them runs probe components.
    pub fn has_engine(&self) -> bool {
        self.0.values().any(|abilities| abilities.engine)
    }

    /// Those that take containers.
    pub fn of_containers(&self) -> impl Iterator<Item = DriverName> + '_ {
        self.0.iter().filter(|(_, abilities)| abilities.takes_containers()).map(|(name, _)| *name)
    }

    /// Whether objects of a runtime may move between apps.
    pub fn moves(&self, driver: DriverName) -> bool {
        self.get(driver).is_some_and(Abilities::takes_containers)
    }

    /// Whether this object's name is the same object whichever app has it. In a runtime that the box doesn't have any more
    /// nothing can be taken from anybody.
    pub fn is_name_shared(&self, driver: DriverName, key: &ObjectKey) -> bool {
        self.get(driver).is_some_and(|abilities| match abilities.names {
            Names::Shared => true,
            Names::OfData => key.holds_data(),
            Names::PerApp => false,
        })
    }
}

impl FromIterator<(DriverName, Abilities)> for Runtimes {
    fn from_iter<T: IntoIterator<Item = (DriverName, Abilities)>>(all: T) -> Self {
        Runtimes(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::runtimes;

    #[test]
    fn names_of_drivers_compare_and_are_kept_as_their_texts() {
        let mut names =
            ["podman-2", "wasm", "podman", "kubernetes"].map(|name| name.parse::<DriverName>().unwrap());
        names.sort();
        assert_eq!(names.map(|name| name.to_string()), ["kubernetes", "podman", "podman-2", "wasm"]);
        assert_eq!(serde_json::to_string(&DriverName::PODMAN).unwrap(), "\"podman\"");
        assert_eq!(serde_json::from_str::<DriverName>("\"podman\"").unwrap(), DriverName::PODMAN);
        let longest = "a".repeat(31);
        assert_eq!(longest.parse::<DriverName>().unwrap().as_str(), longest);
        for bad in ["", "Podman", "a b", "-a", &"a".repeat(32)] {
            assert!(bad.parse::<DriverName>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<DriverName>(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn containers_of_an_app_that_does_not_care_go_to_kubernetes_before_podman_and_to_what_is_simulated_last()
    {
        let all = [DriverName::WASM, DriverName::SIMULATED, DriverName::PODMAN, DriverName::KUBERNETES];
        let chosen = |count: usize| runtimes(&all[..count]).for_containers();
        assert_eq!([1, 2, 3, 4].map(chosen), [None, Some(all[1]), Some(all[2]), Some(all[3])]);
    }
}
