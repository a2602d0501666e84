//! What a pack says of its objects, read beside whoever unpacks it (git's Documentation/gitformat-pack): a commit or tag
//! that is too large is refused before there is memory for it. Nothing of a pack is signed but its commits and tags, and
//! whether these are good is known only once they are here.

use gix::ObjectId;
use gix::objs::Kind;
use gix::zlib::{Decompress, FlushDecompress, Status};

/// The largest commit or tag, in bytes: its message, its parents and its signature. git's own history has none of 32 KiB.
pub(crate) const MAX_COMMIT: u64 = 1 << 20;

/// The two sizes at the beginning of a delta take no more bytes than this.
const DELTA_HEAD: usize = 20;

/// Whether an object of this kind must be small.
pub(super) fn is_small(kind: Kind) -> bool {
    matches!(kind, Kind::Commit | Kind::Tag)
}

/// Why a pack is not unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Oversized(pub(super) String);

/// Follows a pack as it comes.
pub(super) struct Scan<'a> {
    state: State,
    /// Where the next byte stands in the pack.
    at: u64,
    /// Objects that are still to come; not known before the header was read.
    left: u32,
    /// Where commits, tags and what is built on them begin, in order.
    small: Vec<u64>,
    inflate: Decompress,
    /// Whether an object that isn't in the pack is a commit or a tag, or may be.
    is_small: &'a dyn Fn(&ObjectId) -> bool,
}

enum State {
    Header(Vec<u8>),
    /// The kind and the size of an object that begins at `at`.
    Size {
        begins: u64,
        kind: u8,
        size: u64,
        shift: u32,
    },
    /// How far back lies what a delta is built on.
    Distance {
        begins: u64,
        size: u64,
        distance: Option<u64>,
    },
    /// The id of what a delta is built on.
    Base {
        begins: u64,
        size: u64,
        id: Vec<u8>,
    },
    /// Its content.
    Content {
        small: bool,
        size: u64,
        head: Option<Vec<u8>>,
    },
    /// All objects were seen, or it is no pack: whoever unpacks it says so.
    Over,
}

impl<'a> Scan<'a> {
    pub(super) fn new(is_small: &'a dyn Fn(&ObjectId) -> bool) -> Self {
        let (state, inflate) = (State::Header(Vec::new()), Decompress::new());
        Scan { state, at: 0, left: 0, small: Vec::new(), inflate, is_small }
    }

