//! Kinds that a release names and the cluster does not serve. What the server itself no longer has, or not yet, is an
//! error of the release; what a definition may bring is waited for, before anything of the release is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::name::AppName;
use holdfast_core::release::{Object, Release};
use serde_json::Value;
use tokio::task::AbortHandle;

use super::KubernetesDriver;
use super::api::Api;
use super::discovery::Kinds;
use super::notifications::Notifications;
use super::object::version_and_kind;
use super::status::fields::{list, text};
use crate::DriverError;

/// How often a cluster is asked whether it serves what an app waits for.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Kubernetes' own groups, whose kinds come with the server. Others of `*.k8s.io` come by definitions, such as
/// `gateway.networking.k8s.io`.
const BUILT_IN: [&str; 26] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "auditregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "imagepolicy.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "settings.k8s.io",
    "storage.k8s.io",
];

/// A group, a version of it, and a kind.
type Versioned = (String, String, String);

/// Which kinds come and which are waited for.
#[derive(Clone, Default)]
pub(super) struct Coming {
    /// What each app's release defines, whether or not it is applied already.
    defined: Arc<Mutex<BTreeMap<AppName, BTreeSet<Versioned>>>>,
    /// What each app waits for.
    awaited: Arc<Mutex<BTreeMap<AppName, BTreeSet<Versioned>>>>,
    task: Arc<Mutex<Option<AbortHandle>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Coming {
    /// Forgets an app that is gone.
    pub(super) fn forget(&self, app: &AppName) {
        locked(&self.defined).remove(app);
        locked(&self.awaited).remove(app);
    }

    fn is_defined(&self, kind: &Versioned) -> bool {
        locked(&self.defined).values().any(|kinds| kinds.contains(kind))
    }

    /// Notes what an app waits for, and has the loop told once the cluster serves it.
    fn wait(
        &self,
        app: &AppName,
        kinds: BTreeSet<Versioned>,
        api: &Api,
        known: &Arc<Kinds>,
        notifications: &Notifications,
    ) {
        if kinds.is_empty() {
            locked(&self.awaited).remove(app);
            return;
        }
        locked(&self.awaited).insert(app.clone(), kinds);
        let mut task = locked(&self.task);
        if task.as_ref().is_some_and(|task| !task.is_finished()) || !notifications.is_connected() {
            return;
        }
        let (coming, api, known, notifications) =
            (self.clone(), api.clone(), Arc::clone(known), notifications.clone());
        *task = Some(tokio::spawn(coming.ask_until_served(api, known, notifications)).abort_handle());
    }

    async fn ask_until_served(self, api: Api, known: Arc<Kinds>, notifications: Notifications) {
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let awaited: BTreeSet<Versioned> = locked(&self.awaited).values().flatten().cloned().collect();
            if awaited.is_empty() {
                return;
            }
            known.forget();
            let mut served = BTreeSet::new();
            for (group, version, kind) in awaited {
                // An API server that is away is asked again.
                if let Ok(Some(found)) = known.get(&api, &group, &kind).await
                    && found.versions.contains(&version)
                {
                    served.insert((group, version, kind));
                }
            }
            let mut left = locked(&self.awaited);
            left.retain(|app, kinds| {
                kinds.retain(|kind| !served.contains(kind));
                if kinds.is_empty() {
                    let what = "the cluster serves the kinds that it waited for".to_owned();
                    notifications.notify(Some(app.clone()), what, true);
                }
                !kinds.is_empty()
            });
        }
    }
}

impl KubernetesDriver {
    /// An error if the release names kinds that the cluster doesn't serve, and that nothing on this box brings.
    pub(super) async fn kinds_are_served(&self, release: &Release) -> Result<(), DriverError> {
        let defined = release.objects.iter().flat_map(|object| defined_by(&object.spec)).collect();
        locked(&self.coming.defined).insert(release.app.clone(), defined);
        let (mut awaited, mut waits) = (BTreeSet::new(), Vec::new());
        for object in &release.objects {
            if self.kind_of(object).await?.is_some() {
                continue;
            }
            let (group, version, kind) = version_and_kind(object)?;
            let asked = (group.to_owned(), version.to_owned(), kind.to_owned());
            if BUILT_IN.contains(&group) {
                return Err(DriverError::Release(self.not_served(object).await?));
            }
            if !self.coming.is_defined(&asked) && awaited.insert(asked) {
                waits.push(self.not_served(object).await?);
            }
        }
        self.coming.wait(&release.app, awaited, &self.api, &self.kinds, &self.notifications);
        if waits.is_empty() {
            return Ok(());
        }
        Err(DriverError::NotYet(format!(
            "{}; it is applied once the cluster serves it: commit its CustomResourceDefinition, in this app or in \
             another one",
            waits.join("; ")
        )))
    }

    /// What was asked for, and what the cluster serves in its place.
    pub(super) async fn not_served(&self, object: &Object) -> Result<String, DriverError> {
        let (group, version, kind) = version_and_kind(object)?;
        let asked = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let served = self.kinds.versions_of(&self.api, group, kind).await?;
        Ok(match served.is_empty() {
            true => format!("{}: the cluster serves no {kind} of {asked}", object.key),
            false => format!(
                "{}: the cluster serves no {kind} of {asked}; it serves {kind} of {}: write one of these as apiVersion",
                object.key,
                served.join(", ")
            ),
        })
    }
}

/// What a CustomResourceDefinition has the cluster serve.
fn defined_by(object: &Value) -> Vec<Versioned> {
    let (Some("CustomResourceDefinition"), Some(group), Some(kind)) =
        (text(object, "/kind"), text(object, "/spec/group"), text(object, "/spec/names/kind"))
    else {
        return Vec::new();
    };
    let versions = list(object, "/spec/versions").iter();
    let served = versions.filter(|one| one.get("served").and_then(Value::as_bool) == Some(true));
    let names = served.filter_map(|one| text(one, "/name"));
    names.map(|version| (group.to_owned(), version.to_owned(), kind.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_brings_the_versions_that_it_serves() {
        let definition = json!({
            "kind": "CustomResourceDefinition",
            "spec": { "group": "example.com", "names": { "kind": "Lathe" }, "versions": [
                { "name": "v1", "served": true }, { "name": "v1beta1", "served": false },
            ] },
        });
        assert_eq!(defined_by(&definition), [("example.com".into(), "v1".into(), "Lathe".into())]);
        assert!(defined_by(&json!({ "kind": "ConfigMap" })).is_empty());
    }
}
