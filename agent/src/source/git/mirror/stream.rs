//! Reading large objects piece by piece. gix gives objects as a whole; an object that isn't a delta, in a pack or in a
//! file of its own, is inflated here as it is read, so that its size costs no memory.

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

/// What stands before the content of an object in a file of its own takes no more bytes than this.
const LOOSE_HEAD: usize = 30;

/// A blob, which gives an error at its end if it is not what its id says.
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
    /// The blob `id` out of the packs in `dir`, or of a file beside that folder; none if it isn't there, or only as a
    /// difference to another object.
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
            return Ok(Some(BlobStream::new(pack, id, entry.decompressed_size, damaged)));
        }
        let name = id.to_string();
        let (folder, name) = name.split_at(2);
        match dir.parent().map(|objects| File::open(objects.join(folder).join(name))) {
            Some(Ok(file)) => {
                BlobStream::new(BufReader::with_capacity(CHUNK, file), id, 0, damaged).of_a_file()
            }
            _ => Ok(None),
        }
    }

    fn new(pack: BufReader<File>, id: &ObjectId, size: u64, damaged: &Arc<AtomicBool>) -> Self {
        let mut hasher = gix::hash::hasher(id.kind());
        hasher.update(&gix::objs::encode::loose_header(Kind::Blob, size));
        BlobStream {
            pack,
            inflate: Decompress::new(),
            hasher: Some(hasher),
            id: *id,
            left: size,
            damaged: Arc::clone(damaged),
        }
    }

    /// The same of a file of its own, which says its kind and size before its content.
    fn of_a_file(mut self) -> io::Result<Option<BlobStream>> {
        let mut said = Vec::new();
        while said.last() != Some(&0) {
            let mut byte = [0];
            if said.len() > LOOSE_HEAD || self.inflate(&mut byte)? == 0 {
                return Ok(None);
            }
            said.extend(byte);
        }
        let said = std::str::from_utf8(&said).ok().and_then(|said| said.strip_prefix("blob "));
        let Some(size) = said.and_then(|said| said.trim_end_matches('\0').parse().ok()) else {
            return Ok(None);
        };
        let mut hasher = gix::hash::hasher(self.id.kind());
        hasher.update(&gix::objs::encode::loose_header(Kind::Blob, size));
        (self.left, self.hasher) = (size, Some(hasher));
        Ok(Some(self))
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
