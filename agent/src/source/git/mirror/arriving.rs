//! A pack as it arrives (git's Documentation/gitformat-pack, version 2): it is written to a file, and what isn't a delta
//! is hashed on the way, so that the size of a file costs no memory. What is larger than it may be is refused by what it
//! says of itself, before there is memory for it.

use std::fs::File;
use std::io::{BufRead, BufWriter, Write as _};

use gix::ObjectId;
use gix::hash::Hasher;
use gix::objs::Kind;
use gix::zlib::{Decompress, FlushDecompress, Status};

use super::bounds::{Bounds, Failure, check_effort};
use crate::source::error::Limit;

/// How much is inflated at once.
const CHUNK: usize = 64 << 10;

/// The two sizes at the beginning of a difference take no more bytes than this.
const DIFFERENCE_HEAD: usize = 20;

/// An object of a pack.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it begins in the pack.
    pub(super) offset: u64,
    /// How many bytes it has, put together.
    pub(super) size: u64,
    /// Null until it is known.
    pub(super) id: ObjectId,
    /// Of its entry in the pack.
    pub(super) crc: u32,
    /// How many bytes the difference has, as far as it is one.
    pub(super) difference: u32,
    /// Of how many differences it was the last to be put together; 0 where it came whole.
    pub(super) order: u32,
    /// How many bytes stand before its content.
    pub(super) head: u8,
    /// None until it is known.
    pub(super) kind: Option<Kind>,
}

/// All objects of a pack, in order, and what its differences build on.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    pub(super) items: Vec<Item>,
    /// Differences by the object of the pack that they build on: its number, and theirs.
    pub(super) built: Vec<(u32, u32)>,
    /// And by the id of that object.
    pub(super) waiting: Vec<(ObjectId, u32)>,
    /// Where the last object ends.
    pub(super) end: u64,
    /// How many bytes were unpacked.
    pub(super) unpacked: u64,
    /// What the pack is called: the hash of all of it.
    pub(super) hash: Option<ObjectId>,
}

/// Reads a pack and writes it to `file`, but for the hash at its end.
pub(super) fn receive(pack: &mut dyn BufRead, file: &File, bounds: Bounds) -> Result<Arrived, Failure> {
    let mut arriving = Arriving {
        pack,
        out: BufWriter::with_capacity(CHUNK, file),
        hash: gix::hash::hasher(gix::hash::Kind::Sha1),
        crc: crc32fast::Hasher::new(),
        at: 0,
        unpacked: 0,
        inflate: Decompress::new(),
        piece: vec![0; CHUNK],
        bounds,
    };
    let mut head = [0; 12];
    for byte in &mut head {
        *byte = arriving.byte()?;
    }
    let [b'P', b'A', b'C', b'K', 0, 0, 0, 2 | 3, count @ ..] = head else {
        return Err(Failure::Broken("it does not begin like a pack".to_owned()));
    };
    let count = u32::from_be_bytes(count);
    if count > bounds.objects {
        return Err(Failure::TooLarge {
            what: format!("the number of objects in the pack, {count},"),
            limit: Limit::Objects(bounds.objects),
        });
    }
    let mut arrived = Arrived::default();
    for number in 0..count {
        arriving.object(number, &mut arrived)?;
        arrived.unpacked = arriving.unpacked;
    }
    arrived.end = arriving.at;
    arriving.out.flush().map_err(Failure::Disk)?;
    let found = arriving.hash.clone().try_finalize().map_err(|error| Failure::Broken(error.to_string()))?;
    let mut said = [0; 20];
    arriving.pack.read_exact(&mut said).map_err(Failure::Read)?;
    if found.as_slice() != said {
        return Err(Failure::Broken("its checksum is wrong".to_owned()));
    }
    arrived.hash = Some(found);
    Ok(arrived)
}

struct Arriving<'a> {
    pack: &'a mut dyn BufRead,
    out: BufWriter<&'a File>,
    /// Of the whole pack.
    hash: Hasher,
    /// Of the object that comes.
    crc: crc32fast::Hasher,
    at: u64,
    unpacked: u64,
    inflate: Decompress,
    piece: Vec<u8>,
    bounds: Bounds,
}

