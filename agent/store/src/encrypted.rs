//! Secrets at rest: encrypted to the box's own key, so that a stolen disk image without the key reveals nothing. The
//! same secret gives the same bytes on the same box: the digest of what is encrypted is the keyed digest by which a
//! release names its secrets, and a changed secret is a changed release.
//!
//! The form is a byte for the version, the nonce, and XChaCha20-Poly1305's output. The nonce is a keyed digest of the
//! secret (as in RFC 5297's SIV: derived, never chosen), so that two secrets never share one.

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use holdfast_core::secret::SecretBytes;

use crate::keystore::Keystore;

/// The version of the form.
const VERSION: u8 = 1;
/// How long a nonce is, in bytes.
const NONCE: usize = 24;

/// What is encrypted can't be decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it was encrypted by another box or with another key, or is damaged: the next fetch encrypts it again"
)]
pub struct NotOurs;

/// Encrypts a secret.
pub fn encrypt(keys: &dyn Keystore, secret: &SecretBytes) -> Vec<u8> {
    let nonce = &keys.keyed_digest("seal: nonce", secret.expose()).as_bytes()[..NONCE].to_vec();
    let mut encrypted = vec![VERSION];
    encrypted.extend_from_slice(nonce);
    // Only a secret of 256 GiB could be too long for the cipher.
    encrypted.extend(cipher(keys).encrypt(XNonce::from_slice(nonce), secret.expose()).unwrap_or_default());
    encrypted
}

/// Decrypts what [`encrypt`] made on this box.
pub fn decrypt(keys: &dyn Keystore, encrypted: &[u8]) -> Result<SecretBytes, NotOurs> {
    let (version, rest) = encrypted.split_first().ok_or(NotOurs)?;
    let (nonce, ciphertext) = rest.split_at_checked(NONCE).ok_or(NotOurs)?;
    if *version != VERSION {
        return Err(NotOurs);
    }
    cipher(keys).decrypt(XNonce::from_slice(nonce), ciphertext).map(SecretBytes::new).map_err(|_| NotOurs)
}

fn cipher(keys: &dyn Keystore) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(Key::from_slice(keys.keyed_digest("seal: key", b"").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystore::FileKeystore;

    #[test]
    fn a_secret_is_opened_by_the_box_that_encrypted_it_alone() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, _) = FileKeystore::open(here.path()).unwrap();
        let (theirs, _) = FileKeystore::open(there.path()).unwrap();
        let secret = SecretBytes::new(b"hunter2".to_vec());
        let encrypted = encrypt(&ours, &secret);
        assert_eq!(encrypted, encrypt(&ours, &secret), "the same secret, the same digest");
        assert!(!encrypted.windows(7).any(|part| part == b"hunter2"));
        assert_eq!(decrypt(&ours, &encrypted).unwrap(), secret);
        assert_eq!(decrypt(&theirs, &encrypted), Err(NotOurs));
        for place in 0..encrypted.len() {
            let mut changed = encrypted.clone();
            changed[place] ^= 1;
            assert_eq!(decrypt(&ours, &changed), Err(NotOurs), "byte {place}");
        }
        assert_eq!(decrypt(&ours, b""), Err(NotOurs));
    }
}
