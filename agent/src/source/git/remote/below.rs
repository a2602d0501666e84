//! What changed below folders that the box reads in depth, in one request instead of one for each level.
//!
//! A folder that is asked for by its id comes with all that is below it, but for what the server is told that is here: the
//! folder that it was before. So only what changed comes. Asked like that are folders of which something below was read
//! before, as of an app that runs here: of the others only the folder itself is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gix::ObjectId;
use gix::objs::{Kind, TreeRefIter};

use super::{MAX_HAVES, Remote};
use crate::http::allowance::Purpose;
use crate::source::error::SourceError;
use crate::source::git::http::Meter;
use crate::source::git::mirror::{Damage, Mirror, Objects};

/// Files up to so many bytes come along, read or not: less than a request for them costs by its headers and the server's
/// work. Larger ones come once somebody reads them.
const ALONG: u32 = 4096;

/// Folders that lie deeper are asked for level by level.
const DEEPEST: usize = 16;

/// So many folders are asked for with what is below them.
const MAX_FOLDERS: usize = 200;

impl Remote {
    /// Brings those of the objects `ids` of the commit `id` that are folders of which something below was read in a revision
    /// that is here, with what changed below them. Gives what is still to be asked for.
    pub(super) fn fetch_below(
        &mut self,
        id: &ObjectId,
        ids: &[ObjectId],
        mirror: &Mirror,
        meter: &Arc<Meter>,
    ) -> Result<Vec<ObjectId>, SourceError> {
        let all = || ids.to_vec();
        if self.nothing_below || self.failed_below == Some(*id) || self.line.has_budget() {
            return Ok(all());
        }
        let objects = mirror.objects()?.without_refresh();
        let here = mirror.gathered()?.into_iter().chain(mirror.complete()?);
        let mut folders = BTreeMap::new();
        for have in here.filter(|have| have != id).take(MAX_HAVES) {
            // What can't be read is asked for by itself, which tells why.
            let _ = before(&objects, id, &have, ids, &mut folders);
        }
        if folders.is_empty() || folders.len() > MAX_FOLDERS {
            return Ok(all());
        }
        let asked = self.operate_within(meter, Purpose::Documents, |session| {
            if !session.can("filter") {
                return Ok(Ok(()));
            }
            let mut arguments =
                vec!["ofs-delta".to_owned(), "no-progress".to_owned(), format!("filter blob:limit={ALONG}")];
            arguments.extend(folders.keys().map(|id| format!("want {id}")));
            arguments.extend(folders.values().map(|id| format!("have {id}")));
            arguments.push("done".to_owned());
            session.ask(arguments, |_, pack| pack.map_or(Ok(()), |pack| mirror.ingest_part(pack)))
        });
        match asked {
            Ok(()) => {}
            Err(SourceError::Protocol { why: reason, .. } | SourceError::TooLarge { what: reason, .. }) => {
                tracing::debug!(reason, "folders can't be fetched with what changed below them");
            }
            // What changed may be more than the box reads of it.
            Err(SourceError::OverBudget { .. }) => {
                self.failed_below = Some(*id);
                return Ok(all());
            }
            Err(error @ (SourceError::Local { .. } | SourceError::UsedUp { .. })) => return Err(error),
            // A line that breaks, or a server that fails at this: level by level less is lost, and less is asked of it.
            Err(error) => {
                self.failed_below = Some(*id);
                return Err(error);
            }
        }
        let objects = mirror.objects()?;
        self.nothing_below = !folders.keys().all(|id| objects.exists(id));
        Ok(ids.iter().copied().filter(|id| !objects.exists(id)).collect())
    }
}

/// Which of the `wanted` folders of the commit `new` were another folder in the commit `old`, of which something below is
/// here: found by going through both side by side, where they differ.
fn before(
    objects: &Objects,
    new: &ObjectId,
    old: &ObjectId,
    wanted: &[ObjectId],
    found: &mut BTreeMap<ObjectId, ObjectId>,
) -> Result<(), Damage> {
    let wanted: BTreeSet<&ObjectId> = wanted.iter().collect();
    let mut open = vec![(objects.commit(new)?.tree, objects.commit(old)?.tree, 0)];
    // The same two may be met in many places.
    let mut compared = BTreeSet::new();
    while let Some((new, old, depth)) = open.pop() {
        if new == old || depth > DEEPEST || !compared.insert((new, old)) {
            continue;
        }
        if wanted.contains(&new) {
            if folders_in(objects, &old)?.values().any(|below| objects.exists(below)) {
                found.insert(new, old);
            }
        } else if objects.exists(&new) && objects.exists(&old) {
            let were = folders_in(objects, &old)?;
            let are = folders_in(objects, &new)?.into_iter();
            open.extend(are.filter_map(|(name, is)| Some((is, *were.get(&name)?, depth + 1))));
        }
    }
    Ok(())
}

/// The folders in a folder, by their names.
fn folders_in(objects: &Objects, id: &ObjectId) -> Result<BTreeMap<Vec<u8>, ObjectId>, Damage> {
    let mut data = Vec::new();
    if !objects.exists(id) {
        return Ok(BTreeMap::new());
    }
    objects.read(id, Kind::Tree, &mut data)?;
    // What makes no sense as a folder has none.
    let entries = TreeRefIter::from_bytes(&data, id.kind()).filter_map(Result::ok);
    let folders = entries.filter(|entry| entry.mode.is_tree());
    Ok(folders.map(|entry| (entry.filename.to_vec(), entry.oid.to_owned())).collect())
}
