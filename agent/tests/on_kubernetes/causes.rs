//! Why an app is unhealthy or refused: in the server's own words.

use std::thread;
use std::time::Duration;

use crate::cluster_box::{APP, ClusterBox, config_map};
use crate::support::agent_box::app;
use crate::support::kubernetes::ControlPlane;

const HEALTH: &str = "health: { startup: 1m, deadline: 2m, soak: 300ms }";
const SHORT: &str = "health: { startup: 1s, deadline: 2s, soak: 300ms }";

/// A workload whose pods are to run as an account that nobody has made.
fn without_account(kind: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{ name: s }}\nspec:\n  {more}selector: {{ matchLabels: {{ a: b }} }}\n  \
         template:\n    metadata: {{ labels: {{ a: b }} }}\n    spec: {{ serviceAccountName: missing, containers: [ {{ name: c, \
         image: x }} ] }}\n"
    )
}

#[test]
fn a_workload_of_any_kind_whose_pods_can_not_be_made_says_why() {
    let Some(plane) = ControlPlane::shared() else { return };
    for (kind, more) in
        [("StatefulSet", "serviceName: s\n  "), ("DaemonSet", ""), ("ReplicaSet", ""), ("Deployment", "")]
    {
        let mut shop = ClusterBox::new(&plane, "cause");
        shop.write(HEALTH, &without_account(kind, more));
        shop.start(&[]);
        shop.push();
        shop.wait_app(&format!("{kind}: the missing account named"), |app| {
            app.health == "Starting"
                && app.reason.as_ref().is_some_and(|why| {
                    why.contains(&format!("{kind}/")) && why.contains("serviceaccount \"missing\" not found")
                })
        });
    }
}

#[test]
fn a_version_that_the_cluster_does_not_serve_is_refused_before_anything_is_applied() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "old");
    let old = "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: { name: c }\nspec: {}\n";
    shop.write(HEALTH, &(config_map("config", "1") + old));
    shop.start(&[]);
    shop.push();
    shop.wait_held("serves no Deployment of extensions/v1beta1; it serves Deployment of apps/v1");
    let status = shop.status().unwrap();
    assert_eq!(app(&status, APP).unwrap().phase, "Held");
    assert!(shop.find("configmaps/config").is_none(), "a part of it was applied");
}

#[test]
fn a_field_that_the_kind_does_not_have_is_refused_once_and_asked_for_no_more() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "typed");
    let ill = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\nspec:\n  selector: { matchLabels: { a: b } }\n  \
               template:\n    metadata: { labels: { a: b } }\n    spec:\n      securityContext: { privileged: true }\n      \
               containers: [ { name: c, image: x } ]\n";
    shop.write(HEALTH, ill);
    shop.start(&[]);
    shop.push();
    shop.wait_held("securityContext.privileged: field not declared in schema");
    let status = shop.status().unwrap();
    let held = app(&status, APP).unwrap().held.clone().unwrap();
    assert!(held.cause.contains("Deployment/") && held.next.is_none(), "{held:?}");
    let rehearsals = |shop: &ClusterBox<'_>| {
        shop.requests().iter().filter(|one| one.uri.contains("deployments/d") && one.verb == "patch").count()
    };
    let before = rehearsals(&shop);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(rehearsals(&shop), before, "it is rehearsed again and again");
    assert!(before <= 2, "{before} rehearsals");
}

#[test]
fn a_kind_whose_definition_comes_after_the_deadline_is_applied_once_the_cluster_serves_it() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "later-kind");
    let group = format!("{}.example.com", shop.namespace);
    let lathe =
        format!("apiVersion: {group}/v1\nkind: Lathe\nmetadata: {{ name: l }}\nspec: {{ speed: 1 }}\n");
    shop.write(SHORT, &(config_map("config", "1") + &lathe));
    shop.start(&[]);
    let commit = shop.push();
    shop.wait_held("the cluster serves no Lathe");
    thread::sleep(Duration::from_secs(4));
    let status = shop.status().unwrap();
    assert_eq!(app(&status, APP).unwrap().phase, "Preparing", "its deadline ran though nothing was applied");
    assert!(shop.find("configmaps/config").is_none());

    shop.define("Lathe");
    shop.wait_converged(&commit);
}

#[test]
fn an_app_that_holds_nothing_shows_no_health_of_what_another_has() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "others");
    let map = config_map("shared", "1");
    shop.write_app("first", "", &map);
    shop.start(&[]);
    shop.converge();
    shop.write_app("second", "", &map);
    shop.push();
    shop.wait_until("held", |_, status| app(status, "second").is_some_and(|app| app.held.is_some()));
    // Long enough for a look at it.
    thread::sleep(Duration::from_secs(2));
    let status = shop.status().unwrap();
    let second = app(&status, "second").unwrap();
    assert_eq!(second.health, "Unknown", "{second:?}");
    assert_eq!(app(&status, "first").unwrap().health, "Healthy");
}
