//! `file://`: a repository on the box itself, such as a USB stick or a bundle that was unpacked.
//!
//! gix would start `git upload-pack` for this; the objects are copied here instead. The environment and the
//! user's git configuration play no part.

use std::collections::HashSet;
use std::path::PathBuf;

use gix::ObjectId;
use gix::objs::Kind;
use holdfast_core::verify::Ancestry;

use super::config::{Limits, Reference, described, full_name};
use super::mirror::{CopyError, Mirror, Objects, Walk};
use crate::source::error::SourceError;

/// So many tags of tags are followed.
const MAX_TAGS: usize = 8;

/// The repository.
pub(crate) struct Local {
    url: String,
    path: PathBuf,
    limits: Limits,
}

impl Local {
    pub(crate) fn new(url: &str, limits: Limits) -> Result<Self, SourceError> {
        let path = url
            .strip_prefix("file://")
            .map(|rest| rest.strip_prefix("localhost").unwrap_or(rest))
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| {
                SourceError::Config(format!(
                    "{url:?}: write file:// and an absolute path, as in file:///srv/edge.git"
                ))
            })?;
        Ok(Local { url: url.to_owned(), path: PathBuf::from(path), limits })
    }

    fn open(&self) -> Result<gix::Repository, SourceError> {
        // Isolated: no environment, no user or system configuration. Trusted: what may be accepted is decided
        // by signatures, not by who owns the folder.
        let most = format!("gitoxide.objects.allocLimit={}", self.limits.object);
        let options =
            gix::open::Options::isolated().with(gix::sec::Trust::Full).config_overrides([most.as_str()]);
        gix::open_opts(&self.path, options).map_err(|error| {
            if !self.path.exists() {
                return SourceError::NotFound { what: format!("the folder {}", self.path.display()) };
            }
            // It may be a stick: what is wrong with that isn't the state folder's trouble.
            SourceError::here(format!("opening the repository {} failed: {error}", self.path.display()))
        })
    }

    /// The commit that `reference` points at now.
    pub(crate) fn tip(&self, reference: &Reference) -> Result<ObjectId, SourceError> {
        let repository = self.open()?;
        let missing = || SourceError::NotFound { what: format!("{} of {}", described(reference), self.url) };
        let Some(name) = full_name(reference) else { return Err(missing()) };
        let found = repository.try_find_reference(name.as_str()).map_err(|error| self.broken(&error))?;
        let mut found = found.ok_or_else(missing)?;
        // Not peeled by gix, which reads tags however large they are.
        let id = loop {
            match found.follow() {
                Some(next) => found = next.map_err(|error| self.broken(&error))?,
                None => break found.id().detach(),
            }
        };
        self.peel(&Objects::of(&repository, self.limits.object), id)
    }

    /// The commit that a tag is of, which may be of another tag.
    fn peel(&self, objects: &Objects, mut id: ObjectId) -> Result<ObjectId, SourceError> {
        let mut kind = objects.header(&id).map_err(|damage| self.broken(&damage))?.0;
        for _ in 0..MAX_TAGS {
            if kind != Kind::Tag {
                return Ok(id);
            }
            (id, kind) = objects.tagged(&id).map_err(|damage| self.broken(&damage))?;
        }
        Err(self.broken(&format!("there are more than {MAX_TAGS} nested tags before {id}")))
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> SourceError {
        SourceError::Protocol { url: self.url.clone(), why: format!("the repository is damaged: {why}") }
    }

    /// Copies into the mirror what it lacks of the commit `id`.
    pub(crate) fn copy(&self, id: &ObjectId, mirror: &Mirror) -> Result<(), SourceError> {
        let repository = self.open()?;
        let from = Objects::of(&repository, self.limits.object);
        if !from.exists(id) {
            return Err(SourceError::NotFound { what: format!("commit {id} in {}", self.url) });
        }
        let tree = from.commit(id).map_err(|damage| self.broken(&damage))?.tree;
        let have = mirror.objects()?;
        let mut walk = Walk::new(&from);
        // Packs are taken in whole and hold whole trees, so where a tree is, all below it is. Should that be
        // wrong because of damage, marking the revision complete finds it. Only what a server sent in parts isn't so.
        let whole = !mirror.is_in_parts();
        walk.tree_unless(&tree, |id| whole && have.exists(id)).map_err(|damage| self.broken(&damage))?;
        let mut ids = walk.met;
        ids.retain(|id| !have.exists(id));
        if !have.exists(id) {
            ids.push(*id);
        }
        if ids.is_empty() {
            return Ok(());
        }
        let room = mirror.room();
        mirror.copy(&from, &ids, room).map(|_| ()).map_err(|error| match error {
            CopyError::Source(damage) => self.broken(&damage),
            CopyError::Mirror(error) => error,
        })
    }

    /// Whether `accepted` is an ancestor of `id`, by walking the commits.
    pub(crate) fn descent(&self, id: &ObjectId, accepted: &ObjectId) -> Result<Ancestry, SourceError> {
        let repository = self.open()?;
        let from = Objects::of(&repository, self.limits.object);
        Ok(walk_back(id, accepted, self.limits.commits, |id| {
            from.exists(id)
                .then(|| from.commit(id).map(|commit| commit.parents).map_err(|damage| damage.to_string()))
        }))
    }
}

