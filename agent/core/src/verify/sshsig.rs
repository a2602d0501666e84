//! SSH signatures: the SSHSIG format (OpenSSH, PROTOCOL.sshsig), with what is accepted of it.

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, LineEnding, PublicKey, SshSig};

/// The longest armored signature that is looked at. An RSA key of 16384 bits makes one of about 6 KiB.
const MAX_ARMORED: usize = 32 << 10;

/// RSA keys below this are no longer safe (OpenSSH's RequiredRSASize allows 1024; NIST SP 800-131A does not).
const MIN_RSA_BITS: usize = 2048;

/// The longest modulus: checking a larger one would cost a small box too much.
const MAX_RSA_BITS: usize = 16384;

/// What is wrong with a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// It is of another system.
    #[error("it is {kind}, and only SSH signatures are accepted")]
    NotSsh {
        /// Which, with its article.
        kind: &'static str,
    },
    /// It can't be read.
    #[error("it cannot be read ({why})")]
    Malformed {
        /// What the parser says.
        why: String,
    },
    /// It was made for another purpose.
    #[error("it was made for the namespace {found:?} and not for {wanted:?}")]
    Namespace {
        /// What it was made for.
        found: String,
        /// What it should have been made for.
        wanted: String,
    },
    /// Its key or algorithm is too weak, or unknown here.
    #[error(
        "{what} is not accepted: use ed25519 (also of a security key), ECDSA on P-256 or P-384, or RSA of at least 2048 bits with SHA-2"
    )]
    Algorithm {
        /// What it uses.
        what: String,
    },
    /// It is written in another form than the one in which it was made. Were that taken, the same signed content could
    /// be had under another revision's name, by anybody and without a key.
    #[error("it is not encoded exactly as ssh-keygen and git write it: {why}")]
    NotCanonical {
        /// What is different.
        why: String,
    },
    /// It is the other one of the two values that fit whatever an ECDSA key signs.
    #[error("its ECDSA value s is the high one of the two valid values, and only the low one is accepted")]
    HighS,
    /// It doesn't fit what was signed: one of the two was changed.
    #[error("it does not match the commit: the commit or the signature was altered")]
    Altered,
}

/// A signature that was read, but says nothing yet.
#[derive(Clone, Debug)]
pub struct SshSignature(SshSig);

impl SshSignature {
    /// Reads the armored form.
    ///
    /// # Errors
    /// [`BadSignature`] for another system's signature, and for one that can't be read or uses what is not
    /// accepted.
    pub fn parse(armored: &[u8]) -> Result<Self, BadSignature> {
        let malformed = |why: &dyn std::fmt::Display| BadSignature::Malformed { why: why.to_string() };
        if let Some(kind) = other_system(armored) {
            return Err(BadSignature::NotSsh { kind });
        }
        if armored.len() > MAX_ARMORED {
            return Err(malformed(&format!("it is larger than {MAX_ARMORED} bytes")));
        }
        let sig = SshSig::from_pem(armored.trim_ascii()).map_err(|error| malformed(&error))?;
        if sig.version() != SshSig::VERSION {
            return Err(malformed(&format!("version {} of the format is unknown", sig.version())));
        }
        check_algorithms(&sig)?;
        // Written again, it must be what it was read from, to the byte: readers are lenient with white space, with what
        // follows a field, and with how numbers are written.
        let written = sig.to_pem(LineEnding::LF).map_err(|error| malformed(&error))?;
        if armored != written.as_bytes() {
            return Err(not_canonical(
                "its line breaks, white space or encoding differ, or it contains additional data",
            ));
        }
        // Nobody signs this field: what it holds is for later versions of the format.
        if !sig.reserved().is_empty() {
            return Err(not_canonical("its reserved field is not empty"));
        }
        check_value(&sig)?;
        Ok(SshSignature(sig))
    }

    /// Whether the signature was made for `namespace` over `payload`.
    ///
    /// # Errors
    /// [`BadSignature::Namespace`] or [`BadSignature::Altered`].
    pub fn check(&self, namespace: &str, payload: &[u8]) -> Result<(), BadSignature> {
        if self.0.namespace() != namespace {
            return Err(BadSignature::Namespace {
                found: self.0.namespace().chars().take(64).collect(),
                wanted: namespace.to_owned(),
            });
        }
        PublicKey::from(self.key().clone())
            .verify(namespace, payload, &self.0)
            .map_err(|_| BadSignature::Altered)
    }

    /// The key that it names; it is worth nothing before [`SshSignature::check`].
    pub fn key(&self) -> &KeyData {
        self.0.public_key()
    }

    /// The key's SHA-256 fingerprint, as ssh-keygen prints it.
    pub fn fingerprint(&self) -> String {
        self.key().fingerprint(HashAlg::Sha256).to_string()
    }
}

