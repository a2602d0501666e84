//! The Git source.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use gix::ObjectId;
use holdfast_core::digest::Revision;
use holdfast_core::verify::{Ancestry, Fetched};

use super::config::{Reference, SourceConfig, full_name};
use super::error::SourceError;
use super::gathering::Gathering;
use super::local::Local;
use super::mirror::{Damage, Mirror, object_id};
use super::remote::{Extent, Remote};
use super::snapshot::Snapshot;
use super::spurned::Spurned;
use crate::http::allowance::Allowance;
use crate::http::url::shown as shown_url;

/// A Git repository that the box follows, and the mirror of what it fetched from there.
pub struct GitSource {
    config: SourceConfig,
    pub(super) mirror: Mirror,
    pub(super) origin: Origin,
    spurned: Option<Spurned>,
}

pub(super) enum Origin {
    Local(Local),
    Remote(Box<Remote>),
}

impl GitSource {
    /// Prepares the source and opens its mirror in the folder `mirror_dir`, which belongs to it alone. No
    /// server is asked.
    ///
    /// # Errors
    /// [`SourceError::Config`] for what can't work, [`SourceError::Local`] for a folder that can't be used.
    pub fn open(config: SourceConfig, mirror_dir: &Path) -> Result<Self, SourceError> {
        GitSource::open_within(config, mirror_dir, &Allowance::unlimited())
    }

    /// The same, under what all downloads of the box may use together.
    ///
    /// # Errors
    /// As [`GitSource::open`].
    pub fn open_within(
        config: SourceConfig,
        mirror_dir: &Path,
        allowance: &Allowance,
    ) -> Result<Self, SourceError> {
        check_reference(&config.reference)?;
        check_path(&config.path)?;
        let scheme = config.url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let origin = match scheme.as_deref() {
            Some("file") => Origin::Local(Local::new(&config.url, config.limits)?),
            Some("https" | "http") => Origin::Remote(Box::new(Remote::new(&config, allowance.line())?)),
            Some("ssh") => {
                return Err(SourceError::Config(
                    "ssh:// is not supported by this version (Holdfast starts no ssh program); use https:// \
                     with source.token_file"
                        .to_owned(),
                ));
            }
            _ => {
                return Err(SourceError::Config(format!(
                    "source.url must begin with https://, http:// or file://, and {:?} doesn't",
                    shown_url(&config.url)
                )));
            }
        };
        let mirror = Mirror::open(mirror_dir, config.limits)?;
        Ok(GitSource { config, mirror, origin, spurned: None })
    }

