//! A release: one app as it would run on this box, with nothing mutable left in it; and the policy by which
//! it is judged, which may change without changing the release.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::{Digest, ReleaseId, Revision};
use crate::http_check::HttpCheck;
use crate::metrics::MetricsCheck;
use crate::name::{AppName, ObjectKey};
use crate::probe_component::WasmCheck;
use crate::runtime::DriverName;

/// What kind of workload an App document describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// Kubernetes YAML, on any runtime that holds it.
    Container,
    /// A WebAssembly module or component.
    Wasm,
    /// A virtual machine.
    Vm,
    /// Whatever a plugin makes of it.
    Plugin,
}

/// One thing that a driver keeps for a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is called.
    pub key: ObjectKey,
    /// What it should be. For `Wasm` objects a [`WasmWorkload`]`<Digest>`, for podman's pods a
    /// [`Pod`](crate::pod::Pod), for other containers the manifest.
    pub spec: Value,
}

/// Where a secret is found. Never the secret itself: only the executor opens it, for the driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// The secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}

/// One app as it would run here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The app.
    pub app: AppName,
    /// The runtime that it was rendered for.
    pub driver: DriverName,
    /// What the runtime is to hold, in the order of creation.
    pub objects: Vec<Object>,
    /// Pinned content that it needs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub artifacts: BTreeSet<Digest>,
    /// For each secret a digest keyed by the box, so that a changed secret is a changed release.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Digest>,
    /// As whom the driver acts for it, on Kubernetes; the agent itself if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<ServiceAccount>,
}

/// A Kubernetes service account: what an app may touch is what this account may. Written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccount {
    /// The namespace that it is in.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Release {
    /// The bytes that the release's name is the digest of: JSON with sorted keys and no white space. The
    /// same release gives the same bytes on every box and in every version of the agent.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys always have a JSON form.
        let value = serde_json::to_value(self).unwrap_or(Value::Null);
        let mut out = Vec::new();
        write_canonical(&value, &mut out);
        out
    }

    /// The release's name.
    pub fn id(&self) -> ReleaseId {
        ReleaseId(Digest::of(&self.to_bytes()))
    }

    /// The object called `key`.
    pub fn object(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.iter().find(|object| &object.key == key)
    }

    /// Whether a StatefulSet of the release has this claim made for one of its pods, whichever ordinal that has.
    pub fn makes_claim(&self, key: &ObjectKey) -> bool {
        let has_template = |set: &Object, rest: &str| {
            let templates = set.spec.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
            let names =
                templates.into_iter().flatten().filter_map(|one| one.pointer("/metadata/name")?.as_str());
            let mut prefixes = names
                .filter_map(|name| rest.strip_suffix(&set.key.name)?.strip_suffix('-')?.strip_prefix(name));
            prefixes.any(str::is_empty)
        };
        // The claim of the template `data` for the first pod of `db` is called `data-db-0`.
        let Some((rest, ordinal)) = key.name.rsplit_once('-') else { return false };
        let is_ordinal = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
        key.kind == "PersistentVolumeClaim"
            && is_ordinal
            && self.objects.iter().any(|set| {
                set.key.kind == "StatefulSet" && set.key.namespace == key.namespace && has_template(set, rest)
            })
    }

    /// Whether the object is the release's own, or comes to be by it.
    pub fn wants(&self, key: &ObjectKey) -> bool {
        self.object(key).is_some() || self.makes_claim(key)
    }
}

/// JSON with sorted keys and no white space: the same value gives the same bytes.
pub fn canonical_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_canonical(value, &mut out);
    out
}

/// JSON with sorted keys: serde_json's own order depends on a feature that any dependency may switch on.
pub(crate) fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push(b'{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend(Value::from(key.as_str()).to_string().as_bytes());
                out.push(b':');
                write_canonical(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        scalar => out.extend(scalar.to_string().as_bytes()),
    }
}

/// A WebAssembly workload. `A` is how its component is named: an artifact's place in the source while it is
/// desired, a [`Digest`] once it is resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmWorkload<A> {
    /// A module, a component, or either as text (.wat).
    pub component: A,
    /// Arguments after the program's name.
    #[serde(default)]
    pub args: Vec<String>,
    /// The environment. Nothing of the agent's own is passed on.
    #[serde(default)]
    pub env: BTreeMap<String, EnvValue>,
    /// Serve wasi:http here; without it the component is a command.
    #[serde(default)]
    pub http: Option<WasmHttp>,
    /// Folders that the guest sees.
    #[serde(default)]
    pub dirs: Vec<WasmDir>,
    /// What it may use.
    #[serde(default)]
    pub limits: WasmLimits,
    /// What happens when it ends.
    #[serde(default)]
    pub restart: Restart,
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
pub enum EnvValue {
    /// The value itself.
    Plain(String),
    /// Opened by the executor only.
    #[serde(rename_all = "camelCase")]
    Secret {
        /// Where it is found.
        secret_ref: SecretRef,
    },
}