impl Arriving<'_> {
    /// Takes in one object.
    fn object(&mut self, number: u32, arrived: &mut Arrived) -> Result<(), Failure> {
        let offset = self.at;
        self.crc = crc32fast::Hasher::new();
        let (kind, size) = self.kind_and_size()?;
        let kind = match kind {
            1 => Some(Kind::Commit),
            2 => Some(Kind::Tree),
            3 => Some(Kind::Blob),
            4 => Some(Kind::Tag),
            6 => {
                let distance = self.distance()?;
                let base = offset.checked_sub(distance).and_then(|base| {
                    let found = arrived.items.binary_search_by_key(&base, |item| item.offset);
                    found.ok().and_then(|base| u32::try_from(base).ok())
                });
                let base = base.ok_or_else(|| Failure::Broken("a delta has no base".to_owned()))?;
                arrived.built.push((base, number));
                None
            }
            7 => {
                let mut id = [0; 20];
                for byte in &mut id {
                    *byte = self.byte()?;
                }
                arrived.waiting.push((ObjectId::from(id), number));
                None
            }
            kind => return Err(Failure::Broken(format!("an object has the unknown type {kind}"))),
        };
        // The longest is of a size and an id.
        let head = u8::try_from(self.at - offset)
            .map_err(|_| Failure::Broken("the header of an object has no end".to_owned()))?;
        let mut item = Item {
            offset,
            size,
            id: ObjectId::null(gix::hash::Kind::Sha1),
            crc: 0,
            difference: 0,
            order: 0,
            head,
            kind,
        };
        match kind {
            Some(kind) => {
                self.bounds.check(kind, size)?;
                let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
                hasher.update(&gix::objs::encode::loose_header(kind, size));
                self.content(size, &mut |bytes| {
                    hasher.update(bytes);
                    Ok(())
                })?;
                // Finding SHA-1 collisions is part of it.
                item.id = hasher.try_finalize().map_err(|error| Failure::Broken(error.to_string()))?;
            }
            None => {
                self.bounds.check_difference(size)?;
                item.difference =
                    u32::try_from(size).map_err(|_| Failure::Broken("it cannot be read here".to_owned()))?;
                let (bounds, mut head, mut found) = (self.bounds, Vec::new(), None);
                self.content(size, &mut |bytes| {
                    if found.is_none() {
                        head.extend(bytes.iter().take(DIFFERENCE_HEAD - head.len()));
                        found = sizes(&head).map(|(_, result, _)| result);
                        // Before all of it came.
                        found.map_or(Ok(()), |result| bounds.check_difference(result))?;
                    }
                    Ok(())
                })?;
                item.size = found.ok_or_else(|| {
                    Failure::Broken("a delta doesn't give the size of its result".to_owned())
                })?;
            }
        }
        item.crc = self.crc.clone().finalize();
        arrived.items.push(item);
        Ok(())
    }

    fn kind_and_size(&mut self) -> Result<(u8, u64), Failure> {
        let first = self.byte()?;
        let (kind, mut size, mut shift, mut more) =
            ((first >> 4) & 7, u64::from(first & 15), 4u32, first & 0x80 != 0);
        while more {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits);
            size |= shifted.ok_or_else(|| Failure::Broken("the size of an object has no end".to_owned()))?;
            (shift, more) = (shift + 7, byte & 0x80 != 0);
        }
        Ok((kind, size))
    }

    /// How far back lies what a difference builds on.
    fn distance(&mut self) -> Result<u64, Failure> {
        let mut byte = self.byte()?;
        let mut distance = u64::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            let more = distance.checked_add(1).and_then(|distance| distance.checked_mul(128));
            distance = more.ok_or_else(|| Failure::Broken("a delta has no base".to_owned()))?
                | u64::from(byte & 0x7f);
        }
        Ok(distance)
    }

    fn byte(&mut self) -> Result<u8, Failure> {
        let byte = self.pack.fill_buf().map_err(Failure::Read)?.first().copied();
        let byte = byte.ok_or_else(ended)?;
        self.pass(1)?;
        Ok(byte)
    }

    /// Hands on so much of what is at hand.
    fn pass(&mut self, count: usize) -> Result<(), Failure> {
        let bytes = self.pack.fill_buf().map_err(Failure::Read)?;
        let bytes = bytes.get(..count).unwrap_or(bytes);
        self.hash.update(bytes);
        self.crc.update(bytes);
        self.out.write_all(bytes).map_err(Failure::Disk)?;
        self.at = self.at.saturating_add(bytes.len() as u64);
        let count = bytes.len();
        self.pack.consume(count);
        Ok(())
    }

    /// Inflates an object of `size` bytes piece by piece.
    fn content(
        &mut self,
        size: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.inflate.reset();
        loop {
            let input = self.pack.fill_buf().map_err(Failure::Read)?;
            if input.is_empty() {
                return Err(ended());
            }
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let done = self.inflate.decompress(input, &mut self.piece, FlushDecompress::None);
            let status = done.map_err(|error| Failure::Broken(error.to_string()))?;
            let read = usize::try_from(self.inflate.total_in() - read).unwrap_or_default();
            let written = usize::try_from(self.inflate.total_out() - written).unwrap_or_default();
            if self.inflate.total_out() > size {
                let what = "an object in the pack, which has more bytes than it announces,".to_owned();
                return Err(Failure::TooLarge { what, limit: Limit::Bytes(size) });
            }
            self.unpacked = self.unpacked.saturating_add(written as u64);
            check_effort(self.unpacked, self.at)?;
            each(self.piece.get(..written).unwrap_or_default())?;
            self.pass(read)?;
            if status == Status::StreamEnd {
                break;
            }
            if read == 0 && written == 0 {
                return Err(Failure::Broken("the data of an object is cut off".to_owned()));
            }
        }
        match self.inflate.total_out() == size {
            true => Ok(()),
            false => Err(Failure::Broken("an object has fewer bytes than it announces".to_owned())),
        }
    }
}

fn ended() -> Failure {
    Failure::Read(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it is truncated"))
}

/// What a difference begins with: the size of what it is built on, that of what it makes, and how many bytes these take.
pub(super) fn sizes(head: &[u8]) -> Option<(u64, u64, usize)> {
    let mut at = 0;
    let mut number = || {
        let (mut number, mut shift) = (0u64, 0u32);
        loop {
            let byte = *head.get(at)?;
            at += 1;
            let bits = u64::from(byte & 0x7f);
            // What doesn't fit is larger than anything may be.
            number |= bits.checked_shl(shift).filter(|more| more >> shift == bits).unwrap_or(u64::MAX);
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
    };
    let (base, result) = (number()?, number()?);
    Some((base, result, at))
}
