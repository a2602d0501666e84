//! A byte budget that files of apps in Git use up: documents are fetched all the same.

use std::fs;

use holdfast_core::digest::Digest;
use serde_json::{Value, json};

use crate::boxes::{DEVICE, TestBox, cause, document, of, pos};
use crate::support::git_server::{GitServer, Options};

const BUDGET: u64 = 200 << 10;
/// What a socket may have read beyond that, and the documents of some revisions and some polls.
const ASIDE: u64 = 100 << 10;

const BUDGETED: &str = "downloads: { budget: { bytes: 200Ki, per: month } }";

fn fleet(policy: &str) -> (String, String) {
    (
        "holdfast.yaml".to_owned(),
        document("Fleet", "retail", &format!("spec: {{ policy: {{ {policy} }} }}\n")),
    )
}

/// Bytes that can't be compressed.
fn noise(size: usize) -> Vec<u8> {
    let mut state: u64 = 11;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn used(status: &Value) -> u64 {
    status["downloads"]["budget"]["used"].as_u64().unwrap_or_else(|| panic!("{status:#}"))
}

/// A box at the end of such a link, which runs `pos`. The app `w` has a file that doesn't fit into what is left.
struct Metered {
    test_box: TestBox,
    server: GitServer,
    file: Vec<u8>,
}

impl Metered {
    fn new(size: usize) -> Self {
        let test_box = TestBox::new();
        let first = [pos("1", ""), vec![fleet(BUDGETED)]].concat();
        test_box.commit(&first);
        let server = GitServer::with(&test_box.repo, &Options::default());
        test_box.follow(&format!("url = \"{}\"\nca_file = \"{}\"", server.url(), server.ca_file().display()));
        let config = fs::read_to_string(test_box.path("agent.toml")).unwrap();
        let wasm = "[drivers.wasm]\nenabled = true\nuser = \"\"\nrun_dir = \"run\"";
        let config = config.replace("[drivers.wasm]\nenabled = false", wasm);
        fs::write(test_box.path("agent.toml"), config).unwrap();
        let (code, status) = test_box.once();
        assert_eq!((code, used(&status) < BUDGET / 2), (0, true), "{status:#}");
        Metered { test_box, server, file: noise(size) }
    }

    /// What one pass says after this commit.
    fn after(&self, files: &[(String, String)]) -> Value {
        let commit = self.test_box.commit(files);
        self.test_box.repo.push(&self.server.bare());
        let (_, status) = self.test_box.once();
        assert_eq!(status["revision"]["accepted"], json!(commit), "{status:#}");
        let held = status["held"].to_string();
        assert!(!held.contains("budget") && !held.contains("fetched"), "the revision waits: {status:#}");
        status
    }

    /// Commits `w` with its file, and `pos` in version 2.
    fn add_the_file(&self) -> Value {
        let folder = self.test_box.repo.path().join("apps/w/files");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("w.wasm"), &self.file).unwrap();
        let spec = "spec:\n  placement: {}\n  wasm: { component: files/w.wasm }\n";
        let mut files = pos("2", "");
        files.push(("apps/w/app.yaml".to_owned(), document("App", "w", spec)));
        self.after(&files)
    }

    fn has_the_file(&self) -> bool {
        let name = Digest::of(&self.file).to_hex();
        self.test_box.path("state/content/sha256").join(name).exists()
    }

    fn assert_waits(&self, status: &Value) {
        let held = &of(status, "w")["held"];
        assert!(held["cause"].as_str().is_some_and(|cause| cause.contains("byte budget")), "{status:#}");
        assert!(held["unblock"].as_str().unwrap().contains("raise policy.downloads.budget"), "{status:#}");
        assert!(!self.has_the_file());
        assert!((BUDGET / 2..BUDGET + ASIDE).contains(&used(status)), "{status:#}");
    }
}

#[test]
fn a_file_that_exceeds_the_budget_holds_its_app_alone_and_uses_nothing_by_waiting() {
    for size in [230_000, 450_000, 2_000_000] {
        let metered = Metered::new(size);
        let status = metered.add_the_file();
        metered.assert_waits(&status);
        assert_eq!(metered.test_box.runs("pos").unwrap(), "2", "others go on: {status:#}");
        let before = used(&status);
        let (_, status) = metered.test_box.once();
        metered.assert_waits(&status);
        assert!(used(&status) - before < 20 << 10, "a poll and the commit: {before}, {status:#}");
    }
}

#[test]
fn what_decides_comes_after_files_have_used_up_the_budget() {
    let metered = Metered::new(2_000_000);
    metered.assert_waits(&metered.add_the_file());
    let stop = "spec: { reason: black friday, placement: {} }\n";
    let mut files = pos("3", "");
    files.push(("stops/all.yaml".to_owned(), document("Stop", "all", stop)));
    let status = metered.after(&files);
    assert!(cause(&status).contains("stopped by stops/all.yaml"), "{status:#}");
    assert_eq!(metered.test_box.runs("pos").unwrap(), "2");
    metered.test_box.remove("stops/all.yaml");
    metered.test_box.remove("apps/pos");
    let device = document("Device", DEVICE, "spec: { values: { a: 1 } }\n");
    let status = metered.after(&[(format!("devices/{DEVICE}.yaml"), device)]);
    assert_eq!(metered.test_box.runs("pos"), None, "{status:#}");
    metered.assert_waits(&status);
    let before = used(&status);
    let status = metered.after(&[fleet(&format!("{BUDGETED}, urgent: CVE-1"))]);
    assert!(metered.has_the_file(), "{status:#}");
    assert!(used(&status) - before > 2_000_000, "it is counted: {status:#}");
}

#[test]
fn a_raised_and_a_removed_budget_come_and_let_the_file_come() {
    for policy in ["downloads: { budget: { bytes: 10Mi, per: month } }", ""] {
        let metered = Metered::new(600_000);
        metered.assert_waits(&metered.add_the_file());
        let status = metered.after(&[fleet(policy)]);
        assert!(metered.has_the_file(), "{policy}: {status:#}");
    }
}
