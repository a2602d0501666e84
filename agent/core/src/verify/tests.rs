//! The rule of descent, and the refusals' words. Signatures made by real tools are in tests/.

use std::time::Duration;

use super::*;
use crate::clock::{BootId, Moment};

fn revision(text: &str) -> Revision {
    Revision(text.to_owned())
}

fn fetched(ancestry: Ancestry) -> Fetched {
    Fetched {
        revision: revision("bbbb"),
        committed: "2026-01-02T00:00:00Z".parse().unwrap(),
        signature: Ok(None),
        ancestry,
    }
}

fn now() -> Now {
    let moment = Moment { boot: BootId("b".into()), uptime: Duration::ZERO };
    Now::certain("2026-03-01T00:00:00Z".parse().unwrap(), moment)
}

fn floor() -> Floor {
    Floor { revision: revision("aaaa"), committed: "2026-01-01T00:00:00Z".parse().unwrap() }
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
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    let signers = AllowedSigners::parse(&format!("a {key}")).unwrap();
    let refused = verify(&fetched(Ancestry::Descends), &TrustPolicy::Signed(signers), Some(&floor()), &now())
        .unwrap_err();
    let held = crate::held::Held::from(refused);
    assert_eq!(held.cause, "commit bbbb is not signed");
    assert!(held.unblock.contains("git commit -S"));
}

#[test]
fn the_floor_of_dates_never_goes_back_and_goes_no_further_than_now() {
    let accept = |committed: &str, floor: Option<&Floor>| {
        let fetched = Fetched { committed: committed.parse().unwrap(), ..fetched(Ancestry::Descends) };
        verify(&fetched, &TrustPolicy::None, floor, &now()).unwrap().floor().committed.to_string()
    };
    assert_eq!(accept("2026-02-01T00:00:00Z", Some(&floor())), "2026-02-01T00:00:00Z");
    assert_eq!(accept("2019-01-01T00:00:00Z", Some(&floor())), "2026-01-01T00:00:00Z");
    assert_eq!(accept("2099-01-01T00:00:00Z", Some(&floor())), "2026-03-01T00:00:00Z");
    assert_eq!(accept("2099-01-01T00:00:00Z", None), "2026-03-01T00:00:00Z");
    // What was accepted stays as it was, however often it is looked at.
    let same = Floor { revision: revision("bbbb"), ..floor() };
    let again = Fetched { ancestry: Ancestry::Same, ..fetched(Ancestry::Same) };
    assert_eq!(verify(&again, &TrustPolicy::None, Some(&same), &now()).unwrap().floor(), same);
}
