//! Signatures made by real ssh-keygen, and its verdict compared with ours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_core::clock::{BootId, Moment, Now};
use holdfast_core::digest::Revision;
use holdfast_core::verify::{
    AllowedSigners, Ancestry, ArtifactProof, BadSignature, Fetched, Floor, GitProof, KeyProblem, Proof,
    Refused, Signature, TrustPolicy, Verified, verify,
};
use jiff::Timestamp;
use tempfile::TempDir;

const PAYLOAD: &[u8] =
    b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\ncommitter T <t@example> 0 +0000\n\nx\n";

/// A folder with a key in it.
struct Key {
    dir: TempDir,
}

impl Key {
    fn make(kind: &[&str]) -> Key {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        run(Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "", "-f"]).arg(&file).args(kind));
        Key { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    fn public(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("key.pub")).unwrap().trim().to_owned()
    }

    fn fingerprint(&self) -> String {
        let text = run(Command::new("ssh-keygen").arg("-lf").arg(self.file()));
        text.split(' ').nth(1).unwrap().to_owned()
    }

    fn sign(&self, namespace: &str, options: &[&str]) -> Vec<u8> {
        let payload = self.dir.path().join("payload");
        let signature = self.dir.path().join("payload.sig");
        std::fs::write(&payload, PAYLOAD).unwrap();
        let _ = std::fs::remove_file(&signature);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-Y", "sign", "-n", namespace]).args(options).arg("-f").arg(self.file());
        run(command.arg(&payload));
        std::fs::read(&signature).unwrap()
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; run scripts/setup-tests.sh, which installs what the tests need")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn commit(armored: Vec<u8>, committed: &str) -> Fetched {
    Fetched {
        revision: Revision("b".repeat(40)),
        proof: Proof::Git(GitProof {
            committed: time(committed),
            signature: Ok(Some(Signature { armored, payload: PAYLOAD.to_vec() })),
            ancestry: Ancestry::Descends,
        }),
        about: None,
    }
}

fn signature(fetched: &mut Fetched) -> &mut Signature {
    match &mut fetched.proof {
        Proof::Git(git) => git.signature.as_mut().unwrap().as_mut().unwrap(),
        Proof::Artifact(artifact) => artifact.signature.as_mut().unwrap(),
    }
}

fn check(signers: &str, fetched: &Fetched) -> Result<Verified, Refused> {
    verify(fetched, &TrustPolicy::Signed(AllowedSigners::parse(signers).unwrap()), None, &now())
}

fn now() -> Now {
    let moment = Moment { boot: BootId("b".into()), uptime: std::time::Duration::ZERO };
    Now::certain(time("2026-11-21T12:00:00Z"), moment)
}

const NOON: &str = "2026-06-15T12:00:00Z";

#[test]
fn every_accepted_kind_of_key_verifies() {
    let kinds: [(&[&str], &[&str]); 6] = [
        (&["-t", "ed25519"], &[]),
        (&["-t", "ed25519"], &["-O", "hashalg=sha256"]),
        (&["-t", "ecdsa", "-b", "256"], &[]),
        (&["-t", "ecdsa", "-b", "384"], &[]),
        (&["-t", "rsa", "-b", "2048"], &[]),
        (&["-t", "rsa", "-b", "3072"], &["-O", "hashalg=sha256"]),
    ];
    for (kind, options) in kinds {
        let key = Key::make(kind);
        // Half of what an ECDSA key signs has the high s, and is signed again.
        let verified = loop {
            match check(&format!("ops {}", key.public()), &commit(key.sign("git", options), NOON)) {
                Err(Refused::Signature { cause: BadSignature::HighS, .. }) => {}
                verified => break verified.unwrap(),
            }
        };
        let signer = verified.signer().unwrap();
        assert_eq!((signer.principal.as_str(), &signer.fingerprint), ("ops", &key.fingerprint()), "{kind:?}");
    }
}

