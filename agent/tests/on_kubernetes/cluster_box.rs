//! A box whose apps are on the tests' cluster: an agent with a user of its own, so that its requests are told from
//! others', and a namespace of its own.

use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};

use holdfast_core::report::{AppStatus, Status};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::agent_box::{AgentBox, app};
use crate::support::kubernetes::{ControlPlane, Request, has_condition};

/// A box with an agent. Dropped, the agent goes; what it made goes with the cluster.
pub(crate) struct ClusterBox<'p> {
    agent: AgentBox,
    pub(crate) plane: &'p ControlPlane,
    /// The namespace of its apps.
    pub(crate) namespace: String,
    /// As whom its agent is known.
    pub(crate) user: String,
}

/// The app that most tests have.
pub(crate) const APP: &str = "pos";

impl<'p> ClusterBox<'p> {
    /// A box whose agent may do everything.
    pub(crate) fn new(plane: &'p ControlPlane, name: &str) -> Self {
        Self::with(plane, name, &["system:masters"], "")
    }

    /// A box whose agent is in these groups, with more in its agent.toml.
    pub(crate) fn with(plane: &'p ControlPlane, name: &str, groups: &[&str], more: &str) -> Self {
        let namespace = plane.namespace(name);
        let user = format!("agent-{namespace}");
        let kubeconfig = plane.kubeconfig_for(&user, groups);
        let more = format!("[drivers.kubernetes]\nkubeconfig = \"{}\"\n{more}", kubeconfig.display());
        // Boxes share the tests' cluster, and each has only its own there.
        let agent = AgentBox::called(&format!("test/{namespace}"), &more);
        ClusterBox { agent, plane, namespace, user }
    }

    /// Writes the app with these manifests; `spec` is added to its document. It is in the next commit.
    pub(crate) fn write(&self, spec: &str, manifests: &str) {
        self.write_app(APP, spec, manifests);
    }

    /// The same for an app of another name.
    pub(crate) fn write_app(&self, name: &str, spec: &str, manifests: &str) {
        let mut document = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: {{ name: {name} }}\nspec:\n  placement: {{}}\n  \
             container: {{ driver: kubernetes, namespace: {} }}\n",
            self.namespace
        );
        for line in spec.lines() {
            let _ = writeln!(document, "  {line}");
        }
        if !spec.contains("health:") {
            document.push_str("  health: { startup: 5s, deadline: 1m, soak: 300ms }\n");
        }
        self.repo.write(&[
            (&format!("apps/{name}/app.yaml"), &document),
            (&format!("apps/{name}/manifests/all.yaml"), manifests),
        ]);
    }

    /// Commits, has the agent look at once, and waits until all of it is good.
    pub(crate) fn converge(&mut self) -> String {
        let commit = self.push();
        self.wait_converged(&commit);
        commit
    }

    /// Commits and has the agent look at once.
    pub(crate) fn push(&mut self) -> String {
        let commit = self.commit();
        // One that has only just been started doesn't know the signal yet.
        self.wait_until("there", |_, _| true);
        self.signal(Signal::SIGHUP);
        commit
    }

    /// Waits until the app is as wanted.
    pub(crate) fn wait_app(&mut self, what: &str, wanted: impl Fn(&AppStatus) -> bool) {
        self.wait_until(what, |_, status: &Status| app(status, APP).is_some_and(&wanted));
    }

    /// Waits until the app is held for a cause that says this.
    pub(crate) fn wait_held(&mut self, cause: &str) {
        self.wait_app(&format!("held for {cause:?}"), |app| {
            app.held.as_ref().is_some_and(|held| held.cause.contains(cause))
        });
    }

    /// The path of an object in the box's namespace, such as `configmaps/config`.
    pub(crate) fn path(&self, resource: &str) -> String {
        let (plural, _) = resource.split_once('/').unwrap_or((resource, ""));
        let root = match plural {
            "deployments" | "statefulsets" | "daemonsets" => "/apis/apps/v1",
            "jobs" => "/apis/batch/v1",
            _ => "/api/v1",
        };
        format!("{root}/namespaces/{}/{resource}", self.namespace)
    }

    /// What is there.
    pub(crate) fn get(&self, resource: &str) -> Value {
        self.plane.get(&self.path(resource))
    }

    /// What is there, if anything is.
    pub(crate) fn find(&self, resource: &str) -> Option<Value> {
        self.plane.find(&self.path(resource))
    }

    /// Has the cluster serve a kind of the box's own, with a status of its own, and waits until it does; gives its group.
    pub(crate) fn define(&self, kind: &str) -> String {
        let group = format!("{}.example.com", self.namespace);
        let singular = kind.to_lowercase();
        let name = format!("{singular}s.{group}");
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": name },
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": { "plural": format!("{singular}s"), "singular": singular, "kind": kind },
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
                }],
            },
        });
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.plane.create(definitions, &definition);
        self.plane.until(&format!("{definitions}/{name}"), |crd| has_condition(crd, "Established"));
        group
    }

    /// What the agent has asked of the server up to now.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.plane.requests_of(&self.user)
    }
}

/// What was written down of the hand-made changes that were put right.
pub(crate) fn put_right(agent: &AgentBox) -> Vec<String> {
    let events = agent.events();
    events.iter().filter(|event| event.kind == "app.drift").map(|event| event.message.clone()).collect()
}

impl Deref for ClusterBox<'_> {
    type Target = AgentBox;

    fn deref(&self) -> &AgentBox {
        &self.agent
    }
}

impl DerefMut for ClusterBox<'_> {
    fn deref_mut(&mut self) -> &mut AgentBox {
        &mut self.agent
    }
}

/// Sets the finalizers of an object, or takes all off.
pub(crate) fn finalizers(names: Value) -> Value {
    json!({ "metadata": { "finalizers": names } })
}

/// A ConfigMap with one value.
pub(crate) fn config_map(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ value: \"{value}\" }}\n---\n"
    )
}

/// A Deployment of one pod, which behaves as the stand-in for the kubelet is told.
pub(crate) fn deployment(name: &str, version: &str, behaviour: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name} }}\nspec:\n  selector: {{ matchLabels: {{ app: \
         {name} }} }}\n  template:\n    metadata:\n      labels: {{ app: {name} }}\n      annotations: {{ {}: {behaviour} }}\n    \
         spec: {{ containers: [ {{ name: {name}, image: \"registry.example/{name}:{version}\", resources: {{ limits: {{ \
         cpu: 1000m }} }} }} ] }}\n---\n",
        crate::support::kubernetes::BEHAVIOUR
    )
}
