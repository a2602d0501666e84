//! Reading objects, each of them compared with its id.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gix::ObjectId;
use gix::objs::{CommitRefIter, Exists as _, Find as _, Kind, TagRef, TreeRefIter};
use gix::odb::Header as _;
use holdfast_core::digest::Revision;
use holdfast_core::verify::{About, Ancestry, BadSignature, Fetched, GitProof, Proof, Signature};
use jiff::Timestamp;

use super::bounds::Bounds;
use super::stream::BlobStream;

/// An object database that trusts nothing on disk.
pub(crate) struct Objects {
    odb: gix::odb::Handle,
    limit: u64,
    /// Where the packs are.
    packs: PathBuf,
}

/// An object that is missing or not what its id says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// It isn't there.
    #[error("object {0} is missing")]
    Missing(ObjectId),
    /// It is there, is what its id says, and makes no sense.
    #[error("object {id} is not valid: {why}")]
    Unusable {
        /// Which.
        id: ObjectId,
        /// What is wrong.
        why: String,
    },
    /// It is there and wrong.
    #[error("object {id} cannot be read: {why}")]
    Broken {
        /// Which.
        id: ObjectId,
        /// What was found.
        why: String,
    },
}

/// What a commit says.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) tree: ObjectId,
    pub(crate) parents: Vec<ObjectId>,
    pub(crate) committed: Timestamp,
    pub(crate) signature: Result<Option<Signature>, BadSignature>,
    pub(crate) about: About,
}

impl Commit {
    /// What it shows for the revision that it is, where that stands so to the accepted one.
    pub(crate) fn fetched(self, revision: &Revision, ancestry: Ancestry) -> Fetched {
        let proof = GitProof { committed: self.committed, signature: self.signature, ancestry };
        Fetched { revision: revision.clone(), proof: Proof::Git(proof), about: Some(self.about) }
    }
}

impl Objects {
    /// Opens the folder `objects` of a repository. Objects larger than `limit` bytes are not unpacked.
    pub(crate) fn at(dir: &Path, limit: u64) -> std::io::Result<Self> {
        let options = gix::odb::store::init::Options {
            use_multi_pack_index: false,
            alloc_limit_bytes: usize::try_from(limit).ok(),
            ..Default::default()
        };
        let odb = gix::odb::at_opts(dir, gix::hash::Kind::Sha1, None, options)?;
        Ok(Objects { odb, limit, packs: dir.join("pack") })
    }

    /// Those of a repository that is open.
    pub(crate) fn of(repository: &gix::Repository, limit: u64) -> Self {
        let odb = repository.objects.clone().into_inner();
        let packs = odb.store_ref().path().join("pack");
        Objects { odb, limit, packs }
    }

    /// The same, but whether there are new packs is not looked up for each object that is missing.
    pub(crate) fn without_refresh(mut self) -> Self {
        self.odb.refresh_never();
        self
    }

    /// Whether there is such an object; nothing is said about its content.
    pub(crate) fn exists(&self, id: &ObjectId) -> bool {
        self.odb.exists(id)
    }

