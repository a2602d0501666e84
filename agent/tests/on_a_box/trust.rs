//! Nothing runs that isn't trusted, and what ran goes on.

use serde_json::json;

use crate::boxes::{TestBox, cause, of, pos};
use crate::support::git_repo::Signer;

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