    /// Takes in the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), Oversized> {
        while !bytes.is_empty() && !matches!(self.state, State::Over) {
            let taken = match &mut self.state {
                State::Content { .. } => self.content(bytes)?,
                _ => {
                    self.state = self.byte(bytes[0])?;
                    1
                }
            };
            self.at = self.at.saturating_add(taken as u64);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// The state after one more byte of what describes an object.
    fn byte(&mut self, byte: u8) -> Result<State, Oversized> {
        let (bits, more) = (u64::from(byte & 0x7f), byte & 0x80 != 0);
        Ok(match std::mem::replace(&mut self.state, State::Over) {
            State::Header(mut header) => {
                header.push(byte);
                let count = header.get(8..12).and_then(|count| <[u8; 4]>::try_from(count).ok());
                match count {
                    None => State::Header(header),
                    Some(count) => {
                        self.left = u32::from_be_bytes(count);
                        // This byte is the header's last.
                        self.next(self.at + 1)
                    }
                }
            }
            State::Size { begins, kind: 0, .. } if begins == self.at => {
                let (kind, size) = ((byte >> 4) & 7, u64::from(byte & 15));
                if more {
                    State::Size { begins, kind, size, shift: 4 }
                } else {
                    self.sized(begins, kind, size)?
                }
            }
            State::Size { begins, kind, size, shift } => {
                let Some(bits) = bits.checked_shl(shift).filter(|more| more >> shift == bits) else {
                    return Ok(State::Over);
                };
                let size = size | bits;
                let shift = shift + 7;
                if more { State::Size { begins, kind, size, shift } } else { self.sized(begins, kind, size)? }
            }
            State::Distance { begins, size, distance } => {
                let before = match distance {
                    None => Some(0),
                    Some(distance) => distance.checked_add(1).and_then(|distance| distance.checked_mul(128)),
                };
                let Some(distance) = before.map(|before| before | bits) else { return Ok(State::Over) };
                if more {
                    State::Distance { begins, size, distance: Some(distance) }
                } else {
                    let base = begins.checked_sub(distance);
                    self.delta(
                        begins,
                        size,
                        base.is_some_and(|base| self.small.binary_search(&base).is_ok()),
                    )?
                }
            }
            State::Base { begins, size, mut id } => {
                id.push(byte);
                match ObjectId::try_from(id.as_slice()) {
                    Ok(id) => self.delta(begins, size, (self.is_small)(&id))?,
                    Err(_) => State::Base { begins, size, id },
                }
            }
            State::Content { .. } | State::Over => State::Over,
        })
    }

    fn sized(&mut self, begins: u64, kind: u8, size: u64) -> Result<State, Oversized> {
        Ok(match kind {
            1 | 4 => {
                self.small.push(begins);
                self.check(true, size)?;
                State::Content { small: true, size, head: None }
            }
            2 | 3 => State::Content { small: false, size, head: None },
            6 => State::Distance { begins, size, distance: None },
            7 => State::Base { begins, size, id: Vec::new() },
            _ => State::Over,
        })
    }

    fn delta(&mut self, begins: u64, size: u64, small: bool) -> Result<State, Oversized> {
        if small {
            self.small.push(begins);
        }
        self.check(small, size)?;
        Ok(State::Content { small, size, head: Some(Vec::new()) })
    }

    fn check(&self, small: bool, size: u64) -> Result<(), Oversized> {
        if !small || size <= MAX_COMMIT {
            return Ok(());
        }
        Err(Oversized(format!("a commit or tag in the pack, which says that it has {size} bytes,")))
    }

    /// Takes in content; gives how much of it was this object's.
    fn content(&mut self, bytes: &[u8]) -> Result<usize, Oversized> {
        let State::Content { small, size, head } = &mut self.state else { return Ok(bytes.len()) };
        let mut out = [0; 16 << 10];
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let Ok(status) = self.inflate.decompress(bytes, &mut out, FlushDecompress::None) else {
            self.state = State::Over;
            return Ok(bytes.len());
        };
        let taken = usize::try_from(self.inflate.total_in() - read).unwrap_or(usize::MAX);
        let new = usize::try_from(self.inflate.total_out() - written).unwrap_or(0);
        // More than it said.
        if self.inflate.total_out() > *size {
            self.state = State::Over;
            return Err(Oversized("an object in the pack, which has more bytes than it says,".to_owned()));
        }
        let mut result = None;
        if let Some(head) = head.as_mut().filter(|head| head.len() < DELTA_HEAD) {
            head.extend(out.get(..new).unwrap_or_default().iter().take(DELTA_HEAD - head.len()));
            result = result_size(head);
        }
        let small = *small;
        if let Some(result) = result {
            self.check(small, result)?;
        }
        if status == Status::StreamEnd {
            self.inflate.reset();
            self.left = self.left.saturating_sub(1);
            self.state = self.next(self.at.saturating_add(taken as u64));
        } else if taken == 0 && new == 0 {
            // It doesn't go on: it is damaged.
            self.state = State::Over;
        }
        Ok(taken)
    }

    /// What comes where an object ends.
    fn next(&self, begins: u64) -> State {
        if self.left == 0 { State::Over } else { State::Size { begins, kind: 0, size: 0, shift: 0 } }
    }
}

/// The second of the two sizes that a delta begins with: what it makes of the first.
fn result_size(head: &[u8]) -> Option<u64> {
    let mut bytes = head.iter();
    let mut number = || {
        let (mut number, mut shift) = (0u64, 0);
        loop {
            let byte = *bytes.next()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(u64::MAX);
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
    };
    number()?;
    number()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut out = gix::zlib::stream::deflate::Write::new(Vec::new(), gix::zlib::Compression::BEST_SPEED);
        out.write_all(bytes).unwrap();
        out.flush().unwrap();
        out.into_inner()
    }

    fn pack(objects: &[Vec<u8>]) -> Vec<u8> {
        let count = u32::try_from(objects.len()).unwrap().to_be_bytes();
        [b"PACK\0\0\0\x02", &count[..], &objects.concat(), &[0; 20]].concat()
    }

    /// An object that says it has so many bytes.
    fn object(kind: u8, says: u64, base: &[u8], content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut byte, mut rest) = ((kind << 4) | (says & 15) as u8, says >> 4);
        while rest > 0 {
            out.push(byte | 0x80);
            (byte, rest) = ((rest & 0x7f) as u8, rest >> 7);
        }
        out.push(byte);
        [out, base.to_vec(), zlib(content)].concat()
    }

