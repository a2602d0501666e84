//! Programs that checks run in containers: from the agent through the API server to the kubelet, and their results
//! back again. Where the cluster is to fail, the containers are the stand-in's, and what programs do in them is
//! scripted, see `EXEC`.

use std::thread;
use std::time::Duration;

use crate::cluster_box::{APP, ClusterBox, config_map, deployment};
use crate::pods::{node, rolled, runs};
use crate::support::agent_box::{AgentBox, app};
use crate::support::kubernetes::{ControlPlane, EXEC};

/// A check that runs a program; the container is the first one unless it is named.
fn health(more: &str) -> String {
    format!(
        "health:\n  startup: 2s\n  deadline: 1m\n  soak: 300ms\n  checks: [ {{ exec: {{ target: Deployment/web, command: \
         [/bin/ask, --quick], timeout: 2s{more} }} }} ]"
    )
}

/// A Deployment in whose containers programs do this.
fn web(version: &str, script: &str) -> String {
    let plain = deployment("web", version, "ready");
    plain.replace("annotations: {", &format!("annotations: {{ {EXEC}: \"{script}\","))
}

impl ClusterBox<'_> {
    /// Brings a release that is taken back, and gives the reason.
    fn fails(&mut self, spec: &str, manifests: &str) -> String {
        let times = |shop: &AgentBox| {
            let events = shop.events();
            events.iter().filter(|event| event.kind == "app.rolledback").count()
        };
        let before = times(self);
        self.write(spec, manifests);
        self.push();
        self.wait_until("taken back", |shop, status| {
            let back = app(status, APP).is_some_and(|app| app.phase == "RolledBack");
            back && times(shop) > before
        });
        app(&self.status().unwrap(), APP).unwrap().held.clone().unwrap().cause
    }
}

/// A check that has a container do what its variable `ASK` says.
fn asks(more: &str) -> String {
    let health = health(more).replace("deadline: 1m\n  soak: 300ms", "deadline: 1m\n  soak: 1s");
    health.replace("[/bin/ask, --quick]", "[/bin/sh, -c, 'eval \"$ASK\"']")
}

/// A container that answers so.
fn answers(name: &str, script: &str) -> String {
    runs(name, "exec /bin/busybox sleep 1000", &format!("env: [ {{ name: ASK, value: \"{script}\" }} ]"))
}

#[test]
fn a_program_in_the_container_says_whether_the_release_is_good() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "exec");
    let web = |script: &str| rolled(&[answers("web", script)]);
    shop.write(&asks(""), &web("exit 0"));
    shop.start(&[]);
    shop.converge();
    for (script, said) in [
        ("echo no paper >&2; exit 7", "exited with code 7: no paper"),
        ("/bin/busybox sleep 1000", "did not end within 2s"),
        ("echo half of it; /bin/busybox sleep 1000", "did not end within 2s"),
    ] {
        let cause = shop.fails(&asks(""), &web(script));
        assert!(cause.contains("exec in Deployment/web: /bin/sh -c") && cause.contains(said), "{cause}");
        let env = &shop.get("deployments/web")["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(env[0]["value"], "exit 0");
    }
    // Programs that never ended keep the agent from nothing.
    shop.write(&asks(""), &web("true; exit 0"));
    shop.converge();
}

#[test]
fn a_program_that_says_much_is_judged_by_how_it_ends() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "talk");
    let web = |script: &str| rolled(&[answers("web", script)]);
    let talk = "i=0; while [ $i -lt 9000 ]; do i=$((i+1)); echo all is well; echo warning >&2; done";
    let patient = asks("").replace("timeout: 2s", "timeout: 20s");
    shop.write(&patient, &web(&format!("{talk}; exit 0")));
    shop.start(&[]);
    shop.converge();
    let long = format!("{talk}; printf %09000d 1 >&2; echo ' the drawer is open' >&2; exit 3");
    let cause = shop.fails(&patient, &web(&long));
    assert!(cause.contains("exited with code 3: ") && !cause.contains("warning"), "{cause}");
    assert!(cause.len() < 800, "{} bytes", cause.len());
    // What it says without an error counts too.
    let cause = shop.fails(&patient, &web("echo one; echo the till is locked; exit 3"));
    assert!(cause.contains("exited with code 3: the till is locked"), "{cause}");
}

