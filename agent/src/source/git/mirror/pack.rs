//! Packs: written when objects are copied (git's Documentation/gitformat-pack, version 2), and indexed whoever wrote them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gix::ObjectId;
use gix::objs::Kind;
use gix::odb::pack;

use super::arriving::{Item, receive};
use super::bounds::{Bounds, Failure};
use super::differences::{Base, Resolver};
use super::objects::{Damage, Objects};
use holdfast_core::disk_trouble::Trouble;

use crate::source::error::SourceError;

/// What lies beyond this in a pack is listed in another way.
const FAR: u32 = 1 << 31;

/// A file that is larger is copied piece by piece where it can be, in bytes.
const WHOLE: u64 = 1 << 20;

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
    let target = |error: &(dyn std::error::Error + 'static)| {
        CopyError::Mirror(SourceError::of_disk("writing", path, &error, Trouble::in_chain(error)))
    };
    let count = u32::try_from(ids.len()).map_err(|error| target(&error))?;
    let file = File::create(path).map_err(|error| target(&error))?;
    let mut out = gix::hash::io::Write::new(BufWriter::new(file), gix::hash::Kind::Sha1);
    let mut header = b"PACK".to_vec();
    header.extend(2u32.to_be_bytes());
    header.extend(count.to_be_bytes());
    out.write_all(&header).map_err(|error| target(&error))?;
    let (mut data, mut piece, mut left) = (Vec::new(), vec![0; 64 << 10], room);
    for id in ids {
        let (kind, size) = from.header(id).map_err(CopyError::Source)?;
        let stream = if kind == Kind::Blob && size > WHOLE { from.stream(id, &Arc::default()) } else { None };
        out.write_all(&entry_header(kind, size)).map_err(|error| target(&error))?;
        let mut exceeded = false;
        let within = Within { out: &mut out, left: &mut left, exceeded: &mut exceeded };
        let mut zlib = gix::zlib::stream::deflate::Write::new(within, gix::zlib::Compression::BEST_SPEED);
        let done = match stream.filter(|stream| stream.left() == size) {
            Some(mut stream) => deflate(&mut stream, &mut piece, &mut zlib)
                .map_err(|why| CopyError::Source(Damage::Broken { id: *id, why }))?,
            None => {
                from.read(id, kind, &mut data).map_err(CopyError::Source)?;
                zlib.write_all(&data)
            }
        };
        let done = done.and_then(|()| zlib.flush());
        drop(zlib);
        match done {
            Err(_) if exceeded => return Err(CopyError::Mirror(SourceError::OverBudget { room })),
            done => done.map_err(|error| target(&error))?,
        }
    }
    let checksum = out.hash.try_finalize().map_err(|error| target(&error))?;
    out.inner.write_all(checksum.as_slice()).map_err(|error| target(&error))?;
    out.inner.flush().map_err(|error| target(&error))
}

/// Hands on all of a file that is read piece by piece: what came of writing it, or else why it can't be read.
fn deflate(stream: &mut dyn Read, piece: &mut [u8], into: &mut dyn Write) -> Result<io::Result<()>, String> {
    loop {
        let count = stream.read(piece).map_err(|error| error.to_string())?;
        if count == 0 {
            return Ok(Ok(()));
        }
        if let Err(error) = into.write_all(piece.get(..count).unwrap_or_default()) {
            return Ok(Err(error));
        }
    }
}

/// Where so many bytes go and no more.
struct Within<'a, W> {
    out: &'a mut W,
    left: &'a mut u64,
    exceeded: &'a mut bool,
}

impl<W: Write> Write for Within<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            *self.exceeded = true;
            return Err(io::Error::other("it does not fit into the disk budget"));
        };
        let count = self.out.write(bytes)?;
        *self.left = left;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Where an object is put behind others, and its checksum.
