//! Nothing untrusted runs, and what ran before keeps running.

use std::fs;

use serde_json::{Value, json};

use crate::boxes::{TestBox, cause, document, of, pos};
use crate::support::git_repo::{Key, Signer};

/// Commits version 2 in a way that must be held, and wants version 1 to go on.
fn is_held(test_box: &TestBox, wanted: &str) {
    let accepted = test_box.status()["revision"]["accepted"].clone();
    let changes = test_box.changes();
    for run in ["at first", "after a restart"] {
        let (code, status) = test_box.once();
        assert_eq!(code, 2, "{run}: {status:#}");
        assert!(cause(&status).contains(wanted), "{run}: {status:#}");
        assert!(!status["held"][0]["unblock"].as_str().unwrap().is_empty());
        assert_eq!(status["converged"], false);
        assert_eq!(status["revision"]["fetched"], json!(test_box.repo.head()));
        assert_eq!(status["revision"]["accepted"], accepted);
        assert_eq!(of(&status, "pos")["phase"], "Good");
        assert_eq!(of(&status, "pos")["health"], "Healthy");
    }
    let (code, status) = test_box.json(&["status"]);
    assert_eq!((code, &status["converged"]), (2, &json!(false)), "without a daemon: {status:#}");
    assert!(cause(&status).contains(&test_box.repo.head()), "{status:#}");
    assert_eq!(test_box.runs("pos").unwrap(), "1");
    assert_eq!(test_box.changes(), changes);
}

#[test]
fn an_unsigned_commit_is_held_and_a_signed_one_on_top_of_it_ends_that() {
    let test_box = TestBox::converged();
    test_box.commit_by(&pos("2", ""), Signer::Nobody);
    is_held(&test_box, "is not signed");
    let signed = test_box.commit(&pos("3", ""));
    let (code, status) = test_box.once();
    assert_eq!((code, &status["held"]), (0, &json!([])), "{status:#}");
    assert_eq!(status["revision"]["applied"], json!(signed));
    assert_eq!(test_box.runs("pos").unwrap(), "3");
}

#[test]
fn a_commit_signed_by_a_stranger_is_held() {
    let test_box = TestBox::converged();
    let stranger = test_box.repo.key("stranger", &["-t", "ed25519"]);
    test_box.commit_by(&pos("2", ""), Signer::Key(&stranger));
    is_held(&test_box, &stranger.fingerprint());
}

#[test]
fn a_branch_that_was_force_pushed_is_held() {
    let test_box = TestBox::converged();
    let first = test_box.repo.head();
    test_box.commit(&pos("1", "note: \"2\""));
    assert_eq!(test_box.once().0, 0);
    test_box.repo.git(&["reset", "-q", "--hard", &first]);
    test_box.commit(&pos("2", ""));
    is_held(&test_box, "does not descend");
}

#[test]
fn a_branch_that_goes_back_to_an_older_signed_commit_is_held() {
    let test_box = TestBox::new();
    let first = test_box.commit(&pos("0", ""));
    test_box.commit(&pos("1", ""));
    assert_eq!(test_box.once().0, 0);
    test_box.repo.git(&["reset", "-q", "--hard", &first]);
    is_held(&test_box, "does not descend");
}

#[test]
fn a_box_that_trusts_nothing_yet_runs_nothing() {
    let test_box = TestBox::new();
    test_box.commit_by(&pos("1", ""), Signer::Nobody);
    let (code, status) = test_box.once();
    assert_eq!((code, &status["apps"]), (2, &json!([])), "{status:#}");
    assert_eq!(status["revision"]["accepted"], json!(null));
    assert_eq!(test_box.runs("pos"), None);
}

#[test]
fn trust_in_everything_is_written_down_and_shows() {
    let test_box = TestBox::new();
    test_box.configure(&format!("url = \"{}\"", test_box.repo.url()), "mode = \"none\"");
    test_box.commit_by(&pos("1", ""), Signer::Nobody);
    let (code, status) = test_box.once();
    assert_eq!((code, &status["trust"]), (0, &json!("none")), "{status:#}");
    let text = String::from_utf8(test_box.holdfast(&["status"]).stdout).unwrap();
    assert!(text.contains("UNSIGNED"), "{text}");
}

#[test]
fn a_file_of_signers_that_cannot_be_read_holds_every_new_commit_until_it_can() {
    let test_box = TestBox::converged();
    let signers = test_box.repo.allowed_signers();
    let text = std::fs::read_to_string(&signers).unwrap();
    std::fs::write(&signers, "ops@example ssh-ed25519 nonsense\n").unwrap();
    test_box.commit(&pos("2", ""));
    let (code, status) = test_box.once();
    assert_eq!(code, 2, "{status:#}");
    assert!(cause(&status).contains("allowed_signers"), "{status:#}");
    assert_eq!(test_box.runs("pos").unwrap(), "1");
    std::fs::write(&signers, text).unwrap();
    assert_eq!(test_box.once().0, 0);
    assert_eq!(test_box.runs("pos").unwrap(), "2");
}