#[test]
fn a_program_runs_in_the_container_that_is_named() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "named");
    let two = |code: u8| rolled(&[answers("side", "exit 9"), answers("web", &format!("exit {code}"))]);
    shop.write(&asks(", container: web"), &two(0));
    shop.start(&[]);
    shop.converge();
    let cause = shop.fails(&asks(""), &(two(0) + &config_map("config", "1")));
    assert!(cause.contains("exited with code 9"), "the first one unless one is named: {cause}");
    let cause = shop.fails(&asks(", container: till"), &(two(0) + &config_map("config", "2")));
    assert!(cause.contains("till"), "{cause}");
}

#[test]
fn a_program_runs_only_where_the_apps_account_may() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "limited");
    let account = |more: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: deployer }}\n---\napiVersion: \
             rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{ name: deployer }}\nrules:\n- apiGroups: [\"\", apps]\n  \
             resources: [configmaps, deployments]\n  verbs: [get, create, patch, delete]\n{more}---\napiVersion: \
             rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{ name: deployer }}\nroleRef: {{ apiGroup: \
             rbac.authorization.k8s.io, kind: Role, name: deployer }}\nsubjects: [ {{ kind: ServiceAccount, name: \
             deployer, namespace: {} }} ]\n",
            shop.namespace
        )
    };
    let (without, with) =
        (account(""), account("- apiGroups: [\"\"]\n  resources: [pods/exec]\n  verbs: [create, get]\n"));
    plane.apply(&shop.namespace, &without);
    let judged = format!("serviceAccount: deployer\n{}", health(""));
    shop.write("serviceAccount: deployer", &web("1", "exit 0"));
    shop.start(&[]);
    shop.converge();
    let cause = shop.fails(&judged, &(web("2", "exit 0") + &config_map("config", "2")));
    assert!(cause.contains("pods/exec") && cause.contains("deployer"), "{cause}");
    let acting = format!("system:serviceaccount:{}:deployer", shop.namespace);
    let runs = |shop: &ClusterBox<'_>| -> Vec<_> {
        shop.requests().into_iter().filter(|one| one.uri.contains("/exec?")).collect()
    };
    let refused = runs(&shop);
    assert!(!refused.is_empty() && refused.iter().all(|one| one.code == 403), "{refused:?}");
    assert!(!plane.log("kubelet").contains(&format!("namespace=\"{}\"", shop.namespace)));
    plane.apply(&shop.namespace, &with);
    shop.write(&judged, &web("3", "exit 0"));
    shop.converge();
    let all = runs(&shop);
    assert!(all.iter().all(|one| one.acting_as.as_deref() == Some(&acting)), "{all:?}");
    assert!(plane.log("kubelet").contains(&format!("namespace=\"{}\"", shop.namespace)));
}

#[test]
fn a_release_is_not_taken_back_because_its_program_cant_be_run_while_the_cluster_is_away() {
    let Some(plane) = ControlPlane::alone() else { return };
    let mut shop = ClusterBox::new(&plane, "blind");
    shop.write(&health(""), &web("1", "exit 0"));
    shop.start(&[]);
    shop.converge();
    let long = health("").replace("deadline: 1m\n  soak: 300ms", "deadline: 5m\n  soak: 10s");
    shop.write(&long, &web("2", "exit 0"));
    let commit = shop.push();
    shop.wait_app("judged", |app| app.phase == "Judging" && app.health == "Healthy");
    plane.stop_api();
    shop.wait_app("looked at in vain", |app| app.health == "Unknown");
    // Longer than it takes to judge an app by three bad looks.
    thread::sleep(Duration::from_secs(10));
    plane.start_api();
    shop.wait_converged(&commit);
    let events: Vec<_> = shop.events().into_iter().map(|event| (event.kind, event.message)).collect();
    assert!(!events.iter().any(|(kind, _)| kind == "app.failed"), "{events:?}");
}

#[test]
fn a_kubelet_that_is_away_is_the_reason_and_one_that_came_back_elsewhere_is_asked_there() {
    let Some(plane) = ControlPlane::alone() else { return };
    let mut shop = ClusterBox::new(&plane, "dead");
    shop.write(&health(""), &web("1", "exit 0"));
    shop.start(&[]);
    shop.converge();
    plane.stop_kubelet();
    let cause = shop.fails(&health(""), &(web("1", "exit 0") + &config_map("config", "1")));
    assert!(cause.contains("/bin/ask --quick: ") && cause.contains("connection refused"), "{cause}");
    plane.start_kubelet();
    shop.write(&health(""), &(web("1", "exit 0") + &config_map("config", "2")));
    shop.converge();
}
