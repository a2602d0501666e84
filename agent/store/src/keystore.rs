//! The box's own keys, behind a seam: files today, a TPM later.
//!
//! Three keys, each in a file of its own under `keys/` (0600 in a 0700 folder): an ed25519 key that signs, an
//! age identity that opens secrets meant for this box, and 32 random bytes for keyed digests. They are made
//! at the first start, each written whole or not at all. A key that isn't readable any more is set aside and
//! made anew, because a box that nobody can visit must go on; whoever knew the old public key has to be told,
//! and that is said loudly.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use hmac::{Hmac, Mac};
use holdfast_core::digest::Digest;
use sha2::Sha256;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use crate::durable_files;
use crate::error::{DiskError, StoreError};
use crate::fault;

/// Where the box's keys are, and what can be done with them without taking them out.
pub trait Keystore: fmt::Debug + Send + Sync {
    /// The signing key's public half, as one line of OpenSSH's `authorized_keys` format.
    fn public_key(&self) -> Result<String, StoreError>;

    /// The age recipient that secrets for this box are encrypted to: `age1…`.
    fn age_recipient(&self) -> String;

    /// Signs `message` in `namespace`, as `ssh-keygen -Y sign` does: an armoured SSHSIG (OpenSSH,
    /// PROTOCOL.sshsig).
    fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, StoreError>;

    /// A digest that only this box can compute (HMAC-SHA-256), so that a secret's digest says nothing about
    /// the secret. `purpose` keeps digests for different uses apart.
    fn keyed_digest(&self, purpose: &str, message: &[u8]) -> Digest;

    /// The age identity, for decrypting. Only the executor uses it.
    fn age_identity(&self) -> &dyn age::Identity;
}

/// The 32 bytes for keyed digests.
struct BoxKey([u8; 32]);

/// Keys in files.
pub struct FileKeystore {
    signing: PrivateKey,
    age: age::x25519::Identity,
    mac: BoxKey,
}

/// A key that couldn't be read and was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedKey {
    /// Which: "signing", "age" or "box".
    pub key: &'static str,
    /// Why the old one couldn't be used. Never part of it.
    pub reason: String,
    /// Where the old one is now.
    pub set_aside: PathBuf,
}

impl fmt::Debug for FileKeystore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeystore").field("age_recipient", &self.age_recipient()).finish_non_exhaustive()
    }
}

impl FileKeystore {
    /// Opens the keys in `dir`; those that aren't there are made. Gives also those that had to be replaced.
    pub fn open(dir: &Path) -> Result<(Self, Vec<ReplacedKey>), StoreError> {
        durable_files::private_dir(dir)?;
        let mut replaced = Vec::new();
        let signing = load_or_make(&SIGNING, dir, &mut replaced)?;
        let age = load_or_make(&AGE, dir, &mut replaced)?;
        let mac = load_or_make(&BOX, dir, &mut replaced)?;
        Ok((FileKeystore { signing, age, mac }, replaced))
    }
}

impl Keystore for FileKeystore {
    fn public_key(&self) -> Result<String, StoreError> {
        self.signing.public_key().to_openssh().map_err(|error| key_error("write out", "signing", error))
    }

    fn age_recipient(&self) -> String {
        self.age.to_public().to_string()
    }

    fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, StoreError> {
        self.signing
            .sign(namespace, HashAlg::Sha512, message)
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map_err(|error| key_error("sign with", "signing", error))
    }

    fn keyed_digest(&self, purpose: &str, message: &[u8]) -> Digest {
        let mut mac = keyed(&self.mac);
        // The purpose's length goes first, so that no purpose and message look like another pair.
        mac.update(&(purpose.len() as u64).to_le_bytes());
        mac.update(purpose.as_bytes());
        mac.update(message);
        Digest::from_bytes(mac.finalize().into_bytes().into())
    }

    fn age_identity(&self) -> &dyn age::Identity {
        &self.age
    }
}

fn keyed(key: &BoxKey) -> Hmac<Sha256> {
    match Hmac::<Sha256>::new_from_slice(&key.0) {
        Ok(mac) => mac,
        // HMAC takes keys of every length (RFC 2104, section 2).
        Err(_) => unreachable!("HMAC takes keys of every length"),
    }
}

/// A key that was just made, and the bytes of its file.
type Made<K> = (K, Vec<u8>);

/// How one kind of key is made, written and read.
struct KeyFile<K> {
    key: &'static str,
    file: &'static str,
    make: fn() -> Result<Made<K>, String>,
    parse: fn(&[u8]) -> Result<K, String>,
}

const SIGNING: KeyFile<PrivateKey> = KeyFile {
    key: "signing",
    file: "signing.key",
    make: || {
        let pair = Ed25519Keypair::from_seed(&random()?);
        let key = PrivateKey::new(KeypairData::from(pair), "holdfast").map_err(|e| e.to_string())?;
        let text = key.to_openssh(LineEnding::LF).map_err(|e| e.to_string())?;
        Ok((key, text.as_bytes().to_vec()))
    },
    parse: |bytes| PrivateKey::from_openssh(bytes).map_err(|e| e.to_string()),
};

