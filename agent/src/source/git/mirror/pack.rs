//! Packs: written by us when objects are copied (git's Documentation/gitformat-pack, version 2), and indexed
//! by gix whoever wrote them.

use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gix::ObjectId;
use gix::objs::Kind;
use gix::odb::pack;

use super::objects::{Damage, Objects};
use crate::source::error::SourceError;
use crate::source::git::in_full;

/// Why objects could not be copied.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The objects that were to be copied are broken.
    Source(Damage),
    /// The mirror could not be written.
    Mirror(SourceError),
}

/// Writes the objects `ids` of `from` into a new pack at `path`, which gets at most `room` bytes.
pub(crate) fn write_pack(from: &Objects, ids: &[ObjectId], path: &Path, room: u64) -> Result<(), CopyError> {
    let target =
        |error: &dyn std::fmt::Display| CopyError::Mirror(SourceError::local("writing", path, error));
    let count = u32::try_from(ids.len()).map_err(|error| target(&error))?;
    let file = File::create(path).map_err(|error| target(&error))?;
    let mut out = gix::hash::io::Write::new(BufWriter::new(file), gix::hash::Kind::Sha1);
    let mut header = b"PACK".to_vec();
    header.extend(2u32.to_be_bytes());
    header.extend(count.to_be_bytes());
    out.write_all(&header).map_err(|error| target(&error))?;
    let (mut data, mut written) = (Vec::new(), 0u64);
    for id in ids {
        let (kind, _) = from.header(id).map_err(CopyError::Source)?;
        from.read(id, kind, &mut data).map_err(CopyError::Source)?;
        out.write_all(&entry_header(kind, data.len() as u64)).map_err(|error| target(&error))?;
        let mut zlib = gix::zlib::stream::deflate::Write::new(Vec::new(), gix::zlib::Compression::BEST_SPEED);
        zlib.write_all(&data).and_then(|()| zlib.flush()).map_err(|error| target(&error))?;
        let packed = zlib.into_inner();
        written = written.saturating_add(packed.len() as u64);
        if written > room {
            return Err(CopyError::Mirror(SourceError::OverBudget { room }));
        }
        out.write_all(&packed).map_err(|error| target(&error))?;
    }
    let checksum = out.hash.try_finalize().map_err(|error| target(&error))?;
    out.inner.write_all(checksum.as_slice()).map_err(|error| target(&error))?;
    out.inner.flush().map_err(|error| target(&error))
}

/// An entry's header: the kind and the first four bits of the size, then seven bits a byte.
fn entry_header(kind: Kind, size: u64) -> Vec<u8> {
    let kind = match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    };
    let mut rest = size >> 4;
    // The mask leaves four bits, so nothing is cut off.
    let mut byte = (kind << 4) | (size & 0x0f) as u8;
    let mut header = Vec::new();
    while rest > 0 {
        header.push(byte | 0x80);
        byte = (rest & 0x7f) as u8;
        rest >>= 7;
    }
    header.push(byte);
    header
}

/// The files of an indexed pack: the pack, then its index. Nothing for a pack without objects.
pub(crate) struct Indexed(Option<[PathBuf; 2]>);

impl Indexed {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().flatten()
    }

    /// One of `wanted` that isn't in the pack.
    pub(crate) fn lacks(&self, wanted: &[ObjectId]) -> Result<Option<ObjectId>, SourceError> {
        let Some([_, path]) = &self.0 else { return Ok(wanted.first().copied()) };
        let index = pack::index::File::at(path, gix::hash::Kind::Sha1)
            .map_err(|error| SourceError::local("reading", path, error))?;
        Ok(wanted.iter().find(|id| index.lookup(id).is_none()).copied())
    }
}

/// Reads the header of a pack: how many objects it says that it has, and the header, to be put before the rest again.
pub(crate) fn count(pack: &mut dyn BufRead) -> Result<(u64, [u8; 12]), SourceError> {
    let mut head = [0; 12];
    pack.read_exact(&mut head).map_err(|error| SourceError::Protocol {
        url: String::new(),
        why: format!("the pack cannot be used: {error}"),
    })?;
    let [.., a, b, c, d] = head;
    Ok((u64::from(u32::from_be_bytes([a, b, c, d])), head))
}

/// Reads a pack, resolves its deltas and hashes every object, and writes pack and index into `dir`.
pub(crate) fn index(
    pack: &mut dyn BufRead,
    dir: &Path,
    bases: Option<gix::odb::Handle>,
    limit: u64,
    stop: &AtomicBool,
) -> Result<Indexed, SourceError> {
    let options = pack::bundle::write::Options {
        // A box has few cores, and they have work to do.
        thread_limit: Some(1),
        alloc_limit_bytes: usize::try_from(limit).ok(),
        ..Default::default()
    };
    let outcome = pack::Bundle::write_to_directory(
        pack,
        Some(dir),
        &mut gix::progress::Discard,
        stop,
        bases,
        gix::hash::Kind::Sha1,
        options,
    )
    .map_err(|error| {
        match error.iter_errors().find_map(of_the_disk) {
            Some(why) => SourceError::local("unpacking into", dir, why),
            // Whoever asked for the pack knows where it came from.
            None => SourceError::Protocol {
                url: String::new(),
                why: format!("the pack cannot be used: {}", in_full(&error)),
            },
        }
    })?;
    Ok(Indexed(outcome.data_path.zip(outcome.index_path).map(|(data, index)| [data, index])))
}

/// An error of the box's own disk. What goes wrong on the network is told by whoever reads from it.
fn of_the_disk(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    use std::io::ErrorKind;
    let io = error.downcast_ref::<std::io::Error>()?;
    let disk = io.raw_os_error().is_some()
        || matches!(
            io.kind(),
            ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::FileTooLarge
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::PermissionDenied
        );
    disk.then(|| io.to_string())
}
