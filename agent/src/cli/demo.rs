//! `holdfast demo`: what Holdfast does, shown in a temporary folder.

use std::path::PathBuf;

use super::{Common, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep the agent and its apps running at the end
    #[arg(long)]
    keep: bool,
    /// Run the apps in containers, on the podman at SOCKET [default: the one of this box]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true)]
    podman: Option<Option<PathBuf>>,
}

#[cfg(feature = "demo")]
pub(super) fn run(_common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    crate::demo::run(&runtime(arguments)?, arguments.keep)?;
    Ok(Exit::Done)
}

#[cfg(feature = "demo")]
fn runtime(arguments: &Arguments) -> anyhow::Result<crate::demo::Runtime> {
    match &arguments.podman {
        #[cfg(feature = "podman")]
        Some(socket) => Ok(crate::demo::Runtime::Podman(socket.clone())),
        #[cfg(not(feature = "podman"))]
        Some(_) => anyhow::bail!("this holdfast was built without podman: leave --podman out"),
        None if cfg!(feature = "wasm") => Ok(crate::demo::Runtime::Wasm),
        None => anyhow::bail!("this holdfast was built without WebAssembly: use `holdfast demo --podman`"),
    }
}

#[cfg(not(feature = "demo"))]
pub(super) fn run(_common: &Common, _: &Arguments) -> anyhow::Result<Exit> {
    anyhow::bail!("this holdfast was built without the demo: build it with the feature demo")
}