/// Walks from `id` back until `accepted` is met. `parents` gives a commit's parents, or nothing for a commit
/// that is beyond what is at hand.
pub(crate) fn walk_back(
    id: &ObjectId,
    accepted: &ObjectId,
    limit: usize,
    parents: impl Fn(&ObjectId) -> Option<Result<Vec<ObjectId>, String>>,
) -> Ancestry {
    let mut seen = HashSet::from([*id]);
    let mut open = std::collections::VecDeque::from([*id]);
    let mut beyond = None;
    let mut looked_at = 0;
    while let Some(id) = open.pop_front() {
        looked_at += 1;
        if looked_at > limit {
            return Ancestry::Unproven { why: format!("it is not among the last {limit} commits") };
        }
        match parents(&id) {
            None => beyond = Some(id),
            Some(Err(why)) => return Ancestry::Unproven { why },
            Some(Ok(parents)) => {
                for parent in parents {
                    if parent == *accepted {
                        return Ancestry::Descends;
                    }
                    if seen.insert(parent) {
                        open.push_back(parent);
                    }
                    // A commit may name thousands of parents, which need not be there.
                    if seen.len() > limit {
                        return Ancestry::Unproven {
                            why: format!("it is not among the last {limit} commits and their parents"),
                        };
                    }
                }
            }
        }
    }
    match beyond {
        Some(id) => {
            Ancestry::Unproven { why: format!("the history ends at commit {id}, whose content is missing") }
        }
        None => Ancestry::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn id(number: u32) -> ObjectId {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        ObjectId::from(bytes)
    }

    /// The commit 0 has so many parents, each of which has one that no other has; what came of it, and how many were read.
    fn walk(parents: u32, limit: usize) -> (Ancestry, usize) {
        let read = Cell::new(0);
        let ancestry = walk_back(&id(0), &id(u32::MAX), limit, |commit| {
            read.set(read.get() + 1);
            let number = u32::from_be_bytes(commit.as_bytes()[..4].try_into().unwrap());
            Some(Ok(match number {
                0 => (1..=parents).map(id).collect(),
                number if number <= parents => vec![id(number + parents)],
                _ => Vec::new(),
            }))
        });
        (ancestry, read.get())
    }

    #[test]
    fn a_commit_with_very_many_parents_is_given_up_before_they_are_queued() {
        assert_eq!(walk(400, 1000), (Ancestry::Foreign, 801));
        let (ancestry, read) = walk(5000, 1000);
        assert!(
            matches!(&ancestry, Ancestry::Unproven { why } if why.contains("and their parents")),
            "{ancestry:?}"
        );
        assert_eq!(read, 1, "none of its parents was looked at");
        let (ancestry, read) = walk(600, 1000);
        assert!(matches!(&ancestry, Ancestry::Unproven { .. }), "{ancestry:?}");
        assert!(read <= 1000, "{read}");
    }
}
