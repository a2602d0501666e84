//! What somebody does to containers by hand, and what becomes of them.

use nix::sys::signal::Signal;

use crate::meddler::{HostApp, Neighbour, murder, pid};
use crate::shop::{Shop, wait_for};
use crate::support::podman::Setup;

#[test]
fn what_somebody_removes_pauses_stops_or_kills_is_back_and_the_neighbour_is_left_alone() {
    let mut shop = Shop::new();
    let neighbour = Neighbour::start(&shop);
    let (pos, db) = (HostApp::new("pos"), HostApp::new("db"));
    let image = shop.push("1");
    pos.write(&shop, &image, "");
    db.write(&shop, &image, "");
    shop.agent.start(&[]);
    shop.converge();
    let (first, other) = (pos.container(&shop), db.container(&shop));

    assert!(shop.podman.cli(&["rm", "-f", "--time", "0", &first.id]).status.success());
    let second = pos.wait_renewed(&shop, &first.id, "1");
    shop.wait_drift("pos", 1);

    assert_eq!(shop.podman.api("POST", &format!("/containers/{}/pause", second.id), None).0, 204);
    wait_for("it goes on", || {
        shop.podman.inspect(&second.id).filter(|it| it["State"]["Status"] == "running").map(drop)
    });
    pos.wait_answer(&shop, "1");
    shop.wait_drift("pos", 2);

    assert!(shop.podman.cli(&["stop", &second.id]).status.success());
    pos.wait_renewed(&shop, &second.id, "1");
    shop.wait_drift("pos", 3);

    murder(other.pid);
    db.wait_renewed(&shop, &other.id, "1");
    let said = shop.wait_drift("db", 1);
    assert!(said[0].contains("killed (exit code 137)"), "{said:?}");

    neighbour.assert_untouched(&shop);
    let head = shop.agent.repo.head();
    shop.agent.wait_converged(&head);
    shop.assert_no_strays();
}

#[test]
fn a_container_without_its_conmon_and_one_that_died_after_it_are_made_anew() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.agent.start(&[]);
    shop.converge();
    let first = pos.container(&shop);

    let found = shop.podman.inspect(&first.id).unwrap();
    murder(pid(&found, "ConmonPid"));
    let second = pos.wait_renewed(&shop, &first.id, "1");
    let said = shop.wait_drift("pos", 1);
    assert!(said[0].contains("conmon"), "{said:?}");

    // podman says nothing of it: neither an event nor another state.
    let found = shop.podman.inspect(&second.id).unwrap();
    shop.agent.signal(Signal::SIGSTOP);
    murder(pid(&found, "ConmonPid"));
    murder(pid(&found, "Pid"));
    shop.agent.signal(Signal::SIGCONT);
    pos.wait_renewed(&shop, &second.id, "1");
    shop.wait_drift("pos", 2);
    shop.assert_no_strays();
}

#[test]
fn a_podman_that_tells_of_no_events_is_looked_at() {
    let mut shop = Shop::with(&Setup { events_logger: "none".into(), ..Setup::default() });
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.agent.start(&[]);
    shop.converge();
    let first = pos.container(&shop);

    murder(first.pid);
    let second = pos.wait_renewed(&shop, &first.id, "1");

    // Its process stays, so that nothing but a look can tell.
    assert_eq!(shop.podman.api("POST", &format!("/containers/{}/pause", second.id), None).0, 204);
    wait_for("it goes on", || {
        shop.podman.inspect(&second.id).filter(|it| it["State"]["Status"] == "running").map(drop)
    });
    pos.wait_answer(&shop, "1");
}
