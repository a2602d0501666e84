//! `agent.toml`: how this box is set up. `file` is the file as written, `check` what makes a [`Config`] of
//! it, `source` and `registries` what they make of their tables, `units` its durations and sizes, `error` its messages.
//!
//! A `Config` holds paths of secrets and never a secret, so it may be printed.

mod check;
mod error;
mod file;
mod registries;
mod source;
pub mod units;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_core::name::{ClusterName, DeviceName};
use serde::{Deserialize, Serialize, Serializer};

pub use self::source::{Credentials, GitFolder, GitServer, Place, Reference, Source};
pub use error::{ConfigError, Problem, Problems};
pub use holdfast_core::verify::TrustMode;

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/holdfast/agent.toml";

/// A configuration larger than this is not one.
const MAX_BYTES: u64 = 1 << 20;

/// All that is set, with every default in its place and every path absolute or relative to the working
/// directory (no longer to the file).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Who this box is.
    pub device: Device,
    /// Where its state comes from.
    pub source: Source,
    /// Which of that it believes.
    pub trust: Trust,
    /// What it keeps.
    pub state: State,
    /// The local API.
    pub api: Api,
    /// What it says.
    pub log: Log,
    /// What it runs workloads with.
    pub drivers: Drivers,
    /// Registries that need something special, by `host:port`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, Registry>,
}

/// `[device]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    /// The Device document's name.
    pub name: DeviceName,
}

/// `[trust]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trust {
    /// Has no default: whoever wants none must write it down.
    pub mode: TrustMode,
    /// Who may sign, in OpenSSH's format. Set if and only if the mode is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_signers: Option<PathBuf>,
}

/// `[state]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct State {
    /// Everything that the agent keeps is in here.
    pub dir: PathBuf,
    /// Bytes that it may take.
    #[serde(serialize_with = "as_size")]
    pub disk_budget: u64,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Api {
    /// The unix socket.
    pub socket: PathBuf,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    /// The least level that is logged.
    pub level: LogLevel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the words say it
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As the command line and the environment write it.
    pub fn word(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// `[drivers.…]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drivers {
    /// WebAssembly.
    pub wasm: Wasm,
    /// Set if there is a `[drivers.podman]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub podman: Option<Podman>,
    /// Set if there is a `[drivers.kubernetes]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// Set if there is a `[drivers.simulated]`: for tests and benchmarks, runs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<Simulated>,
}

/// `[drivers.wasm]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wasm {
    /// Whether WebAssembly apps run here.
    pub enabled: bool,
    /// Where the children's sockets are; must not outlive a boot.
    pub run_dir: PathBuf,
    /// The user that children run as, if the agent is root; empty is the agent's own.
    pub user: String,
}

/// `[drivers.podman]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Podman {
    /// Its REST API.
    pub socket: PathBuf,
    /// A folder in memory for files that documents give to containers.
    pub run_dir: PathBuf,
}

/// `[drivers.kubernetes]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kubernetes {
    /// How the API server is reached.
    pub kubeconfig: PathBuf,
    /// Which of the kubeconfig's contexts; its current one unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The name that the agents of all nodes of one cluster share: one of them leads, by a Lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// Where the cluster imports image archives from; none are put anywhere unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_dir: Option<PathBuf>,
}

/// `[drivers.simulated]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulated {
    /// The folder that stands for the runtime.
    pub dir: PathBuf,
}

/// `[registries."host:port"]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registry {
    /// As Docker's config.json.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_file: Option<PathBuf>,
    /// Certificates (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Tried in order before the registry itself.
    pub mirrors: Vec<String>,
    /// Without TLS.
    pub plain_http: bool,
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |cause| ConfigError::Unreadable { path: path.to_owned(), cause };
        let length = fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_BYTES {
            return Err(unreadable(std::io::Error::other(format!(
                "it has {length} bytes, more than {MAX_BYTES}"
            ))));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Config::parse(path, &text)
    }

    /// Reads `text`, which came from `path`. Pure.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let file: file::File = toml::from_str(text).map_err(|error| {
            let problems = vec![Problem::of_toml(text, &error)];
            ConfigError::Invalid(Problems { path: path.to_owned(), problems })
        })?;
        check::check(path, text, file)
    }

    /// As TOML that reads back as the same.
    pub fn to_toml(&self) -> String {
        // Only strings, numbers and tables in it; a failure would be an error in this file, and shows.
        toml::to_string(self).unwrap_or_else(|error| format!("# cannot be written as TOML: {error}\n"))
    }
}

fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&holdfast_core::duration::format(*duration))
}

fn as_size<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::format_size(*bytes))
}

#[cfg(test)]
mod tests;
