//! `holdfast schema [KIND]`: the JSON Schema of the documents, for editors.

use anyhow::bail;

use super::{Common, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Fleet, Site, Device or App; all of them if left out
    kind: Option<String>,
}

pub(super) fn run(_common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    bail!("not built in yet: {:?}", arguments.kind)
}
