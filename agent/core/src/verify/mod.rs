//! Trust: what was fetched becomes what may run, or is refused with a reason.
//!
//! Pure: the keys, the signature, the times and the ancestry come in as values, so that the same input gives
//! the same answer on every box, offline. Whatever a clock says, a floor never goes back.

mod about;
mod allowed_signers;
mod commit;
mod refused;
mod sshsig;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::about::About;
pub use self::allowed_signers::{AllowedSigners, BadAllowedSigners, BadLine, NAMESPACE, SignedAt};
pub use self::refused::{KeyProblem, Refused};
pub use self::sshsig::{BadSignature, SshSignature};
use crate::clock::{Now, SLACK};
use crate::digest::Revision;

/// What the source brought: a revision, and what it can show for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Which revision.
    pub revision: Revision,
    /// Why it may be believed.
    pub proof: Proof,
    /// What people know it by, where the source has that.
    pub about: Option<About>,
}

/// What a source shows for a revision, by the kind of source. Which kind it is decides how its revisions are ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A commit: what comes later has what came before among its ancestors.
    Git(GitProof),
    /// An artifact or a bucket: an index names every file, and counts.
    Artifact(ArtifactProof),
}

/// What Git shows for a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitProof {
    /// The commit's committer time, as it claims.
    pub committed: Timestamp,
    /// Its signature, if it has one, or why it can't have been made by whom it names.
    pub signature: Result<Option<Signature>, BadSignature>,
    /// How it stands to the accepted revision.
    pub ancestry: Ancestry,
}

/// What an artifact shows: its index, and what the index says of itself. The source has compared the revision with the
/// bytes that it was read from, as it has with a commit's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactProof {
    /// When the index was made, as it claims.
    pub committed: Timestamp,
    /// The signature over the index, if it has one.
    pub signature: Option<Signature>,
    /// The number that the index has: a newer revision has a higher one.
    pub sequence: u64,
}

impl Fetched {
    /// The same once it is accepted: to be verified again, it stands to itself.
    #[must_use]
    pub fn as_accepted(mut self) -> Self {
        if let Proof::Git(git) = &mut self.proof {
            git.ancestry = Ancestry::Same;
        }
        self
    }
}

impl Proof {
    /// When the revision was made, as it claims.
    pub fn committed(&self) -> Timestamp {
        match self {
            Proof::Git(git) => git.committed,
            Proof::Artifact(artifact) => artifact.committed,
        }
    }

    /// The signature, if there is one, or why it can't have been made by whom it names.
    pub fn signature(&self) -> Result<Option<&Signature>, &BadSignature> {
        match self {
            Proof::Git(git) => git.signature.as_ref().map(Option::as_ref),
            Proof::Artifact(artifact) => Ok(artifact.signature.as_ref()),
        }
    }

    /// The namespace that the signature must be made for: one for another purpose proves nothing here.
    fn namespace(&self) -> &'static str {
        match self {
            Proof::Git(_) => NAMESPACE,
            Proof::Artifact(_) => INDEX_NAMESPACE,
        }
    }

    /// The number that orders it among others; none where ancestry does.
    fn sequence(&self) -> Option<u64> {
        match self {
            Proof::Git(_) => None,
            Proof::Artifact(artifact) => Some(artifact.sequence),
        }
    }
}

/// The namespace of signatures over an artifact's index (`ssh-keygen -Y sign -n holdfast`).
pub const INDEX_NAMESPACE: &str = "holdfast";

/// A signature and the bytes that it was made over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signature as it came (Git: the commit's `gpgsig` header without the indentation).
    pub armored: Vec<u8>,
    /// What was signed (Git: the commit without its signature).
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
    /// A revision must be signed by one of these keys.
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

/// The newest revision that the box accepted: it takes nothing that is not newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Which revision.
    pub revision: Revision,
    /// The latest date that an accepted revision claimed, as far as it could be true then: nobody can have signed anything
    /// newer before. Never goes back.
    pub committed: Timestamp,
    /// Its number, if it has one: what is newer has a higher one. Without, what is newer descends from it.
    pub sequence: Option<u64>,
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The principals of the line that allows the key, as allowed_signers writes them.
    pub principal: String,
    /// The key's SHA-256 fingerprint, as ssh-keygen prints it.
    pub fingerprint: String,
}

/// A revision that may be accepted, gathered, selected and rendered. Only [`verify`] and [`verify_again`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    floor: Floor,
    signer: Option<Signer>,
}

impl Verified {
    /// Which revision.
    pub fn revision(&self) -> &Revision {
        &self.floor.revision
    }

    /// The floor of dates once it is accepted.
    pub fn committed(&self) -> Timestamp {
        self.floor.committed
    }

    /// Who signed it; `None` under `trust = none`, and for what runs already and has lost its signer since.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// The kind of trust that it was verified under.
    pub fn trust(&self) -> TrustMode {
        if self.signer.is_some() { TrustMode::Signed } else { TrustMode::None }
    }

