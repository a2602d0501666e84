//! Reading large objects piece by piece. gix gives objects as a whole; what lies in a pack of the mirror undivided is
//! inflated here as it is read, so that its size costs no memory.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gix::ObjectId;
use gix::hash::Hasher;
use gix::objs::Kind;
use gix::odb::pack;
use gix::zlib::{Decompress, FlushDecompress, Status};

/// How much of a pack is read at once.
const CHUNK: usize = 64 * 1024;

/// A blob of a pack, which gives an error at its end if it is not what its id says.
pub(crate) struct BlobStream {
    pack: BufReader<File>,
    inflate: Decompress,
    hasher: Option<Hasher>,
    id: ObjectId,
    left: u64,
    /// Set when it turns out to be damaged.
    damaged: Arc<AtomicBool>,
}

impl BlobStream {
    /// The blob `id` out of the packs in `dir`; none if none of them has it, or only as a difference to another object.
    pub(super) fn find(
        dir: &Path,
        id: &ObjectId,
        damaged: &Arc<AtomicBool>,
    ) -> io::Result<Option<BlobStream>> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "idx") {
                continue;
            }
            // A pack may go at any time: then another one has what was in it.
            let Ok(index) = pack::index::File::at(&path, id.kind()) else { continue };
            let Some(offset) = index.lookup(id).map(|at| index.pack_offset_at_index(at)) else { continue };
            let Ok(file) = File::open(path.with_extension("pack")) else { continue };
            let mut pack = BufReader::with_capacity(CHUNK, file);
            pack.seek(SeekFrom::Start(offset))?;
            let entry = pack::data::Entry::from_read(&mut pack, offset, id.kind().len_in_bytes())?;
            if !matches!(entry.header, pack::data::entry::Header::Blob) {
                continue;
            }
            let mut hasher = gix::hash::hasher(id.kind());
            hasher.update(&gix::objs::encode::loose_header(Kind::Blob, entry.decompressed_size));
            return Ok(Some(BlobStream {
                pack,
                inflate: Decompress::new(),
                hasher: Some(hasher),
                id: *id,
                left: entry.decompressed_size,
                damaged: Arc::clone(damaged),
            }));
        }
        Ok(None)
    }

    /// How many bytes are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    fn broken(&self, why: impl std::fmt::Display) -> io::Error {
        self.damaged.store(true, Ordering::Relaxed);
        let id = self.id;
        let text =
            format!("the mirror is damaged (object {id}: {why}); the next fetch rebuilds it from the source");
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// Inflates the next bytes; none at the end.
    fn inflate(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.pack.fill_buf()?;
            let at_end = input.is_empty();
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let done = self.inflate.decompress(input, into, FlushDecompress::None);
            let read = usize::try_from(self.inflate.total_in() - read).unwrap_or_default();
            let written = usize::try_from(self.inflate.total_out() - written).unwrap_or_default();
            self.pack.consume(read);
            match done {
                Err(error) => return Err(self.broken(error)),
                Ok(_) if written > 0 => return Ok(written),
                Ok(Status::StreamEnd) => return Ok(0),
                Ok(_) if at_end || read == 0 => return Err(self.broken("it is truncated")),
                Ok(_) => {}
            }
        }
    }
}

impl Read for BlobStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() || self.hasher.is_none() {
            return Ok(0);
        }
        let count = self.inflate(into)?;
        let Some(left) = self.left.checked_sub(count as u64) else {
            return Err(self.broken("it is longer than it says"));
        };
        self.left = left;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&into[..count]);
        }
        if count > 0 {
            return Ok(count);
        }
        if left > 0 {
            return Err(self.broken("it is shorter than it says"));
        }
        // Finding SHA-1 collisions is part of it, as when an object is read as a whole.
        let found = self.hasher.take().map(Hasher::try_finalize);
        match found {
            Some(Ok(found)) if found == self.id => Ok(0),
            Some(Err(error)) => Err(self.broken(error)),
            _ => Err(self.broken("its content doesn't match its id")),
        }
    }
}
