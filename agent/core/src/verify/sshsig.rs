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
    /// It doesn't fit what was signed: one of the two was changed.
    #[error("it does not fit the commit: the commit or the signature was altered")]
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
        // The parser is lenient with lengths inside: what it read must be what stands there.
        let canonical = sig.to_pem(LineEnding::LF).map_err(|error| malformed(&error))?;
        if !without_space(armored).eq(without_space(canonical.as_bytes())) {
            return Err(malformed(&"its parts do not fit together"));
        }
        if sig.version() != SshSig::VERSION {
            return Err(malformed(&format!("version {} of the format is unknown", sig.version())));
        }
        check_algorithms(&sig)?;
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

fn without_space(text: &[u8]) -> impl Iterator<Item = &u8> {
    text.iter().filter(|byte| !byte.is_ascii_whitespace())
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
