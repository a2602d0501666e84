//! podman's service dies, hangs or is missing; the agent dies and is started again.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::meddler::{HostApp, Neighbour};
use crate::shop::Shop;

#[test]
fn while_podmans_service_is_dead_apps_answer_and_what_was_committed_comes_when_it_is_back() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    let (one, two) = (shop.push("1"), shop.push("2"));
    pos.write(&shop, &one, "");
    shop.agent.start(&[]);
    shop.converge();
    let before = pos.container(&shop);

    shop.podman.kill_service();
    shop.wait_said("pos", "podman can't be reached");
    assert_eq!(pos.answer().unwrap(), "1");
    shop.podman.restart_service();
    let head = shop.agent.repo.head();
    shop.agent.wait_converged(&head);
    assert_eq!(pos.container(&shop).id, before.id, "what ran was left alone");

    shop.podman.kill_service();
    pos.write(&shop, &two, "");
    let commit = shop.commit();
    shop.wait_said("pos", "podman can't be reached");
    assert_eq!(pos.answer().unwrap(), "1");
    shop.podman.restart_service();
    shop.agent.wait_converged(&commit);
    assert_eq!(pos.answer().unwrap(), "2");
    assert_eq!(shop.containers_of("pos").len(), 1);
}

#[test]
fn a_service_that_hangs_is_said_and_what_was_committed_comes_when_it_goes_on() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    let (one, two) = (shop.push("1"), shop.push("2"));
    pos.write(&shop, &one, "");
    shop.agent.start(&[]);
    shop.converge();

    shop.podman.signal_service(Signal::SIGSTOP);
    pos.write(&shop, &two, "");
    let commit = shop.commit();
    shop.wait_said("pos", "podman did not answer");
    assert_eq!(pos.answer().unwrap(), "1");
    shop.podman.signal_service(Signal::SIGCONT);
    shop.agent.wait_converged(&commit);
    assert_eq!(pos.answer().unwrap(), "2");
}

#[test]
fn an_agent_that_starts_before_podman_waits_for_it() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.podman.kill_service();
    fs::remove_file(shop.podman.socket()).unwrap();
    shop.agent.start(&[]);
    shop.agent.wait_until("up", |_, _| true);
    let commit = shop.commit();
    shop.wait_said("pos", "podman can't be reached");
    shop.podman.restart_service();
    shop.agent.wait_converged(&commit);
    assert_eq!(pos.answer().unwrap(), "1");
}

#[test]
fn a_service_that_is_killed_in_the_middle_of_updates_leaves_nothing_behind() {
    let mut shop = Shop::new();
    let neighbour = Neighbour::start(&shop);
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("first"), "");
    shop.agent.start(&[]);
    shop.converge();
    for round in 0..16_u64 {
        // Another image every time, so that loads are hit as well.
        pos.write(&shop, &shop.push(&format!("round-{round}")), "");
        shop.commit();
        sleep(Duration::from_millis(60 + round * 25));
        shop.podman.restart_service();
    }
    pos.write(&shop, &shop.push("last"), "");
    shop.converge();
    assert_eq!(pos.answer().unwrap(), "last");
    assert_eq!(pos.container(&shop).state, "running");
    shop.assert_no_strays();
    neighbour.assert_untouched(&shop);
}

#[test]
fn workloads_answer_on_while_the_agent_is_killed_stopped_and_started() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.agent.start(&[]);
    let head = shop.converge();
    let before = pos.container(&shop);

    shop.agent.kill();
    assert_eq!(pos.answer().unwrap(), "1");
    shop.agent.start(&[]);
    shop.agent.wait_converged(&head);
    shop.agent.stop();
    assert_eq!(pos.answer().unwrap(), "1");
    shop.agent.start(&[]);
    shop.agent.wait_converged(&head);
    let after = pos.container(&shop);
    assert_eq!((after.id, after.pid), (before.id, before.pid));
}

#[test]
fn what_podman_lost_sight_of_is_ended_and_somebody_elses_goes_on() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.agent.start(&[]);
    shop.converge();
    // As a service leaves it that is killed within a start: podman doesn't know the container any more.
    let conmon = |id: &str| {
        // It waits for what never comes, and has no child that would stay when it is killed.
        let script = "exec -a /usr/bin/conmon bash -c 'read; true' conmon -c \"$0\"";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "bash", "-c", script, id]).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (ours, others) = ("1f".repeat(32), "2e".repeat(32));
    let (mut stray, mut other) = (conmon(&ours), conmon(&others));
    fs::write(shop.agent.dir().join("podman/made").join(&ours), "").unwrap();
    shop.podman.restart_service();
    let mut ended = None;
    while ended.is_none() {
        shop.agent.wait_until("up", |_, _| true);
        ended = stray.try_wait().unwrap();
        sleep(Duration::from_millis(20));
    }
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(pos.answer().unwrap(), "1");
}
