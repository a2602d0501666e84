//! Apps that don't stay up.

use std::fs;

use holdfast_core::report::AppStatus;

use crate::meddler::{HostApp, murder};
use crate::shop::{Shop, get, wait_for};
use crate::support::agent_box::app;

#[test]
fn what_crashes_again_is_started_after_a_pause_and_says_why_it_is_unhealthy_meanwhile() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    pos.write(&shop, &shop.push("1"), "");
    shop.agent.start(&[]);
    shop.converge();
    let first = pos.container(&shop);

    let _ = get(&format!("127.0.0.1:{}", pos.port), "/crash");
    let second = pos.wait_renewed(&shop, &first.id, "1");
    // The second time, it waits.
    murder(second.pid);
    let said = shop.wait_said("pos", "killed (exit code 137): from outside");
    assert!(said.contains("restarted 1 times"), "{said}");
    let ill = |status: &AppStatus| status.health == "Unhealthy" && status.phase == "Good";
    let status = shop.agent.status().unwrap();
    assert!(ill(app(&status, "pos").unwrap()), "{status:#?}");
    pos.wait_renewed(&shop, &second.id, "1");
    shop.agent.wait_until("healthy again", |_, status| {
        app(status, "pos").is_some_and(|status| status.health == "Healthy")
    });
    let said = shop.wait_drift("pos", 2);
    assert!(said[0].contains("exited with code 1") && said[1].contains("137"), "{said:?}");
}

#[test]
fn a_release_that_crashes_again_and_again_is_taken_back_to_the_good_one() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    let (one, two) = (shop.push("1"), shop.push("2"));
    pos.write(&shop, &one, "");
    shop.agent.start(&[]);
    shop.converge();

    pos.write(&shop, &two, "          args: [exit, \"3\", \"50\"]\n");
    shop.commit();
    shop.agent.wait_until("rolled back", |_, status| {
        app(status, "pos").is_some_and(|status| status.phase == "RolledBack")
    });
    pos.wait_answer(&shop, "1");
    let said = shop.wait_said("pos", "exited with code 3");
    assert!(said.contains("the release failed"), "{said}");
    assert_eq!(pos.container(&shop).state, "running");
    shop.assert_no_strays();

    // The next one is tried at once.
    pos.write(&shop, &two, "");
    shop.converge();
    assert_eq!(pos.answer().unwrap(), "2");
}

#[test]
fn a_container_whose_liveness_fails_is_started_again() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    let liveness = format!(
        "          livenessProbe: {{ httpGet: {{ path: /healthz, port: {} }}, periodSeconds: 1, failureThreshold: 2 }}\n",
        pos.port
    );
    pos.write(&shop, &shop.push("1"), &liveness);
    shop.agent.start(&[]);
    shop.converge();
    let first = pos.container(&shop);
    fs::write(format!("/proc/{}/root/health", first.pid), "ill").unwrap();
    let second = pos.wait_renewed(&shop, &first.id, "1");
    let said = shop.wait_drift("pos", 1);
    assert!(said[0].contains("liveness probe failed 2 times"), "{said:?}");
    wait_for("the new one is well", || {
        get(&format!("127.0.0.1:{}", pos.port), "/healthz").ok().filter(|_| second.pid > 0)
    });
}
