//! A tip that couldn't be fetched is remembered: to fetch it again at each poll would cost as much as the first time.

use std::time::{Duration, Instant};

use gix::ObjectId;
use holdfast_core::verify::{Ancestry, Fetched, Proof};

use crate::source::error::SourceError;

/// The pause before it is asked for again: a server may have lied about what it sent.
const FIRST: Duration = Duration::from_secs(15 * 60);
/// And the longest.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What came of asking for a tip, and until when that counts.
#[derive(Debug)]
pub(super) struct FailedTip {
    of: (ObjectId, Option<ObjectId>),
    answer: Result<Fetched, SourceError>,
    since: Instant,
    pause: Duration,
}

impl FailedTip {
    /// What came of it before, if it is too early to ask again.
    pub(super) fn answer(
        failed_tip: Option<&FailedTip>,
        of: (ObjectId, Option<ObjectId>),
        now: Instant,
    ) -> Option<Result<Fetched, SourceError>> {
        let failed_tip = failed_tip.filter(|failed_tip| failed_tip.of == of)?;
        (now.saturating_duration_since(failed_tip.since) < failed_tip.pause)
            .then(|| failed_tip.answer.clone())
    }

    /// What is to be remembered of `answer`, after what was before.
    pub(super) fn after(
        before: Option<FailedTip>,
        of: (ObjectId, Option<ObjectId>),
        answer: &Result<Fetched, SourceError>,
        now: Instant,
    ) -> Option<FailedTip> {
        let lasts = match answer {
            Err(error) => matches!(
                error,
                SourceError::TooLarge { .. } | SourceError::Unusable { .. } | SourceError::NotWhole { .. }
            ),
            Ok(fetched) => {
                matches!(&fetched.proof, Proof::Git(proof) if matches!(proof.ancestry, Ancestry::Unproven { .. }))
            }
        };
        if !lasts {
            return None;
        }
        let again = before.filter(|before| before.of == of);
        let pause = again.map_or(FIRST, |before| before.pause.saturating_mul(2).min(LONGEST));
        Some(FailedTip { of, answer: answer.clone(), since: now, pause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::error::Limit;

    #[test]
    fn what_is_too_large_is_asked_for_again_with_growing_pauses_and_another_tip_at_once() {
        let of = (ObjectId::null(gix::hash::Kind::Sha1), None);
        let other = (of.0, Some(of.0));
        let too_large = Err(SourceError::TooLarge { what: "a commit".into(), limit: Limit::Bytes(1) });
        let mut now = Instant::now();
        let mut failed_tip = None;
        for hours in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 24.0] {
            assert_eq!(FailedTip::answer(failed_tip.as_ref(), of, now), None);
            failed_tip = FailedTip::after(failed_tip, of, &too_large, now);
            assert_eq!(FailedTip::answer(failed_tip.as_ref(), other, now), None);
            now += Duration::from_secs_f64(hours * 3600.0) - Duration::from_secs(1);
            assert_eq!(FailedTip::answer(failed_tip.as_ref(), of, now), Some(too_large.clone()), "{hours}");
            now += Duration::from_secs(1);
        }
        let unreachable = Err(SourceError::Unreachable { url: "x".into(), why: "y".into() });
        assert!(FailedTip::after(failed_tip, of, &unreachable, now).is_none());
    }
}
