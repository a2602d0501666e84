//! Who workloads run as.

use serde::{Deserialize, Serialize};

/// A user of the box, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Whom workloads run as, where the agent is root; nobody but root can become another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The agent's own user.
    Agent,
    /// A user of this name, who is looked up at each use: one that is made later counts from then on.
    Named(String),
    /// A user by numbers.
    Numbers(User),
}

impl RunAs {
    /// Whom to become; none where the agent's own user stays.
    ///
    /// # Errors
    /// There is no such user; for people.
    pub fn user(&self) -> Result<Option<User>, String> {
        match self {
            RunAs::Agent => Ok(None),
            RunAs::Numbers(user) => Ok(Some(*user)),
            RunAs::Named(name) => match nix::unistd::User::from_name(name) {
                Ok(Some(user)) => Ok(Some(User { uid: user.uid.as_raw(), gid: user.gid.as_raw() })),
                Ok(None) => Err(format!(
                    "there is no user {name} for WebAssembly to run as: create it (systemd-sysusers, or useradd --system \
                     {name}), or set drivers.wasm.user to \"\" in agent.toml"
                )),
                Err(error) => Err(format!("the user {name} can't be looked up: {error}")),
            },
        }
    }
}
