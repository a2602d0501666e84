//! When and how much may be changed on this box, by every document that says something about it.

use super::{File, Ground, Index, PURGES, STOPS};
use crate::change::{self, ChangePolicy};
use crate::diagnostic::{Diagnostic, sorted};
use crate::model::document::{self, Document};
use crate::model::{Labels, Purge, Stop};
use crate::tree::stem;

/// The policy of a box with these labels. A Stop or a Purge that is wrong is an error: nobody can tell whether it was
/// meant for this box.
pub(super) fn of(ground: &Ground, index: &Index, labels: &Labels) -> Result<ChangePolicy, Vec<Diagnostic>> {
    let mut policy = ChangePolicy::default();
    let fleet = &ground.fleet.spec;
    fleet.policy.apply_to(&mut policy);
    for group in fleet.groups.iter().filter(|group| group.when.matches(labels)) {
        group.policy.apply_to(&mut policy);
    }
    if let Some(site) = &ground.site {
        site.spec.policy.apply_to(&mut policy);
    }
    ground.device.spec.policy.apply_to(&mut policy);
    let mut errors = Vec::new();
    let stops = orders::<Stop>(&index.stops, STOPS, &mut errors);
    policy.stop = stops
        .into_iter()
        .find(|(_, stop)| stop.spec.placement.matches(labels))
        .map(|(name, stop)| change::Stop { name, reason: stop.spec.reason.0 });
    for (name, purge) in orders::<Purge>(&index.purges, PURGES, &mut errors) {
        let path = index.purges.iter().find(|file| is_called(file, PURGES, &name));
        errors.extend(path.into_iter().flat_map(|file| purged_objects(&file.path, &purge)));
        if !purge.spec.placement.matches(labels) {
            continue;
        }
        policy.purges.extend(purge.spec.objects.into_iter().map(|purged| change::Purge {
            name: name.clone(),
            reason: purge.spec.reason.0.clone(),
            app: purged.app,
            object: purged.object.value,
        }));
    }
    if errors.is_empty() { Ok(policy) } else { Err(sorted(errors)) }
}

fn is_called(file: &File, folder: &str, name: &str) -> bool {
    let own = file.path.strip_prefix(folder).and_then(|path| path.strip_prefix('/'));
    own.and_then(stem) == Some(name)
}

/// What a Purge document asks for and nobody has to ask for.
pub(crate) fn purged_objects(path: &str, purge: &Purge) -> Vec<Diagnostic> {
    let holds_none = purge.spec.objects.iter().filter(|purged| !purged.object.value.holds_data());
    holds_none
        .map(|object| {
            let message = format!(
                "{} holds no data and is removed automatically: remove it from the Purge document",
                object.object.value
            );
            Diagnostic::new(path, object.object.at, message)
        })
        .collect()
}

/// Whether a revision that is held may well have a stop for a box with these labels; without them nobody can tell for
/// which boxes one is.
pub(super) fn may_stop(index: &Index, labels: Option<&Labels>) -> bool {
    let is_meant = |file: &File| {
        let stop: Result<Stop, _> = document::read(&file.path, &file.bytes, None);
        match (stop, labels) {
            (Ok(stop), Some(labels)) => stop.spec.placement.matches(labels),
            _ => true,
        }
    };
    index.is_stop_unread || index.stops.iter().any(is_meant)
}

/// The documents in a folder, by their names.
fn orders<D: Document>(files: &[File], folder: &str, errors: &mut Vec<Diagnostic>) -> Vec<(String, D)> {
    let mut found = Vec::new();
    for file in files {
        let name = file.path.strip_prefix(folder).and_then(|path| path.strip_prefix('/'));
        let Some(name) = name.and_then(stem) else {
            errors.push(Diagnostic::of_file(&file.path, format!("it is not a document of {folder}/")));
            continue;
        };
        match document::read::<D>(&file.path, &file.bytes, Some(name)) {
            Ok(document) => found.push((name.to_owned(), document)),
            Err(mut wrong) => errors.append(&mut wrong),
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}
