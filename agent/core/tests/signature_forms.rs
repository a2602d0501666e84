//! One form of a signature: what ssh-keygen writes is accepted, and any other encoding for the same content isn't,
//! although ssh-keygen itself accepts most of them. Each other form would be another commit id for the same signed
//! content.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::verify::{BadSignature, SshSignature};
use proptest::prelude::*;
use tempfile::TempDir;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &str = "-----END SSH SIGNATURE-----\n";
/// The orders of the groups of P-256 and P-384.
const ORDERS: [&str; 2] = [
    "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551",
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
];

/// A key in a folder of its own.
struct Key(TempDir);

impl Key {
    fn make(kind: &[&str]) -> Key {
        let key = Key(tempfile::tempdir().unwrap());
        let mut command = Command::new("ssh-keygen");
        run(command.args(["-q", "-N", "", "-C", "", "-f"]).arg(key.0.path().join("key")).args(kind));
        key
    }

    fn sign(&self, payload: &str) -> String {
        let file = self.0.path().join("payload");
        std::fs::write(&file, payload).unwrap();
        let _ = std::fs::remove_file(self.0.path().join("payload.sig"));
        let mut command = Command::new("ssh-keygen");
        run(command.args(["-q", "-Y", "sign", "-n", "git", "-f"]).arg(self.0.path().join("key")).arg(&file));
        std::fs::read_to_string(self.0.path().join("payload.sig")).unwrap()
    }

    /// Whether ssh-keygen says that this fits what was signed last.
    fn fits(&self, armored: &str) -> bool {
        fits(self.0.path(), armored)
    }
}

fn fits(dir: &Path, armored: &str) -> bool {
    let other = dir.join("other.sig");
    std::fs::write(&other, armored).unwrap();
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "check-novalidate", "-n", "git", "-s"]).arg(&other);
    command.stdin(File::open(dir.join("payload")).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; run scripts/setup-tests.sh, which installs what the tests need")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ours(armored: &str, payload: &str) -> Result<(), BadSignature> {
    SshSignature::parse(armored.as_bytes())?.check("git", payload.as_bytes())
}

