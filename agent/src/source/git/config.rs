//! Where the state comes from, as agent.toml says it.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Credentials;
pub use crate::config::Reference;

/// A reference's full name; `None` for a revision.
pub(crate) fn full_name(reference: &Reference) -> Option<String> {
    match reference {
        Reference::Branch(name) => Some(format!("refs/heads/{name}")),
        Reference::Tag(name) => Some(format!("refs/tags/{name}")),
        Reference::Revision(_) => None,
    }
}

/// A reference in the words of an error.
pub(crate) fn described(reference: &Reference) -> String {
    match reference {
        Reference::Branch(name) => format!("branch {name:?}"),
        Reference::Tag(name) => format!("tag {name:?}"),
        Reference::Revision(id) => format!("revision {id}"),
    }
}

/// The source, as agent.toml's `[source]` describes it. Paths are absolute by now.
#[derive(Clone, Debug)]
pub struct GitConfig {
    /// `https://`, `http://` or `file://`.
    pub url: String,
    /// What is followed.
    pub reference: Reference,
    /// The folder of the repository that is the source's top; `.` is the repository's own.
    pub path: String,
    /// How long the server may be silent at each step, and how long a poll may take in all. A fetch may take
    /// [`Limits::fetch`] as long as the server isn't slower than [`Limits::slowest`].
    pub timeout: Duration,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Who asks. With a token and no name, `git` is sent.
    pub credentials: Option<Credentials>,
    /// `http://[user:password@]host:port`. Without it `https_proxy`, `http_proxy` and `no_proxy` count.
    pub proxy: Option<String>,
    /// How much is taken.
    pub limits: Limits,
}

impl GitConfig {
    /// The source at `url`, following `reference`, with everything else as agent.toml's defaults.
    pub fn new(url: impl Into<String>, reference: Reference) -> Self {
        GitConfig {
            url: url.into(),
            reference,
            path: ".".to_owned(),
            timeout: Duration::from_secs(60),
            ca_file: None,
            credentials: None,
            proxy: None,
            limits: Limits::default(),
        }
    }
}

/// How much the box takes from a server before it gives up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes received in one fetch.
    pub pack: u64,
    /// Bytes received in one poll, or while descent is proved.
    pub talk: u64,
    /// Bytes of one object, unpacked.
    pub object: u64,
    /// Commits looked at while descent is proved.
    pub commits: usize,
    /// How long a fetch may take in all.
    pub fetch: Duration,
    /// Bytes a second, averaged over `timeout`, below which a server is given up.
    pub slowest: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            pack: 2 << 30,
            talk: 64 << 20,
            object: 512 << 20,
            commits: 200_000,
            fetch: Duration::from_secs(3600),
            slowest: 100,
        }
    }
}