    fn whole(kind: u8, size: usize) -> Vec<u8> {
        object(kind, size as u64, &[], &vec![b'x'; size])
    }

    fn delta(kind: u8, base: &[u8], result: u64) -> Vec<u8> {
        let mut content = vec![1];
        let mut rest = result;
        while rest >= 0x80 {
            content.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.push(rest as u8);
        object(kind, content.len() as u64, base, &content)
    }

    /// What is said of a pack that comes in pieces of this size.
    fn scan(objects: &[Vec<u8>], piece: usize) -> Result<(), Oversized> {
        let is_small = |id: &ObjectId| id.as_bytes()[0] == 1;
        let mut scan = Scan::new(&is_small);
        pack(objects).chunks(piece).try_for_each(|bytes| scan.take(bytes))
    }

    fn both(objects: &[Vec<u8>]) -> bool {
        let found = scan(objects, 1);
        assert_eq!(found, scan(objects, 1 << 20));
        found.is_ok()
    }

    const LIMIT: usize = MAX_COMMIT as usize;

    #[test]
    fn commits_and_tags_are_small_and_files_and_folders_need_not_be() {
        for kind in [1, 4] {
            assert!(both(&[whole(3, 10), whole(kind, LIMIT), whole(kind, 5)]));
            assert!(!both(&[whole(3, 10), whole(kind, LIMIT + 1)]));
        }
        assert!(both(&[whole(2, LIMIT + 1), whole(3, 2 * LIMIT)]));
    }

    #[test]
    fn what_is_made_of_a_commit_by_a_difference_is_a_commit_too() {
        let commit = whole(1, 100);
        let back = vec![u8::try_from(commit.len()).unwrap()];
        assert!(commit.len() < 0x80);
        assert!(both(&[commit.clone(), delta(6, &back, MAX_COMMIT)]));
        assert!(!both(&[commit.clone(), delta(6, &back, MAX_COMMIT + 1)]));
        // And what is made of that.
        let second = delta(6, &back, 50);
        let back_again = vec![u8::try_from(second.len()).unwrap()];
        assert!(!both(&[commit, second, delta(6, &back_again, 255 << 20)]));
        let blob = whole(3, 100);
        let back = vec![u8::try_from(blob.len()).unwrap()];
        assert!(both(&[blob, delta(6, &back, 255 << 20)]));
        assert!(!both(&[delta(7, &[1; 20], 255 << 20)]));
        assert!(both(&[delta(7, &[2; 20], 255 << 20)]));
    }

    #[test]
    fn what_has_more_bytes_than_it_says_is_refused() {
        assert!(!both(&[object(1, 10, &[], &[b'x'; 5000])]));
        assert!(!both(&[object(3, 10, &[], &[b'x'; 5000])]));
    }

    #[test]
    fn what_is_no_pack_is_left_to_whoever_unpacks_it() {
        for bytes in [
            &b"PACK"[..],
            b"PACK\0\0\0\x02\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            &[0; 99],
        ] {
            assert_eq!(Scan::new(&|_| false).take(bytes), Ok(()));
        }
    }
}
