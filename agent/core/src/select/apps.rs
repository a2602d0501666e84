//! One app: whether it is placed here, whether it is complete, and which values it gets.

use semver::Version;

use super::values::layered;
use super::{AppFile, File, Ground, PlacedApp, Selected, app_path};
use crate::diagnostic::Diagnostic;
use crate::model::decode::{Context, Decode};
use crate::model::{App, Labels, Selector, document};
use crate::name::{AppName, BadName};
use crate::yaml::Node;

/// Puts the app of `folder` where it belongs: it runs here, it is faulty, or it doesn't concern this box.
///
/// # Errors
/// The folder has no app's name and may be placed here: which app it was meant to be, and so which one is to stay as it
/// is, nobody can tell.
pub(super) fn place(
    ground: &Ground,
    folder: &str,
    file: &AppFile,
    agent_version: &Version,
    selected: &mut Selected<'_>,
) -> Result<(), Vec<Diagnostic>> {
    let name = match folder.parse() {
        Ok(name) => name,
        Err(error) => {
            let error = misnamed(folder, file, &error);
            if !is_surely_elsewhere(file, &selected.labels) {
                return Err(vec![error]);
            }
            selected.warnings.push(error);
            return Ok(());
        }
    };
    match file {
        Ok(file) => place_named(ground, (folder, name), file.as_ref(), agent_version, selected),
        Err(errors) => {
            selected.faulty.insert(name, errors.clone());
        }
    }
    Ok(())
}

/// What is said of a folder whose name no app can have.
pub(crate) fn misnamed(folder: &str, file: &AppFile, error: &BadName) -> Diagnostic {
    let path = match file {
        Ok(Some(file)) => file.path.clone(),
        _ => app_path(folder),
    };
    Diagnostic::of_file(path, error.to_string()).hint("rename the folder")
}

fn is_surely_elsewhere(file: &AppFile, labels: &Labels) -> bool {
    let Ok(Some(file)) = file else { return false };
    document::read_one(&file.path, &file.bytes).is_ok_and(|node| is_elsewhere(&node, labels))
}

fn place_named(
    ground: &Ground,
    (folder, name): (&str, AppName),
    file: Option<&File>,
    agent_version: &Version,
    selected: &mut Selected<'_>,
) {
    let Some(file) = file else {
        let missing =
            Diagnostic::of_file(app_path(folder), format!("the folder apps/{folder} has no app.yaml"))
                .hint("add it, or remove the whole folder to remove the app");
        selected.faulty.insert(name, vec![missing]);
        return;
    };
    let node = match document::read_one(&file.path, &file.bytes) {
        Ok(node) => node,
        Err(errors) => {
            selected.faulty.insert(name, errors);
            return;
        }
    };
    match document::from_node::<App>(&file.path, &node, Some(folder)) {
        Ok(app) if !app.spec.placement.matches(&selected.labels) => {}
        Ok(app) => match unmet(&app, &file.path, agent_version) {
            Some(diagnostic) => {
                selected.faulty.insert(name, vec![diagnostic]);
            }
            None => {
                let values = layered(ground, &app, &name, &selected.labels);
                selected.apps.insert(name, PlacedApp { app, file: file.path.clone(), values });
            }
        },
        Err(errors) if is_elsewhere(&node, &selected.labels) => selected.warnings.extend(errors),
        Err(errors) => {
            selected.faulty.insert(name, errors);
        }
    }
}

/// Whether a document that is wrong elsewhere says clearly that the app isn't placed here.
fn is_elsewhere(node: &Node, labels: &Labels) -> bool {
    let Some(placement) = node.get("spec").and_then(|spec| spec.get("placement")) else { return false };
    let mut context = Context::new("");
    let selector = Selector::decode(placement, &mut context);
    selector.is_some_and(|selector| context.errors.is_empty() && !selector.matches(labels))
}

/// What the app requires and this box doesn't have.
fn unmet(app: &App, file: &str, agent_version: &Version) -> Option<Diagnostic> {
    let wanted = &app.spec.requires.agent.as_ref()?.0;
    // A build before a release holds what the release will: only the numbers count.
    let numbers = Version::new(agent_version.major, agent_version.minor, agent_version.patch);
    if wanted.matches(&numbers) || wanted.matches(agent_version) {
        return None;
    }
    let message = format!("the app requires agent {wanted}, but this agent has version {agent_version}");
    Some(Diagnostic::of_file(file, message).hint("update the agent on this box, or place the app elsewhere"))
}