/// Where a component serves wasi:http.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmHttp {
    /// The address to listen at.
    pub listen: SocketAddr,
}

/// A folder of the box in the guest's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmDir {
    /// The path in the guest, absolute.
    pub guest: String,
    /// The volume's name; it is the app's own, outlives updates, and is never removed automatically.
    pub volume: AppName,
}

/// What a workload may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmLimits {
    /// Bytes of linear memory, tables included.
    pub memory: u64,
    /// Thousandths of a core; `None` is no limit.
    pub cpu_millis: Option<u32>,
}

impl Default for WasmLimits {
    fn default() -> Self {
        WasmLimits { memory: 256 << 20, cpu_millis: None }
    }
}

/// What happens when a workload ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is started again, whatever its exit code.
    #[default]
    Always,
    /// It is started again when it failed.
    OnFailure,
    /// It is a job: it runs once.
    Never,
}

/// How an app is judged and changed. Not part of the release: another deadline is no other release. `A` is how the
/// components of its probes are named: artifacts' places in the source while it is desired, digests once it is
/// resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy<A = Digest> {
    /// Apps that must be good before this one changes.
    #[serde(default)]
    pub depends_on: BTreeSet<AppName>,
    /// How it is judged.
    pub health: HealthPolicy<A>,
    /// What follows a failure.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How the new release takes the old one's place.
    #[serde(default)]
    pub strategy: Strategy,
    /// Holds instead of going back: it changed data that the old version cannot read.
    #[serde(default)]
    pub irreversible: bool,
    /// What becomes of a change that the runtime doesn't let be made in place.
    #[serde(default)]
    pub immutable: Immutable,
    /// The apps of one group change together: all of them, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AppName>,
}

impl<A> Policy<A> {
    /// The components of its probes.
    pub fn components(&self) -> impl Iterator<Item = &A> {
        self.health.checks.iter().filter_map(|check| match check {
            Check::Wasm(check) => Some(&check.component),
            _ => None,
        })
    }

    /// Whether a release that fails stays where it is, instead of going back.
    pub fn stays(&self) -> bool {
        self.irreversible || self.on_failure == OnFailure::Hold
    }

    /// The same policy with the components of its probes called otherwise.
    ///
    /// # Errors
    /// The first that `name` gives.
    pub fn try_map<B, E>(self, mut name: impl FnMut(A) -> Result<B, E>) -> Result<Policy<B>, E> {
        let Policy { depends_on, health, on_failure, strategy, irreversible, immutable, group } = self;
        let HealthPolicy { startup, deadline, soak, checks } = health;
        let checks =
            checks.into_iter().map(|check| check.try_map(&mut name)).collect::<Result<Vec<_>, E>>()?;
        let health = HealthPolicy { startup, deadline, soak, checks };
        Ok(Policy { depends_on, health, on_failure, strategy, irreversible, immutable, group })
    }
}

/// How the new release takes the old one's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The old one is stopped, then the new one is started.
    #[default]
    StopStart,
    /// The new one is started, and once it is ready the old one is stopped.
    StartStop,
}

/// What becomes of a change that the runtime doesn't let be made in place, such as to a Deployment's selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Immutable {
    /// The app is held until somebody says otherwise.
    #[default]
    Hold,
    /// The object is removed and made again, unless it holds data.
    Recreate,
}

/// How an app's health is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthPolicy<A = Digest> {
    /// How long it may be unhealthy after its start before that counts.
    pub startup: Duration,
    /// When, after its start, it must have been healthy for `soak` at the latest.
    pub deadline: Duration,
    /// How long it must stay healthy without a break.
    pub soak: Duration,
    /// What is asked beside the driver.
    #[serde(default = "Vec::new")]
    pub checks: Vec<Check<A>>,
}

/// By which health policy a release was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JudgedBy(u32);

