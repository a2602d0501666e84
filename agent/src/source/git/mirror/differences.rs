//! Putting together what a pack sends as deltas. All that is held at once is what lies on the way from a whole object to
//! what is built on it, and it is counted before there is memory for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use gix::ObjectId;
use gix::objs::Kind;
use gix::zlib::{Decompress, FlushDecompress, Status};

use super::arriving::{Arrived, sizes};
use super::bounds::{Bounds, Chain, Failure, MAX_HELD, check_effort, check_reading};
use super::objects::{Damage, Objects};
use crate::source::error::Limit;

/// How much of a pack is read at once.
const CHUNK: usize = 64 << 10;

/// The number of what no longer waits for the object that it builds on.
const TAKEN: u32 = u32::MAX;

/// Something that is built on, and what is built on it and not yet put together.
struct Held {
    kind: Kind,
    data: Vec<u8>,
    above: Vec<u32>,
    chain: Chain,
}

/// An object that a pack builds on without having it, to be added.
pub(super) struct Base {
    pub(super) id: ObjectId,
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

/// Puts all differences of a pack together, so that each object has its id.
pub(super) struct Resolver<'a> {
    pack: &'a File,
    arrived: &'a mut Arrived,
    bounds: Bounds,
    most: u64,
    /// How many differences were put together.
    done: u32,
    /// What reading all of them goes through, in bytes.
    reading: u64,
    until: Instant,
    time: Duration,
    inflate: Decompress,
}

impl<'a> Resolver<'a> {
    /// What may take `time`.
    pub(super) fn new(pack: &'a File, arrived: &'a mut Arrived, bounds: Bounds, time: Duration) -> Self {
        arrived.built.sort_unstable();
        arrived.waiting.sort_unstable();
        let now = Instant::now();
        Resolver {
            pack,
            arrived,
            bounds,
            most: MAX_HELD,
            done: 0,
            reading: 0,
            until: now.checked_add(time).unwrap_or(now),
            time,
            inflate: Decompress::new(),
        }
    }

    /// Does it. `added` gets each object of `mirror` that the pack builds on.
    pub(super) fn run(
        mut self,
        mirror: Option<&Objects>,
        added: &mut dyn FnMut(&Base) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for number in 0..u32::try_from(self.arrived.items.len()).unwrap_or(u32::MAX) {
            let Some((kind, id, size)) = self.whole(number) else { continue };
            let above = self.above(Some(number), &id);
            if above.is_empty() {
                continue;
            }
            let chain = Chain::of(size);
            chain.check(self.most)?;
            let data = self.read(number, size)?;
            self.put_together(Held { kind, data, above, chain })?;
        }
        let mut next = 0;
        while let Some((id, number)) = self.arrived.waiting.get(next).copied() {
            next = self.arrived.waiting.partition_point(|(other, _)| *other <= id);
            if number == TAKEN {
                continue;
            }
            match mirror.map(|mirror| self.base(mirror, id)) {
                Some(Ok(base)) => {
                    added(&base)?;
                    let (above, chain) = (self.above(None, &id), Chain::of(base.data.len() as u64));
                    self.put_together(Held { kind: base.kind, data: base.data, above, chain })?;
                }
                // What is put together later may be it.
                None | Some(Err(Failure::Base(Damage::Missing(_)))) => self.on_time()?,
                Some(Err(failure)) => return Err(failure),
            }
        }
        match self.arrived.waiting.iter().find(|(_, number)| *number != TAKEN) {
            Some((id, _)) => Err(Failure::Broken(format!("it builds on object {id}, which is not here"))),
            None => Ok(()),
        }
    }

    fn on_time(&self) -> Result<(), Failure> {
        if Instant::now() <= self.until {
            return Ok(());
        }
        Err(Failure::Broken(format!("putting its objects together takes longer than {:?}", self.time)))
    }

    /// An object that came as a whole.
    fn whole(&self, number: u32) -> Option<(Kind, ObjectId, u64)> {
        let item = self.arrived.items.get(number as usize)?;
        if item.difference > 0 {
            return None;
        }
        Some((item.kind?, item.id, item.size))
    }

    /// What is built on an object and can be put together now.
    fn above(&mut self, number: Option<u32>, id: &ObjectId) -> Vec<u32> {
        let mut above = Vec::new();
        if let Some(number) = number {
            let built = &self.arrived.built;
            let from = built.partition_point(|(base, _)| *base < number);
            let there = built.get(from..).unwrap_or_default().iter();
            above.extend(there.take_while(|(base, _)| *base == number).map(|(_, above)| *above));
        }
        let waiting = &mut self.arrived.waiting;
        let from = waiting.partition_point(|(base, _)| base < id);
        // All of them are taken at once, by the first object of this id: a pack that has it a thousand times takes no
        // longer for it.
        let there = waiting.get_mut(from..).unwrap_or_default().iter_mut();
        for (_, number) in there.take_while(|(base, number)| base == id && *number != TAKEN) {
            above.push(std::mem::replace(number, TAKEN));
        }
        above
    }

    /// What the pack builds on without having it.
    fn base(&self, mirror: &Objects, id: ObjectId) -> Result<Base, Failure> {
        let (kind, size) = mirror.header(&id).map_err(Failure::Base)?;
        self.bounds.check(kind, size)?;
        Chain::of(size).check(self.most)?;
        let mut data = Vec::new();
        mirror.read(&id, kind, &mut data).map_err(Failure::Base)?;
        // It had room for all that the object is built on.
        data.shrink_to_fit();
        Ok(Base { id, kind, data })
    }

