//! Any bytes as an anchor file, and any bytes as the content behind a right checksum: an anchor or a reason,
//! never a panic; and an anchor that was read can be written and read again.
#![no_main]

use holdfast_core::digest::Digest;
use holdfast_store::anchor::{decode, decode_slot, encode_slot};
use libfuzzer_sys::fuzz_target;

/// A slot whose checksum fits, as `agent/store/src/anchor/format.rs` describes it.
fn slot(content: &[u8]) -> Vec<u8> {
    let mut slot = b"HFANCHOR".to_vec();
    slot.extend(1u32.to_le_bytes());
    slot.extend((content.len() as u32).to_le_bytes());
    slot.extend(1u64.to_le_bytes());
    let sum = Digest::of(&[&slot, content].concat());
    slot.extend(sum.as_bytes());
    slot.extend(content);
    slot
}

fuzz_target!(|bytes: &[u8]| {
    let decoded = decode(bytes);
    assert!(decoded.newest.is_some() || !decoded.bad.is_empty());
    if let Ok((sequence, anchor)) = decode_slot(&slot(bytes)) {
        // Only one that is far too large can't be written.
        if let Ok(again) = encode_slot(sequence, &anchor) {
            assert_eq!(decode_slot(&again), Ok((sequence, anchor)));
        }
    }
});
