//! `holdfast demo`: what Holdfast does, shown in a temporary folder.

use super::{Common, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Leave it running at the end
    #[arg(long)]
    keep: bool,
}

#[cfg(all(feature = "demo", feature = "wasm"))]
pub(super) fn run(_common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    crate::demo::run(arguments.keep)?;
    Ok(Exit::Done)
}

#[cfg(not(all(feature = "demo", feature = "wasm")))]
pub(super) fn run(_common: &Common, _: &Arguments) -> anyhow::Result<Exit> {
    anyhow::bail!("this holdfast was built without the demo: build it with the features demo and wasm")
}
