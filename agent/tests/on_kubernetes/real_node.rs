//! Pods that really run: a real kubelet with containerd. What a stand-in can only pretend is seen here.

use std::process::Command;

use crate::cluster_box::{APP, ClusterBox};
use crate::pods::{IMAGE, image, node};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

const HEALTH: &str = "health: { startup: 5s, deadline: 1m, soak: 1s }";

/// A Deployment of one pod; `more` is of the container, `spec` of the pod.
fn web(more: &str, spec: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  strategy: {{ type: Recreate }}\n  selector: \
         {{ matchLabels: {{ app: web }} }}\n  template:\n    metadata: {{ labels: {{ app: web }} }}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      {spec}\n      containers: [ {{ name: web, image: \"{IMAGE}\", \
         imagePullPolicy: Never, {more} }} ]\n"
    )
}

fn wait_reason(shop: &mut ClusterBox<'_>, words: &[&str]) {
    shop.wait_app(&format!("{words:?} told"), |app| {
        let told = app.reason.clone().unwrap_or_default()
            + &app.held.as_ref().map(|held| held.cause.clone()).unwrap_or_default();
        words.iter().all(|word| told.contains(word))
    });
}

#[test]
fn an_app_runs_is_asked_in_its_container_and_at_its_address_and_says_its_last_words() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "runs");
    let checks = "health:\n  startup: 5s\n  deadline: 1m\n  soak: 1s\n  checks:\n  - http: { target: Deployment/web, port: 8080, \
                  path: /healthz }\n  - exec: { target: Deployment/web, command: [/bin/sh, -c, \"test -f /version\"] }\n";
    shop.write(checks, &web("env: [ { name: ANSWER, value: hello } ]", ""));
    shop.start(&[]);
    shop.converge();

    // One that fails: what it said before is in the diagnosis, and nothing that the kubelet says in its place.
    shop.write(checks, &web("command: [/bin/sh, -c, \"echo no paper in the printer; exit 3\"]", ""));
    shop.push();
    shop.wait_app("taken back", |app| app.phase == "RolledBack");
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["--json", "diag", APP, "--config"]).arg(shop.dir().join("agent.toml"));
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(said.contains("no paper in the printer"), "{said}");
    assert!(!said.contains("unable to retrieve container logs"), "{said}");
    let status = shop.status().unwrap();
    let held = app(&status, APP).unwrap().held.clone().unwrap();
    assert!(held.cause.contains("with code 3"), "{held:?}");
}

#[test]
fn a_program_that_ends_with_0_again_and_again_is_named() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "ends");
    // The kubelet looks once a second, and may call a container ready meanwhile that has ended: a soak of a second can
    // lie between two of its looks.
    let longer = "health: { startup: 5s, deadline: 1m, soak: 8s }";
    shop.write(longer, &web("command: [/webapp, exit, \"0\"]", ""));
    shop.start(&[]);
    shop.push();
    // "exited with code 0" at first, then "keeps exiting, the last time with code 0".
    wait_reason(&mut shop, &["container web", "with code 0"]);
    shop.wait_app("failed", |app| app.held.is_some());
}

#[test]
fn a_good_app_whose_program_ends_with_0_again_and_again_is_ill() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "good-ends");
    let program = "command: [/bin/sh, -c, \"while [ ! -e /stop/now ]; do /bin/busybox sleep 0.2; done\"], volumeMounts: [ { name: \
                   stop, mountPath: /stop } ]";
    shop.write(HEALTH, &web(program, "volumes: [ { name: stop, emptyDir: {} } ]"));
    shop.start(&[]);
    shop.converge();
    let touch = ["exec", "-n", &shop.namespace, "deployment/web", "--", "/bin/busybox", "touch", "/stop/now"];
    let done = node.kubectl_with(&touch, "");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    shop.wait_app("ill", |app| app.phase == "Good" && app.health == "Unhealthy");
    wait_reason(&mut shop, &["container web", "with code 0"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["status", "--config"]).arg(shop.dir().join("agent.toml"));
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}

#[test]
fn what_keeps_a_pod_from_being_ready_is_told_in_the_kubelets_words() {
    let Some(node) = node() else { return };
    let slow = "health: { startup: 1m, deadline: 2m, soak: 1s }";
    let mut shop = ClusterBox::new(&node, "causes");
    shop.start(&[]);
    shop.write(
        slow,
        &web("readinessProbe: { periodSeconds: 1, httpGet: { port: 8080, path: /nowhere } }", ""),
    );
    shop.push();
    wait_reason(&mut shop, &["replicas are available", "Readiness probe failed", "404"]);

    let volume = "volumes: [ { name: c, configMap: { name: settings } } ]";
    shop.write(slow, &web("volumeMounts: [ { name: c, mountPath: /c } ]", volume));
    shop.push();
    wait_reason(&mut shop, &["configmap \"settings\" not found"]);

    shop.write(slow, &web("env: [ { name: A, valueFrom: { secretKeyRef: { name: none, key: a } } } ]", ""));
    shop.push();
    wait_reason(&mut shop, &["secret \"none\" not found"]);
}

#[test]
fn a_node_that_is_not_ready_is_named() {
    // One of its own: others' pods run on the shared one.
    let options = crate::support::kubernetes::Options { real_node: true, ..Default::default() };
    let Some(plane) = ControlPlane::own(&options) else { return };
    let inside = plane.enter();
    plane.import(&image(), IMAGE);
    let mut shop = ClusterBox::new(&plane, "node");
    shop.write(HEALTH, &web("env: []", ""));
    shop.start(&[]);
    shop.converge();
    plane.hang_node();
    wait_reason(&mut shop, &["node edge is not ready"]);
    drop(shop);
    drop(inside);
}
