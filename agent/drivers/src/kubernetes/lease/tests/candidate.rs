//! One candidate, step by step.

use super::*;

/// A Lease of another, as another's tool might have written it.
fn of_another(renewed: &str) -> Record {
    Record::read(json!({
        "metadata": { "resourceVersion": "7", "uid": "6f1a" },
        "spec": { "holderIdentity": "other_0123456789abcdef", "leaseDurationSeconds": 15, "leaseTransitions": 4,
            "acquireTime": "2026-05-04T00:00:00.000000Z", "renewTime": renewed },
    }))
}

fn candidate() -> Election {
    Election::new("me".to_owned(), Times::USUAL)
}

#[track_caller]
fn written(act: Act) -> Record {
    match act {
        Act::Create(record) | Act::Replace(record) => record,
        other => panic!("{other:?}"),
    }
}

/// A candidate that has made the Lease at this time.
fn leader(now: Duration) -> Election {
    let mut election = candidate();
    let record = written(election.saw(None, now, wall()));
    election.wrote(record, now, now);
    election
}

fn leads(election: &Election, now: Duration) -> bool {
    election.belief().is_some_and(|belief| now < belief.until)
}

#[test]
fn the_first_candidate_makes_the_lease_and_leads_from_the_start_of_that_request() {
    let mut election = candidate();
    assert!(matches!(election.begin(seconds(100), wall()), Act::Read));
    let act = election.saw(None, seconds(101), wall());
    assert!(matches!(act, Act::Create(_)));
    let record = written(act);
    assert_eq!((record.holder.as_deref(), record.transitions), (Some("me"), 0));
    assert!(!leads(&election, seconds(101)), "nothing was written yet");
    election.wrote(record, seconds(102), seconds(105));
    assert!(leads(&election, seconds(111)));
    assert!(!leads(&election, seconds(112)), "ten seconds after the start of the request");
}

#[test]
fn a_leader_renews_without_reading_and_counts_from_each_renewal() {
    let mut election = leader(seconds(100));
    let act = election.begin(seconds(102), wall());
    assert!(matches!(act, Act::Replace(_)));
    election.wrote(written(act), seconds(102), seconds(103));
    assert!(leads(&election, seconds(111)) && !leads(&election, seconds(112)));
    // Its time is over: what is there must be looked at first.
    assert!(matches!(election.begin(seconds(112), wall()), Act::Read));
}

#[test]
fn a_leader_whom_somebody_came_before_looks_first() {
    let mut election = leader(seconds(100));
    election.conflicted();
    assert!(matches!(election.begin(seconds(102), wall()), Act::Read));
    assert!(leads(&election, seconds(109)), "its last write still holds");
}

#[test]
fn another_is_left_alone_until_it_was_silent_for_the_whole_lease_whatever_its_clock_shows() {
    for renewed in
        ["1970-01-01T00:00:00.000000Z", "2026-05-04T03:02:01.000000Z", "2999-01-01T00:00:00.000000Z", "soon"]
    {
        let mut election = candidate();
        let look =
            |election: &mut Election, now| election.saw(Some(of_another(renewed)), seconds(now), wall());
        assert!(matches!(look(&mut election, 100), Act::StandBy), "{renewed}");
        assert!(matches!(look(&mut election, 114), Act::StandBy), "{renewed}");
        let taken = written(look(&mut election, 115));
        assert_eq!((taken.holder.as_deref(), taken.transitions), (Some("me"), 5), "{renewed}");
        assert_eq!(taken.acquired, taken.renewed);
    }
}

#[test]
fn every_renewal_of_another_begins_the_wait_anew() {
    let mut election = candidate();
    for now in 0..60 {
        let record = of_another(&format!("2026-05-04T03:02:{now:02}.000000Z"));
        assert!(matches!(election.saw(Some(record), seconds(100 + now), wall()), Act::StandBy));
    }
    let silent = of_another("2026-05-04T03:02:59.000000Z");
    assert!(matches!(election.saw(Some(silent.clone()), seconds(173), wall()), Act::StandBy));
    assert!(matches!(election.saw(Some(silent), seconds(174), wall()), Act::Replace(_)));
}

#[test]
fn a_holder_with_a_longer_lease_is_waited_for_but_not_for_ever() {
    for (written, patience) in [(60, 60), (1, 15), (0, 15), (-5, 15), (1_000_000_000, 600)] {
        let mut record = of_another("2026-05-04T03:02:01.000000Z").lease("n", "n");
        record["spec"]["leaseDurationSeconds"] = json!(written);
        let record = Record::read(record);
        let mut election = candidate();
        let mut look = |now| election.saw(Some(record.clone()), seconds(now), wall());
        assert!(matches!(look(100), Act::StandBy));
        assert!(matches!(look(99 + patience), Act::StandBy), "{written}");
        assert!(matches!(look(100 + patience), Act::Replace(_)), "{written}");
    }
}

#[test]
fn a_lease_that_was_given_up_is_taken_at_once() {
    let mut election = candidate();
    let released = of_another("2026-05-04T03:02:01.000000Z").released(wall());
    let taken = written(election.saw(Some(released), seconds(100), wall()));
    assert_eq!(taken.transitions, 5);
}

#[test]
fn who_gives_up_no_longer_believes_before_it_says_so() {
    let mut election = leader(seconds(100));
    assert!(election.release(wall()).is_none(), "it still leads");
    election.resign();
    assert!(!leads(&election, seconds(100)));
    assert_eq!(election.release(wall()).unwrap().lease("n", "n")["spec"]["holderIdentity"], "");
}