struct Behind<'a> {
    file: &'a File,
    at: u64,
    crc: crc32fast::Hasher,
}

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.crc.update(bytes);
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts an object behind all others of a pack, which end at `at`, if it takes no more than `room` bytes. Gives where it ends,
/// and its checksum.
fn append(base: &Base, file: &File, at: u64, mut room: u64) -> Result<(u64, u32), Failure> {
    let mut behind = Behind { file, at, crc: crc32fast::Hasher::new() };
    let mut exceeded = false;
    let mut within = Within { out: &mut behind, left: &mut room, exceeded: &mut exceeded };
    let head = within.write_all(&entry_header(base.kind, base.data.len() as u64));
    let mut zlib = gix::zlib::stream::deflate::Write::new(within, gix::zlib::Compression::BEST_SPEED);
    let done = head.and_then(|()| zlib.write_all(&base.data)).and_then(|()| zlib.flush());
    drop(zlib);
    match done {
        Err(_) if exceeded => Err(Failure::NoRoom),
        done => done.map(|()| (behind.at, behind.crc.finalize())).map_err(Failure::Disk),
    }
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

/// Reads a pack, puts its differences together, some of them to objects of `mirror`, hashes every object, and writes pack and
/// index into `dir`. Nothing is held in memory whole but what differences are made of, within [`MAX_HELD`], nor will it be when
/// the objects are read. The pack gets no larger than `room` by what it builds on, and putting it together may take `time`.
///
/// gix would hold each object, whatever it is, and of a tree of differences as much as there is.
pub(super) fn index(
    pack: &mut dyn BufRead,
    dir: &Path,
    mirror: Option<&Objects>,
    bounds: Bounds,
    room: u64,
    time: Duration,
) -> Result<Indexed, Failure> {
    let path = dir.join("arriving");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(Failure::Disk)?;
    let mut arrived = receive(pack, &file, bounds)?;
    if arrived.items.is_empty() {
        return Ok(Indexed(None));
    }
    let mut added = Vec::new();
    let mut end = arrived.end;
    Resolver::new(&file, &mut arrived, bounds, time).run(mirror, &mut |base| {
        // The hash comes behind it.
        let (after, crc) = append(base, &file, end, room.saturating_sub(end).saturating_sub(20))?;
        let (size, kind) = (base.data.len() as u64, Some(base.kind));
        added.push(Item { offset: end, size, id: base.id, crc, difference: 0, order: 0, head: 0, kind });
        end = after;
        Ok(())
    })?;
    let mut hash = arrived.hash.ok_or_else(|| Failure::Broken("it has no checksum".to_owned()))?;
    if !added.is_empty() {
        arrived.items.append(&mut added);
        let count = u32::try_from(arrived.items.len()).unwrap_or(u32::MAX);
        file.write_all_at(&count.to_be_bytes(), 8).map_err(Failure::Disk)?;
        hash = hash_of(&file, end).map_err(Failure::Disk)?;
    }
    file.write_all_at(hash.as_slice(), end).map_err(Failure::Disk)?;
    drop(file);
    let paths = ["pack", "idx"].map(|extension| dir.join(format!("pack-{hash}.{extension}")));
    std::fs::rename(&path, &paths[0]).map_err(Failure::Disk)?;
    write_index(arrived.items, &hash, &paths[1]).map_err(Failure::Disk)?;
    Ok(Indexed(Some(paths)))
}

/// The hash of a file's first `end` bytes.
fn hash_of(file: &File, end: u64) -> io::Result<ObjectId> {
    let (mut hasher, mut at, mut chunk) = (gix::hash::hasher(gix::hash::Kind::Sha1), 0, vec![0; 64 << 10]);
    while at < end {
        let count = match file.read_at(&mut chunk, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let bytes = chunk.get(..count.min(left)).filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        hasher.update(bytes);
        at += bytes.len() as u64;
    }
    hasher.try_finalize().map_err(io::Error::other)
}

/// Writes the index of a pack, version 2.
///
/// A pack may have an object several times. Readers take any of the rows with its id, and what builds on an object by its id
/// could then be read as built on what is built on itself. So all these rows name the same place, where the object lies whole
/// or else was put together first: what it is built on was there before it. There is still a row for each object of the pack,
/// because git reads no pack that has others.
fn write_index(mut items: Vec<Item>, pack: &ObjectId, path: &Path) -> io::Result<()> {
    items.sort_unstable_by_key(|item| (item.id, item.order));
    let mut first: Option<(ObjectId, u64, u32)> = None;
    for item in &mut items {
        match first {
            Some((id, offset, crc)) if id == item.id => (item.offset, item.crc) = (offset, crc),
            _ => first = Some((item.id, item.offset, item.crc)),
        }
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = gix::hash::io::Write::new(BufWriter::new(file), gix::hash::Kind::Sha1);
    out.write_all(b"\xfftOc\0\0\0\x02")?;
    for first in 0..=u8::MAX {
        let up_to = items.partition_point(|item| item.id.first_byte() <= first);
        out.write_all(&u32::try_from(up_to).unwrap_or(u32::MAX).to_be_bytes())?;
    }
    for item in &items {
        out.write_all(item.id.as_slice())?;
    }
    for item in &items {
        out.write_all(&item.crc.to_be_bytes())?;
    }
    let mut far = Vec::new();
    for item in &items {
        let near = u32::try_from(item.offset).ok().filter(|offset| *offset < FAR);
        // There are fewer objects than that.
        let there = near.unwrap_or(FAR | far.len() as u32);
        if near.is_none() {
            far.push(item.offset);
        }
        out.write_all(&there.to_be_bytes())?;
    }
    for offset in far {
        out.write_all(&offset.to_be_bytes())?;
    }
    out.write_all(pack.as_slice())?;
    let checksum = out.hash.try_finalize().map_err(io::Error::other)?;
    out.inner.write_all(checksum.as_slice())?;
    out.inner.flush()
}
