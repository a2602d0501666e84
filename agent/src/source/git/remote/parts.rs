//! Asking for single objects: a commit without its tree, and then the folders and files that the box needs.
//!
//! `filter tree:0` leaves out every tree and blob that isn't asked for by its id, so that a request brings what
//! it names and nothing below. No presence is named: what is here was found out before. Only the topmost folders are asked
//! for as changes to those of a revision that is here.

use std::collections::VecDeque;
use std::sync::Arc;

use gix::ObjectId;

use super::{MAX_HAVES, MAX_TALK, Refused, Remote, Session};
use crate::http::allowance::{Purpose, UsedUp};
use crate::source::FileClass;
use crate::source::error::SourceError;
use crate::source::git::http::Meter;
use crate::source::git::mirror::{Bounds, Mirror, PackResult};

/// So many objects are asked for in one request: about 500 KB of text, and web servers take 1 MB by default.
const MAX_WANTS: usize = 10_000;

/// The same of documents under a byte budget: what came before it ends needn't come again.
const DOCUMENTS_AT_ONCE: usize = 200;

/// How much of a commit a fetch brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Whole,
    /// The commit itself; the rest is asked for as it is needed.
    Commit,
}

/// How a request for single objects ended.
enum Answer {
    Brought,
    /// The server doesn't offer it.
    NotOffered,
    /// The server offered it, and then refused, or sent something else.
    Refused(String),
}

impl Remote {
    /// Brings the commit `id` without its tree where the server can leave that out, else with all of it.
    pub(crate) fn fetch(&mut self, id: &ObjectId, mirror: &Mirror) -> Result<Extent, SourceError> {
        self.line.documents_of(&id.to_string());
        let purpose = Purpose::Documents;
        if self.refused > Refused::Nothing {
            return self.fetch_whole(id, mirror, purpose).map(|()| Extent::Whole);
        }
        // One commit was asked for, and nothing of it is verified.
        let meter = self.meter(self.config.limits.fetch, self.config.limits.pack.min(MAX_TALK));
        match self.ask_for(&[*id], &["deepen 1"], Bounds::COMMITS, mirror, &meter, purpose)? {
            Answer::Brought => Ok(Extent::Commit),
            Answer::NotOffered => self.fetch_whole(id, mirror, purpose).map(|()| Extent::Whole),
            Answer::Refused(why) => self.fetch_instead(id, mirror, purpose, Refused::Filter, &why),
        }
    }

    /// What may be spent on the parts of one revision.
    pub(crate) fn allowance(&self) -> Arc<Meter> {
        self.meter(self.config.limits.fetch, self.config.limits.pack)
    }

    /// Brings the objects `ids`, which are part of the commit `id`. A server that refuses is asked for the whole
    /// commit. Under a byte budget files come one by one, so that those stay that came; one that doesn't fit keeps no
    /// other waiting, and is asked for again only once there is more room than it had.
    pub(crate) fn fetch_parts(
        &mut self,
        id: &ObjectId,
        ids: &[ObjectId],
        what: FileClass,
        mirror: &Mirror,
        meter: &Arc<Meter>,
    ) -> Result<Extent, SourceError> {
        self.line.documents_of(&id.to_string());
        if let (FileClass::Documents, [root], false) = (what, ids, self.no_changes)
            && self.fetch_top(id, root, mirror, meter)?
        {
            return Ok(Extent::Commit);
        }
        let ids = &*self.fetch_below(id, ids, mirror, meter)?;
        let at_once = match what {
            _ if !self.line.has_budget() => MAX_WANTS,
            FileClass::Documents => DOCUMENTS_AT_ONCE,
            FileClass::Files => 1,
        };
        let mut waits = None;
        let mut left: VecDeque<&[ObjectId]> = ids.chunks(at_once).collect();
        while let Some(ids) = left.pop_front() {
            let more_than = ids.iter().filter_map(|id| self.too_large.get(id)).max();
            let purpose = match what {
                FileClass::Documents => Purpose::Documents,
                FileClass::Files => Purpose::Files(more_than.copied().unwrap_or_default()),
            };
            let bounds = Bounds::up_to(self.config.limits.object);
            match self.ask_for(ids, &[], bounds, mirror, meter, purpose) {
                Ok(Answer::Brought) => self.too_large.retain(|id, _| !ids.contains(id)),
                Ok(Answer::NotOffered) => {
                    return self.fetch_whole(id, mirror, purpose).map(|()| Extent::Whole);
                }
                Ok(Answer::Refused(why)) => {
                    return self.fetch_instead(id, mirror, purpose, Refused::Ids, &why);
                }
                Err(SourceError::UsedUp { url, mut cause }) if what == FileClass::Files => {
                    if let ([id], taken @ 1..) = (ids, self.line.taken()) {
                        self.note_too_large(*id, taken);
                        cause.wanted = Some(taken);
                    }
                    // What several wait for together is said of what needn't wait forever.
                    if waits.as_ref().is_none_or(|(_, first): &(_, UsedUp)| first.is_hopeless()) {
                        waits = Some((url, cause));
                    }
                }
                // Large files that are like each other came as differences. Alone each comes as it is.
                Err(SourceError::TooLarge { .. }) if mirror.had_too_much() && ids.len() > 1 => {
                    let (first, rest) = ids.split_at(ids.len() / 2);
                    left.push_front(rest);
                    left.push_front(first);
                }
                Err(error) => return Err(error),
            }
        }
        match waits {
            Some((url, cause)) => Err(SourceError::UsedUp { url, cause }),
            None => Ok(Extent::Commit),
        }
    }

