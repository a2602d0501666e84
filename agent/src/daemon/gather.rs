//! What a box reads of a revision, in the order in which each tells of the next: its documents, the manifests of
//! the apps that run here, their artifacts.
//!
//! Each of these looks as far as it can. What isn't in the mirror yet is left out: it is being noted
//! ([`Snapshot::missing`]), and once it is fetched all is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::name::{AppName, DeviceName};
use holdfast_core::render::ArtifactRef;
use holdfast_core::select::{self, File, Index, Selected};

use super::sync::NotRendered;
use crate::source::{EntryKind, ReadError, Snapshot};

/// What is read of one document; a longer one is an error of that document.
const DOCUMENT_LIMIT: u64 = 4 << 20;

/// Why apps can't be read.
pub(super) type Unreadable = BTreeMap<AppName, String>;

/// The documents that say what runs on the box.
pub(super) fn index(files: &Snapshot, device: &DeviceName) -> Result<(Index, Unreadable), NotRendered> {
    let mut unreadable = Unreadable::new();
    let document = read_document(files, &select::device_path(device))?;
    let site = match &document {
        Some(file) => select::site_of(file).map_err(NotRendered::Documents)?,
        None => None,
    };
    let site = match site {
        Some(site) => read_document(files, &select::site_path(&site))?,
        None => None,
    };
    let fleet = read_document(files, select::FLEET_PATH)?;
    let apps = read_apps(files, &mut unreadable)?;
    let stops = read_orders(files, select::STOPS)?;
    let purges = read_orders(files, select::PURGES)?;
    Ok((Index { fleet, device: document, site, stops, purges, apps }, unreadable))
}

/// The documents of `stops/` or `purges/`.
fn read_orders(files: &Snapshot, folder: &str) -> Result<Vec<File>, NotRendered> {
    let entries = or_later(files.list(folder)).map_err(|error| NotRendered::Mirror(error.to_string()))?;
    let named = entries.iter().filter(|entry| entry.kind != EntryKind::Folder);
    let mut orders = Vec::new();
    for entry in named.filter(|entry| select::is_order(&entry.name)) {
        orders.extend(read_document(files, &format!("{folder}/{}", entry.name))?);
    }
    Ok(orders)
}

/// The files in the folders of manifests of the apps that run here.
pub(super) fn manifests(files: &Snapshot, selected: &Selected) -> (BTreeMap<AppName, Vec<File>>, Unreadable) {
    let mut contents = BTreeMap::new();
    let mut unreadable = Unreadable::new();
    for (app, folder) in selected.folders() {
        match read_folder(files, &folder) {
            Ok(files) => {
                contents.insert(app, files);
            }
            Err(error) => {
                unreadable.insert(app, error.to_string());
            }
        }
    }
    (contents, unreadable)
}

/// Looks for the artifacts; their content may be large, and is read one by one when all of them are here.
pub(super) fn artifacts(files: &Snapshot, artifacts: &[&ArtifactRef]) {
    for artifact in artifacts {
        if let ArtifactRef::File(path) = artifact {
            // What is wrong with it is told when it is read.
            let _ = files.reach(path);
        }
    }
}

/// The apps that run here and whose manifests aren't all here.
pub(super) fn without_manifests(files: &Snapshot, selected: &Selected) -> BTreeSet<AppName> {
    let lacks = |folder: &str| match files.list(folder) {
        Ok(entries) => {
            let named = entries.iter().filter(|entry| entry.kind != EntryKind::Folder);
            named.into_iter().any(|entry| is_not_here(&files.reach(&format!("{folder}/{}", entry.name))))
        }
        Err(error) => is_not_here(&Err(error)),
    };
    selected.folders().into_iter().filter(|(_, folder)| lacks(folder)).map(|(app, _)| app).collect()
}

/// Whether one of these artifacts isn't here.
pub(super) fn lacks(files: &Snapshot, artifacts: &BTreeSet<&ArtifactRef>) -> bool {
    artifacts.iter().any(|artifact| match artifact {
        ArtifactRef::File(path) => is_not_here(&files.reach(path)),
        ArtifactRef::Oci(_) => false,
    })
}

fn is_not_here(reached: &Result<(), ReadError>) -> bool {
    matches!(reached, Err(ReadError::NotHere { .. }))
}

/// `Ok` with nothing in it for what isn't here yet.
fn or_later<T: Default>(read: Result<T, ReadError>) -> Result<T, ReadError> {
    match read {
        Err(ReadError::NotHere { .. }) => Ok(T::default()),
        read => read,
    }
}

fn read_apps(
    snapshot: &Snapshot,
    unreadable: &mut Unreadable,
) -> Result<BTreeMap<String, Option<File>>, NotRendered> {
    let entries = or_later(snapshot.list("apps")).map_err(|error| NotRendered::Mirror(error.to_string()))?;
    let mut apps = BTreeMap::new();
    for entry in entries.into_iter().filter(|entry| entry.kind != EntryKind::File) {
        let path = select::app_path(&entry.name);
        let file = match entry.kind {
            EntryKind::Submodule => Err(ReadError::Submodule { path: format!("apps/{}", entry.name) }),
            _ => or_later(snapshot.read(&path, DOCUMENT_LIMIT)),
        };
        match (file, entry.name.parse::<AppName>()) {
            (Ok(file), _) => {
                apps.insert(entry.name, file.map(|bytes| File { path, bytes }));
            }
            (Err(error), Ok(app)) => {
                unreadable.insert(app, error.to_string());
            }
            (Err(error), Err(_)) => return Err(NotRendered::Mirror(error.to_string())),
        }
    }
    Ok(apps)
}

fn read_document(snapshot: &Snapshot, path: &str) -> Result<Option<File>, NotRendered> {
    match or_later(snapshot.read(path, DOCUMENT_LIMIT)) {
        Ok(bytes) => Ok(bytes.map(|bytes| File { path: path.to_owned(), bytes })),
        Err(error) => Err(NotRendered::Mirror(error.to_string())),
    }
}

fn read_folder(snapshot: &Snapshot, folder: &str) -> Result<Vec<File>, ReadError> {
    let mut files = Vec::new();
    for entry in or_later(snapshot.list(folder))? {
        let path = format!("{folder}/{}", entry.name);
        if entry.kind == EntryKind::Folder {
            continue;
        }
        if let Some(bytes) = or_later(snapshot.read(&path, DOCUMENT_LIMIT))? {
            files.push(File { path, bytes });
        }
    }
    Ok(files)
}
