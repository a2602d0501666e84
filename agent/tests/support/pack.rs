//! Packs as no git writes them (git's Documentation/gitformat-pack).

use std::io::Write;

/// A pack that is being put together.
pub struct Pack {
    count: u32,
    bytes: Vec<u8>,
}

/// The kinds of objects, as packs number them.
pub const COMMIT: u8 = 1;
pub const TREE: u8 = 2;
pub const BLOB: u8 = 3;
const DIFFERENCE: u8 = 6;

impl Pack {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Pack { count: 0, bytes: b"PACK\0\0\0\x02\0\0\0\0".to_vec() }
    }

    /// Adds an object of zeros; gives where it begins.
    pub fn zeros(&mut self, kind: u8, size: usize) -> usize {
        self.add(kind, size, &[], std::iter::repeat_n([0u8; 1024].as_slice(), size / 1024))
    }

    /// Adds an object.
    pub fn object(&mut self, kind: u8, content: &[u8]) -> usize {
        self.add(kind, content.len(), &[], [content].into_iter())
    }

    /// Adds an object that is made of the one which begins at `base` and has `from` bytes: it has `size`, all of them out of
    /// the other.
    pub fn repeats(&mut self, base: usize, from: usize, size: usize) -> usize {
        let mut content = [number(from), number(size)].concat();
        let mut left = size;
        while left > 0 {
            let piece = left.min(from).min(0xff_ffff);
            let [a, b, c, ..] = u32::try_from(piece).unwrap().to_le_bytes();
            content.extend([0x80 | 0x70, a, b, c]);
            left -= piece;
        }
        let mut back = self.bytes.len() - base;
        let mut distance = vec![(back & 0x7f) as u8];
        while back >= 0x80 {
            back = (back >> 7) - 1;
            distance.insert(0, 0x80 | (back & 0x7f) as u8);
        }
        self.add(DIFFERENCE, content.len(), &distance, [content.as_slice()].into_iter())
    }

    fn add<'a>(
        &mut self,
        kind: u8,
        size: usize,
        base: &[u8],
        content: impl Iterator<Item = &'a [u8]>,
    ) -> usize {
        let begins = self.bytes.len();
        let (mut byte, mut rest) = ((kind << 4) | (size & 15) as u8, size >> 4);
        while rest > 0 {
            self.bytes.push(byte | 0x80);
            (byte, rest) = ((rest & 0x7f) as u8, rest >> 7);
        }
        self.bytes.push(byte);
        self.bytes.extend(base);
        let mut zlib = gix::zlib::stream::deflate::Write::new(Vec::new(), gix::zlib::Compression::BEST);
        for piece in content {
            zlib.write_all(piece).unwrap();
        }
        zlib.flush().unwrap();
        self.bytes.extend(zlib.into_inner());
        self.count += 1;
        begins
    }

    /// The pack.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[8..12].copy_from_slice(&self.count.to_be_bytes());
        let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
        hasher.update(&self.bytes);
        let id = hasher.try_finalize().unwrap();
        [self.bytes.as_slice(), id.as_slice()].concat()
    }
}

fn number(mut rest: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}
