//! `holdfast schema [KIND]`: the JSON Schema of the documents, for editors.

use std::collections::BTreeMap;

use anyhow::bail;
use holdfast_core::model::{KINDS, schema};

use super::output::print_json;
use super::{Common, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Fleet, Site, Device, App, Stop or Purge; if omitted, all of them
    kind: Option<String>,
}

/// A schema is JSON, with `--json` or without.
pub(super) fn run(_common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    match &arguments.kind {
        Some(kind) => match schema(kind) {
            Some(schema) => print_json(&schema)?,
            None => bail!("there is no kind {kind:?}: name one of {}", KINDS.join(", ")),
        },
        None => print_json(&KINDS.iter().map(|kind| (*kind, schema(kind))).collect::<BTreeMap<_, _>>())?,
    }
    Ok(Exit::Done)
}