    /// The floor once this revision is accepted.
    pub fn floor(&self) -> Floor {
        self.floor.clone()
    }
}

/// Decides whether what was fetched may be accepted on top of `accepted`.
///
/// A key's validity is checked at the time that the revision claims, as git does, and within what the box has proof of:
/// what is newer than a revision was made after it, so a key that had expired by then cannot sign by writing an old date;
/// and what has not come yet has not been, so a key cannot sign before its time by writing a later one.
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
        check_order(fetched, floor)?;
    }
    Ok(Verified { floor: floor_of(fetched, accepted, now), signer })
}

/// Decides whether the accepted revision may still be used, under the policy as it is now: whom the box believes may
/// have changed since. What was `applied` in full runs already, and stays: there is nothing more of it to come, and a
/// box must come up after a restart though the one who signed what it runs is no longer allowed to sign.
///
/// # Errors
/// [`Refused`] says why nothing more of the revision may be applied, and what would change that.
pub fn verify_again(
    fetched: &Fetched,
    policy: &TrustPolicy,
    accepted: &Floor,
    applied: Option<&Revision>,
    now: &Now,
) -> Result<Verified, Refused> {
    let runs = applied == Some(&accepted.revision) && fetched.revision == accepted.revision;
    match verify(fetched, policy, Some(accepted), now) {
        Err(_) if runs => Ok(Verified { floor: accepted.clone(), signer: None }),
        verified => verified,
    }
}

fn floor_of(fetched: &Fetched, accepted: Option<&Floor>, now: &Now) -> Floor {
    Floor {
        revision: fetched.revision.clone(),
        committed: floor_of_dates(fetched, accepted, now),
        sequence: fetched.proof.sequence(),
    }
}

/// The floor of dates once the revision is accepted.
fn floor_of_dates(fetched: &Fetched, accepted: Option<&Floor>, now: &Now) -> Timestamp {
    let claimed = fetched.proof.committed();
    match accepted {
        // It was accepted before, when less was known.
        Some(floor) if floor.revision == fetched.revision => floor.committed,
        Some(floor) => floor.committed.max(now.credible(claimed)),
        None => now.credible(claimed),
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
    let Some(signature) = fetched.proof.signature().map_err(|cause| bad(cause.clone()))? else {
        return Err(Refused::Unsigned { revision: revision() });
    };
    let namespace = fetched.proof.namespace();
    let parsed = SshSignature::parse(&signature.armored).map_err(bad)?;
    parsed.check(namespace, &signature.payload).map_err(bad)?;
    let claimed = fetched.proof.committed();
    // A committer's clock may be a little ahead.
    let latest = now.time.known().map(|now| now.saturating_add(SLACK).unwrap_or(now));
    let at = SignedAt {
        no_later: latest.map_or(claimed, |latest| claimed.min(latest)),
        no_earlier: accepted.map_or(claimed, |floor| claimed.max(floor.committed)),
    };
    let fingerprint = parsed.fingerprint();
    match signers.principal_of(parsed.key(), namespace, at) {
        Ok(principal) => Ok(Signer { principal: principal.to_owned(), fingerprint }),
        Err(problem) => Err(Refused::Key { revision: revision(), fingerprint, problem }),
    }
}

/// Whether what was fetched is the accepted revision or a newer one.
fn check_order(fetched: &Fetched, floor: &Floor) -> Result<(), Refused> {
    let revision = fetched.revision.clone();
    let accepted = floor.revision.clone();
    match (&fetched.proof, floor.sequence) {
        (Proof::Git(git), None) => check_descent(revision, accepted, &git.ancestry),
        (Proof::Artifact(artifact), Some(newest)) => match artifact.sequence.cmp(&newest) {
            std::cmp::Ordering::Greater => Ok(()),
            std::cmp::Ordering::Equal if revision == accepted => Ok(()),
            _ => Err(Refused::NotNewer { revision, sequence: artifact.sequence, accepted, newest }),
        },
        (Proof::Git(_), Some(_)) | (Proof::Artifact(_), None) => {
            Err(Refused::OtherKind { revision, accepted })
        }
    }
}

fn check_descent(revision: Revision, accepted: Revision, ancestry: &Ancestry) -> Result<(), Refused> {
    match ancestry {
        Ancestry::Descends => Ok(()),
        Ancestry::Same if revision == accepted => Ok(()),
        Ancestry::Foreign => Err(Refused::NotADescendant { revision, accepted }),
        Ancestry::Unproven { why } => Err(Refused::DescentUnproven { revision, accepted, why: why.clone() }),
        Ancestry::First | Ancestry::Same => Err(Refused::DescentUnproven {
            revision,
            accepted,
            why: "the source compared it with a revision other than the accepted one".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