#[test]
fn weak_and_unknown_kinds_of_key_are_refused_in_the_list_and_in_the_signature() {
    let good = Key::make(&["-t", "ed25519"]);
    for kind in [&["-t", "rsa", "-b", "1024"], &["-t", "ecdsa", "-b", "521"]] {
        let key = Key::make(kind);
        let listed = AllowedSigners::parse(&format!("ops {}", key.public())).unwrap_err().to_string();
        assert!(listed.contains("line 1") && listed.contains("not accepted"), "{kind:?}: {listed}");
        let refused =
            check(&format!("ops {}", good.public()), &commit(key.sign("git", &[]), NOON)).unwrap_err();
        let weak = matches!(&refused, Refused::Signature { cause: BadSignature::Algorithm { .. }, .. });
        assert!(weak, "{kind:?}: {refused}");
    }
}

#[test]
fn no_single_byte_can_be_altered() {
    let key = Key::make(&["-t", "ed25519"]);
    let signers = AllowedSigners::parse(&format!("ops {}", key.public())).unwrap();
    let policy = TrustPolicy::Signed(signers);
    let good = commit(key.sign("git", &[]), NOON);
    assert!(verify(&good, &policy, None, &now()).is_ok());
    for at in 0..PAYLOAD.len() {
        let mut altered = good.clone();
        signature(&mut altered).payload[at] ^= 1;
        let refused = verify(&altered, &policy, None, &now()).unwrap_err();
        let told = matches!(&refused, Refused::Signature { cause: BadSignature::Altered, .. });
        assert!(told, "byte {at}: {refused}");
    }
    let length = good.proof.signature().unwrap().unwrap().armored.len();
    for at in 0..length {
        let mut altered = good.clone();
        signature(&mut altered).armored[at] ^= 1;
        assert!(verify(&altered, &policy, None, &now()).is_err(), "byte {at} of the signature");
    }
    for cut in 0..length {
        let mut cut_off = good.clone();
        signature(&mut cut_off).armored.truncate(cut);
        assert!(verify(&cut_off, &policy, None, &now()).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_stranger_is_named_by_the_keys_fingerprint() {
    let (ops, stranger) = (Key::make(&["-t", "ed25519"]), Key::make(&["-t", "ed25519"]));
    let refused =
        check(&format!("ops {}", ops.public()), &commit(stranger.sign("git", &[]), NOON)).unwrap_err();
    assert!(matches!(&refused, Refused::Key { problem: KeyProblem::Stranger, .. }), "{refused}");
    assert!(refused.to_string().contains(&stranger.fingerprint()), "{refused}");
}

#[test]
fn a_signature_for_another_purpose_is_refused() {
    let key = Key::make(&["-t", "ed25519"]);
    let file = commit(key.sign("file", &[]), NOON);
    let refused = check(&format!("ops {}", key.public()), &file).unwrap_err();
    assert!(
        matches!(&refused, Refused::Signature { cause: BadSignature::Namespace { .. }, .. }),
        "{refused}"
    );
    let git = commit(key.sign("git", &[]), NOON);
    let refused = check(&format!("ops namespaces=\"file,mail\" {}", key.public()), &git).unwrap_err();
    assert!(
        matches!(&refused, Refused::Key { problem: KeyProblem::Namespace { line: 1, .. }, .. }),
        "{refused}"
    );
}

#[test]
fn an_expired_key_cannot_sign_by_writing_an_old_date() {
    let key = Key::make(&["-t", "ed25519"]);
    let text = format!("ops valid-before=\"20260601Z\" {}", key.public());
    let policy = TrustPolicy::Signed(AllowedSigners::parse(&text).unwrap());
    let backdated = commit(key.sign("git", &[]), "2026-05-01T00:00:00Z");
    let floor = |committed: &str| Floor {
        revision: Revision("a".repeat(40)),
        committed: time(committed),
        sequence: None,
    };
    assert!(verify(&backdated, &policy, Some(&floor("2026-05-20T00:00:00Z")), &now()).is_ok());
    let refused = verify(&backdated, &policy, Some(&floor("2026-06-02T00:00:00Z")), &now()).unwrap_err();
    assert!(matches!(&refused, Refused::Key { problem: KeyProblem::Expired { .. }, .. }), "{refused}");
    // What was signed while the key was valid stays valid, whatever the clock says.
    assert!(verify(&backdated, &policy, None, &now()).is_ok());
}

#[test]
fn an_ended_key_cannot_sign_for_a_box_that_was_off_for_years_either() {
    let (ended, ops) = (Key::make(&["-t", "ed25519"]), Key::make(&["-t", "ed25519"]));
    let text = format!("old valid-before=\"20280601Z\" {}\nops {}", ended.public(), ops.public());
    let policy = TrustPolicy::Signed(AllowedSigners::parse(&text).unwrap());
    // It was told the time since, and has proof of no more than that it was on in 2026.
    let now = Now { proven: now().proven, ..Now::certain(time("2031-03-01T00:00:00Z"), now().moment) };
    let before =
        Floor { revision: Revision("a".repeat(40)), committed: time("2026-11-20T00:00:00Z"), sequence: None };
    let today = commit(ops.sign("git", &[]), "2031-02-28T00:00:00Z");
    let floor = verify(&today, &policy, Some(&before), &now).unwrap().floor();
    let backdated = commit(ended.sign("git", &[]), "2028-05-01T00:00:00Z");
    let refused = verify(&backdated, &policy, Some(&floor), &now).unwrap_err();
    assert!(matches!(&refused, Refused::Key { problem: KeyProblem::Expired { .. }, .. }), "{refused}");
}

/// What `ssh-keygen -Y verify` says at a time, as git would ask it.
fn ssh_keygen_accepts(signers: &Path, principal: &str, key: &Key, at: &str) -> bool {
    let at: String = at.chars().filter(char::is_ascii_digit).collect();
    let mut command = Command::new("ssh-keygen");
    command.env("TZ", "UTC").args(["-Y", "verify", "-n", "git", "-I", principal, "-f"]).arg(signers);
    command.arg("-s").arg(key.dir.path().join("payload.sig")).arg("-O").arg(format!("verify-time={at}"));
    command.stdin(std::fs::File::open(key.dir.path().join("payload")).unwrap());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn options_mean_what_they_mean_to_ssh_keygen() {
    let key = Key::make(&["-t", "ed25519"]);
    let armored = key.sign("git", &[]);
    let file = key.dir.path().join("allowed_signers");
    let options = [
        "",
        "namespaces=\"git\"",
        "namespaces=\"file,g?t\"",
        "namespaces=\"*,!git\"",
        "namespaces=\"file\"",
        "valid-after=\"20260615\"",
        "valid-after=\"20260616\"",
        "valid-after=\"202606151200\"",
        "valid-before=\"20260615\"",
        "valid-before=\"20260616\"",
        "valid-before=\"20260615120000\"",
        "valid-before=\"20260615115959\"",
        "VALID-AFTER=\"20260614\",Valid-Before=\"20260616\"",
        "namespaces=\"git\",valid-after=\"20260614\",valid-before=\"20260616\"",
    ];
    for option in options {
        let line = format!("ops,*@team {option} {}\n", key.public());
        std::fs::write(&file, format!("# a comment\n\n{line}")).unwrap();
        for at in [NOON, "2026-06-15T11:59:59Z", "2026-06-15T12:00:01Z", "2026-06-14T23:59:59Z"] {
            let theirs = ssh_keygen_accepts(&file, "ops", &key, at);
            let ours = check(&line, &commit(armored.clone(), at)).is_ok();
            assert_eq!(ours, theirs, "{option} at {at}: ssh-keygen says {theirs}");
        }
    }
}

#[test]
fn an_index_is_signed_in_a_namespace_of_its_own() {
    let key = Key::make(&["-t", "ed25519"]);
    let index = |namespace: &str| Fetched {
        revision: Revision(format!("sha256:{}", "b".repeat(64))),
        proof: Proof::Artifact(ArtifactProof {
            committed: time(NOON),
            signature: Some(Signature { armored: key.sign(namespace, &[]), payload: PAYLOAD.to_vec() }),
            sequence: 1,
        }),
        about: None,
    };
    let line = format!("ops {}", key.public());
    assert_eq!(check(&line, &index("holdfast")).unwrap().signer().unwrap().fingerprint, key.fingerprint());
    // What was signed as a commit isn't signed as an index.
    assert!(matches!(check(&line, &index("git")), Err(Refused::Signature { .. })));
    let commits_only = format!("ops namespaces=\"git\" {}", key.public());
    assert!(matches!(check(&commits_only, &index("holdfast")), Err(Refused::Key { .. })));
}
