use std::os::unix::fs::PermissionsExt;

use holdfast_core::clock::Doubt;

use super::*;

#[test]
fn a_clock_that_is_not_trusted_is_told_with_the_reason() {
    let (shown, proven) = ("2099-01-01T00:00:00Z".parse().unwrap(), "2026-11-21T00:00:00Z".parse().unwrap());
    let found = |why| time(&Time::Unknown(Doubt { shown, proven, why }), false);
    assert_eq!(found(Suspicion::Behind).state, State::Fail);
    assert_eq!(found(Suspicion::Ahead).state, State::Warn);
    assert!(found(Suspicion::Ahead).message.contains("not trusted: it shows 2099"));
    assert_eq!(time(&Time::Known(proven), true).state, State::Ok);
    assert!(time(&Time::Known(proven), false).message.contains("not synchronized"));
}

#[test]
fn the_address_of_a_source_is_found_with_its_port() {
    for (url, address) in [
        ("https://git.example/x.git", Some("git.example:443")),
        ("https://git.example:8443/x.git", Some("git.example:8443")),
        ("ssh://git@git.example/x.git", Some("git.example:22")),
        ("https://[::1]/x", Some("[::1]:443")),
        ("https://[::1]:8443/x", Some("[::1]:8443")),
        ("file:///x", None),
    ] {
        assert_eq!(address_of(url).as_deref(), address, "{url}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_told_apart_from_one_that_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let missing = folder.path().join("a/b");
    assert_eq!(writable(&missing, folder.path()).state, State::Ok);
    assert_eq!(writable(folder.path(), folder.path()).state, State::Ok);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(writable(Path::new("/proc/self"), Path::new("/proc/self")).state, State::Fail);
}

#[test]
fn a_budget_that_the_disk_cannot_hold_is_told() {
    let folder = tempfile::tempdir().unwrap();
    assert_ne!(space(folder.path(), u64::MAX).state, State::Ok);
}
