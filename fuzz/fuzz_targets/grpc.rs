//! Any bytes as a server's answer to a health check by gRPC, as a whole and in pieces: a verdict, the same either way, and
//! never a panic or more words than were heard.
#![no_main]

use holdfast_core::grpc::Answer;
use libfuzzer_sys::fuzz_target;

fn played<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Result<(), String>, Vec<u8>) {
    let mut answer = Answer::new("shop.Cart");
    let mut reply = Vec::new();
    for piece in pieces {
        if let Some(verdict) = answer.take(piece, &mut reply) {
            return (verdict, reply);
        }
    }
    (Err(answer.cut_off()), reply)
}

fuzz_target!(|bytes: &[u8]| {
    // Beyond it, how much came at once decides whether the end or the limit is seen first.
    if bytes.len() > 32 << 10 {
        return;
    }
    let (Some(first), bytes) = (bytes.first(), bytes.get(1..).unwrap_or_default()) else { return };
    let whole = played(std::iter::once(bytes));
    assert_eq!(whole, played(bytes.chunks(usize::from(*first).max(1))));
    assert!(whole.1.len() <= bytes.len());
});
