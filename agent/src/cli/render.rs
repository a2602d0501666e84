//! `holdfast render DIR --device NAME`: what that box would get, to look at or to diff in CI.

use std::path::PathBuf;

use anyhow::bail;
use holdfast_core::name::DeviceName;

use super::{Common, Exit, repository};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder that holds holdfast.yaml
    dir: PathBuf,
    /// The box
    #[arg(long, value_name = "NAME")]
    device: DeviceName,
}

pub(super) fn run(_common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let files = repository::read(&arguments.dir)?;
    bail!("not built in yet: {} files, device {}", files.len(), arguments.device)
}