    /// Kind and size of an object, without unpacking it.
    pub(crate) fn header(&self, id: &ObjectId) -> Result<(Kind, u64), Damage> {
        let broken = |why: &dyn std::fmt::Display| Damage::Broken { id: *id, why: why.to_string() };
        match self.odb.try_header(id) {
            Ok(Some(header)) => Ok((header.kind(), header.size())),
            Ok(None) => Err(Damage::Missing(*id)),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Reads an object of the kind `wanted` into `buffer`.
    pub(crate) fn read(&self, id: &ObjectId, wanted: Kind, buffer: &mut Vec<u8>) -> Result<(), Damage> {
        let broken = |why: &dyn std::fmt::Display| Damage::Broken { id: *id, why: why.to_string() };
        let (_, size) = self.header(id)?;
        let limit = Bounds::up_to(self.limit).of(wanted);
        // What is too large, or something else, is no damage: it is what its id says.
        let unusable = |why| Err(Damage::Unusable { id: *id, why });
        if size > limit {
            return unusable(format!("it has {size} bytes, more than the limit of {limit}"));
        }
        buffer.clear();
        let kind = match self.odb.try_find(id, buffer) {
            Ok(Some(data)) => {
                // Reading from a pack checks nothing; this also finds SHA-1 collisions, as Git does.
                data.verify_checksum(id).map_err(|error| broken(&error))?;
                data.kind
            }
            Ok(None) => return Err(Damage::Missing(*id)),
            Err(error) => return Err(broken(&error)),
        };
        if kind == wanted { Ok(()) } else { unusable(format!("it is a {kind} and not a {wanted}")) }
    }

    /// What a tag is of, and whether that is another tag.
    pub(crate) fn tagged(&self, id: &ObjectId) -> Result<(ObjectId, Kind), Damage> {
        let broken = |why: &dyn std::fmt::Display| Damage::Unusable { id: *id, why: why.to_string() };
        let mut data = Vec::new();
        self.read(id, Kind::Tag, &mut data)?;
        let tag = TagRef::from_bytes(&data, id.kind()).map_err(|error| broken(&error))?;
        Ok((tag.target(), tag.target_kind))
    }

    /// The blob `id`, to be read piece by piece; none where it can only be had as a whole. Its bytes are compared with
    /// its id at the end, and `damaged` is set if they aren't what it says.
    pub(crate) fn stream(&self, id: &ObjectId, damaged: &Arc<AtomicBool>) -> Option<BlobStream> {
        let found = BlobStream::find(&self.packs, id, damaged);
        // Whatever was in the way: read as a whole, the reason shows.
        found.ok().flatten().filter(|stream| stream.left() <= self.limit)
    }

    /// Reads a commit.
    pub(crate) fn commit(&self, id: &ObjectId) -> Result<Commit, Damage> {
        let broken = |why: &dyn std::fmt::Display| Damage::Unusable { id: *id, why: why.to_string() };
        let mut data = Vec::new();
        self.read(id, Kind::Commit, &mut data)?;
        let iter = || CommitRefIter::from_bytes(&data, id.kind());
        let tree = iter().tree_id().map_err(|error| broken(&error))?;
        let committer = iter().committer().map_err(|error| broken(&error))?;
        let seconds = committer.time().map_err(|error| broken(&error))?.seconds;
        let committed = Timestamp::from_second(seconds).map_err(|error| broken(&error))?;
        let author = iter().author().map(|author| author.name).unwrap_or_default();
        let about = About::new(author, iter().message().unwrap_or_default());
        let signature = Signature::of_commit(&data);
        let parents = iter().parent_ids().collect();
        Ok(Commit { tree, parents, committed, signature, about })
    }
}

/// Visits every object below a tree once.
pub(crate) struct Walk<'a> {
    objects: &'a Objects,
    /// Trees and blobs that were met, in the order in which they were.
    pub(crate) met: Vec<ObjectId>,
    seen: HashSet<ObjectId>,
}

/// Deeper folders are not walked: no file system would hold them.
const MAX_DEPTH: usize = 256;

impl<'a> Walk<'a> {
    pub(crate) fn new(objects: &'a Objects) -> Self {
        Walk { objects, met: Vec::new(), seen: HashSet::new() }
    }

    /// Walks `tree` and fails on the first object that is missing. Blobs are looked up, not read.
    pub(crate) fn tree(&mut self, tree: &ObjectId) -> Result<(), Damage> {
        self.tree_unless(tree, |_| false)
    }

    /// The same, leaving out every tree and blob for which `known` holds, and all below it.
    pub(crate) fn tree_unless(
        &mut self,
        tree: &ObjectId,
        known: impl Fn(&ObjectId) -> bool,
    ) -> Result<(), Damage> {
        let mut open = vec![(*tree, 0)];
        let mut data = Vec::new();
        while let Some((id, depth)) = open.pop() {
            if known(&id) || !self.seen.insert(id) {
                continue;
            }
            if depth > MAX_DEPTH {
                return Err(Damage::Broken {
                    id,
                    why: format!("folders are nested deeper than {MAX_DEPTH}"),
                });
            }
            self.objects.read(&id, Kind::Tree, &mut data)?;
            self.met.push(id);
            for entry in TreeRefIter::from_bytes(&data, id.kind()) {
                let entry = entry.map_err(|error| Damage::Broken { id, why: error.to_string() })?;
                let child = entry.oid.to_owned();
                if entry.mode.is_tree() {
                    open.push((child, depth + 1));
                } else if !entry.mode.is_commit() && !known(&child) && self.seen.insert(child) {
                    if !self.objects.exists(&child) {
                        return Err(Damage::Missing(child));
                    }
                    self.met.push(child);
                }
            }
        }
        Ok(())
    }
}
