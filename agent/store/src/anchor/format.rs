//! The anchor's bytes. Pure, so that it can be fuzzed: any bytes give an anchor or a reason, never a panic.
//!
//! ```text
//! file:  slot 0 at 0, slot 1 at SLOT_SIZE; each write goes to the slot that doesn't hold the newest
//! slot:   0  8  "HFANCHOR"
//!         8  4  format version, little endian as all numbers here
//!        12  4  length of the payload
//!        16  8  sequence number; the valid slot with the higher one is the newest
//!        24 32  SHA-256 over bytes 0..24 and the payload
//!        56  …  payload: JSON
//! ```
//! A slot of zeros was never written. What lies behind the payload means nothing.

use sha2::{Digest as _, Sha256};

use super::Anchor;
use crate::error::StoreError;

/// The version that this agent writes.
pub const FORMAT: u32 = 1;
/// The size of a slot in bytes.
pub const SLOT_SIZE: usize = 512 * 1024;
/// How many slots there are.
pub const SLOT_COUNT: usize = 2;

pub(super) const HEADER: usize = 56;
const MAGIC: &[u8; 8] = b"HFANCHOR";
const SUM: std::ops::Range<usize> = 24..HEADER;

/// Why a slot holds no anchor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSlot {
    /// Nothing was ever written to it.
    #[error("it was never written")]
    Empty,
    /// It is too short, or doesn't begin as a slot does.
    #[error("it doesn't have the header of an anchor")]
    NoHeader,
    /// It was half written, or altered since.
    #[error("its checksum doesn't match: it was only partly written, or altered")]
    Torn,
    /// A newer agent wrote it.
    #[error("it is of format {0}, which only a newer agent knows")]
    Newer(u32),
    /// Its checksum fits, and its content is none that this agent understands.
    #[error("its content isn't understood: {0}")]
    Content(String),
}

/// What a whole anchor file holds.
#[derive(Debug)]
pub struct Decoded {
    /// The newest slot that holds an anchor: its index, its sequence number, its content. None when neither
    /// does.
    pub newest: Option<(usize, u64, Anchor)>,
    /// The slots that hold none, and why.
    pub bad: Vec<(usize, BadSlot)>,
}

/// Reads a whole anchor file.
pub fn decode(bytes: &[u8]) -> Decoded {
    decode_slots((0..SLOT_COUNT).map(|slot| {
        let end = bytes.len().min((slot + 1) * SLOT_SIZE);
        bytes.get(slot * SLOT_SIZE..end).unwrap_or_default()
    }))
}

/// Reads slots that were cut out already.
pub(super) fn decode_slots<'a>(slots: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoded = Decoded { newest: None, bad: Vec::new() };
    for (index, slot) in slots.enumerate() {
        match decode_slot(slot) {
            Ok((sequence, anchor)) => {
                if decoded.newest.as_ref().is_none_or(|(_, newest, _)| sequence > *newest) {
                    decoded.newest = Some((index, sequence, anchor));
                }
            }
            Err(bad) => decoded.bad.push((index, bad)),
        }
    }
    decoded
}

/// Reads one slot: its sequence number and its content.
pub fn decode_slot(slot: &[u8]) -> Result<(u64, Anchor), BadSlot> {
    let Some((header, rest)) = slot.split_at_checked(HEADER) else {
        return Err(if slot.iter().all(|&b| b == 0) { BadSlot::Empty } else { BadSlot::NoHeader });
    };
    if header.iter().all(|&b| b == 0) {
        return Err(BadSlot::Empty);
    }
    if &header[..8] != MAGIC {
        return Err(BadSlot::NoHeader);
    }
    let format = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let payload = payload_len(header).and_then(|len| rest.get(..len)).ok_or(BadSlot::Torn)?;
    if checksum(&header[..SUM.start], payload) != header[SUM] {
        return Err(BadSlot::Torn);
    }
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&header[16..24]);
    let anchor = match format {
        1 => serde_json::from_slice(payload).map_err(|error| BadSlot::Content(error.to_string()))?,
        other => return Err(BadSlot::Newer(other)),
    };
    Ok((u64::from_le_bytes(sequence), anchor))
}

/// The payload's length as the header says it, if a slot could hold it.
pub(super) fn payload_len(header: &[u8]) -> Option<usize> {
    let bytes: [u8; 4] = header.get(12..16)?.try_into().ok()?;
    let len = usize::try_from(u32::from_le_bytes(bytes)).ok()?;
    (len <= SLOT_SIZE - HEADER).then_some(len)
}

/// The bytes of a slot, to be written at its beginning.
pub fn encode_slot(sequence: u64, anchor: &Anchor) -> Result<Vec<u8>, StoreError> {
    let payload =
        serde_json::to_vec(anchor).map_err(|cause| StoreError::Encode { what: "the anchor", cause })?;
    let limit = SLOT_SIZE - HEADER;
    let too_large = StoreError::AnchorTooLarge { size: payload.len(), limit };
    let Some(len) = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= limit) else {
        return Err(too_large);
    };
    let mut slot = Vec::with_capacity(HEADER + payload.len());
    slot.extend(MAGIC);
    slot.extend(FORMAT.to_le_bytes());
    slot.extend(len.to_le_bytes());
    slot.extend(sequence.to_le_bytes());
    let sum = checksum(&slot, &payload);
    slot.extend(sum);
    slot.extend(payload);
    Ok(slot)
}

fn checksum(header: &[u8], payload: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(header).chain_update(payload).finalize().into()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn anchor() -> Anchor {
        Anchor::new("emea/till-1".parse().unwrap(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_slot_reads_back_as_it_was_written() {
        let slot = encode_slot(7, &anchor()).unwrap();
        assert_eq!(decode_slot(&slot), Ok((7, anchor())));
    }

    #[test]
    fn the_newest_valid_slot_wins_wherever_it_lies() {
        for (first, second, newest) in [(1, 2, 2), (4, 3, 4)] {
            let mut file = vec![0; SLOT_SIZE * 2];
            for (at, sequence) in [(0, first), (SLOT_SIZE, second)] {
                let slot = encode_slot(sequence, &anchor()).unwrap();
                file[at..at + slot.len()].copy_from_slice(&slot);
            }
            assert_eq!(decode(&file).newest.unwrap().1, newest);
        }
    }

    #[test]
    fn a_slot_with_any_bit_changed_is_refused() {
        let slot = encode_slot(7, &anchor()).unwrap();
        for bit in 0..slot.len() * 8 {
            let mut changed = slot.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_slot(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named_as_such() {
        let mut slot = encode_slot(7, &anchor()).unwrap();
        slot[8] = 9;
        let sum = checksum(&slot[..SUM.start], &slot[HEADER..]);
        slot[SUM].copy_from_slice(&sum);
        assert_eq!(decode_slot(&slot), Err(BadSlot::Newer(9)));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_anchor_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let decoded = decode(&bytes);
            prop_assert!(decoded.newest.is_none());
        }

        #[test]
        fn any_content_behind_a_right_checksum_gives_an_anchor_or_a_reason(
            payload in prop::collection::vec(any::<u8>(), 0..512),
            format in 0u32..4,
        ) {
            let mut slot = Vec::new();
            slot.extend(MAGIC);
            slot.extend(format.to_le_bytes());
            slot.extend((payload.len() as u32).to_le_bytes());
            slot.extend(1u64.to_le_bytes());
            let sum = checksum(&slot, &payload);
            slot.extend(sum);
            slot.extend(payload);
            prop_assert!(decode_slot(&slot).is_err());
        }
    }
}
