//! Why a revision is refused, in words for the person who can change it.

use jiff::Timestamp;

use super::sshsig::BadSignature;
use crate::digest::Revision;
use crate::held::Held;

/// Why a revision may not be accepted. What the box has keeps running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no signature.
    #[error("revision {revision} is not signed")]
    Unsigned {
        /// Which.
        revision: Revision,
    },
    /// The signature itself is wrong, whoever made it.
    #[error("the signature of revision {revision} cannot be accepted: {cause}")]
    Signature {
        /// Which.
        revision: Revision,
        /// What is wrong with it.
        cause: BadSignature,
    },
    /// The signature is right, and its key may not sign this.
    #[error("revision {revision} is signed with the key {fingerprint}, {problem}")]
    Key {
        /// Which.
        revision: Revision,
        /// The key's SHA-256 fingerprint.
        fingerprint: String,
        /// Why the key may not.
        problem: KeyProblem,
    },
    /// History was rewritten, or an old commit is offered.
    #[error("revision {revision} does not descend from the accepted revision {accepted}")]
    NotADescendant {
        /// Which.
        revision: Revision,
        /// The accepted one.
        accepted: Revision,
    },
    /// It may descend, but that could not be shown.
    #[error("could not prove that revision {revision} descends from the accepted revision {accepted}: {why}")]
    DescentUnproven {
        /// Which.
        revision: Revision,
        /// The accepted one.
        accepted: Revision,
        /// Why not.
        why: String,
    },
    /// An older artifact is offered, or another one under the same number.
    #[error(
        "revision {revision} has the sequence {sequence}, which must be higher than {newest}, the sequence of the \
         accepted revision {accepted}"
    )]
    NotNewer {
        /// Which.
        revision: Revision,
        /// Its number.
        sequence: u64,
        /// The accepted one.
        accepted: Revision,
        /// The accepted one's number.
        newest: u64,
    },
    /// The box follows a source of another kind than before.
    #[error(
        "revision {revision} can't be compared with the accepted revision {accepted}: one is a commit and the \
         other is an artifact"
    )]
    OtherKind {
        /// Which.
        revision: Revision,
        /// The accepted one.
        accepted: Revision,
    },
}

/// Why a key may not sign a revision.
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
        "which line {line} of allowed_signers declares valid from {from} on, but the revision counts as made at \
         {at}"
    )]
    NotYetValid {
        /// The line of allowed_signers.
        line: usize,
        /// From when on it is valid.
        from: Timestamp,
        /// The time that the revision counts as made.
        at: Timestamp,
    },
    /// Its time is over.
    #[error(
        "which line {line} of allowed_signers declares valid until {until}, but the revision counts as made at {at}"
    )]
    Expired {
        /// The line of allowed_signers.
        line: usize,
        /// Until when it is valid.
        until: Timestamp,
        /// The time that the revision counts as made.
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
                "publish a newer revision that is signed with an SSH key of allowed_signers (for a commit: git \
                 config gpg.format ssh, then git commit -S)"
            }
            Refused::Signature { cause: BadSignature::NotSsh { .. }, .. } => {
                "sign with SSH instead (git config gpg.format ssh), then push a signed commit on top"
            }
            Refused::Signature { cause: BadSignature::HighS, .. } => {
                "push a commit on top that is signed with an ed25519 key; or sign again with this key until a \
                 signature is accepted (half of all ECDSA signatures have the low value)"
            }
            Refused::Signature { cause: BadSignature::NotCanonical { .. }, .. } => {
                "push a commit on top that git signs with ssh-keygen (git commit -S); if git did sign this one, \
                 somebody altered it afterwards: find out who"
            }
            Refused::Signature { .. } => {
                "publish a newer revision with a good signature; if this one should have had one, find out who \
                 changed it"
            }
            Refused::Key { problem: KeyProblem::Stranger, .. } => {
                "publish a newer revision that is signed by an allowed key, or add this key to the box's \
                 allowed_signers if it should be trusted"
            }
            Refused::Key { problem: KeyProblem::Namespace { .. }, .. } => {
                "publish a newer revision that is signed by a key that may sign it, or add the namespace to the \
                 key's line in the box's allowed_signers"
            }
            Refused::Key { .. } => {
                "publish a newer revision that is signed by a key that is valid now, or change the key's line \
                 in the box's allowed_signers"
            }
            Refused::NotADescendant { .. } => {
                "push a commit that has the accepted one among its ancestors (for example with git revert \
                 instead of a force-push)"
            }
            Refused::DescentUnproven { .. } => {
                "allow partial fetches on the server (git config uploadpack.allowFilter true), or push a commit \
                 closer to the accepted one; the agent retries automatically"
            }
            Refused::NotNewer { .. } => "publish the artifact again with a higher sequence",
            Refused::OtherKind { .. } => {
                "set source.url to a source of the same kind (Git or artifacts) as before"
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