/// The bytes in the armor.
fn blob(armored: &str) -> Vec<u8> {
    let lines: String = armored.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(lines).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn armor(bytes: &[u8], width: usize, line_break: &str) -> String {
    let digits = base64(bytes);
    let lines: Vec<&str> =
        digits.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("{}{line_break}{}{line_break}{}{line_break}", BEGIN.trim(), lines.join(line_break), END.trim())
}

/// The fields of a signature, behind its magic bytes and version: key, namespace, reserved, hash, signature.
fn fields(blob: &[u8]) -> Vec<Vec<u8>> {
    strings(&blob[10..])
}

fn with_fields(fields: &[Vec<u8>]) -> Vec<u8> {
    let fields = fields.iter().flat_map(|field| string(field));
    b"SSHSIG\0\0\0\x01".iter().copied().chain(fields).collect()
}

/// Strings with their length before them (RFC 4251, section 5).
fn strings(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (string, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        found.push(string.to_vec());
        bytes = rest;
    }
    found
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn number(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap();
    let zero: &[u8] = if bytes[start] >= 0x80 { &[0] } else { &[] };
    [zero, &bytes[start..]].concat()
}

/// The other s that fits: the group's order less `s`.
fn twin(s: &[u8]) -> Vec<u8> {
    let order = ORDERS[usize::from(s.len() > 40)];
    let mut order: Vec<u8> =
        (0..order.len()).step_by(2).map(|at| u8::from_str_radix(&order[at..at + 2], 16).unwrap()).collect();
    let mut borrow = 0;
    for at in 0..order.len() {
        let less = s.len().checked_sub(at + 1).map_or(0, |at| s[at]);
        let index = order.len() - 1 - at;
        let left = i32::from(order[index]) - i32::from(less) - borrow;
        borrow = i32::from(left < 0);
        order[index] = left.rem_euclid(256) as u8;
    }
    number(&order)
}

/// What the signature is, with something done to its values.
fn with_values(fields: &[Vec<u8>], change: impl Fn(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut fields = fields.to_vec();
    let mut signature = strings(&fields[4]);
    let mut values = strings(&signature[1]);
    change(&mut values);
    signature[1] = values.iter().flat_map(|value| string(value)).collect();
    fields[4] = signature.iter().flat_map(|part| string(part)).collect();
    with_fields(&fields)
}

/// Other bytes for the same signature.
fn other_forms(armored: &str, is_ecdsa: bool) -> Vec<(&'static str, String)> {
    let blob = blob(armored);
    let fields = fields(&blob);
    let digits = base64(&blob);
    let plain = |bytes: &[u8]| armor(bytes, 70, "\n");
    let more = |at: usize| {
        let mut fields = fields.clone();
        fields[at].push(0);
        plain(&with_fields(&fields))
    };
    let mut forms = vec![
        ("lines of 64", armor(&blob, 64, "\n")),
        ("lines of 76", armor(&blob, 76, "\n")),
        ("one line", armor(&blob, digits.len(), "\n")),
        ("line breaks of two bytes", armor(&blob, 70, "\r\n")),
        ("no last line break", armored.trim_end().to_owned()),
        ("one more line break", format!("{armored}\n")),
        ("a space behind it", format!("{armored} ")),
        ("a line break before it", format!("\n{armored}")),
        ("a space before a line", armored.replacen('\n', "\n ", 1)),
        ("a space behind a line", armored.replacen('\n', " \n", 2)),
        ("an empty line in it", armored.replacen('\n', "\n\n", 1)),
        ("text behind it", format!("{armored}x\n")),
        ("a byte behind its fields", plain(&[&blob[..], &[0]].concat())),
        ("a byte more in the key", more(0)),
        ("a byte more in the namespace", more(1)),
        ("a reserved field", more(2)),
        ("a byte more in the name of the hash", more(3)),
        ("a byte more in the signature", more(4)),
        ("another version", plain(&[&blob[..9], &[2], &blob[10..]].concat())),
    ];
    if let Some(at) = armored.find('=') {
        // The last digit before the padding has bits that mean nothing.
        let mut bytes = armored.as_bytes().to_vec();
        let digit = DIGITS.iter().position(|digit| *digit == bytes[at - 1]).unwrap();
        bytes[at - 1] = DIGITS[digit ^ 1];
        forms.push(("bits behind the last byte", String::from_utf8(bytes).unwrap()));
        forms.push(("no padding", armored.replace('=', "")));
    }
    if is_ecdsa {
        let zeros = |at: usize| plain(&with_values(&fields, |values| values[at].insert(0, 0)));
        forms.push(("a zero before r", zeros(0)));
        forms.push(("a zero before s", zeros(1)));
        forms.push(("a third number", plain(&with_values(&fields, |values| values.push(vec![1])))));
        forms.push(("the other s", plain(&with_values(&fields, |values| values[1] = twin(&values[1])))));
    } else {
        let mut signature = strings(&fields[4]);
        signature[1].insert(0, 0);
        let mut longer = fields.clone();
        longer[4] = signature.iter().flat_map(|part| string(part)).collect();
        forms.push(("a zero before the value", plain(&with_fields(&longer))));
    }
    forms
}

#[test]
fn the_same_signature_in_another_form_is_refused_although_ssh_keygen_takes_it() {
    let kinds: [&[&str]; 4] =
        [&["-t", "ed25519"], &["-t", "ecdsa", "-b", "256"], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa"]];
    let mut taken = Vec::new();
    for kind in kinds {
        let key = Key::make(kind);
        let is_ecdsa = kind.contains(&"ecdsa");
        let payload = (0..1000).map(|n| format!("commit {n}\n"));
        // Half of what an ECDSA key signs has the high s.
        let signed = payload.map(|payload| (key.sign(&payload), payload));
        let (armored, payload) =
            signed.into_iter().find(|(signed, payload)| ours(signed, payload).is_ok()).unwrap();
        assert!(key.fits(&armored));
        for (what, other) in other_forms(&armored, is_ecdsa) {
            assert_ne!(other, armored, "{what}");
            assert!(ours(&other, &payload).is_err(), "{what}: {other}");
            if key.fits(&other) {
                taken.push(what);
            }
        }
    }
    for what in ["lines of 64", "a reserved field", "text behind it", "a zero before s", "the other s"] {
        assert!(taken.contains(&what), "ssh-keygen itself refuses {what}: {taken:?}");
    }
}

#[test]
fn of_what_an_ecdsa_key_signs_the_low_s_is_taken_and_the_high_one_is_refused_with_what_to_do() {
    for bits in ["256", "384"] {
        let key = Key::make(&["-t", "ecdsa", "-b", bits]);
        let (mut low, mut high) = (0, 0);
        for n in 0..200 {
            let payload = format!("commit {n}\n");
            let armored = key.sign(&payload);
            match ours(&armored, &payload) {
                Ok(()) => low += 1,
                Err(BadSignature::HighS) => {
                    high += 1;
                    // It is the other of two that fit.
                    let other = with_values(&fields(&blob(&armored)), |values| values[1] = twin(&values[1]));
                    assert_eq!(ours(&armor(&other, 70, "\n"), &payload), Ok(()));
                }
                Err(error) => panic!("{error}"),
            }
            if low > 0 && high > 0 {
                break;
            }
        }
        assert!(low > 0 && high > 0, "P-{bits}: {low} low, {high} high");
    }
}

#[test]
fn every_rsa_signature_of_ssh_keygen_is_taken_and_none_without_its_leading_zeros() {
    let key = Key::make(&["-t", "rsa", "-b", "2048"]);
    // One of 256 begins with a zero, which ssh-keygen writes and doesn't need.
    for n in 0..3000 {
        let payload = format!("commit {n}\n");
        let armored = key.sign(&payload);
        assert_eq!(ours(&armored, &payload), Ok(()));
        let mut fields = fields(&blob(&armored));
        let mut signature = strings(&fields[4]);
        if signature[1][0] == 0 {
            signature[1].remove(0);
            fields[4] = signature.iter().flat_map(|part| string(part)).collect();
            let shorter = armor(&with_fields(&fields), 70, "\n");
            assert!(key.fits(&shorter));
            assert!(ours(&shorter, &payload).is_err());
            return;
        }
    }
    panic!("no signature begins with a zero");
}

fn ed25519() -> &'static (Key, String) {
    static KEY: std::sync::OnceLock<(Key, String)> = std::sync::OnceLock::new();
    KEY.get_or_init(|| {
        let key = Key::make(&["-t", "ed25519"]);
        let armored = key.sign("x\n");
        (key, armored)
    })
}

proptest! {
    /// Whatever is put in, taken out or exchanged: there is one text that fits.
    #[test]
    fn no_other_text_fits(edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..3u8, "[ \n\r\tA=]"), 1..4)) {
        let (_, armored) = ed25519();
        let mut other = armored.clone().into_bytes();
        for (at, edit, with) in edits {
            let at = at.index(other.len());
            match edit {
                0 => other.splice(at..at, with.bytes()).for_each(drop),
                1 => other.splice(at..=at, with.bytes()).for_each(drop),
                _ => drop(other.remove(at)),
            }
        }
        prop_assume!(other != armored.as_bytes());
        let fits = SshSignature::parse(&other).and_then(|signature| signature.check("git", b"x\n"));
        prop_assert!(fits.is_err());
    }
}