/// The Fleet document by which changes wait for as long as this file is there.
fn gate(test_box: &TestBox) -> (String, String) {
    let sale = test_box.path("open-sale");
    fs::write(&sale, "").unwrap();
    let gate = format!("{{ name: open-sale, file: {{ path: {} }} }}", sale.display());
    let spec = format!("spec: {{ policy: {{ gates: [ {gate} ] }} }}\n");
    ("holdfast.yaml".to_owned(), document("Fleet", "retail", &spec))
}

/// Lets what waits go on.
fn open(test_box: &TestBox) {
    fs::remove_file(test_box.path("open-sale")).unwrap();
}

/// Another key that may sign; gives what allowed_signers was without it.
fn second_signer(test_box: &TestBox) -> (Key, String) {
    let key = test_box.repo.key("second", &["-t", "ed25519"]);
    let signers = test_box.repo.allowed_signers();
    let before = fs::read_to_string(&signers).unwrap();
    fs::write(&signers, format!("{before}second@example {}\n", key.public())).unwrap();
    (key, before)
}

fn waits_for_gate(status: &Value) -> bool {
    of(status, "pos")["held"]["cause"].as_str().is_some_and(|cause| cause.contains("open-sale"))
}

fn has_lost_its_leave(status: &Value) -> bool {
    let held = status["held"].as_array().unwrap();
    let told = |held: &Value| held["cause"].as_str().unwrap().contains("nothing more of it is applied");
    held.iter().any(told)
}

#[test]
fn what_waits_is_not_applied_once_the_key_that_signed_it_is_no_longer_allowed() {
    let test_box = TestBox::converged();
    let (second, without) = second_signer(&test_box);
    let mut files = pos("2", "");
    files.push(gate(&test_box));
    let commit = test_box.commit_by(&files, Signer::Key(&second));
    let agent = test_box.start();
    agent.wait("the gate", waits_for_gate);
    let changes = test_box.changes();
    fs::write(test_box.repo.allowed_signers(), without).unwrap();
    open(&test_box);
    let status = agent.wait("the refusal", has_lost_its_leave);
    assert_eq!(status["revision"]["accepted"], json!(commit), "nothing older is taken for that");
    assert!(cause(&status).contains(&second.fingerprint()), "{status:#}");
    assert!(status["held"][0]["unblock"].as_str().unwrap().contains("signed by an allowed key"));
    assert_eq!(of(&status, "pos")["held"]["cause"], status["held"][0]["cause"]);
    agent.signal("HUP");
    let polled = status["source"]["lastPoll"].clone();
    let status = agent.wait("another poll", |status| status["source"]["lastPoll"] != polled);
    assert!(has_lost_its_leave(&status), "{status:#}");
    assert_eq!((test_box.runs("pos").as_deref(), test_box.changes()), (Some("1"), changes));
    // What runs is kept meanwhile.
    fs::remove_file(test_box.object("pos")).unwrap();
    agent.wait("the repair", |_| test_box.runs("pos").as_deref() == Some("1"));
    let signed = test_box.commit(&pos("3", ""));
    agent.signal("HUP");
    agent.wait_for(&signed);
    assert_eq!((test_box.runs("pos").as_deref(), test_box.changes()), (Some("3"), changes + 2));
}

#[test]
fn what_waits_is_verified_again_after_a_restart_and_goes_on_once_its_key_is_back() {
    let test_box = TestBox::converged();
    let (second, without) = second_signer(&test_box);
    let mut files = pos("2", "");
    files.push(gate(&test_box));
    let commit = test_box.commit_by(&files, Signer::Key(&second));
    let (code, status) = test_box.once();
    assert_eq!((code, waits_for_gate(&status)), (2, true), "{status:#}");
    let signers = test_box.repo.allowed_signers();
    let with = fs::read_to_string(&signers).unwrap();
    fs::write(&signers, without).unwrap();
    open(&test_box);
    let told = test_box.count("revision.held");
    // The proof is in the mirror: no source is needed to look at it again.
    fs::rename(test_box.repo.path(), test_box.path("away")).unwrap();
    let (code, status) = test_box.once();
    assert_eq!((code, has_lost_its_leave(&status)), (2, true), "{status:#}");
    assert!(has_lost_its_leave(&test_box.status()), "without a daemon");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    fs::rename(test_box.path("away"), test_box.repo.path()).unwrap();
    let (code, status) = test_box.once();
    assert_eq!((code, has_lost_its_leave(&status)), (2, true), "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    assert_eq!(test_box.count("revision.held"), told + 2, "once for each start");
    fs::write(&signers, with).unwrap();
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(commit)), "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"));
}

