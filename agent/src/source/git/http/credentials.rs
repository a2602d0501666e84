//! Who asks: read from files at each use, so that they may be rotated, and never kept or logged.

use std::path::{Path, PathBuf};

use crate::config;
use crate::http::base64;
use crate::source::error::SourceError;
use crate::source::git::config::GitConfig;

/// The longest password or token.
const MAX_SECRET: u64 = 64 << 10;

/// Where the name and the secret are found.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    username: String,
    file: PathBuf,
}

impl Credentials {
    /// What the configuration says, if anything.
    pub(crate) fn of(config: &GitConfig) -> Result<Option<Self>, SourceError> {
        let Some(given) = &config.credentials else { return Ok(None) };
        if !config.url.starts_with("https://") {
            return Err(SourceError::Config(
                "source.password_file or token_file with http:// would send the secret in the clear: use \
                 https://"
                    .to_owned(),
            ));
        }
        let username = match given {
            config::Credentials::Password { username, .. } => username.clone(),
            // The forges take a token as the password of any user.
            config::Credentials::Token { username, .. } => {
                username.clone().unwrap_or_else(|| "git".to_owned())
            }
        };
        Ok(Some(Credentials { username, file: given.file().to_owned() }))
    }

    /// The value of the Authorization header (RFC 7617).
    pub(crate) fn header(&self) -> Result<String, SourceError> {
        let secret = read_secret(&self.file)?;
        Ok(format!("Basic {}", base64::encode(format!("{}:{secret}", self.username).as_bytes())))
    }
}

fn read_secret(path: &Path) -> Result<String, SourceError> {
    let bad =
        |why: &str| SourceError::here(format!("the secret in {} cannot be used: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| bad(&error.to_string()))?.len();
    if size > MAX_SECRET {
        return Err(bad("the file is too large"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error.to_string()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    match secret {
        "" => Err(bad("the file is empty")),
        _ if secret.chars().any(char::is_control) => {
            Err(bad("it has more than one line, or control characters"))
        }
        _ => Ok(secret.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::config::Reference;
    use super::*;

    fn with_token(url: &str, token_file: PathBuf) -> GitConfig {
        let mut config = GitConfig::new(url, Reference::Branch("main".to_owned()));
        config.credentials = Some(config::Credentials::Token { username: None, token_file });
        config
    }

    #[test]
    fn a_secret_is_never_sent_in_the_clear() {
        let config = with_token("http://example/x.git", "/token".into());
        assert!(Credentials::of(&config).unwrap_err().to_string().contains("in the clear"));
    }

    #[test]
    fn a_rotated_secret_is_used_at_once_and_an_empty_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let config = with_token("https://example/x.git", file.clone());
        let credentials = Credentials::of(&config).unwrap().unwrap();
        std::fs::write(&file, "a\n").unwrap();
        assert_eq!(credentials.header().unwrap(), "Basic Z2l0OmE=");
        std::fs::write(&file, "b").unwrap();
        assert_eq!(credentials.header().unwrap(), "Basic Z2l0OmI=");
        std::fs::write(&file, "\n").unwrap();
        assert!(credentials.header().unwrap_err().to_string().contains("empty"));
    }
}