    /// Brings the topmost folders of the commit `id`, as changes to those of revisions that are here, if `root` is its tree;
    /// gives whether it did. Where a repository has hundreds of apps, the folder that lists them is larger than all else that
    /// a change of one of them brings. Git makes such changes only for what it meets on its way from a commit: asked for a
    /// folder by its id, it sends it whole. A change to a folder that isn't here can't be used: then it is asked for by id.
    fn fetch_top(
        &mut self,
        id: &ObjectId,
        root: &ObjectId,
        mirror: &Mirror,
        meter: &Arc<Meter>,
    ) -> Result<bool, SourceError> {
        if mirror.objects()?.commit(id).map_or(true, |commit| commit.tree != *root) {
            return Ok(false);
        }
        let here = mirror.gathered()?.into_iter().chain(mirror.complete()?);
        let haves: Vec<ObjectId> = here.filter(|have| have != id).take(MAX_HAVES).collect();
        if haves.is_empty() {
            return Ok(false);
        }
        let asked = self.operate_within(meter, Purpose::Documents, |session| {
            if !session.can("filter") || !session.can("shallow") {
                return Ok(Ok(()));
            }
            let mut arguments: Vec<String> =
                ["ofs-delta", "no-progress", "thin-pack", "filter combine:blob:none+tree:2", "deepen 1"]
                    .map(String::from)
                    .into();
            arguments.extend(haves.iter().map(|id| format!("shallow {id}")));
            arguments.extend(haves.iter().map(|id| format!("have {id}")));
            arguments.push(format!("want {id}"));
            arguments.push("done".to_owned());
            session.ask(arguments, |_, pack| pack.map_or(Ok(()), |pack| mirror.ingest_part(pack)))
        });
        match asked {
            Ok(()) if mirror.objects()?.exists(root) => return Ok(true),
            Ok(()) => {}
            // By their ids they come as they are.
            Err(SourceError::Protocol { why: reason, .. } | SourceError::TooLarge { what: reason, .. }) => {
                tracing::debug!(reason, "the topmost folders can't be fetched as deltas");
            }
            Err(error) => return Err(error),
        }
        self.no_changes = true;
        Ok(false)
    }

    fn note_too_large(&mut self, id: ObjectId, taken: u64) {
        if self.too_large.len() >= MAX_WANTS {
            self.too_large.clear();
        }
        self.too_large.insert(id, taken);
    }

    /// Remembered only once the whole commit came: a server that has lost the commit refuses its objects too.
    fn fetch_instead(
        &mut self,
        id: &ObjectId,
        mirror: &Mirror,
        purpose: Purpose,
        refused: Refused,
        why: &str,
    ) -> Result<Extent, SourceError> {
        self.fetch_whole(id, mirror, purpose)?;
        tracing::warn!(
            why,
            "the server doesn't support partial fetch: whole commits are fetched from now on"
        );
        self.refused = refused;
        Ok(Extent::Whole)
    }

    fn ask_for(
        &mut self,
        ids: &[ObjectId],
        how: &[&str],
        bounds: Bounds,
        mirror: &Mirror,
        meter: &Arc<Meter>,
        purpose: Purpose,
    ) -> Result<Answer, SourceError> {
        self.operate_within(meter, purpose, |session| {
            if !session.can("filter") || !session.can("shallow") {
                return Ok(Ok(Answer::NotOffered));
            }
            let objects = match mirror.objects() {
                Ok(objects) => objects,
                Err(error) => return Ok(Err(error)),
            };
            let wanted: Vec<ObjectId> = ids.iter().copied().filter(|id| !objects.exists(id)).collect();
            if wanted.is_empty() {
                return Ok(Ok(Answer::Brought));
            }
            let answer = session.ask_for(&wanted, how, bounds, mirror)?;
            // What a server says in its own words is an answer; anything else that goes wrong is none.
            Ok(match session.refusal.take() {
                Some(why) => Ok(Answer::Refused(why)),
                None => answer,
            })
        })
    }
}

impl Session {
    fn ask_for(
        &mut self,
        wanted: &[ObjectId],
        how: &[&str],
        bounds: Bounds,
        mirror: &Mirror,
    ) -> gix::error::Result<Result<Answer, SourceError>> {
        let mut arguments: Vec<String> = ["ofs-delta", "no-progress", "filter tree:0"]
            .iter()
            .chain(how)
            .map(ToString::to_string)
            .collect();
        arguments.extend(wanted.iter().map(|id| format!("want {id}")));
        arguments.push("done".to_owned());
        self.ask(arguments, |_, pack| match pack {
            Some(pack) => mirror.take_parts(pack, wanted, bounds).map(|taken| match taken {
                PackResult::All => Answer::Brought,
                PackResult::Nothing(why) => Answer::Refused(why),
            }),
            None => Ok(Answer::Refused("it sent no pack".to_owned())),
        })
    }
}
