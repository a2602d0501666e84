//! Why a revision is refused, in words for the person who can change it.

use jiff::Timestamp;

use super::sshsig::BadSignature;
use crate::digest::Revision;
use crate::held::Held;

/// Why a revision may not be accepted. What the box has keeps running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no signature.
    #[error("commit {revision} is not signed")]
    Unsigned {
        /// The commit.
        revision: Revision,
    },
    /// The signature itself is wrong, whoever made it.
    #[error("the signature of commit {revision} cannot be accepted: {cause}")]
    Signature {
        /// The commit.
        revision: Revision,
        /// What is wrong with it.
        cause: BadSignature,
    },
    /// The signature is right, and its key may not sign this.
    #[error("commit {revision} is signed with the key {fingerprint}, {problem}")]
    Key {
        /// The commit.
        revision: Revision,
        /// The key's SHA-256 fingerprint.
        fingerprint: String,
        /// Why the key may not.
        problem: KeyProblem,
    },
    /// History was rewritten, or an old commit is offered.
    #[error("commit {revision} does not descend from the accepted commit {accepted}")]
    NotADescendant {
        /// The commit.
        revision: Revision,
        /// The accepted one.
        accepted: Revision,
    },
    /// It may descend, but that could not be shown.
    #[error("that commit {revision} descends from the accepted commit {accepted} could not be proved: {why}")]
    DescentUnproven {
        /// The commit.
        revision: Revision,
        /// The accepted one.
        accepted: Revision,
        /// Why not.
        why: String,
    },
}

/// Why a key may not sign a commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// No line of allowed_signers has it.
    #[error("which allowed_signers doesn't list")]
    Stranger,
    /// Its line allows other uses only.
    #[error(
        "which line {line} of allowed_signers allows for the namespaces {allowed:?} but not for {wanted:?}"
    )]
    Namespace {
        /// The line of allowed_signers.
        line: usize,
        /// What the line allows.
        allowed: String,
        /// What is needed.
        wanted: String,
    },
    /// Its time has not come.
    #[error(
        "which line {line} of allowed_signers makes valid from {from} on, and the commit counts as made at {at}"
    )]
    NotYetValid {
        /// The line of allowed_signers.
        line: usize,
        /// From when on it is valid.
        from: Timestamp,
        /// The time that the commit counts as made.
        at: Timestamp,
    },
    /// Its time is over.
    #[error(
        "which line {line} of allowed_signers makes valid until {until}, and the commit counts as made at {at}"
    )]
    Expired {
        /// The line of allowed_signers.
        line: usize,
        /// Until when it is valid.
        until: Timestamp,
        /// The time that the commit counts as made.
        at: Timestamp,
    },
}

impl Refused {
    /// Whether the same revision may be accepted later, with nothing changed but what the box knows.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Refused::DescentUnproven { .. } | Refused::Key { problem: KeyProblem::NotYetValid { .. }, .. }
        )
    }

    /// What a person can do to end it.
    pub fn unblock(&self) -> &'static str {
        match self {
            Refused::Unsigned { .. } => {
                "push a commit on top that is signed with an SSH key of allowed_signers (git config \
                 gpg.format ssh, then git commit -S)"
            }
            Refused::Signature { cause: BadSignature::NotSsh { .. }, .. } => {
                "sign with SSH instead: git config gpg.format ssh, then push a signed commit on top"
            }
            Refused::Signature { cause: BadSignature::HighS, .. } => {
                "push a commit on top that is signed with an ed25519 key, or with this one again until it is \
                 accepted: every second ECDSA signature has the low value"
            }
            Refused::Signature { cause: BadSignature::NotCanonical { .. }, .. } => {
                "push a commit on top that git signs with ssh-keygen (git commit -S); if git made this one so, somebody \
                 between changed it: find out who"
            }
            Refused::Signature { .. } => {
                "push a commit on top with a good signature; if this commit should have had one, find out who \
                 changed it"
            }
            Refused::Key { problem: KeyProblem::Stranger, .. } => {
                "push a commit on top that is signed by an allowed key, or add this key to the box's \
                 allowed_signers if it should be trusted"
            }
            Refused::Key { .. } => {
                "push a commit on top that is signed by a key that is valid now, or change the key's line in \
                 the box's allowed_signers"
            }
            Refused::NotADescendant { .. } => {
                "push a commit that has the accepted one among its ancestors (for example with git revert \
                 instead of a force-push)"
            }
            Refused::DescentUnproven { .. } => {
                "allow partial fetches on the server (git config uploadpack.allowFilter true), or push a \
                 commit closer to the accepted one; the box tries again by itself"
            }
        }
    }
}

impl From<&Refused> for Held {
    fn from(refused: &Refused) -> Held {
        Held::until_changed(refused.to_string(), refused.unblock())
    }
}

impl From<Refused> for Held {
    fn from(refused: Refused) -> Held {
        Held::from(&refused)
    }
}
