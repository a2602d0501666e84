//! Trust: what was fetched becomes what may run, or is refused with a reason.
//!
//! Pure: the keys, the signature, the times and the ancestry come in as values, so that the same input gives
//! the same answer on every box, offline. Whatever a clock says, a floor never goes back.

mod allowed_signers;
mod commit;
mod refused;
mod sshsig;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::allowed_signers::{AllowedSigners, BadAllowedSigners, BadLine, NAMESPACE, SignedAt};
pub use self::refused::{KeyProblem, Refused};
pub use self::sshsig::{BadSignature, SshSignature};
use crate::clock::{Now, SLACK};
use crate::digest::Revision;

/// What the source brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Which commit.
    pub revision: Revision,
    /// The commit's committer time, as it claims.
    pub committed: Timestamp,
    /// Its signature, if it has one, or why it can't have been made by whom it names.
    pub signature: Result<Option<Signature>, BadSignature>,
    /// How it stands to the accepted revision.
    pub ancestry: Ancestry,
}

/// A signature and the bytes that it was made over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signature as the commit carries it (its `gpgsig` header without the indentation).
    pub armored: Vec<u8>,
    /// The commit without its signature.
    pub payload: Vec<u8>,
}

/// How a commit stands to the accepted revision. The source proves it by the commits' ids: the claim of a
/// server is never enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// Nothing was accepted before.
    First,
    /// It is the accepted revision.
    Same,
    /// The accepted revision is among its ancestors.
    Descends,
    /// The accepted revision is not among its ancestors.
    Foreign,
    /// Neither could be shown.
    Unproven {
        /// Why not, as the end of a sentence.
        why: String,
    },
}

/// What the box trusts.
#[derive(Clone, Debug)]
pub enum TrustPolicy {
    /// A commit must be signed by one of these keys.
    Signed(AllowedSigners),
    /// Signatures are not looked at. Going back is still refused.
    None,
}

impl TrustPolicy {
    /// The word that `status` prints.
    pub fn mode(&self) -> TrustMode {
        match self {
            TrustPolicy::Signed(_) => TrustMode::Signed,
            TrustPolicy::None => TrustMode::None,
        }
    }
}

/// The kind of trust that something was accepted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustMode {
    /// By a signature.
    Signed,
    /// By being there.
    None,
}

impl TrustMode {
    /// The word that `status` and agent.toml use.
    pub fn word(self) -> &'static str {
        match self {
            TrustMode::Signed => "signed",
            TrustMode::None => "none",
        }
    }
}

/// The newest revision that the box accepted: it takes nothing that does not descend from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Which revision.
    pub revision: Revision,
    /// The latest date that an accepted revision claimed, as far as it could be true then: nobody can have signed anything
    /// newer before. Never goes back.
    pub committed: Timestamp,
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The principals of the line that allows the key, as allowed_signers writes them.
    pub principal: String,
    /// The key's SHA-256 fingerprint, as ssh-keygen prints it.
    pub fingerprint: String,
}

/// A revision that may be accepted. Only [`verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    revision: Revision,
    committed: Timestamp,
    signer: Option<Signer>,
}

impl Verified {
    /// Which revision.
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// The floor of dates once it is accepted.
    pub fn committed(&self) -> Timestamp {
        self.committed
    }

    /// Who signed it; `None` under `trust = none`.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// The kind of trust that it was verified under.
    pub fn trust(&self) -> TrustMode {
        if self.signer.is_some() { TrustMode::Signed } else { TrustMode::None }
    }

    /// The floor once this revision is accepted.
    pub fn floor(&self) -> Floor {
        Floor { revision: self.revision.clone(), committed: self.committed }
    }
}

/// Decides whether what was fetched may be accepted on top of `accepted`.
///
/// A key's validity is checked at the commit's committer time, as git does, and within what the box has proof of: what
/// descends from a commit was made after it, so a key that had expired by then cannot sign by writing an old date; and
/// what has not come yet has not been, so a key cannot sign before its time by writing a later one.
///
/// # Errors
/// [`Refused`] says why the box keeps what it has, and what would change that.
pub fn verify(
    fetched: &Fetched,
    policy: &TrustPolicy,
    accepted: Option<&Floor>,
    now: &Now,
) -> Result<Verified, Refused> {
    let signer = match policy {
        TrustPolicy::None => None,
        TrustPolicy::Signed(signers) => Some(check_signature(fetched, signers, accepted, now)?),
    };
    if let Some(floor) = accepted {
        check_descent(fetched, floor)?;
    }
    let committed = floor_of_dates(fetched, accepted, now);
    Ok(Verified { revision: fetched.revision.clone(), committed, signer })
}

/// The floor of dates once the revision is accepted.
fn floor_of_dates(fetched: &Fetched, accepted: Option<&Floor>, now: &Now) -> Timestamp {
    match accepted {
        // It was accepted before, when less was known.
        Some(floor) if floor.revision == fetched.revision => floor.committed,
        Some(floor) => floor.committed.max(now.credible(fetched.committed)),
        None => now.credible(fetched.committed),
    }
}

fn check_signature(
    fetched: &Fetched,
    signers: &AllowedSigners,
    accepted: Option<&Floor>,
    now: &Now,
) -> Result<Signer, Refused> {
    let revision = || fetched.revision.clone();
    let bad = |cause| Refused::Signature { revision: revision(), cause };
    let Some(signature) = fetched.signature.as_ref().map_err(|cause| bad(cause.clone()))? else {
        return Err(Refused::Unsigned { revision: revision() });
    };
    let parsed = SshSignature::parse(&signature.armored).map_err(bad)?;
    parsed.check(NAMESPACE, &signature.payload).map_err(bad)?;
    let claimed = fetched.committed;
    // A committer's clock may be a little ahead.
    let latest = now.time.known().map(|now| now.saturating_add(SLACK).unwrap_or(now));
    let at = SignedAt {
        no_later: latest.map_or(claimed, |latest| claimed.min(latest)),
        no_earlier: accepted.map_or(claimed, |floor| claimed.max(floor.committed)),
    };
    let fingerprint = parsed.fingerprint();
    match signers.principal_of(parsed.key(), NAMESPACE, at) {
        Ok(principal) => Ok(Signer { principal: principal.to_owned(), fingerprint }),
        Err(problem) => Err(Refused::Key { revision: revision(), fingerprint, problem }),
    }
}

fn check_descent(fetched: &Fetched, floor: &Floor) -> Result<(), Refused> {
    let revision = fetched.revision.clone();
    let accepted = floor.revision.clone();
    match &fetched.ancestry {
        Ancestry::Descends => Ok(()),
        Ancestry::Same if revision == accepted => Ok(()),
        Ancestry::Foreign => Err(Refused::NotADescendant { revision, accepted }),
        Ancestry::Unproven { why } => Err(Refused::DescentUnproven { revision, accepted, why: why.clone() }),
        Ancestry::First | Ancestry::Same => Err(Refused::DescentUnproven {
            revision,
            accepted,
            why: "the source compared it with another revision than the accepted one".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