    /// The commit that the reference points at now. Nothing is fetched, and nothing written to disk. A
    /// configured revision is its own tip: nobody is asked.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn poll(&mut self) -> Result<Revision, SourceError> {
        if let Reference::Revision(id) = &self.config.reference {
            return Ok(Revision(id.to_ascii_lowercase()));
        }
        let reference = self.config.reference.clone();
        let id = guarded(&self.config.url, || match &mut self.origin {
            Origin::Local(local) => local.tip(&reference),
            Origin::Remote(remote) => remote.tip(&reference),
        })?;
        Ok(Revision(id.to_string()))
    }

    /// Whether everything of `revision` is on disk that this box reads of it.
    pub fn has(&self, revision: &Revision) -> bool {
        object_id(revision).is_ok_and(|id| self.mirror.has(&id) || self.mirror.has_part(&id))
    }

    /// Brings the commit `revision` into the mirror, unless it is there, and finds out how it stands to
    /// `accepted`: the commit alone where the server can leave out the rest ([`GitSource::gather`] brings what is
    /// read of it), else with its whole tree. When this returns, what was fetched survives a power cut. A mirror that
    /// was found damaged is built anew.
    ///
    /// # Errors
    /// [`SourceError`]; the mirror is as it was.
    pub fn fetch(
        &mut self,
        revision: &Revision,
        accepted: Option<&Revision>,
    ) -> Result<Fetched, SourceError> {
        let id = object_id(revision)?;
        let accepted = accepted.map(object_id).transpose()?;
        let of = (id, accepted);
        if let Some(answer) = Spurned::answer(self.spurned.as_ref(), of, Instant::now()) {
            return answer;
        }
        let answer = self.fetch_anew(revision, id, accepted);
        self.spurned = Spurned::after(self.spurned.take(), of, &answer, Instant::now());
        answer
    }

    /// Has the next fetch ask for a tip that couldn't be had before.
    pub fn forget_spurned(&mut self) {
        self.spurned = None;
    }

    fn fetch_anew(
        &mut self,
        revision: &Revision,
        id: ObjectId,
        accepted: Option<ObjectId>,
    ) -> Result<Fetched, SourceError> {
        let url = self.config.url.clone();
        guarded(&url, || {
            self.bring(&id)?;
            let commit = self.mirror.objects()?.commit(&id).map_err(|damage| match damage {
                // What is here is what was asked for.
                Damage::Unusable { why, .. } => SourceError::Unusable { revision: revision.0.clone(), why },
                damage => self.mirror.note_damage(damage),
            })?;
            let ancestry = match accepted {
                None => Ancestry::First,
                Some(accepted) if accepted == id => Ancestry::Same,
                Some(accepted) if commit.parents.contains(&accepted) => Ancestry::Descends,
                Some(accepted) => match &mut self.origin {
                    Origin::Local(local) => local.descent(&id, &accepted)?,
                    Origin::Remote(remote) => remote.descent(&id, &accepted, &self.mirror)?,
                },
            };
            Ok(Fetched {
                revision: revision.clone(),
                committed: commit.committed,
                signature: commit.signature,
                ancestry,
            })
        })
    }

    /// Brings the commit in. A mirror that turns out to be damaged is built anew.
    fn bring(&mut self, id: &ObjectId) -> Result<(), SourceError> {
        if !self.mirror.is_damaged() {
            let done = if self.mirror.has(id) {
                // Cheap against a refetch, and it finds a truncated pack before the renderer does.
                self.mirror.check(id)
            } else if self.mirror.has_part(id) {
                Ok(())
            } else {
                self.transfer(id).map(|_| ())
            };
            if !matches!(done, Err(SourceError::Damaged(_))) {
                return done;
            }
        }
        self.mirror.set_aside()?;
        match self.transfer(id) {
            Ok(Extent::Whole) => self.mirror.drop_aside(),
            // What is aside waits until the rest is here.
            Ok(Extent::Commit) => Ok(()),
            Err(error) => {
                self.mirror.take_back()?;
                Err(match error {
                    // Nothing old was in the way: what was sent is not whole.
                    SourceError::Damaged(why) => SourceError::Protocol {
                        url: shown_url(&self.config.url),
                        why: format!("it sent an incomplete commit: {why}"),
                    },
                    error => error,
                })
            }
        }
    }

    fn transfer(&mut self, id: &ObjectId) -> Result<Extent, SourceError> {
        self.mirror.check_refused(id)?;
        let brought = match &mut self.origin {
            Origin::Local(local) => local.copy(id, &self.mirror).map(|()| Extent::Whole),
            Origin::Remote(remote) => remote.fetch(id, &self.mirror),
        };
        self.mirror.note_refused(id, &brought);
        let extent = brought?;
        if extent == Extent::Whole {
            self.mirror.seal(id)?;
        }
        Ok(extent)
    }

    /// Reads a fetched revision; what is missing of it is fetched as it is met. Without `ask` nobody is asked:
    /// what is missing is an error.
    ///
    /// # Errors
    /// [`SourceError::Damaged`] if the revision isn't in the mirror: fetch it (again).
    pub fn gather(&mut self, revision: &Revision, ask: bool) -> Result<Gathering<'_>, SourceError> {
        Gathering::new(self, revision, ask)
    }

    /// The files of a fetched revision, as far as they are in the mirror.
    ///
    /// # Errors
    /// [`SourceError::Damaged`] if it isn't in the mirror: fetch it (again).
    pub fn snapshot(&self, revision: &Revision) -> Result<Snapshot, SourceError> {
        let id = object_id(revision)?;
        let (objects, whole) = (self.mirror.objects()?, self.mirror.has(&id));
        if !whole && (self.mirror.is_damaged() || !objects.exists(&id)) {
            return Err(SourceError::Damaged(format!("revision {revision} is not in it")));
        }
        let commit = objects.commit(&id).map_err(|damage| self.mirror.note_damage(damage))?;
        let files = Snapshot::new(objects, commit.tree, &self.config.path, self.mirror.damage());
        Ok(if whole { files } else { files.of_parts() })
    }

    pub(super) fn url(&self) -> String {
        self.config.url.clone()
    }

    /// Forgets all revisions but `keep`, and gives back the disk space that they held once it is worth
    /// rewriting the rest. Snapshots that are open go on working.
    ///
    /// # Errors
    /// [`SourceError::Local`] or [`SourceError::Damaged`].
    pub fn collect(&mut self, keep: &[Revision]) -> Result<(), SourceError> {
        let keep = keep.iter().map(object_id).collect::<Result<Vec<_>, _>>()?;
        self.mirror.collect(&keep)
    }

    /// The same where room is scarce: whatever `keep` doesn't need goes at once.
    ///
    /// # Errors
    /// As [`GitSource::collect`].
    pub fn collect_all(&mut self, keep: &[Revision]) -> Result<(), SourceError> {
        let keep = keep.iter().map(object_id).collect::<Result<Vec<_>, _>>()?;
        self.mirror.collect_all(&keep)
    }

    /// Says how many bytes fetches may add to the mirror from here on. What would be more is given up with
    /// [`SourceError::OverBudget`], and nothing of it stays. Without this there is no bound.
    pub fn set_room(&mut self, room: u64) {
        self.mirror.set_room(room);
    }
}

/// gix has assertions about what a server sends; one that fails must not take the agent down.
pub(super) fn guarded<T>(url: &str, work: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(SourceError::Protocol {
            url: shown_url(url),
            why: "what it sent could not be processed (an internal error, see the log)".to_owned(),
        })
    })
}

fn check_reference(reference: &Reference) -> Result<(), SourceError> {
    match reference {
        Reference::Revision(id) => object_id(&Revision(id.clone())).map(|_| ()),
        Reference::Branch(name) | Reference::Tag(name) => {
            let full = full_name(reference).unwrap_or_default();
            gix::validate::reference::name(full.as_str().into()).map(|_| ()).map_err(|error| {
                SourceError::Config(format!("{name:?} is no name of a branch or tag: {error}"))
            })
        }
    }
}

fn check_path(path: &str) -> Result<(), SourceError> {
    match path.starts_with('/') || path.split('/').any(|name| name == "..") {
        true => Err(SourceError::Config(format!(
            "source.path {path:?} must be a folder inside of the repository"
        ))),
        false => Ok(()),
    }
}
