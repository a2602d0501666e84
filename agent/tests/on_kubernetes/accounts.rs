//! What the agent and its apps may do, and what follows when they may not.

use serde_json::json;

use crate::cluster_box::{ClusterBox, config_map, deployment};
use crate::support::kubernetes::ControlPlane;

/// What an operator applies who doesn't give the agent k3s' own kubeconfig.
const ROLE: &str = include_str!("../../../image/k3s/holdfast-role.yaml");

/// An account in a namespace that may do all with ConfigMaps there, and nothing else.
fn account(namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: deployer }}\n---\napiVersion: \
         rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{ name: deployer }}\nrules:\n- apiGroups: [\"\"]\n  resources: \
         [configmaps]\n  verbs: [get, create, patch, delete]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: \
         RoleBinding\nmetadata: {{ name: deployer }}\nroleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: \
         deployer }}\nsubjects: [ {{ kind: ServiceAccount, name: deployer, namespace: {namespace} }} ]\n"
    )
}

#[test]
fn an_app_with_an_account_can_not_touch_what_the_account_may_not() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "account");
    plane.apply(&shop.namespace, &account(&shop.namespace));
    shop.write("serviceAccount: deployer", &config_map("config", "1"));
    shop.start(&[]);
    shop.converge();
    let acting = format!("system:serviceaccount:{}:deployer", shop.namespace);
    let writes: Vec<_> =
        shop.requests().into_iter().filter(|one| one.uri.contains("configmaps/config")).collect();
    assert!(writes.iter().any(|one| one.writes()), "{writes:?}");
    assert!(
        writes.iter().filter(|one| one.writes()).all(|one| one.acting_as.as_deref() == Some(&acting)),
        "{writes:?}"
    );
    // It may not make Deployments, whatever the agent itself may.
    shop.write("serviceAccount: deployer", &(config_map("config", "2") + &deployment("web", "1", "ready")));
    shop.push();
    shop.wait_held("has only its permissions");
    let status = shop.status().unwrap();
    let held = status.apps[0].held.clone().unwrap();
    assert!(held.cause.contains("deployer") && held.cause.contains("deployments"), "{held:?}");
    assert_eq!(shop.get("configmaps/config")["data"]["value"], "1", "what ran was touched");
    assert!(shop.find("deployments/web").is_none());
    // It is removed as the same account.
    shop.write("serviceAccount: deployer", &config_map("other", "3"));
    shop.converge();
    plane.until_gone(&shop.path("configmaps/config"));
    let removed =
        shop.requests().into_iter().find(|one| one.verb == "delete" && one.uri.contains("configmaps/config"));
    assert_eq!(removed.unwrap().acting_as.as_deref(), Some(acting.as_str()));
}

#[test]
fn an_account_that_gets_its_rights_later_is_waited_for() {
    let Some(plane) = ControlPlane::shared() else { return };
    let mut shop = ClusterBox::new(&plane, "later");
    shop.write("serviceAccount: deployer", &config_map("config", "1"));
    shop.start(&[]);
    let commit = shop.push();
    shop.wait_held("deployer");
    plane.apply(&shop.namespace, &account(&shop.namespace));
    shop.wait_converged(&commit);
}

#[test]
fn the_role_in_the_repository_is_enough_for_the_agent() {
    let Some(plane) = ControlPlane::shared() else { return };
    let applied =
        plane.kubectl_with(&["apply", "--server-side", "--force-conflicts", "--filename", "-"], ROLE);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let mut shop = ClusterBox::with(&plane, "role", &["test:none"], "");
    // The roles name one user; each box of these tests has another.
    for (kind, name, namespace) in [
        ("ClusterRole", "holdfast-agent", None),
        ("ClusterRole", "holdfast-agent-applies", None),
        ("Role", "holdfast-agent", Some("holdfast-system")),
    ] {
        let group = "/apis/rbac.authorization.k8s.io/v1";
        let (path, binding) = match namespace {
            Some(namespace) => (format!("{group}/namespaces/{namespace}/rolebindings"), "RoleBinding"),
            None => (format!("{group}/clusterrolebindings"), "ClusterRoleBinding"),
        };
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": binding,
            "metadata": { "name": format!("{name}-{}", shop.namespace) },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": shop.user }],
        });
        plane.create(&path, &binding);
    }
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: key }\nstringData: { word: x }\n---\n";
    shop.write("", &(config_map("config", "1") + secret + &deployment("web", "1", "ready")));
    shop.start(&[]);
    shop.converge();
    shop.write("", &(config_map("config", "2") + &deployment("web", "2", "ready")));
    shop.converge();
    plane.until_gone(&shop.path("secrets/key"));
    let refused: Vec<_> = shop.requests().into_iter().filter(|one| one.code == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