    fn afford(&self, bytes: u64) -> Result<(), Failure> {
        if bytes <= self.most {
            return Ok(());
        }
        let what =
            format!("what the pack sends as deltas, which takes {bytes} bytes of memory to put together,");
        Err(Failure::TooMuch { what, limit: Limit::Bytes(self.most) })
    }

    /// Puts together all that is built on this, and on that.
    fn put_together(&mut self, base: Held) -> Result<(), Failure> {
        let mut held = base.data.len() as u64;
        let mut way = vec![base];
        while let Some(below) = way.last_mut() {
            let Some(number) = below.above.pop() else {
                held = held.saturating_sub(below.data.len() as u64);
                way.pop();
                continue;
            };
            let (kind, last, chain) = (below.kind, below.above.is_empty(), below.chain);
            let Some(item) = self.arrived.items.get(number as usize) else { continue };
            let (difference, size) = (u64::from(item.difference), item.size);
            self.bounds.check(kind, size)?;
            self.afford(held.saturating_add(difference).saturating_add(size))?;
            let chain = chain.and(difference, size);
            chain.check(self.most)?;
            self.arrived.unpacked = self.arrived.unpacked.saturating_add(size);
            check_effort(self.arrived.unpacked, self.arrived.end)?;
            self.reading = self.reading.saturating_add(chain.cost);
            check_reading(self.reading, self.arrived.unpacked, self.arrived.items.len() as u64)?;
            self.on_time()?;
            let difference = self.read(number, difference)?;
            let data = apply(way.last().map(|below| below.data.as_slice()).unwrap_or_default(), &difference)?;
            drop(difference);
            // Finding SHA-1 collisions is part of it.
            let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, &data)
                .map_err(|error| Failure::Broken(error.to_string()))?;
            self.done = self.done.saturating_add(1);
            if let Some(item) = self.arrived.items.get_mut(number as usize) {
                (item.id, item.kind, item.order) = (id, Some(kind), self.done);
            }
            if last && let Some(below) = way.pop() {
                held = held.saturating_sub(below.data.len() as u64);
            }
            let above = self.above(Some(number), &id);
            if !above.is_empty() {
                held = held.saturating_add(data.len() as u64);
                way.push(Held { kind, data, above, chain });
            }
        }
        Ok(())
    }

    /// Inflates what the pack's file has of an object, which has `size` bytes.
    fn read(&mut self, number: u32, size: u64) -> Result<Vec<u8>, Failure> {
        let changed = || Failure::Broken("an object isn't what it was when it arrived".to_owned());
        let item = self.arrived.items.get(number as usize).ok_or_else(changed)?;
        let mut at = item.offset.saturating_add(u64::from(item.head));
        let mut data = vec![0; usize::try_from(size).map_err(|_| changed())?];
        let mut chunk = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK).saturating_add(64))];
        self.inflate.reset();
        let mut written = 0;
        loop {
            let count = match self.pack.read_at(&mut chunk, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count.map_err(Failure::Disk)?,
            };
            let (read, before) = (self.inflate.total_in(), self.inflate.total_out());
            let (input, rest) =
                (chunk.get(..count).unwrap_or_default(), data.get_mut(written..).unwrap_or_default());
            let done = self.inflate.decompress(input, rest, FlushDecompress::None);
            let read = self.inflate.total_in() - read;
            let new = self.inflate.total_out() - before;
            at = at.saturating_add(read);
            written = written.saturating_add(usize::try_from(new).unwrap_or_default());
            match done {
                Ok(Status::StreamEnd) if written == data.len() => return Ok(data),
                Ok(Status::StreamEnd) | Err(_) => return Err(changed()),
                Ok(_) if read == 0 && new == 0 => return Err(changed()),
                Ok(_) => {}
            }
        }
    }
}

/// What a difference makes of its base. Its two sizes were looked at before.
fn apply(base: &[u8], difference: &[u8]) -> Result<Vec<u8>, Failure> {
    let wrong = |why: &str| Failure::Broken(format!("a delta {why}"));
    let (from, size, mut at) =
        sizes(difference).ok_or_else(|| wrong("doesn't give the size of its result"))?;
    if from != base.len() as u64 {
        return Err(wrong("doesn't fit its base"));
    }
    let size = usize::try_from(size).map_err(|_| wrong("has a result that is too large"))?;
    let mut made = Vec::with_capacity(size);
    // Not more memory than was counted.
    let add = |made: &mut Vec<u8>, piece: &[u8]| {
        if made.len().saturating_add(piece.len()) > size {
            return Err(wrong("makes more than it announces"));
        }
        made.extend_from_slice(piece);
        Ok(())
    };
    let short = || wrong("is cut off");
    while let Some(what) = difference.get(at).copied() {
        at += 1;
        if what & 0x80 == 0 {
            if what == 0 {
                return Err(wrong("has an unknown instruction"));
            }
            let end = at.saturating_add(usize::from(what));
            let piece = difference.get(at..end).ok_or_else(short)?;
            add(&mut made, piece)?;
            at = end;
        } else {
            let (mut from, mut count) = (0usize, 0usize);
            for bit in 0..7 {
                if what & (1 << bit) != 0 {
                    let byte = usize::from(difference.get(at).copied().ok_or_else(short)?);
                    at += 1;
                    match bit {
                        0..4 => from |= byte << (8 * bit),
                        _ => count |= byte << (8 * (bit - 4)),
                    }
                }
            }
            if count == 0 {
                count = 0x10000;
            }
            let piece = from.checked_add(count).and_then(|end| base.get(from..end));
            add(&mut made, piece.ok_or_else(|| wrong("copies what its base doesn't have"))?)?;
        }
    }
    match made.len() == size {
        true => Ok(made),
        false => Err(wrong("makes less than it announces")),
    }
}
