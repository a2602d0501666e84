//! Who asks: read from files at each use, so that they may be rotated, and never kept or logged.

use std::path::{Path, PathBuf};

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
        let file = match (&config.password_file, &config.token_file) {
            (None, None) if config.username.is_none() => return Ok(None),
            (None, None) => {
                return Err(SourceError::Config(
                    "source.username needs source.password_file or source.token_file".to_owned(),
                ));
            }
            (Some(_), Some(_)) => {
                return Err(SourceError::Config(
                    "source.password_file and source.token_file exclude each other".to_owned(),
                ));
            }
            (Some(_), None) if config.username.is_none() => {
                return Err(SourceError::Config("source.password_file needs source.username".to_owned()));
            }
            (Some(file), None) | (None, Some(file)) => file.clone(),
        };
        // The forges take a token as the password of any user.
        let username = config.username.clone().unwrap_or_else(|| "git".to_owned());
        if username.contains(':') || username.chars().any(char::is_control) {
            return Err(SourceError::Config("source.username has a colon or a control character".to_owned()));
        }
        if !config.url.starts_with("https://") {
            return Err(SourceError::Config(
                "source.password_file or token_file with http:// would send the secret in the clear: use \
                 https://"
                    .to_owned(),
            ));
        }
        Ok(Some(Credentials { username, file }))
    }

    /// The value of the Authorization header (RFC 7617).
    pub(crate) fn header(&self) -> Result<String, SourceError> {
        let secret = read_secret(&self.file)?;
        Ok(format!("Basic {}", base64::encode(format!("{}:{secret}", self.username).as_bytes())))
    }
}

fn read_secret(path: &Path) -> Result<String, SourceError> {
    let bad =
        |why: &str| SourceError::Local(format!("the secret in {} cannot be used: {why}", path.display()));
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

    fn config(url: &str) -> GitConfig {
        GitConfig::new(url, Reference::Branch("main".to_owned()))
    }

    #[test]
    fn a_secret_is_never_sent_in_the_clear() {
        let mut config = config("http://example/x.git");
        config.token_file = Some("/token".into());
        assert!(Credentials::of(&config).unwrap_err().to_string().contains("in the clear"));
    }

    #[test]
    fn half_given_credentials_are_an_error() {
        let mut only_name = config("https://example/x.git");
        only_name.username = Some("edge".to_owned());
        assert!(Credentials::of(&only_name).is_err());
        let mut only_password = config("https://example/x.git");
        only_password.password_file = Some("/p".into());
        assert!(Credentials::of(&only_password).is_err());
    }

    #[test]
    fn a_rotated_secret_is_used_at_once_and_an_empty_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let mut config = config("https://example/x.git");
        config.token_file = Some(file.clone());
        let credentials = Credentials::of(&config).unwrap().unwrap();
        std::fs::write(&file, "a\n").unwrap();
        assert_eq!(credentials.header().unwrap(), "Basic Z2l0OmE=");
        std::fs::write(&file, "b").unwrap();
        assert_eq!(credentials.header().unwrap(), "Basic Z2l0OmI=");
        std::fs::write(&file, "\n").unwrap();
        assert!(credentials.header().unwrap_err().to_string().contains("empty"));
    }
}
