//! A cluster that isn't there yet, goes away, hangs, or is too busy; and an agent that dies.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster_box::{APP, ClusterBox, config_map, deployment, put_right};
use crate::support::agent_box::{app, converged_on};
use crate::support::kubernetes::{ControlPlane, Options};
use crate::support::random::{Random, number};

#[test]
fn a_cluster_that_starts_later_is_waited_for() {
    let Some(plane) = ControlPlane::alone() else { return };
    let mut shop = ClusterBox::new(&plane, "late");
    shop.write("", &config_map("config", "1"));
    plane.stop_api();
    shop.start(&[]);
    let commit = shop.push();
    shop.wait_held("API server");
    plane.start_api();
    shop.wait_converged(&commit);
}

#[test]
fn a_restart_of_the_api_server_changes_nothing_and_what_happened_meanwhile_is_put_right() {
    let Some(plane) = ControlPlane::alone() else { return };
    let mut shop = ClusterBox::new(&plane, "restart");
    shop.write("", &(config_map("config", "1") + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    plane.kill_api();
    thread::sleep(Duration::from_secs(2));
    plane.start_api();
    // Before the agent has come back to it, maybe.
    plane.patch(&shop.path("configmaps/config"), &json!({ "data": { "value": "by hand" } }));
    plane.until(&shop.path("configmaps/config"), |map| map["data"]["value"] == "1");
    shop.wait_until("converged again", |_, status| status.converged);
    assert_eq!(put_right(&shop).len(), 1, "{:?}", put_right(&shop));
}

#[test]
fn an_api_server_that_hangs_or_dies_while_it_is_written_to_ends_in_the_whole_app() {
    let Some(plane) = ControlPlane::alone() else { return };
    let mut shop = ClusterBox::new(&plane, "hang");
    let maps = |value: &str| (0..40).map(|n| config_map(&format!("c{n:02}"), value)).collect::<String>();
    shop.write("", &maps("0"));
    shop.start(&[]);
    shop.converge();
    for (round, hang) in [true, false].into_iter().enumerate() {
        let value = format!("{}", round + 1);
        shop.write("", &maps(&value));
        let commit = shop.push();
        plane.until(&shop.path("configmaps/c00"), |map| map["data"]["value"] == value);
        if hang {
            plane.hang_api();
            thread::sleep(Duration::from_secs(3));
            plane.resume_api();
        } else {
            plane.kill_api();
            plane.start_api();
        }
        shop.wait_converged(&commit);
        for n in 0..40 {
            assert_eq!(shop.get(&format!("configmaps/c{n:02}"))["data"]["value"], value, "c{n:02}");
        }
    }
}

#[test]
fn a_server_that_is_too_busy_is_asked_again_when_it_says_so() {
    let Some(plane) = ControlPlane::own(&Options::one_change_at_a_time()) else { return };
    plane.create(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        &json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "test-busy" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "test:busy" }],
        }),
    );
    let mut shop = ClusterBox::with(&plane, "busy", &["test:busy"], "");
    shop.write("", &(0..10).map(|n| config_map(&format!("c{n}"), "1")).collect::<String>());
    let occupied = plane.occupy();
    shop.start(&[]);
    let commit = shop.push();
    let user = shop.user.clone();
    shop.wait_until("refused", |_, _| plane.requests_of(&user).iter().any(|one| one.code == 429));
    drop(occupied);
    shop.wait_converged(&commit);
}

#[test]
fn kills_of_the_agent_at_any_moment_leave_whole_apps_and_the_newest_commit_wins() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "kills");
    let rounds = number("HOLDFAST_KUBERNETES_KILLS", 25);
    let mut random = Random(number("HOLDFAST_SEED", 1));
    let maps = |value: u64| -> String {
        let names = (0..6).map(|n| config_map(&format!("c{n}"), &value.to_string()));
        names
            .chain([
                config_map(&format!("only-{value}"), "1"),
                deployment("web", &value.to_string(), "ready"),
            ])
            .collect()
    };
    shop.write("", &maps(0));
    shop.start(&[]);
    let mut commit = shop.converge();
    let web = shop.get("deployments/web")["metadata"]["uid"].clone();
    for round in 1..=rounds {
        shop.write("", &maps(round));
        commit = shop.commit();
        if shop.ended().is_none() {
            shop.signal(Signal::SIGHUP);
        }
        thread::sleep(random.millis(1500));
        shop.kill();
        shop.start(&[]);
    }
    shop.wait_until("converged on the newest", |_, status| converged_on(status, &commit));
    let status = shop.status().unwrap();
    assert_eq!(app(&status, APP).unwrap().phase, "Good");
    for n in 0..6 {
        assert_eq!(shop.get(&format!("configmaps/c{n}"))["data"]["value"], rounds.to_string());
    }
    let maps = shop.get("configmaps");
    let only: Vec<_> = maps["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|map| map["metadata"]["name"].as_str().unwrap())
        .filter(|name| name.starts_with("only-"))
        .collect();
    assert_eq!(only, [format!("only-{rounds}")], "something of an older version was left");
    assert_eq!(shop.get("deployments/web")["metadata"]["uid"], web, "the workload was made anew");
}
