//! Any bytes as a signature, bare and in the armor that a commit carries: what can be parsed matches nothing
//! that it wasn't made for; never a panic.
#![no_main]

use holdfast_core::verify::SshSignature;
use libfuzzer_sys::fuzz_target;

fn check(armored: &[u8]) {
    if let Ok(signature) = SshSignature::parse(armored) {
        assert!(signature.check("git", b"never signed").is_err());
        assert!(signature.fingerprint().starts_with("SHA256:"));
    }
}

/// Base64, so that the fuzzer reaches what is inside of the armor.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |group, byte| (group << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 0x3f;
            out.push(if digit <= chunk.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    out
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let lines: Vec<String> =
        base64(bytes).as_bytes().chunks(70).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let armored =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
    check(armored.as_bytes());
});