impl HealthPolicy {
    /// What this policy is told from others by. Two that differ are taken for one in four thousand million cases, and
    /// then the next commit helps.
    pub fn mark(&self) -> JudgedBy {
        let mut bytes = Vec::new();
        // Strings, numbers and maps with string keys always have a JSON form.
        write_canonical(&serde_json::to_value(self).unwrap_or(Value::Null), &mut bytes);
        let digest = Digest::of(&bytes);
        let [a, b, c, d, ..] = *digest.as_bytes();
        JudgedBy(u32::from_be_bytes([a, b, c, d]))
    }
}

impl<A> Default for HealthPolicy<A> {
    fn default() -> Self {
        HealthPolicy {
            startup: Duration::from_secs(60),
            deadline: Duration::from_secs(300),
            soak: Duration::from_secs(30),
            checks: Vec::new(),
        }
    }
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Check<A = Digest> {
    /// A GET that must be answered with 200 to 399.
    Http(HttpCheck),
    /// A connection that must be taken.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A program that is run in the workload and must end with 0.
    Exec(ExecCheck),
    /// A WebAssembly program that the agent runs beside the app, and that must end with 0.
    Wasm(Box<WasmCheck<A>>),
    /// A page of metrics, and what it must say over a window.
    Metrics(Box<MetricsCheck>),
}

impl<A> Check<A> {
    /// The object of the app that it asks, if it names one.
    pub fn target(&self) -> Option<&ObjectKey> {
        let page = match self {
            Check::Exec(check) => return Some(&check.target),
            Check::Wasm(check) => return check.target.as_ref().map(|target| &target.object),
            Check::Http(page) => page,
            Check::Metrics(check) => &check.page,
            Check::Tcp { .. } => return None,
        };
        match page {
            HttpCheck::Target { target, .. } => Some(target),
            HttpCheck::Url { .. } => None,
        }
    }

    fn try_map<B, E>(self, name: impl FnOnce(A) -> Result<B, E>) -> Result<Check<B>, E> {
        Ok(match self {
            Check::Wasm(check) => Check::Wasm(Box::new(check.try_map(name)?)),
            Check::Http(check) => Check::Http(check),
            Check::Tcp { address } => Check::Tcp { address },
            Check::Exec(check) => Check::Exec(check),
            Check::Metrics(check) => Check::Metrics(check),
        })
    }
}

/// A program that is run in the workload and must end with 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecCheck {
    /// Such as `Deployment/pos`.
    pub target: ObjectKey,
    /// The container's name; the first one's unless given.
    #[serde(default)]
    pub container: Option<String>,
    /// The program and its arguments. No shell is in between.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The last known good comes back.
    #[default]
    Rollback,
    /// The failed release stays, and the app is held.
    Hold,
}

/// A release with what is needed to move to it and to judge it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Which release.
    pub release: ReleaseId,
    /// What kind of workload it is, for `status`.
    pub kind: WorkloadKind,
    /// The runtime.
    pub driver: DriverName,
    /// How it is judged.
    pub policy: Policy,
    /// The revision that it was last rendered from.
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_named_by_what_runs_and_not_by_the_order_of_its_keys() {
        let release = |spec: &str| Release {
            app: "pos".parse().unwrap(),
            driver: DriverName::SIMULATED,
            objects: vec![Object {
                key: ObjectKey::new("Pod", "pos"),
                spec: serde_json::from_str(spec).unwrap(),
            }],
            artifacts: BTreeSet::new(),
            secrets: BTreeMap::new(),
            account: None,
        };
        assert_eq!(release(r#"{"a":1,"b":[2]}"#).id(), release(r#"{"b":[2],"a":1}"#).id());
        assert_ne!(release(r#"{"a":1}"#).id(), release(r#"{"a":2}"#).id());
    }

    #[test]
    fn an_account_is_a_part_of_the_release_and_none_leaves_its_name_as_it_was() {
        let mut release = Release {
            app: "pos".parse().unwrap(),
            driver: DriverName::KUBERNETES,
            objects: Vec::new(),
            artifacts: BTreeSet::new(),
            secrets: BTreeMap::new(),
            account: None,
        };
        let (before, bytes) = (release.id(), release.to_bytes());
        assert_eq!(bytes, br#"{"app":"pos","driver":"kubernetes","objects":[]}"#);
        let account = ServiceAccount { namespace: "shop".into(), name: "deployer".into() };
        assert_eq!(account.to_string(), "shop/deployer");
        release.account = Some(account);
        assert_ne!(release.id(), before);
        assert_eq!(serde_json::from_slice::<Release>(&release.to_bytes()).unwrap(), release);
    }
}
