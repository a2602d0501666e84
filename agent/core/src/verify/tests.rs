//! The order of revisions, and the refusals' words. Signatures made by real tools are in tests/.

use std::time::Duration;

use super::*;
use crate::clock::{BootId, Moment};

fn revision(text: &str) -> Revision {
    Revision(text.to_owned())
}

fn fetched(ancestry: Ancestry) -> Fetched {
    Fetched {
        revision: revision("bbbb"),
        proof: Proof::Git(GitProof {
            committed: "2026-01-02T00:00:00Z".parse().unwrap(),
            signature: Ok(None),
            ancestry,
        }),
        about: None,
    }
}

fn made(committed: &str, fetched: Fetched) -> Fetched {
    let Proof::Git(git) = fetched.proof else { panic!("{fetched:?}") };
    let proof = Proof::Git(GitProof { committed: committed.parse().unwrap(), ..git });
    Fetched { proof, ..fetched }
}

fn artifact(name: &str, sequence: u64) -> Fetched {
    let committed = "2026-01-02T00:00:00Z".parse().unwrap();
    let proof = Proof::Artifact(ArtifactProof { committed, signature: None, sequence });
    Fetched { revision: revision(name), proof, about: None }
}

fn strangers() -> TrustPolicy {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    TrustPolicy::Signed(AllowedSigners::parse(&format!("a {key}")).unwrap())
}

fn now() -> Now {
    let moment = Moment { boot: BootId("b".into()), uptime: Duration::ZERO };
    Now::certain("2026-03-01T00:00:00Z".parse().unwrap(), moment)
}

fn floor() -> Floor {
    let committed = "2026-01-01T00:00:00Z".parse().unwrap();
    Floor { revision: revision("aaaa"), committed, sequence: None }
}

#[test]
fn the_first_revision_needs_no_descent() {
    for ancestry in [Ancestry::First, Ancestry::Foreign] {
        let verified = verify(&fetched(ancestry), &TrustPolicy::None, None, &now()).unwrap();
        assert_eq!(verified.trust(), TrustMode::None);
        assert_eq!(verified.floor().revision, revision("bbbb"));
    }
}

#[test]
fn without_signatures_going_back_is_still_refused() {
    let check = |ancestry| verify(&fetched(ancestry), &TrustPolicy::None, Some(&floor()), &now());
    assert!(check(Ancestry::Descends).is_ok());
    assert!(matches!(check(Ancestry::Foreign), Err(Refused::NotADescendant { .. })));
    let why = "the server hung".to_owned();
    assert!(matches!(check(Ancestry::Unproven { why }), Err(Refused::DescentUnproven { .. })));
}

#[test]
fn a_source_that_compared_with_another_revision_proves_nothing() {
    for ancestry in [Ancestry::First, Ancestry::Same] {
        let refused = verify(&fetched(ancestry), &TrustPolicy::None, Some(&floor()), &now()).unwrap_err();
        assert!(matches!(refused, Refused::DescentUnproven { .. }), "{refused}");
    }
    let mut same = fetched(Ancestry::Same);
    same.revision = floor().revision;
    assert!(verify(&same, &TrustPolicy::None, Some(&floor()), &now()).is_ok());
}

#[test]
fn an_unsigned_commit_is_held_with_what_to_do() {
    let refused = verify(&fetched(Ancestry::Descends), &strangers(), Some(&floor()), &now()).unwrap_err();
    let held = crate::held::Held::from(refused);
    assert_eq!(held.cause, "revision bbbb is not signed");
    assert!(held.unblock.contains("git commit -S"));
}

#[test]
fn the_floor_of_dates_never_goes_back_and_goes_no_further_than_now() {
    let accept = |committed: &str, floor: Option<&Floor>| {
        let fetched = made(committed, fetched(Ancestry::Descends));
        verify(&fetched, &TrustPolicy::None, floor, &now()).unwrap().floor().committed.to_string()
    };
    assert_eq!(accept("2026-02-01T00:00:00Z", Some(&floor())), "2026-02-01T00:00:00Z");
    assert_eq!(accept("2019-01-01T00:00:00Z", Some(&floor())), "2026-01-01T00:00:00Z");
    assert_eq!(accept("2099-01-01T00:00:00Z", Some(&floor())), "2026-03-01T00:00:00Z");
    assert_eq!(accept("2099-01-01T00:00:00Z", None), "2026-03-01T00:00:00Z");
    // What was accepted stays as it was, however often it is looked at.
    let same = Floor { revision: revision("bbbb"), ..floor() };
    assert_eq!(
        verify(&fetched(Ancestry::Same), &TrustPolicy::None, Some(&same), &now()).unwrap().floor(),
        same
    );
}

#[test]
fn artifacts_are_ordered_by_their_sequence_and_nothing_else() {
    let accepted = verify(&artifact("one", 7), &TrustPolicy::None, None, &now()).unwrap().floor();
    assert_eq!(accepted.sequence, Some(7));
    let check =
        |name, sequence| verify(&artifact(name, sequence), &TrustPolicy::None, Some(&accepted), &now());
    assert_eq!(check("two", 8).unwrap().floor().sequence, Some(8));
    assert!(check("one", 7).is_ok(), "it is the accepted one");
    for (name, sequence) in [("two", 7), ("one", 6), ("two", 0)] {
        let refused = check(name, sequence).unwrap_err();
        assert!(matches!(refused, Refused::NotNewer { .. }), "{refused}");
        assert!(refused.unblock().contains("higher sequence"));
    }
}

#[test]
fn a_commit_and_an_artifact_have_no_order() {
    let accepted = verify(&artifact("one", 7), &TrustPolicy::None, None, &now()).unwrap().floor();
    for refused in [
        verify(&fetched(Ancestry::Descends), &TrustPolicy::None, Some(&accepted), &now()).unwrap_err(),
        verify(&artifact("two", 8), &TrustPolicy::None, Some(&floor()), &now()).unwrap_err(),
    ] {
        assert!(matches!(refused, Refused::OtherKind { .. }), "{refused}");
    }
}

#[test]
fn an_accepted_revision_is_judged_by_the_policy_of_now_until_it_is_applied() {
    let again = Fetched { revision: floor().revision, ..fetched(Ancestry::Same) };
    let check = |policy: &TrustPolicy, applied: Option<&str>| {
        verify_again(&again, policy, &floor(), applied.map(revision).as_ref(), &now())
    };
    assert!(check(&TrustPolicy::None, None).is_ok());
    for applied in [None, Some("bbbb")] {
        assert!(matches!(check(&strangers(), applied), Err(Refused::Unsigned { .. })), "{applied:?}");
    }
    let runs = check(&strangers(), Some("aaaa")).unwrap();
    assert_eq!((runs.floor(), runs.signer()), (floor(), None));
    // Only the accepted one is spared, whatever was applied once.
    let older = Fetched { revision: revision("bbbb"), ..again.clone() };
    assert!(verify_again(&older, &strangers(), &floor(), Some(&revision("bbbb")), &now()).is_err());
}
