//! Secrets of releases, as drivers are given them.

use holdfast_core::digest::Digest;
use holdfast_core::secret::SecretBytes;

/// Opens the secrets of releases.
pub trait SecretSource: Send + Sync {
    /// The secret that was encrypted as `digest`; or why it can't be opened, for people.
    fn open(&self, digest: &Digest) -> Result<SecretBytes, String>;
}
