//! Objects that two apps define: a box can have each object once, for one app.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, Position};
use crate::lower::support::has_effect;
use crate::name::{AppName, ObjectKey};
use crate::runtime::DriverName;

/// Where each object of an app stands.
pub(crate) type Places = BTreeMap<ObjectKey, (String, Position)>;

/// An app of containers: its runtime, if a certain one is asked for, and its objects.
pub(crate) type Named<'a> = (&'a AppName, Option<DriverName>, &'a Places);

/// For each app the objects that another one names as well, each told with both files.
pub(crate) fn clashes<'a>(apps: &[Named<'a>]) -> BTreeMap<&'a AppName, Vec<Diagnostic>> {
    let mut found: BTreeMap<&AppName, Vec<Diagnostic>> = BTreeMap::new();
    for (one, other, key) in pairs(apps) {
        for ((app, _, places), (rival, _, theirs)) in [(one, other), (other, one)] {
            let (Some((file, at)), Some((their_file, their_at))) = (places.get(key), theirs.get(key)) else {
                continue;
            };
            let message = format!("{key} is also defined by the app {rival}: {their_file}:{}", their_at.line);
            let error = Diagnostic::new(file, *at, message)
                .hint("keep it in only one of the two apps, or rename it in one of them");
            found.entry(app).or_default().push(error);
        }
    }
    found
}

/// Each object that two of the apps name, with the two.
pub(crate) fn pairs<'a>(apps: &[Named<'a>]) -> Vec<(Named<'a>, Named<'a>, &'a ObjectKey)> {
    let mut by_key: BTreeMap<&ObjectKey, Vec<Named<'a>>> = BTreeMap::new();
    for app in apps {
        app.2.keys().for_each(|key| by_key.entry(key).or_default().push(*app));
    }
    let mut found = Vec::new();
    for (key, apps) in by_key {
        for (at, one) in apps.iter().enumerate() {
            let others = apps.iter().skip(at + 1);
            found.extend(others.filter(|other| meet(one.1, other.1, key)).map(|other| (*one, *other, key)));
        }
    }
    found
}

/// Whether objects of the same name meet on one runtime. Where podman alone is asked for, kinds that change nothing there
/// are in nobody's way.
fn meet(one: Option<DriverName>, other: Option<DriverName>, key: &ObjectKey) -> bool {
    match (one, other) {
        (Some(one), Some(other)) if one != other => false,
        (Some(DriverName::PODMAN), _) | (_, Some(DriverName::PODMAN)) => has_effect(&key.kind),
        _ => true,
    }
}
