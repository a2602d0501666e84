//! The Git source: a repository over HTTPS or on the box's own disk, and the mirror of what was fetched from there.
//!
//! No program is started for it: gix speaks the protocol and reads the objects.

mod config;
mod failed_tip;
mod http;
mod local;
mod mirror;
mod reading;
mod remote;
mod snapshot;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use gix::ObjectId;
use holdfast_core::digest::Revision;
use holdfast_core::verify::{Ancestry, Fetched, Verified};

use self::config::full_name;
use self::failed_tip::FailedTip;
use self::local::Local;
use self::mirror::{Damage, Mirror, object_id};
use self::reading::CommitReading;
use self::remote::{Extent, Remote};
use super::error::SourceError;
use super::{Reading, Source};
use crate::http::allowance::Allowance;
use crate::http::url::shown as shown_url;

pub use self::config::{GitConfig, Limits, Reference};
pub use self::snapshot::Snapshot;

/// A Git repository that the box follows, and the mirror of what it fetched from there.
pub struct GitSource {
    config: GitConfig,
    mirror: Mirror,
    origin: Origin,
    failed_tip: Option<FailedTip>,
}

enum Origin {
    Local(Local),
    Remote(Box<Remote>),
}

impl GitSource {
    /// Prepares the source and opens its mirror in the folder `mirror_dir`, which belongs to it alone. No
    /// server is asked.
    ///
    /// # Errors
    /// [`SourceError::Config`] for what can't work, [`SourceError::Local`] for a folder that can't be used.
    pub fn open(config: GitConfig, mirror_dir: &Path) -> Result<Self, SourceError> {
        GitSource::open_within(config, mirror_dir, &Allowance::unlimited())
    }

    /// The same, under what all downloads of the box may use together.
    ///
    /// # Errors
    /// As [`GitSource::open`].
    pub fn open_within(
        config: GitConfig,
        mirror_dir: &Path,
        allowance: &Allowance,
    ) -> Result<Self, SourceError> {
        check_reference(&config.reference)?;
        check_path(&config.path)?;
        let scheme = config.url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let origin = match scheme.as_deref() {
            Some("file") => Origin::Local(Local::new(&config.url, config.limits)?),
            Some("https" | "http") => Origin::Remote(Box::new(Remote::new(&config, allowance.line())?)),
            _ => {
                return Err(SourceError::Config(format!(
                    "source.url must begin with https://, http:// or file://, and {:?} doesn't",
                    shown_url(&config.url)
                )));
            }
        };
        let mirror = Mirror::open(mirror_dir, config.limits)?;
        Ok(GitSource { config, mirror, origin, failed_tip: None })
    }

    /// Whether everything of `revision` is on disk that this box reads of it.
    pub fn has(&self, revision: &Revision) -> bool {
        object_id(revision).is_ok_and(|id| self.mirror.has(&id) || self.mirror.has_part(&id))
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
                    SourceError::Damaged(why) => {
                        SourceError::NotWhole { url: shown_url(&self.config.url), why }
                    }
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
            self.mirror.mark_complete(id)?;
        }
        Ok(extent)
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

    fn url(&self) -> String {
        self.config.url.clone()
    }

    /// Why a commit of the mirror can't be read.
    fn unreadable(&self, revision: &Revision, damage: Damage) -> SourceError {
        match damage {
            // What is here is what was asked for.
            Damage::Unusable { why, .. } => SourceError::Unusable { revision: revision.0.clone(), why },
            damage => self.mirror.note_damage(damage),
        }
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
            let commit =
                self.mirror.objects()?.commit(&id).map_err(|damage| self.unreadable(revision, damage))?;
            let ancestry = match accepted {
                None => Ancestry::First,
                Some(accepted) if accepted == id => Ancestry::Same,
                Some(accepted) if commit.parents.contains(&accepted) => Ancestry::Descends,
                Some(accepted) => match &mut self.origin {
                    Origin::Local(local) => local.descent(&id, &accepted)?,
                    Origin::Remote(remote) => remote.descent(&id, &accepted, &self.mirror)?,
                },
            };
            Ok(commit.fetched(revision, ancestry))
        })
    }
}

impl Source for GitSource {
    /// A configured revision is its own tip: nobody is asked.
    fn poll(&mut self) -> Result<Revision, SourceError> {
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

    /// The commit alone where the server can leave out the rest ([`Source::begin`] brings what is read of it), else with
    /// its whole tree. A mirror that was found damaged is built anew.
    fn fetch(&mut self, revision: &Revision, accepted: Option<&Revision>) -> Result<Fetched, SourceError> {
        let id = object_id(revision)?;
        let accepted = accepted.map(object_id).transpose()?;
        let of = (id, accepted);
        if let Some(answer) = FailedTip::answer(self.failed_tip.as_ref(), of, Instant::now()) {
            return answer;
        }
        let answer = self.fetch_anew(revision, id, accepted);
        self.failed_tip = FailedTip::after(self.failed_tip.take(), of, &answer, Instant::now());
        answer
    }

    fn forget_failed_tip(&mut self) {
        self.failed_tip = None;
    }

    fn recall(&self, accepted: &Revision) -> Result<Fetched, SourceError> {
        let id = object_id(accepted)?;
        let objects = self.mirror.objects()?;
        if !objects.exists(&id) {
            return Err(SourceError::Damaged(format!("revision {accepted} is not in it")));
        }
        let commit = objects.commit(&id).map_err(|damage| self.unreadable(accepted, damage))?;
        Ok(commit.fetched(accepted, Ancestry::Same))
    }

    fn begin(&mut self, verified: &Verified, ask: bool) -> Result<Box<dyn Reading + '_>, SourceError> {
        Ok(Box::new(CommitReading::new(self, verified.revision(), ask)?))
    }

    fn collect(&mut self, keep: &[Revision], scarce: bool) -> Result<(), SourceError> {
        let keep = keep.iter().map(object_id).collect::<Result<Vec<_>, _>>()?;
        if scarce { self.mirror.collect_all(&keep) } else { self.mirror.collect(&keep) }
    }

    fn set_room(&mut self, room: u64) {
        self.mirror.set_room(room);
    }
}

/// gix has assertions about what a server sends; one that fails must not take the agent down.
fn guarded<T>(url: &str, work: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
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
                SourceError::Config(format!("{name:?} is not a valid branch or tag name: {error}"))
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

/// gix's error with all that lies beneath it, on one line.
fn in_full(error: &gix::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in error.iter_errors() {
        let text = error.to_string().replace('\n', " ");
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ").chars().take(600).collect()
}