const AGE: KeyFile<age::x25519::Identity> = KeyFile {
    key: "age",
    file: "age.key",
    make: || {
        let identity = age::x25519::Identity::generate();
        let mut text = identity.to_string().expose_secret().as_bytes().to_vec();
        text.push(b'\n');
        Ok((identity, text))
    },
    parse: |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|_| "it isn't text".to_owned())?;
        age::x25519::Identity::from_str(text.trim()).map_err(str::to_owned)
    },
};

const BOX: KeyFile<BoxKey> = KeyFile {
    key: "box",
    file: "box.key",
    make: || {
        let key = BoxKey(random()?);
        let text = format!("{}\n", hex::encode(key.0)).into_bytes();
        Ok((key, text))
    },
    parse: |bytes| {
        let mut key = [0; 32];
        let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        // hex's own error names a character of the key.
        hex::decode_to_slice(digits, &mut key).map_err(|_| "it isn't 64 hexadecimal digits".to_owned())?;
        Ok(BoxKey(key))
    },
};

fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("the kernel gives no random bytes: {error}"))?;
    Ok(bytes)
}

fn load_or_make<K>(kind: &KeyFile<K>, dir: &Path, replaced: &mut Vec<ReplacedKey>) -> Result<K, StoreError> {
    let path = dir.join(kind.file);
    match fs::read(&path) {
        Ok(bytes) => match (kind.parse)(&bytes) {
            Ok(key) => return Ok(key),
            Err(reason) => {
                let set_aside = durable_files::set_aside(&path)?;
                replaced.push(ReplacedKey { key: kind.key, reason, set_aside });
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(DiskError::new("read the key", &path, error).into()),
    }
    let (key, bytes) = (kind.make)().map_err(|cause| key_error("make", kind.key, cause))?;
    let temp = durable_files::with_suffix(&path, ".new");
    durable_files::write_new(&temp, &bytes)?;
    fault::point("keys.temp-synced");
    durable_files::rename_synced(&temp, &path)?;
    fault::point("keys.renamed");
    Ok(key)
}

fn key_error(doing: &'static str, key: &'static str, cause: impl ToString) -> StoreError {
    StoreError::Key { doing, key, cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ssh_key::{PublicKey, SshSig};

    use super::*;

    #[test]
    fn the_keys_of_the_first_start_are_there_at_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = FileKeystore::open(&dir.path().join("keys")).unwrap();
        let (second, replaced) = FileKeystore::open(&dir.path().join("keys")).unwrap();
        assert_eq!(replaced, []);
        assert_eq!(first.public_key().unwrap(), second.public_key().unwrap());
        assert_eq!(first.age_recipient(), second.age_recipient());
        assert_eq!(first.keyed_digest("a", b"x"), second.keyed_digest("a", b"x"));
        assert_ne!(first.keyed_digest("a", b"x"), second.keyed_digest("ax", b""));
    }

    #[test]
    fn only_the_agent_may_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        FileKeystore::open(&keys).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keys), 0o700);
        for entry in fs::read_dir(&keys).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
    }

    #[test]
    fn a_signature_is_what_openssh_understands() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, _) = FileKeystore::open(dir.path()).unwrap();
        let signature: SshSig = keys.sign("holdfast", b"report").unwrap().parse().unwrap();
        let public: PublicKey = keys.public_key().unwrap().parse().unwrap();
        public.verify("holdfast", b"report", &signature).unwrap();
        assert!(public.verify("git", b"report", &signature).is_err());
        assert!(public.verify("holdfast", b"another", &signature).is_err());
    }

    #[test]
    fn a_start_that_was_cut_off_while_making_keys_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("age.key.new"), "AGE-SECRET-KEY-1HALF").unwrap();
        let (keys, replaced) = FileKeystore::open(dir.path()).unwrap();
        assert_eq!(replaced, []);
        assert!(keys.age_recipient().starts_with("age1"));
        assert!(!dir.path().join("age.key.new").exists());
    }

    #[test]
    fn a_damaged_key_is_set_aside_and_made_anew_and_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = FileKeystore::open(dir.path()).unwrap();
        for file in ["signing.key", "age.key", "box.key"] {
            let bytes = fs::read(dir.path().join(file)).unwrap();
            fs::write(dir.path().join(file), &bytes[..bytes.len() / 2]).unwrap();
        }
        let (second, replaced) = FileKeystore::open(dir.path()).unwrap();
        assert_eq!(replaced.iter().map(|r| r.key).collect::<Vec<_>>(), ["signing", "age", "box"]);
        assert_ne!(first.age_recipient(), second.age_recipient());
        assert!(replaced.iter().all(|r| r.set_aside.exists()));
    }

    #[test]
    fn no_secret_shows_in_debug_output() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, _) = FileKeystore::open(dir.path()).unwrap();
        let shown = format!("{keys:?}");
        let secret = fs::read_to_string(dir.path().join("age.key")).unwrap();
        assert!(!shown.contains(secret.trim()) && !shown.contains("PRIVATE"), "{shown}");
    }
}