fn not_canonical(why: &str) -> BadSignature {
    BadSignature::NotCanonical { why: why.to_owned() }
}

/// Half of the order of P-256 and of P-384 (FIPS 186-5 and SP 800-186, section 3.2.1): an s above it has a twin below,
/// the order less s, that fits as well.
const HALF_P256: [u8; 32] = *b"\x7f\xff\xff\xff\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff\
    \xde\x73\x7d\x56\xd3\x8b\xcf\x42\x79\xdc\xe5\x61\x7e\x31\x92\xa8";
const HALF_P384: [u8; 48] = *b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
    \xff\xff\xff\xff\xff\xff\xff\xff\xe3\xb1\xa6\xc0\xfa\x1b\x96\xef\
    \xac\x0d\x06\xd9\x24\x58\x53\xbd\x76\x76\x0c\xb5\x66\x62\x94\xb9";

/// Whether the value itself is the one that a key makes, where others would fit too. Ed25519 has one that fits, and the
/// libraries refuse an S out of range; with RSA they refuse a number that is not below the modulus or not of its length.
fn check_value(sig: &SshSig) -> Result<(), BadSignature> {
    let half: &[u8] = match sig.algorithm() {
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => &HALF_P256,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 } => &HALF_P384,
        _ => return Ok(()),
    };
    let numbers = || not_canonical("its ECDSA value is not two positive numbers in their shortest form");
    let mut rest = sig.signature_bytes();
    let (_, s) = number(&mut rest).zip(number(&mut rest)).ok_or_else(numbers)?;
    match (rest.is_empty(), s.len().cmp(&half.len()).then_with(|| s.cmp(half)).is_gt()) {
        (false, _) => Err(numbers()),
        (true, is_high) => {
            if is_high {
                Err(BadSignature::HighS)
            } else {
                Ok(())
            }
        }
    }
}

/// Takes a positive number off the front (RFC 4251, section 5, mpint), without the zero before a first bit that is set;
/// none if it isn't in its shortest form.
fn number<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *bytes = rest;
    match number {
        [] => None,
        [0, next, ..] if *next >= 0x80 => Some(&number[1..]),
        [first, ..] => (1..0x80).contains(first).then_some(number),
    }
}

/// The signatures of git's other formats, by their first line (git-config, `gpg.format`).
fn other_system(armored: &[u8]) -> Option<&'static str> {
    let text = armored.trim_ascii_start();
    [
        (&b"-----BEGIN PGP "[..], "a PGP signature"),
        (&b"-----BEGIN SIGNED MESSAGE-----"[..], "an X.509 signature"),
    ]
    .into_iter()
    .find_map(|(start, kind)| text.starts_with(start).then_some(kind))
}

fn check_algorithms(sig: &SshSig) -> Result<(), BadSignature> {
    check_key(sig.public_key()).map_err(|what| BadSignature::Algorithm { what })?;
    match sig.algorithm() {
        // "ssh-rsa" as a signature's algorithm is RSA with SHA-1.
        Algorithm::Rsa { hash: None } => {
            Err(BadSignature::Algorithm { what: "a signature by RSA with SHA-1".to_owned() })
        }
        _ => Ok(()),
    }
}

/// Whether a key is of a kind and strength that can be accepted at all; else says what it is.
pub(super) fn check_key(key: &KeyData) -> Result<(), String> {
    match key {
        KeyData::Ed25519(_) | KeyData::SkEd25519(_) => Ok(()),
        KeyData::Ecdsa(key) if key.curve() != EcdsaCurve::NistP521 => Ok(()),
        KeyData::Rsa(rsa) => {
            let modulus = rsa.n.as_positive_bytes().unwrap_or_default();
            let leading = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
            match (modulus.len() * 8).saturating_sub(leading) {
                MIN_RSA_BITS..=MAX_RSA_BITS => Ok(()),
                bits => Err(format!("an RSA key of {bits} bits")),
            }
        }
        other => Err(format!("a key of the kind {}", other.algorithm())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn signatures_of_other_systems_are_named() {
        for (start, kind) in [
            ("-----BEGIN PGP SIGNATURE-----\n\niQ==\n", "a PGP signature"),
            ("-----BEGIN PGP MESSAGE-----\n", "a PGP signature"),
            ("-----BEGIN SIGNED MESSAGE-----\n", "an X.509 signature"),
        ] {
            assert_eq!(SshSignature::parse(start.as_bytes()).unwrap_err(), BadSignature::NotSsh { kind });
        }
    }

    #[test]
    fn an_endless_signature_is_refused_before_it_is_decoded() {
        let error = SshSignature::parse(&vec![b'A'; MAX_ARMORED + 1]).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = SshSignature::parse(&bytes);
            let armored = format!(
                "-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n",
                String::from_utf8_lossy(&bytes),
            );
            let _ = SshSignature::parse(armored.as_bytes());
        }
    }
}
