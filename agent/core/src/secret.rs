//! Secrets as values, which never show their content.

use std::fmt;

use serde::{Serialize, Serializer};

/// What stands where a secret would.
const REDACTED: &str = "(secret)";

/// A secret's bytes. It can't be printed, logged or written down by accident: every form of it but
/// [`SecretBytes::expose`] says "(secret)".
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes a secret in.
    pub fn new(bytes: Vec<u8>) -> Self {
        SecretBytes(bytes)
    }

    /// The secret itself, for whoever encrypts it or hands it to a runtime.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        // As far as safe Rust can: the compiler may not leave a write out whose result is looked at.
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_in_no_form() {
        let secret = SecretBytes::new(b"hunter2".to_vec());
        let shown = format!("{secret:?} {secret} {}", serde_json::to_string(&secret).unwrap());
        assert_eq!(shown, r#"(secret) (secret) "(secret)""#);
    }
}
