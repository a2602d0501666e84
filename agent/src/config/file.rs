//! `agent.toml` as it is written: what may be left out is an `Option`, and places are kept for messages.
//! [`super::Config`] is what becomes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::duration::{self, NotADuration};
use holdfast_core::name::{ClusterName, DeviceName};
use serde::Deserialize;
use toml::Spanned;

use super::units::{NotASize, parse_size};
use super::{LogLevel, TrustMode};

/// A duration with its unit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct DurationText(pub(super) Duration);

impl TryFrom<String> for DurationText {
    type Error = NotADuration;

    fn try_from(text: String) -> Result<Self, NotADuration> {
        duration::parse(&text).map(DurationText)
    }
}

/// A size with its unit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct SizeText(pub(super) u64);

impl TryFrom<String> for SizeText {
    type Error = NotASize;

    fn try_from(text: String) -> Result<Self, NotASize> {
        parse_size(&text).map(SizeText)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) device: Spanned<Device>,
    pub(super) source: Spanned<Source>,
    pub(super) trust: Option<Spanned<Trust>>,
    #[serde(default)]
    pub(super) state: State,
    #[serde(default)]
    pub(super) api: Api,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) drivers: Drivers,
    #[serde(default)]
    pub(super) registries: BTreeMap<Spanned<String>, Registry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: DeviceName,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) url: Spanned<String>,
    pub(super) branch: Option<Spanned<String>>,
    pub(super) tag: Option<Spanned<String>>,
    pub(super) revision: Option<Spanned<String>>,
    pub(super) path: Option<Spanned<String>>,
    pub(super) interval: Option<Spanned<DurationText>>,
    pub(super) timeout: Option<Spanned<DurationText>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) proxy: Option<Spanned<String>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trust {
    pub(super) mode: Option<TrustMode>,
    pub(super) allowed_signers: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) dir: Option<PathBuf>,
    pub(super) disk_budget: Option<Spanned<SizeText>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    pub(super) socket: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Option<LogLevel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drivers {
    #[serde(default)]
    pub(super) wasm: Wasm,
    pub(super) podman: Option<Podman>,
    pub(super) kubernetes: Option<Kubernetes>,
    pub(super) simulated: Option<Simulated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wasm {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Podman {
    pub(super) socket: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kubernetes {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) context: Option<Spanned<String>>,
    pub(super) cluster: Option<ClusterName>,
    pub(super) images_dir: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Simulated {
    pub(super) dir: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    pub(super) auth_file: Option<Spanned<PathBuf>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) mirrors: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) plain_http: bool,
}
