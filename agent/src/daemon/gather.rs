//! What a box reads of a revision, in the order in which each leads to the next: its documents, the manifests of
//! the apps that run here, their artifacts.
//!
//! Each of these looks as far as it can. What isn't in the mirror yet is left out: it is being noted
//! ([`SourceTree::missing`]), and once it is fetched all is looked at again. What counts as a document and what is wrong
//! with it is said by [`holdfast_core::reading`], for the box and for `holdfast validate` alike.

use std::collections::BTreeMap;

use holdfast_core::limit::FileKind;
use holdfast_core::name::{AppName, DeviceName};
use holdfast_core::reading::{self, Part};
use holdfast_core::render::ArtifactRef;
use holdfast_core::select::{Index, Selected};
use holdfast_core::tree::{Entry, EntryKind, Kind, Tree, Unread};

use super::fetch_and_render::NotRendered;
use crate::source::{EntryKind as SourceKind, ReadError, SourceTree};

/// The documents that say what runs on the box.
pub(super) fn index(files: &dyn SourceTree, device: &DeviceName) -> Result<Index, NotRendered> {
    reading::index(&Files(files), device).map_err(NotRendered::Mirror)
}

/// What lies in the folders of manifests of the apps that run here.
pub(super) fn manifests(files: &dyn SourceTree, selected: &Selected<'_>) -> BTreeMap<AppName, Part> {
    reading::manifests(&Files(files), selected)
}

/// Looks for the artifacts; their content may be large, and is read one by one when all of them are here.
pub(super) fn artifacts(files: &dyn SourceTree, artifacts: &[&ArtifactRef]) {
    for artifact in artifacts {
        if let ArtifactRef::File(path) = artifact {
            // What is wrong with it is told when it is read.
            let _ = files.reach(path);
        }
    }
}

/// Whether one of these artifacts isn't here.
pub(super) fn lacks(files: &dyn SourceTree, artifacts: &BTreeMap<&ArtifactRef, FileKind>) -> bool {
    artifacts.keys().any(|artifact| match artifact {
        ArtifactRef::File(path) => matches!(files.reach(path), Err(ReadError::NotHere { .. })),
        ArtifactRef::Oci(_) => false,
    })
}

/// A revision as the source has it, to be read as any repository.
struct Files<'a>(&'a dyn SourceTree);

impl Tree for Files<'_> {
    fn list(&self, folder: &str) -> Result<Vec<Entry>, Unread> {
        let entries = self.0.list(folder).map_err(|error| unread(folder, &error))?;
        let entry = |entry: crate::source::Entry| {
            let kind = match entry.kind {
                SourceKind::File => EntryKind::Is(Kind::File),
                SourceKind::Folder => EntryKind::Is(Kind::Folder),
                SourceKind::Link => EntryKind::Link,
                SourceKind::Submodule => {
                    let error = ReadError::Submodule { path: entry.name.clone() };
                    EntryKind::Unreadable(without_path(&entry.name, &error))
                }
                SourceKind::Misnamed => EntryKind::Unreadable(
                    "this is not a valid file name (it contains a slash, consists only of dots, or isn't UTF-8): \
                     rename it"
                        .to_owned(),
                ),
            };
            Entry { name: entry.name, kind }
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unread> {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        self.0.read(path, limit).map_err(|error| unread(path, &error))
    }

    fn follow(&self, path: &str) -> Result<Kind, Unread> {
        match self.0.list(path) {
            Ok(entries) if !entries.is_empty() => Ok(Kind::Folder),
            Ok(_) => match self.0.read(path, 0) {
                Ok(None) => Err(Unread::Refused("a symbolic link whose target does not exist".to_owned())),
                Ok(Some(_)) => Ok(Kind::File),
                Err(ReadError::WrongKind { .. }) => Ok(Kind::Folder),
                Err(error) => Err(unread(path, &error)),
            },
            Err(ReadError::WrongKind { .. }) => Ok(Kind::File),
            Err(error) => Err(unread(path, &error)),
        }
    }
}

fn unread(path: &str, error: &ReadError) -> Unread {
    match error {
        ReadError::NotHere { .. } => Unread::Later,
        ReadError::Damaged { .. } => Unread::Damaged(error.to_string()),
        _ => Unread::Refused(without_path(path, error)),
    }
}

/// The error as it is told beside its path.
fn without_path(path: &str, error: &ReadError) -> String {
    let text = error.to_string();
    text.strip_prefix(&format!("{path}: ")).unwrap_or(&text).to_owned()
}
