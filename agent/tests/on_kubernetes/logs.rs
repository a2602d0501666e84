//! The last lines of pods in a diagnosis: from the kubelet through the API server to `holdfast diag`.

use std::process::Command;

use serde_json::Value;

use crate::cluster_box::{ClusterBox, deployment};
use crate::pods::{node, rolled, runs};
use crate::support::kubernetes::{ControlPlane, LOG};

/// Times that soon have a release fail.
const HEALTH: &str = "health: { startup: 2s, deadline: 10s, soak: 300ms }";

/// A Deployment whose pods say this and go on; those that are never ready say it all the same.
fn talks(script: &str, is_ready: bool) -> String {
    rolled(&[runs("web", &format!("{script}; exec /bin/busybox sleep 1000"), &probe(is_ready))])
}

/// Until it succeeds, what ran before goes on beside it.
fn probe(is_ready: bool) -> String {
    format!("readinessProbe: {{ exec: {{ command: [/bin/sh, -c, \"{is_ready}\"] }}, periodSeconds: 1 }}")
}

/// Lines of this, numbered.
fn lines_of(word: &str, times: usize) -> String {
    format!("i=0; while [ $i -lt {times} ]; do i=$((i+1)); echo {word} $i; done")
}

/// What `holdfast diag` gives.
fn diagnosis(shop: &ClusterBox<'_>) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["--json", "diag", "pos", "--config"]).arg(shop.dir().join("agent.toml"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn lines(diagnosis: &Value) -> Vec<&str> {
    diagnosis["logs"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
}

/// A good release whose pods say much, and one that fails.
fn failed<'p>(plane: &'p ControlPlane, name: &str, good: &str, bad: &str) -> ClusterBox<'p> {
    let mut shop = ClusterBox::new(plane, name);
    shop.write(HEALTH, good);
    shop.start(&[]);
    shop.converge();
    shop.write(HEALTH, bad);
    shop.push();
    shop.wait_app("taken back", |app| app.phase == "RolledBack");
    shop
}

/// The same with pods that run.
fn failed_on_node<'p>(node: &'p ControlPlane, name: &str, bad: &str) -> ClusterBox<'p> {
    failed(node, name, &talks(&lines_of("served", 3000), true), bad)
}

#[test]
fn a_diagnosis_ends_with_what_the_version_said_that_failed() {
    let Some(node) = node() else { return };
    let said = talks(&format!("{}; echo no database", lines_of("step", 500)), false);
    let shop = failed_on_node(&node, "said", &said);
    let diagnosis = diagnosis(&shop);
    let lines = lines(&diagnosis);
    assert_eq!(lines.len(), 200, "{lines:?}");
    assert!(lines[199].starts_with("web-") && lines[199].ends_with(" web: no database"), "{}", lines[199]);
    assert!(lines[198].ends_with(" web: step 500"), "{}", lines[198]);
    assert!(lines.iter().all(|line| !line.contains("served")), "{lines:?}");
    // No more is asked for than is kept, and nothing of before its start of a container that never ended: the kubelet
    // would refuse that.
    let asked: Vec<_> = shop.requests().into_iter().filter(|one| one.uri.contains("/log?")).collect();
    assert!(!asked.is_empty() && asked.iter().all(|one| one.uri.contains("tailLines=200")), "{asked:?}");
    assert!(asked.iter().all(|one| one.code == 200), "{asked:?}");
}

#[test]
fn a_diagnosis_has_what_a_container_said_before_it_crashed_and_says_it_once() {
    let Some(node) = node() else { return };
    let crashes = rolled(&[runs("web", "echo panic: no paper; exit 3", &probe(false))]);
    let shop = failed_on_node(&node, "crash", &crashes);
    let diagnosis = diagnosis(&shop);
    let lines = lines(&diagnosis);
    assert!(lines.last().unwrap().ends_with(" web: panic: no paper"), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("no paper")).count(), 1, "{lines:?}");
    // There is room for what ran beside it.
    assert!(lines[0].contains(" web: served "), "{}", lines[0]);
}

#[test]
fn a_log_of_long_lines_is_kept_to_its_bounds() {
    let Some(node) = node() else { return };
    let said = "printf %0300000d 1; echo; printf %0200000d 2; echo; echo the last word";
    let shop = failed_on_node(&node, "long", &talks(said, false));
    let diagnosis = diagnosis(&shop);
    let lines = lines(&diagnosis);
    assert!(lines.last().unwrap().ends_with(" web: the last word"), "{:?}", lines.last());
    assert!(lines.iter().map(|line| line.len()).sum::<usize>() <= 48 << 10);
}

#[test]
fn a_kubelet_that_tells_no_log_keeps_an_app_from_nothing() {
    let Some(plane) = ControlPlane::shared() else { return };
    let web = |version: &str, behaviour: &str, said: &str| {
        let plain = deployment("web", version, behaviour);
        plain.replace("annotations: {", &format!("annotations: {{ {LOG}: \"{said}\","))
    };
    let (good, bad) = (web("1", "ready", "{3000*served #\\n}end"), web("2", "never-ready", "hang"));
    let shop = failed(&plane, "mute", &good, &bad);
    let diagnosis = diagnosis(&shop);
    let lines = lines(&diagnosis);
    // The other pod's log is there, and why this one isn't.
    assert!(lines.iter().any(|line| line.ends_with(" web: served 3000")), "{lines:?}");
    assert!(lines.last().unwrap().contains("did not answer within"), "{lines:?}");
}