#[test]
fn a_write_whose_answer_was_lost_is_found_again() {
    let mut election = candidate();
    let lost = written(election.saw(None, seconds(100), wall()));
    let act = election.saw(Some(lost), seconds(104), wall());
    assert!(!leads(&election, seconds(104)), "to have read it is not enough");
    election.wrote(written(act), seconds(105), seconds(105));
    assert!(leads(&election, seconds(114)));
}

#[test]
fn a_deleted_lease_is_made_anew_by_its_holder_at_once_and_by_others_when_the_holder_is_surely_over() {
    let mut election = leader(seconds(100));
    election.conflicted();
    assert!(matches!(election.saw(None, seconds(102), wall()), Act::Create(_)));

    let mut other = candidate();
    assert!(matches!(other.saw(Some(of_another("soon")), seconds(100), wall()), Act::StandBy));
    assert!(
        matches!(other.saw(None, seconds(130), wall()), Act::StandBy),
        "it may have renewed until just now"
    );
    assert!(matches!(other.saw(None, seconds(144), wall()), Act::StandBy));
    assert!(matches!(other.saw(None, seconds(145), wall()), Act::Create(_)));
}

#[test]
fn a_lease_that_was_given_to_another_by_hand_is_no_longer_believed_in() {
    let mut election = leader(seconds(100));
    assert!(matches!(election.saw(Some(of_another("soon")), seconds(102), wall()), Act::StandBy));
    assert!(!leads(&election, seconds(102)));
}

#[test]
fn the_next_round_is_at_the_moment_at_which_another_lease_falls_free() {
    let mut election = candidate();
    assert!(matches!(election.saw(Some(of_another("soon")), seconds(100), wall()), Act::StandBy));
    assert_eq!(election.next_round(seconds(100), seconds(101), 0.0), seconds(103));
    assert_eq!(election.next_round(seconds(100), seconds(101), 1.0), Duration::from_millis(103_400));
    assert_eq!(election.next_round(seconds(113), seconds(114), 1.0), seconds(115));
    assert_eq!(leader(seconds(100)).next_round(seconds(100), seconds(101), 1.0), seconds(102));
    assert_eq!(leader(seconds(100)).next_round(seconds(100), seconds(104), 1.0), seconds(104));
}

#[test]
fn every_renewal_differs_even_if_the_clock_on_the_wall_stands_or_was_set_back() {
    for clock in [wall(), at("1970-01-01T00:00:00Z"), Timestamp::MIN, Timestamp::MAX] {
        let mut election = leader(seconds(100));
        let mut before = None;
        for now in 102..110 {
            let record = written(election.begin(seconds(now), clock));
            // As the server gives it back.
            let record = Record::read(record.lease("n", "n"));
            assert_ne!(record.renewed, before, "{clock}");
            before = record.renewed;
            election.wrote(record, seconds(now), seconds(now));
        }
    }
}

#[test]
fn a_lease_is_written_as_the_api_has_it_and_keeps_what_is_of_others() {
    let seen = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "shop", "namespace": "holdfast-system", "uid": "6f1a", "resourceVersion": "7", "labels": { "a": "b" } },
        "spec": { "holderIdentity": "other", "leaseTransitions": 2, "strategy": "OldestEmulationVersion" },
    });
    let taken = Record::read(seen).taken("me", &Times::USUAL, at("2026-05-04T03:02:01.123456789Z"));
    let wanted = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "shop", "namespace": "holdfast-system", "uid": "6f1a", "resourceVersion": "7", "labels": { "a": "b" } },
        "spec": {
            "holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 3, "strategy": "OldestEmulationVersion",
            "acquireTime": "2026-05-04T03:02:01.123456Z", "renewTime": "2026-05-04T03:02:01.123456Z",
        },
    });
    assert_eq!(taken.lease("holdfast-system", "shop"), wanted);
    let new = Record::new("me", &Times::USUAL, at("2026-05-04T03:02:01Z")).lease("n", "shop");
    assert_eq!(new["metadata"], json!({ "name": "shop", "namespace": "n" }));
    assert_eq!(new["spec"]["renewTime"], "2026-05-04T03:02:01.000000Z");
}

#[test]
fn a_lease_of_any_shape_is_read_and_can_be_taken() {
    for odd in [
        json!(null),
        json!([1]),
        json!("lease"),
        json!({ "spec": [], "metadata": 3 }),
        json!({ "spec": { "holderIdentity": 4, "leaseDurationSeconds": "x", "renewTime": {}, "leaseTransitions": -9 } }),
        json!({ "spec": { "leaseDurationSeconds": i64::MAX, "leaseTransitions": i64::MAX, "renewTime": "9999-12-30T22:00:00.999999Z" } }),
    ] {
        let record = Record::read(odd.clone());
        assert_eq!(record.holder, None, "{odd}");
        let taken = written(candidate().saw(Some(record), seconds(100), wall())).lease("n", "shop");
        assert_eq!(taken["spec"]["holderIdentity"], "me", "{odd}");
        assert!(
            taken["spec"]["leaseTransitions"]
                .as_i64()
                .is_some_and(|count| (1..=2_147_483_647).contains(&count))
        );
    }
}

#[test]
fn two_processes_of_one_device_are_two_candidates() {
    let (one, other) = (identity("emea/de/store_1/till-1"), identity("emea/de/store_1/till-1"));
    assert_ne!(one, other);
    assert_eq!(device_in(&one), "emea/de/store_1/till-1");
    assert_eq!(device_in("another_tool"), "another_tool");
    assert_eq!(device_in("_0123456789abcdef"), "_0123456789abcdef");
}
