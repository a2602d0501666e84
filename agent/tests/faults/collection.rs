//! Garbage collection of the mirror, and what arrives while it runs.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::agent_box::{AgentBox, Kind};

#[test]
fn a_revision_that_comes_while_the_mirror_is_garbage_collected_stays_in_it() {
    let mut it = AgentBox::new();
    it.write_app("pos", &[], 1, Kind::Good);
    let first = it.commit();
    it.start(&[]);
    it.wait_converged(&first);
    it.stop();

    // The collection that follows the start knows of the first revision alone.
    let held = it.dir().join("held");
    fs::write(&held, "").unwrap();
    it.start(&[("HOLDFAST_FAULT_HOLD", &format!("mirror.collect={}", held.display()))]);
    it.wait_until("up", |_, _| true);
    it.write_app("pos", &[], 2, Kind::Good);
    let second = it.commit();
    it.signal(Signal::SIGHUP);
    // A fetch that doesn't wait for its turn has come by then.
    thread::sleep(Duration::from_secs(2));
    fs::remove_file(&held).unwrap();
    it.wait_converged(&second);
    it.stop();
    let marker = it.state().join("mirror/objects/pack").join(format!("{second}.complete"));
    assert!(marker.exists(), "the mirror has forgotten the revision that was accepted\n{}", it.log_tail());
}
