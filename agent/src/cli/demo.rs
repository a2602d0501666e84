//! `holdfast demo`: what Holdfast does, shown in a temporary folder.

use super::{Common, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Leave it running at the end
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(_common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    anyhow::bail!("the demo is not built into this holdfast yet (keep: {})", arguments.keep)
}
