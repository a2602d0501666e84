//! Order between apps: what an app depends on must be there, and must not depend on the app in turn.

use std::collections::{BTreeMap, BTreeSet};

use super::{PlacedApp, Selected};
use crate::diagnostic::{Diagnostic, Position, nearest};
use crate::model::App;
use crate::name::AppName;

/// For each placed app what is wrong with its dependencies. `known` are the folders in `apps/`.
pub(super) fn check(selected: &Selected<'_>, known: &BTreeSet<&str>) -> BTreeMap<AppName, Vec<Diagnostic>> {
    let mut faults: BTreeMap<AppName, Vec<Diagnostic>> = BTreeMap::new();
    for (name, placed) in &selected.apps {
        for dependency in &placed.app.spec.depends_on {
            let wanted = &dependency.value;
            // One that is faulty is waited for: it may well run already, in an older release.
            if selected.apps.contains_key(wanted) || selected.faulty.contains_key(wanted) {
                continue;
            }
            let exists = known.contains(wanted.as_str());
            let message = if exists {
                format!("{name} depends on {wanted}, which isn't placed on this box")
            } else {
                format!("{name} depends on {wanted}, but there is no such app")
            };
            let mut diagnostic = Diagnostic::new(&placed.file, dependency.at, message);
            diagnostic.hint = match exists {
                true => Some(format!("place {wanted} wherever {name} is, or remove the dependency")),
                false => nearest(wanted.as_str(), known.iter().copied())
                    .map(|near| format!("did you mean {near}?")),
            };
            faults.entry(name.clone()).or_default().push(diagnostic);
        }
    }
    let edges: BTreeMap<&AppName, Vec<&AppName>> =
        selected.apps.keys().map(|name| (name, waits_on(name, selected))).collect();
    for (name, placed) in &selected.apps {
        if let Some(path) = cycle(name, &edges) {
            faults.entry(name.clone()).or_default().push(in_circle(&placed.file, &placed.app, &path));
        }
    }
    faults
}

/// What an app waits for: what it depends on, and what the others of its group depend on outside of it, since they
/// are good together.
fn waits_on<'a>(name: &AppName, selected: &'a Selected<'_>) -> Vec<&'a AppName> {
    let needs = |placed: &'a PlacedApp| placed.app.spec.depends_on.iter().map(|needed| &needed.value);
    let group_of = |app: &AppName| selected.apps.get(app).and_then(|app| app.app.spec.policy.group.as_ref());
    let group = group_of(name);
    let mut all: Vec<&AppName> = selected.apps.get(name).into_iter().flat_map(needs).collect();
    if group.is_some() {
        let others = selected.apps.iter().filter(|(other, _)| *other != name && group_of(other) == group);
        all.extend(others.flat_map(|(_, placed)| needs(placed)).filter(|needed| group_of(needed) != group));
    }
    all
}

/// What is told to an app on the way of a circle.
pub fn in_circle(file: &str, app: &App, way: &[&AppName]) -> Diagnostic {
    let text: Vec<&str> = way.iter().map(|name| name.as_str()).collect();
    let next = app.spec.depends_on.iter().find(|dependency| way.get(1) == Some(&&dependency.value));
    let at = next.map_or(Position::START, |dependency| dependency.at);
    Diagnostic::new(file, at, format!("the apps depend on each other in a cycle: {}", text.join(" -> ")))
        .hint("remove one of these dependencies")
}

/// The shortest way from `start` back to itself, both ends named; `None` if there is none.
pub fn cycle<'a>(
    start: &'a AppName,
    edges: &BTreeMap<&'a AppName, Vec<&'a AppName>>,
) -> Option<Vec<&'a AppName>> {
    let mut came_from: BTreeMap<&AppName, &AppName> = BTreeMap::new();
    let mut front = vec![start];
    while !front.is_empty() {
        let mut next = Vec::new();
        for at in front {
            for &to in edges.get(at).into_iter().flatten() {
                if to == start {
                    return Some(way_back(start, at, &came_from));
                }
                if !came_from.contains_key(to) {
                    came_from.insert(to, at);
                    next.push(to);
                }
            }
        }
        front = next;
    }
    None
}

fn way_back<'a>(
    start: &'a AppName,
    last: &'a AppName,
    came_from: &BTreeMap<&'a AppName, &'a AppName>,
) -> Vec<&'a AppName> {
    let mut path = vec![start];
    let mut at = last;
    while at != start {
        path.push(at);
        let Some(&before) = came_from.get(at) else { break };
        at = before;
    }
    path.push(start);
    path.reverse();
    path
}