#[test]
fn what_is_half_applied_is_taken_back_once_its_key_is_no_longer_allowed() {
    let test_box = TestBox::converged();
    let (second, without) = second_signer(&test_box);
    let agent = test_box.start();
    let never = "simulated.holdfast.dev/apply: not-yet";
    let commit = test_box.commit_by(&pos("2", never), Signer::Key(&second));
    agent.signal("HUP");
    agent.wait("the change", |status| of(status, "pos")["phase"] == "Applying");
    fs::write(test_box.repo.allowed_signers(), without).unwrap();
    let status = agent.wait("the refusal", has_lost_its_leave);
    assert_eq!(status["revision"]["accepted"], json!(commit));
    let status = agent.wait("the way back", |status| of(status, "pos")["phase"] == "Pending");
    assert_eq!(of(&status, "pos")["held"]["cause"], status["held"][0]["cause"]);
    assert_eq!(of(&status, "pos")["health"], "Healthy", "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    let signed = test_box.commit(&pos("3", ""));
    agent.signal("HUP");
    agent.wait_for(&signed);
}

#[test]
fn what_was_accepted_unsigned_is_not_applied_by_a_box_that_wants_signatures_by_now() {
    let test_box = TestBox::new();
    let source = format!("url = \"{}\"", test_box.repo.url());
    test_box.configure(&source, "mode = \"none\"");
    test_box.commit_by(&pos("1", ""), Signer::Nobody);
    assert_eq!(test_box.once().0, 0);
    let mut files = pos("2", "");
    files.push(gate(&test_box));
    test_box.commit_by(&files, Signer::Nobody);
    let (code, status) = test_box.once();
    assert_eq!((code, waits_for_gate(&status)), (2, true), "{status:#}");
    test_box.follow(&source);
    open(&test_box);
    let (code, status) = test_box.once();
    assert_eq!((code, has_lost_its_leave(&status)), (2, true), "{status:#}");
    assert!(cause(&status).contains("is not signed"), "{status:#}");
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"));
    test_box.commit(&[]);
    assert_eq!(test_box.once().0, 0);
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"), "somebody vouches for it by a commit on top");
}

#[test]
fn a_key_may_be_withdrawn_once_what_it_signed_runs() {
    let test_box = TestBox::new();
    let (second, without) = second_signer(&test_box);
    let commit = test_box.commit_by(&pos("1", ""), Signer::Key(&second));
    assert_eq!(test_box.once().0, 0);
    fs::write(test_box.repo.allowed_signers(), without).unwrap();
    for _ in 0..2 {
        let (code, status) = test_box.once();
        assert_eq!((code, &status["revision"]["applied"]), (0, &json!(commit)), "{status:#}");
    }
    fs::remove_file(test_box.object("pos")).unwrap();
    assert_eq!(test_box.once().0, 0);
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"), "it is kept");
    test_box.commit_by(&pos("2", ""), Signer::Key(&second));
    assert_eq!(test_box.once().0, 2);
    assert_eq!(test_box.runs("pos").as_deref(), Some("1"), "and nothing new comes by it");
}

#[test]
fn a_commit_that_was_refused_is_looked_at_again_when_its_key_is_allowed() {
    let test_box = TestBox::converged();
    let (second, without) = second_signer(&test_box);
    let signers = test_box.repo.allowed_signers();
    let with = fs::read_to_string(&signers).unwrap();
    fs::write(&signers, without).unwrap();
    let agent = test_box.start();
    let commit = test_box.commit_by(&pos("2", ""), Signer::Key(&second));
    agent.signal("HUP");
    let fingerprint = second.fingerprint();
    let refused = |status: &Value| {
        status["held"][0]["cause"].as_str().is_some_and(|cause| cause.contains(&fingerprint))
    };
    agent.wait("the refusal", refused);
    fs::write(&signers, with).unwrap();
    agent.signal("HUP");
    agent.wait_for(&commit);
    assert_eq!(test_box.runs("pos").as_deref(), Some("2"));
}

#[test]
fn status_tells_the_accepted_commit_by_its_subject_its_author_and_its_signer() {
    let test_box = TestBox::new();
    test_box.commit(&pos("1", ""));
    let (_, status) = test_box.once();
    let author = test_box.repo.git(&["log", "-1", "--format=%an"]);
    let change = json!({ "subject": "a change", "author": author.trim(), "signer": "ops@example" });
    assert_eq!(status["change"], change);
    // Also where no agent runs.
    assert_eq!(test_box.status()["change"], change);
    let text = String::from_utf8(test_box.holdfast(&["status"]).stdout).unwrap();
    assert!(text.contains("\"a change\" by ") && text.contains(", signed by ops@example"), "{text}");
}
