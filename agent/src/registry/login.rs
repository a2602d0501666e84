//! Who the box is to a server.

use std::path::PathBuf;

use super::secret::Secret;
use crate::http::base64;

/// What a server gets to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// A user and a password.
    Password { user: String, password: Secret },
    /// A token that buys other tokens (Docker's `identitytoken`).
    Identity(Secret),
}

/// Why it stays unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoLogin {
    /// No file is named for the server.
    NoFile,
    /// The file says nothing of it.
    NoEntry(PathBuf),
}

impl Login {
    /// The value of the header Authorization for a server that asks for a password (RFC 7617).
    pub(super) fn basic(&self) -> Option<Secret> {
        match self {
            Login::Password { user, password } => {
                let both = format!("{user}:{}", password.reveal());
                Some(Secret::new(format!("Basic {}", base64::encode(both.as_bytes()))))
            }
            Login::Identity(_) => None,
        }
    }
}

/// What to do about a server that said no (`said`) to whoever `login` is.
pub(super) fn advice(server: &str, login: &Result<Login, NoLogin>, said: &str) -> String {
    match login {
        Ok(_) => format!(
            "{said}; correct the user and the password in auth_file of [registries.\"{server}\"], and check that \
             the image's name is right and this user may read it"
        ),
        Err(NoLogin::NoFile) => format!(
            "{said}, asked without a user; name a file in auth_file of [registries.\"{server}\"], or check that \
             the image's name is right"
        ),
        Err(NoLogin::NoEntry(path)) => {
            format!("{said}, asked without a user: {} has no entry for {server}; add one", path.display())
        }
    }
}
