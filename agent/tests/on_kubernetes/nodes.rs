//! Several nodes that keep one cluster: one of them writes.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cluster_box::{APP, config_map};
use crate::support::agent_box::{AgentBox, app};
use crate::support::kubernetes::ControlPlane;

/// The agents of two nodes, on the same repository's content.
fn nodes(plane: &ControlPlane, namespace: &str) -> [AgentBox; 2] {
    ["one", "two"].map(|node| {
        let kubeconfig = plane.kubeconfig_for(&format!("{node}-{namespace}"), &["system:masters"]);
        let more = format!(
            "[drivers.kubernetes]\nkubeconfig = \"{}\"\ncluster = \"test/{namespace}\"\n",
            kubeconfig.display()
        );
        AgentBox::called(&format!("test/{namespace}/{node}"), &more)
    })
}

fn write(node: &AgentBox, namespace: &str, value: &str) -> String {
    let document = format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: {{ name: {APP} }}\nspec:\n  placement: {{}}\n  container: {{ \
         driver: kubernetes, namespace: {namespace} }}\n  health: {{ startup: 5s, deadline: 1m, soak: 300ms }}\n"
    );
    node.repo.write(&[
        ("apps/pos/app.yaml", &document),
        ("apps/pos/manifests/all.yaml", &config_map("config", value)),
    ]);
    node.commit()
}

fn without(node: &AgentBox) -> String {
    node.repo.git(&["rm", "-r", "-q", "apps/pos"]);
    node.commit()
}

fn leases(plane: &ControlPlane, cluster: &str) -> Vec<Value> {
    let leases = plane.get("/apis/coordination.k8s.io/v1/namespaces/holdfast-system/leases");
    let held = |lease: &&Value| {
        lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| holder.contains(cluster))
    };
    leases["items"].as_array().unwrap().iter().filter(held).cloned().collect()
}

#[test]
fn one_node_leads_the_other_stands_by_and_takes_over_when_the_first_dies_or_stops() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("nodes");
    let [mut one, mut two] = nodes(&plane, &namespace);
    let map = format!("/api/v1/namespaces/{namespace}/configmaps/config");
    let first = write(&one, &namespace, "1");
    one.start(&[]);
    one.wait_converged(&first);
    let second = write(&two, &namespace, "1");
    two.start(&[]);
    // What the other has done is as it should be for this one as well.
    two.wait_converged(&second);
    let writes = |node: &str| {
        let all = plane.requests_of(&format!("{node}-{namespace}"));
        all.into_iter().filter(|one| one.writes() && !one.uri.contains("/leases")).count()
    };
    assert_eq!(writes("two"), 0);
    // A commit that only the one that stands by has seen waits, and says for whom.
    write(&two, &namespace, "2");
    two.signal(Signal::SIGHUP);
    two.wait_until("standing by", |_, status| {
        let held = app(status, APP).and_then(|app| app.held.clone());
        held.is_some_and(|held| {
            held.cause.contains(&format!("standing by: test/{namespace}/one holds the lease"))
        })
    });
    assert_eq!(plane.get(&map)["data"]["value"], "1");
    one.kill();
    plane.until(&map, |map| map["data"]["value"] == "2");
    assert_eq!(leases(&plane, &namespace).len(), 1);
    // And back again, at once: a node that stops gives the lead away.
    let third = write(&one, &namespace, "3");
    one.start(&[]);
    one.wait_until("standing by", |_, status| app(status, APP).is_some_and(|app| app.held.is_some()));
    two.stop();
    one.wait_converged(&third);
    assert_eq!(plane.get(&map)["data"]["value"], "3");
    let lease = leases(&plane, &namespace).remove(0);
    assert!(lease["spec"]["holderIdentity"].as_str().unwrap().contains("/one_"), "{lease}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], json!(15));
    // What the leader has removed is removed for the other as well.
    let fourth = without(&two);
    two.start(&[]);
    let fifth = without(&one);
    one.signal(Signal::SIGHUP);
    one.wait_converged(&fifth);
    plane.until_gone(&map);
    two.wait_converged(&fourth);
}
