//! Whom the box trusts, and whether the accepted revision may still be used. Keys come and go while a revision
//! waits for its window, and while the agent is away: what isn't applied by then is verified again.

use std::fs;
use std::path::PathBuf;

use holdfast_core::clock::Now;
use holdfast_core::digest::Digest;
use holdfast_core::held::Held;
use holdfast_core::report::ChangeStatus;
use holdfast_core::verify::{About, AllowedSigners, Fetched, TrustPolicy, Verified, verify_again};

use super::Daemon;
use super::fetch_and_render::NotRendered;
use super::progress::Progress;
use super::tags::Wanted;
use crate::config::{Config, TrustMode};
use crate::keeper::Scope;
use crate::source::Source;

/// Whom the box believes, by its files as they are now: the OS image may bring other signers at any time.
pub(super) struct Trust {
    /// The text of allowed_signers and its place; none where nothing has to be signed. Or why there is none.
    signers: Result<Option<(String, PathBuf)>, String>,
    /// Differs when that does.
    stamp: Digest,
}

impl Trust {
    pub(super) fn read(config: &Config) -> Self {
        let signers = match (config.trust.mode, &config.trust.allowed_signers) {
            (TrustMode::None, _) => Ok(None),
            (TrustMode::Signed, None) => Err("trust.allowed_signers is not set".to_owned()),
            (TrustMode::Signed, Some(path)) => match fs::read_to_string(path) {
                Ok(text) => Ok(Some((text, path.clone()))),
                Err(error) => {
                    Err(format!("trust.allowed_signers ({}) can't be read: {error}", path.display()))
                }
            },
        };
        let stamp = match &signers {
            Ok(None) => Digest::of(b"none"),
            Ok(Some((text, _))) => Digest::of(format!("signed {text}").as_bytes()),
            Err(why) => Digest::of(format!("broken {why}").as_bytes()),
        };
        Trust { signers, stamp }
    }

    /// What is trusted; or why that can't be told, in which case nothing is.
    pub(super) fn policy(&self) -> Result<TrustPolicy, String> {
        match &self.signers {
            Ok(None) => Ok(TrustPolicy::None),
            Ok(Some((text, path))) => AllowedSigners::parse(text)
                .map(TrustPolicy::Signed)
                .map_err(|error| format!("trust.allowed_signers ({}): {error}", path.display())),
            Err(why) => Err(why.clone()),
        }
    }
}

/// What holds a revision while nobody knows whom to believe.
pub(super) fn no_policy(cause: String) -> Held {
    Held::until_changed(cause, "correct the file that trust.allowed_signers names")
}

/// The accepted revision, and whether it may be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// What it can show; none as long as neither the mirror nor the source has shown it.
    proof: Option<Fetched>,
    /// It may be used.
    verified: Option<Verified>,
    /// Why nothing more of it may be applied.
    pub(super) refused: Option<Held>,
    /// By which policy that was said, and whether it had been applied in full.
    judged: Option<(Digest, bool)>,
}

impl Standing {
    /// Of a revision that was verified just now.
    pub(super) fn accepted(fetched: Fetched, verified: Verified, trust: &Trust) -> Self {
        let judged = Some((trust.stamp, false));
        Standing { proof: Some(fetched.as_accepted()), verified: Some(verified), refused: None, judged }
    }

    /// What people know the revision by, and who signed it if it may be used.
    pub(super) fn change(&self) -> Option<ChangeStatus> {
        let About { subject, author } = self.proof.as_ref()?.about.clone()?;
        let signer = self.verified.as_ref().and_then(Verified::signer);
        Some(ChangeStatus { subject, author, signer: signer.map(|signer| signer.principal.clone()) })
    }

    /// The revision, if it may be used.
    pub(super) fn verified(&self) -> Option<&Verified> {
        self.verified.as_ref()
    }
}

impl Progress {
    /// Takes in what the accepted revision can show, as the mirror or the source has it.
    pub(super) fn show(&mut self, accepted: Fetched) {
        self.standing.proof = Some(accepted.as_accepted());
        self.standing.judged = None;
    }

    /// Says anew whether the accepted revision may be used, if something has changed about that. What was applied in
    /// full may, unless something of it still `waits`. Gives whether what is said has changed.
    pub(super) fn review(&mut self, trust: &Trust, waits: bool, now: &Now) -> bool {
        let (Some(proof), Some(accepted)) = (&self.standing.proof, &self.accepted) else { return false };
        let applied = self.applied.as_ref().filter(|applied| !waits && **applied == accepted.revision);
        let judged = Some((trust.stamp, applied.is_some()));
        if self.standing.judged == judged {
            return false;
        }
        let said = match (trust.policy(), applied) {
            (Ok(policy), _) => verify_again(proof, &policy, accepted, applied, now).map_err(|refused| {
                let revision = &accepted.revision;
                let cause = format!(
                    "the accepted revision {revision} is no longer trusted, and nothing more of it is applied: \
                     {refused}"
                );
                Held::until_changed(cause, refused.unblock())
            }),
            // What runs in full goes on, whoever was to be believed.
            (Err(_), Some(_)) => {
                verify_again(proof, &TrustPolicy::None, accepted, applied, now).map_err(Held::from)
            }
            (Err(cause), None) => Err(no_policy(cause)),
        };
        let before = (self.standing.verified.is_some(), self.standing.refused.clone());
        (self.standing.verified, self.standing.refused) = match said {
            Ok(verified) => (Some(verified), None),
            Err(held) => (None, Some(held)),
        };
        self.standing.judged = judged;
        before != (self.standing.verified.is_some(), self.standing.refused.clone())
    }

    /// The accepted revision as the mirror shows it: no network is needed for that. Whether it may be used is said by the
    /// next review.
    pub(super) fn recall(&mut self, source: &dyn Source) {
        let Some(accepted) = &self.accepted else { return };
        match source.recall(&accepted.revision) {
            Ok(fetched) => self.show(fetched),
            Err(error) => {
                self.unrendered = Some(NotRendered::from(error).held(self.next_poll_wall));
            }
        }
    }
}

impl Daemon {
    /// Looks whether the files of trusted keys still allow the accepted revision, as far as that is not applied, and
    /// whether what they refused is to be looked at again.
    pub(super) fn review_trust(&mut self, now: &Now) {
        let trust = Trust::read(&self.config);
        if self.follow.progress.trusted.replace(trust.stamp).is_some_and(|before| before != trust.stamp) {
            // What was refused may be allowed now.
            self.follow.progress.known = None;
        }
        let waits = self.keeper.has_due_purge(now) || self.keeper.awaits_purge(now);
        if !self.follow.progress.review(&trust, waits, now) {
            return;
        }
        let revision = self.follow.progress.accepted.as_ref().map(|floor| floor.revision.clone());
        match &self.follow.progress.standing.refused {
            Some(held) => {
                let cause = held.cause.clone();
                // Of what was taken back nothing can be said to be applied, and with leave it is placed anew.
                self.follow.progress.resolved = None;
                self.follow.tags.want(Wanted::new());
                tracing::warn!(%cause, "the accepted revision is no longer trusted; workloads keep running");
                self.note("revision.held", revision.as_ref(), &cause, now);
            }
            None => self.follow.progress.unread = self.follow.progress.is_unread(),
        }
        self.widen(Scope::All);
    }
}
