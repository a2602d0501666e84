//! The `wasm` part of an App document. It is read twice: with its templates, to see its fields; and
//! rendered, to have its values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::decode::{Context, Decode, record, text, words};
use super::units::{Bytes, MilliCpu};
use crate::diagnostic::quoted;
use crate::name::AppName;
use crate::release::{EnvValue, Restart, SecretRef, WasmDir, WasmHttp, WasmLimits, WasmWorkload};
use crate::yaml::{Node, NodeValue};

/// Where an artifact is found, as it stands in the source: nothing is resolved yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ArtifactRef {
    /// A file: in a document relative to the app's folder, in `Desired` to the repository.
    File(String),
    /// What follows `oci://`.
    Oci(String),
}

impl FromStr for ArtifactRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("oci", reference)) if is_oci(reference) => Ok(ArtifactRef::Oci(reference.to_owned())),
            Some(("oci", _)) => {
                Err(format!("{} is not an OCI reference; write oci://host/name@sha256:…", quoted(text)))
            }
            Some((scheme, _)) => {
                Err(format!("artifacts can't be fetched from {scheme}://; use a file or oci://"))
            }
            None if is_inside(text) => Ok(ArtifactRef::File(text.to_owned())),
            None => Err(format!("{} is not a file in the app's folder; write files/name", quoted(text))),
        }
    }
}
text!(
    ArtifactRef,
    json!({"type": "string", "examples": ["files/hello.wasm", "oci://registry.example/hello@sha256:…"]})
);

/// Whether a path goes down only, from the app's folder.
fn is_inside(path: &str) -> bool {
    let clean = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
    path.len() <= 1000 && path.contains('/') && path.split('/').all(clean)
}

fn is_oci(reference: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:/@[]".contains(&b);
    reference.len() <= 500
        && reference.bytes().all(allowed)
        && reference.split_once('/').is_some_and(|(host, name)| !host.is_empty() && !name.is_empty())
}

/// Text that can be handed to a program: without a NUL.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument(String);

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            Err("the text contains a NUL character, which can't be passed to a program".to_owned())
        } else {
            Ok(Argument(text.to_owned()))
        }
    }
}
impl Argument {
    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

text!(Argument, json!({"type": "string"}));

/// An IP address and a port.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen(SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Listen)
            .map_err(|_| format!("{} is not a listen address; write 127.0.0.1:8080", quoted(text)))
    }
}
text!(Listen, json!({"type": "string", "examples": ["127.0.0.1:8080"]}));

/// An absolute path in the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestPath(String);

impl FromStr for GuestPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest).split('/'));
        let clean = |part: &str| part != "." && part != ".." && !part.contains('\0');
        if parts.is_some_and(|mut parts| parts.all(clean)) {
            Ok(GuestPath(text.to_owned()))
        } else {
            Err(format!("{} is not a path in the guest; it begins with '/' and has no '..'", quoted(text)))
        }
    }
}
text!(GuestPath, json!({"type": "string", "pattern": "^/|\\{[{%]"}));

words! {
    /// What happens when a workload ends.
    pub enum RestartWord {
        /// It is started again.
        Always = "always",
        /// It is started again when it failed.
        OnFailure = "on-failure",
        /// It runs once.
        Never = "never",
    }
}

record! {
    /// A WebAssembly module or component. Its strings are templates.
    pub struct WasmFields, "wasm" {
        /// The code: a file of the app, or oci://host/name@sha256:…; a module, a component, or text (.wat).
        "component" => component: ArtifactRef;
        /// Arguments after the program's name.
        "args" => args: Vec<Argument> = Vec::new();
        /// The environment; the agent's own is not passed on.
        "env" => env: BTreeMap<String, EnvValue> = BTreeMap::new();
        /// Serve wasi:http; without it the component is a command that keeps running.
        "http" => http: Option<HttpFields> = None;
        /// Folders that the guest sees.
        "dirs" => dirs: Vec<DirFields> = Vec::new();
        /// Resource limits.
        "limits" => limits: LimitFields = LimitFields { memory: None, cpu: None };
        /// What happens when it ends.
        "restart" => restart: RestartWord = RestartWord::Always;
    }
}

record! {
    /// Where wasi:http is served.
    pub struct HttpFields, "http" {
        /// The address to listen on.
        "listen" => listen: Listen;
    }
}

record! {
    /// A folder of the box in the guest.
    pub struct DirFields, "the folder" {
        /// The path in the guest.
        "guest" => guest: GuestPath;
        /// The volume's name within the app; it is kept across updates.
        "volume" => volume: AppName;
    }
}

record! {
    /// What a workload may use.
    pub struct LimitFields, "limits" {
        /// Memory of the guest; 256Mi unless given.
        "memory" => memory: Option<Bytes> = None;
        /// Processor time; no limit unless given.
        "cpu" => cpu: Option<MilliCpu> = None;
    }
}

record! {
    /// Where a secret is found.
    pub struct SecretFields, "secretRef" {
        /// The secret's name.
        "name" => name: String;
        /// The key in it.
        "key" => key: String;
    }
}

record! {
    /// A value that only the driver decrypts.
    pub struct SecretEnvFields, "the variable" {
        /// Where it is found.
        "secretRef" => secret_ref: SecretFields;
    }
}

impl Decode for EnvValue {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        if let NodeValue::Mapping(_) = node.value {
            let SecretFields { name, key } = SecretEnvFields::decode(node, context)?.secret_ref;
            return Some(EnvValue::Secret { secret_ref: SecretRef { name, key } });
        }
        if node.as_str().is_none() {
            context.expected("a string or {secretRef: {name, key}}", node);
            return None;
        }
        Argument::decode(node, context).map(|text| EnvValue::Plain(text.0))
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "string"}, SecretEnvFields::schema()]})
    }
}

impl WasmFields {
    /// The workload, once its templates are rendered. Notes what only shows when all of it is known.
    pub fn into_workload(
        self,
        at: crate::diagnostic::Position,
        context: &mut Context<'_>,
    ) -> WasmWorkload<ArtifactRef> {
        for name in self.env.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
            context.error(at, format!("{} is not a valid variable name", quoted(name)));
        }
        let mut guests = BTreeSet::new();
        for dir in &self.dirs {
            if !guests.insert(dir.guest.0.trim_end_matches('/')) {
                context
                    .error(at, format!("two folders are mounted at {} in the guest", quoted(&dir.guest.0)));
            }
        }
        let defaults = WasmLimits::default();
        WasmWorkload {
            component: self.component,
            args: self.args.into_iter().map(|text| text.0).collect(),
            env: self.env,
            http: self.http.map(|http| WasmHttp { listen: http.listen.0 }),
            dirs: self
                .dirs
                .into_iter()
                .map(|dir| WasmDir { guest: dir.guest.0, volume: dir.volume })
                .collect(),
            limits: WasmLimits {
                memory: self.limits.memory.map_or(defaults.memory, |memory| memory.0),
                cpu_millis: self.limits.cpu.map(|cpu| cpu.0).or(defaults.cpu_millis),
            },
            restart: match self.restart {
                RestartWord::Always => Restart::Always,
                RestartWord::OnFailure => Restart::OnFailure,
                RestartWord::Never => Restart::Never,
            },
        }
    }
}
