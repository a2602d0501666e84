//! `holdfast render DIR --device NAME`: what that box would get, to look at or to diff in CI. The same files
//! give the same bytes.

use std::path::PathBuf;

use holdfast_core::diagnostic::to_text;
use holdfast_core::name::DeviceName;
use holdfast_core::render::Desired;
use holdfast_core::repository::render_for;
use serde_json::Value;

use super::output::{print, print_error, print_json};
use super::{Common, Exit, repository};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder that holds holdfast.yaml
    dir: PathBuf,
    /// The box
    #[arg(long, value_name = "NAME")]
    device: DeviceName,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let files = repository::Folder::open(&arguments.dir)?;
    let desired = match render_for(&files, &arguments.device, &crate::version()) {
        Ok(desired) => desired,
        Err(errors) => {
            print_error(&to_text(&errors));
            return Ok(Exit::Error);
        }
    };
    if common.json {
        print_json(&as_json(&desired)?)?;
    } else {
        show(&desired)?;
    }
    for errors in desired.faulty.values() {
        print_error(&to_text(errors));
    }
    Ok(if desired.faulty.is_empty() { Exit::Done } else { Exit::Error })
}

/// A folder has no revision.
fn as_json(desired: &Desired) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(desired)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("revision");
    }
    Ok(value)
}

/// An app after another, each with its kind, its workload and its policy.
fn show(desired: &Desired) -> anyhow::Result<()> {
    print(&format!("# {}: {} apps", desired.device, desired.apps.len()));
    for (name, app) in &desired.apps {
        print(&format!("\n# app {name}"));
        print_json(app)?;
    }
    Ok(())
}
