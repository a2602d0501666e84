//! Why an image, or a part of one, could not be fetched: which servers were asked, and what each of them said.

use std::fmt;
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::image::ImageReference;
use holdfast_core::oci::{BadManifest, NoPlatform};
use holdfast_store::StoreError;

use crate::http::Failure;
use crate::http::allowance::UsedUp;

/// Why something of an image isn't on the box. What is there of it stays.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// None of those who were asked could give it.
    #[error("cannot fetch {what}: {}", each(.tried))]
    Failed {
        /// What was asked for.
        what: String,
        /// Everybody who was asked, in this order.
        tried: Vec<Tried>,
    },
    /// The image is made for other machines.
    #[error("cannot use {image}: {cause}; push it for this platform too, or name another image")]
    NoPlatform {
        /// Which image.
        image: Box<ImageReference>,
        /// What was looked for, and what there is.
        cause: NoPlatform,
    },
    /// The image is none that can be run.
    #[error("cannot use {image}: {cause}")]
    Unusable {
        /// Which image.
        image: Box<ImageReference>,
        /// What is wrong with its manifest.
        cause: BadManifest,
    },
    /// Nothing is left of the box's byte budget, or not enough.
    #[error("cannot fetch {what} now: {cause}")]
    UsedUp {
        /// What was asked for.
        what: String,
        /// How much was used, and when there is more.
        cause: UsedUp,
    },
    /// The box's own disk.
    #[error("cannot keep {what}: {cause}")]
    Disk {
        /// What should be kept.
        what: String,
        /// Why it can't.
        cause: StoreError,
    },
}

impl RegistryError {
    /// What the disk said, if it is the reason.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            RegistryError::Disk { cause, .. } => cause.trouble(),
            _ => None,
        }
    }

    /// Whether time alone may help, so that it is worth trying again without a change.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Failed { tried, .. } => tried.iter().any(|tried| tried.reason.may_pass()),
            RegistryError::UsedUp { .. } => true,
            RegistryError::Disk { cause, .. } => matches!(cause, StoreError::Busy { .. }),
            _ => false,
        }
    }

    /// How long the servers ask to be left alone, if one does: the shortest of their wishes.
    pub fn retry_after(&self) -> Option<Duration> {
        let RegistryError::Failed { tried, .. } = self else { return None };
        tried.iter().filter_map(|tried| tried.reason.retry_after()).min()
    }

    /// The same, where the same servers would have been asked for something else: who doesn't answer now doesn't for that.
    pub fn instead_for(&self, what: impl fmt::Display) -> Option<Self> {
        let what = what.to_string();
        match self {
            RegistryError::Failed { tried, .. } => Some(RegistryError::Failed { what, tried: tried.clone() }),
            RegistryError::UsedUp { cause, .. } => Some(RegistryError::UsedUp { what, cause: cause.clone() }),
            _ => None,
        }
    }

    pub(super) fn disk(what: impl fmt::Display) -> impl FnOnce(StoreError) -> Self {
        move |cause| RegistryError::Disk { what: what.to_string(), cause }
    }
}

/// One server that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Its name in agent.toml or in the image's reference.
    pub server: String,
    /// Whether it is a mirror of the image's registry.
    pub is_mirror: bool,
    /// What became of it.
    pub reason: Reason,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.is_mirror { "mirror" } else { "registry" };
        write!(f, "{role} {}: {}", self.server, self.reason)
    }
}

fn each(tried: &[Tried]) -> String {
    tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why one server didn't give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There is no way to it, or the connection broke.
    #[error("it cannot be reached: {why}; check the network, the host name and the proxy")]
    Unreachable {
        /// What failed.
        why: String,
    },
    /// It was too slow, or said nothing.
    #[error("it took too long: {why}; check the network and the server")]
    TimedOut {
        /// Which limit was hit, where.
        why: String,
    },
    /// It can't be trusted to be the one that was meant.
    #[error(
        "it cannot be trusted: {why}; if it has a private certificate authority, name its certificates in \
         ca_file of its [registries] section, and check the box's clock"
    )]
    Untrusted {
        /// What is wrong with its certificate.
        why: String,
    },
    /// It wants to know who asks, or refuses whoever does.
    #[error("it refuses access to this box: {why}")]
    Refused {
        /// What it said, and what to do.
        why: String,
    },
    /// It hasn't got it.
    #[error("it has no such image ({why}): check the image's name and tag")]
    NotFound {
        /// What it said.
        why: String,
    },
    /// It can't answer now.
    #[error("it cannot answer now ({why}){}", later(.retry_after))]
    Busy {
        /// What it said.
        why: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It says what no registry says.
    #[error("it does not answer like a registry: {why}")]
    Protocol {
        /// What was wrong.
        why: String,
    },
    /// It sends something else than what was asked for.
    #[error(
        "the content it sent has the digest {got} instead of {expected}: it is damaged, or it is the wrong content"
    )]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        got: Digest,
    },
    /// It sends more, or less, than there is.
    #[error("it sent {why}")]
    WrongSize {
        /// How much, and how much it should be.
        why: String,
    },
    /// Its manifest can't be used.
    #[error("{0}")]
    Manifest(#[from] BadManifest),
    /// The box stopped by itself.
    #[error("{0}")]
    UsedUp(UsedUp),
    /// The box can't ask it: a file that agent.toml names for it can't be used.
    #[error("it was not asked: {0}")]
    Local(String),
}

impl Reason {
    /// Whether time alone may help.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Reason::Unreachable { .. } | Reason::TimedOut { .. } | Reason::Busy { .. })
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Reason::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<Failure> for Reason {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(why) => Reason::Unreachable { why },
            Failure::TimedOut(why) => Reason::TimedOut { why },
            Failure::Untrusted(why) => Reason::Untrusted { why },
            Failure::Protocol(why) => Reason::Protocol { why },
            Failure::UsedUp(cause) => Reason::UsedUp(cause),
        }
    }
}

fn later(retry_after: &Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("; retry after {} s", wait.as_secs()),
        None => String::new(),
    }
}
