//! The service manager's watchdog: it hears from the agent as long as the loop runs, and no longer.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::agent_box::{AgentBox, Kind, app};

/// `WATCHDOG_USEC`: the agent says that it is alive twice in this time.
const EVERY: Duration = Duration::from_millis(400);
/// More than anything takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the agent says that it is alive.
fn hears(manager: &UnixDatagram) {
    let mut message = [0; 4096];
    loop {
        let length = manager.recv(&mut message).expect("the agent says nothing to the service manager");
        if &message[..length] == b"WATCHDOG=1" {
            return;
        }
    }
}

fn forget_what_was_said(manager: &UnixDatagram) {
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 4096]).is_ok() {}
    manager.set_nonblocking(false).unwrap();
}

#[test]
fn a_loop_that_does_not_turn_is_silent_to_the_watchdog_until_it_turns_again() {
    let mut it = AgentBox::new();
    let manager = UnixDatagram::bind(it.dir().join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let (stays, trace) = (it.dir().join("stays"), it.dir().join("trace"));
    fs::write(&stays, "").unwrap();
    it.write_app("pos", &[], 1, Kind::Good);
    let first = it.commit();
    it.start(&[
        ("NOTIFY_SOCKET", it.dir().join("notify").to_str().unwrap()),
        ("WATCHDOG_USEC", &EVERY.as_micros().to_string()),
        // The loop itself comes by there.
        ("HOLDFAST_FAULT_HOLD", &format!("verdict.bad={}", stays.display())),
        ("HOLDFAST_FAULT_TRACE", trace.to_str().unwrap()),
    ]);
    it.wait_converged(&first);
    forget_what_was_said(&manager);
    hears(&manager);

    it.write_app("pos", &[], 2, Kind::Ill);
    it.commit();
    it.signal(Signal::SIGHUP);
    let began = Instant::now();
    while !fs::read_to_string(&trace).unwrap_or_default().lines().any(|line| line == "verdict.bad") {
        assert!(began.elapsed() < PATIENCE, "no verdict");
        thread::sleep(Duration::from_millis(25));
    }
    forget_what_was_said(&manager);
    manager.set_read_timeout(Some(5 * EVERY)).unwrap();
    let mut message = [0; 4096];
    let said =
        manager.recv(&mut message).map(|length| String::from_utf8_lossy(&message[..length]).into_owned());
    assert!(said.is_err(), "the loop is held, and the agent says {said:?}");

    fs::remove_file(&stays).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    hears(&manager);
    it.wait_until("taken back", |_, status| app(status, "pos").is_some_and(|app| app.phase == "RolledBack"));
}
