//! `holdfast validate DIR`: every error of a repository at once, for an editor and for CI.

use std::path::PathBuf;

use holdfast_core::diagnostic::Diagnostic;
use holdfast_core::name::DeviceName;
use holdfast_core::report::text::printable;
use holdfast_core::repository::{Checked, check};

use super::output::{print, print_json};
use super::{Common, Exit, repository};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder that holds holdfast.yaml
    dir: PathBuf,
    /// Also render the desired state of this device
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceName>,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let files = repository::Folder::open(&arguments.dir)?;
    let Checked { errors, warnings } = check(&files, arguments.device.as_ref(), &crate::version());
    if common.json {
        print_json(&errors)?;
    } else if errors.is_empty() {
        warnings.iter().for_each(|warning| print(&printable(&format!("warning: {warning}"))));
        print(&format!("{}: no error in {} files", arguments.dir.display(), files.count()));
    } else {
        show(&errors);
    }
    Ok(if errors.is_empty() { Exit::Done } else { Exit::Error })
}

/// `file:line:column: message`, one a line, as editors read it.
fn show(errors: &[Diagnostic]) {
    errors.iter().for_each(|error| print(&printable(&error.to_string())));
}
