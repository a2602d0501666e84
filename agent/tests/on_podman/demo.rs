//! `holdfast demo --podman`, as somebody tries it who has podman and nothing else.

use std::process::Command;

use crate::support::podman::Podman;

#[test]
fn the_demo_shows_the_whole_way_in_containers_and_leaves_nothing() {
    let podman = Podman::start();
    let mut socket = std::ffi::OsString::from("--podman=");
    socket.push(podman.socket());
    let demo = Command::new(env!("CARGO_BIN_EXE_holdfast")).arg("demo").arg(socket).output().unwrap();
    let text = String::from_utf8_lossy(&demo.stdout);
    let said = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{text}\n{said}\n{}", podman.log());
    for part in ["two apps in containers on podman", "rolled back", "all its files have been removed"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // While the bad release came and went, and while the agent was dead.
    assert_eq!(text.matches("answers lost: 0").count(), 2, "{text}");
    assert!(podman.containers("").is_empty());
    assert!(podman.cli(&["images", "-q"]).stdout.is_empty());
}
