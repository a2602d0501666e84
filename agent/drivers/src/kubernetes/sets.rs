//! The parents of ApplySets: for each app a ConfigMap that says of which kinds and in which namespaces its objects
//! are, so that we and other tools can find them when nothing else is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use holdfast_core::digest::Digest;
use holdfast_core::name::AppName;
use serde_json::{Value, json};

use super::api::{Api, ApiError, Apply};
use super::discovery::{Kind, own};
use super::marks::{self, NAMESPACE, OwnerMark};
use super::watched_kind::Place;

/// Of which kinds and in which namespaces the objects of an app are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Such as `Deployment.apps`.
    pub(super) kinds: BTreeSet<String>,
    /// But for that of the parents, which is among them always.
    pub(super) namespaces: BTreeSet<String>,
    /// The Jobs that ended well and that the cluster may remove then, by what was written.
    pub(super) ended: BTreeMap<String, Digest>,
}

impl Members {
    /// Notes that an object of this kind is in this namespace.
    pub(super) fn add(&mut self, kind: &Kind, namespace: Option<&str>) {
        self.kinds.insert(kind.in_set());
        self.namespaces.extend(namespace.filter(|name| *name != NAMESPACE).map(str::to_owned));
    }
}

/// The parents that this owner keeps.
pub(super) struct Sets {
    api: Api,
    owner: OwnerMark,
    parent: Kind,
    /// Whether other nodes write them too.
    shared: bool,
    /// What was last read or written, if nobody else writes them.
    known: Mutex<BTreeMap<AppName, Members>>,
    /// The apps whose parent somebody has removed.
    lost: Mutex<BTreeSet<AppName>>,
    /// Whoever reads, changes and writes one does so alone.
    turn: tokio::sync::Mutex<()>,
}

impl Sets {
    pub(super) fn new(api: Api, owner: OwnerMark, shared: bool) -> Self {
        let parent = own("", "ConfigMap", "configmaps", true);
        Sets {
            api,
            owner,
            parent,
            shared,
            known: Mutex::default(),
            lost: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Forgets what is known of all parents.
    pub(super) fn forget(&self) {
        self.known().clear();
    }

    /// Notes that an app's parent is gone: it is written again as it was, when next something of the app is.
    pub(super) fn lost(&self, app: &AppName) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(app.clone());
    }

    /// Whether an app's parent is there, as the server says.
    pub(super) async fn has_parent(&self, app: &AppName) -> Result<bool, ApiError> {
        let name = self.owner.parent_of(app);
        Ok(self.api.get_metadata(&self.parent, Some(NAMESPACE), &name).await?.is_some())
    }

    /// Where parents are kept, and under which name that of an app.
    pub(super) fn place_of(&self, app: &AppName) -> (Kind, Place) {
        (self.parent.clone(), (Some(NAMESPACE.to_owned()), self.owner.parent_of(app)))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<AppName, Members>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the objects of an app are; nowhere, if it has no parent.
    pub(super) async fn of(&self, app: &AppName) -> Result<Members, ApiError> {
        if let Some(members) = self.known().get(app).filter(|_| !self.shared) {
            return Ok(members.clone());
        }
        let parent = self.api.get_metadata(&self.parent, Some(NAMESPACE), &self.owner.parent_of(app)).await?;
        let members = parent.as_ref().map(members_in).unwrap_or_default();
        self.known().insert(app.clone(), members.clone());
        Ok(members)
    }

    /// All apps that have a parent.
    pub(super) async fn apps(&self) -> Result<Vec<AppName>, ApiError> {
        let parents = self.api.list(&self.parent, Some(NAMESPACE), &self.owner.selector()).await?;
        let app =
            |parent: &Value| parent.pointer("/metadata/labels")?.get(marks::APP)?.as_str()?.parse().ok();
        Ok(parents.iter().filter_map(app).collect())
    }

    /// Has the parent of an app name these kinds and namespaces, before anything is made of them; and the object that is
    /// to be written no longer as one that has ended.
    pub(super) async fn cover(&self, app: &AppName, more: &Members, object: &str) -> Result<(), ApiError> {
        let _turn = self.turn.lock().await;
        let mut members = self.of(app).await?;
        let before = members.clone();
        members.kinds.extend(more.kinds.iter().cloned());
        members.namespaces.extend(more.namespaces.iter().cloned());
        members.ended.remove(object);
        let is_lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(app);
        if members == before && !is_lost {
            return Ok(());
        }
        self.write(app, members).await
    }

    /// Has the parent of an app name no more kinds and namespaces than these, and `removed` no longer as one that has
    /// ended; without any it goes.
    pub(super) async fn keep_only(
        &self,
        app: &AppName,
        members: Members,
        removed: &str,
    ) -> Result<(), ApiError> {
        let _turn = self.turn.lock().await;
        let before = self.of(app).await?;
        let mut members = Members { ended: before.ended.clone(), ..members };
        members.ended.remove(removed);
        if before == members {
            return Ok(());
        }
        self.replace(app, members).await
    }

    /// Has the parent of an app name these Jobs as ended, too.
    pub(super) async fn note_ended(
        &self,
        app: &AppName,
        new: BTreeMap<String, Digest>,
    ) -> Result<(), ApiError> {
        let _turn = self.turn.lock().await;
        let before = self.of(app).await?;
        let mut members = before.clone();
        members.ended.extend(new);
        if members == before {
            return Ok(());
        }
        self.write(app, members).await
    }

    async fn replace(&self, app: &AppName, members: Members) -> Result<(), ApiError> {
        if members != Members::default() {
            return self.write(app, members).await;
        }
        let name = self.owner.parent_of(app);
        if let Some(parent) = self.api.get_metadata(&self.parent, Some(NAMESPACE), &name).await? {
            let text = |path: &str| parent.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let of = (text("/metadata/uid"), text("/metadata/resourceVersion"));
            self.api.delete(&self.parent, Some(NAMESPACE), &name, of, None).await?;
        }
        self.known().remove(app);
        Ok(())
    }

    async fn write(&self, app: &AppName, members: Members) -> Result<(), ApiError> {
        let name = self.owner.parent_of(app);
        let parent = self.parent_object(app, &members);
        let written = match self.put(&name, &parent).await {
            Err(error) if error.is_not_found() => {
                ensure_namespace(&self.api, NAMESPACE).await?;
                self.put(&name, &parent).await
            }
            other => other,
        };
        written?;
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
        self.known().insert(app.clone(), members);
        Ok(())
    }

    async fn put(&self, name: &str, parent: &Value) -> Result<Value, ApiError> {
        self.api.apply(&self.parent, Some(NAMESPACE), name, parent, Apply::Force, None).await
    }

    fn parent_object(&self, app: &AppName, members: &Members) -> Value {
        let list = |all: &BTreeSet<String>| all.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let owner = &self.owner;
        let mut parent = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": owner.parent_of(app),
                "namespace": NAMESPACE,
                "labels": {
                    (marks::ID): owner.set_of(app),
                    (marks::OWNER): owner.mark,
                    (marks::APP): app,
                },
                "annotations": {
                    (marks::TOOLING): concat!("holdfast/v", env!("CARGO_PKG_VERSION")),
                    (marks::KINDS): list(&members.kinds),
                    (marks::NAMESPACES): list(&members.namespaces),
                    (marks::OWNER_NAME): owner.name,
                },
            },
        });
        if !members.ended.is_empty() {
            let ended: Vec<String> =
                members.ended.iter().map(|(job, digest)| format!("{job}={digest}")).collect();
            parent["metadata"]["annotations"][marks::ENDED] = ended.join(",").into();
        }
        parent
    }
}

fn members_in(parent: &Value) -> Members {
    let list = |name: &str| -> BTreeSet<String> {
        let text = parent.pointer("/metadata/annotations").and_then(|notes| notes.get(name)?.as_str());
        text.unwrap_or_default().split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let ended = list(marks::ENDED).into_iter().filter_map(|entry| {
        let (job, digest) = entry.split_once('=')?;
        Some((job.to_owned(), digest.parse().ok()?))
    });
    Members { kinds: list(marks::KINDS), namespaces: list(marks::NAMESPACES), ended: ended.collect() }
}

/// Whether an object is a Namespace that the agent has made by itself: an app may come to bring it.
pub(super) fn is_made_by_us(object: &Value) -> bool {
    let label = |name: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(name)?.as_str());
    let managed = object.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
    let mut managers = managed.filter(|entry| entry.get("subresource").is_none());
    object.get("metadata").is_some_and(|metadata| metadata.get("namespace").is_none())
        && label("app.kubernetes.io/managed-by") == Some(marks::MANAGER)
        && label(marks::OWNER).is_none()
        && managers.all(|entry| entry.get("manager").and_then(Value::as_str) == Some(marks::MANAGER))
}

/// Makes a namespace that an app names and nobody has made. It stays: nobody knows what else is put into it.
pub(super) async fn ensure_namespace(api: &Api, name: &str) -> Result<(), ApiError> {
    let kind = own("", "Namespace", "namespaces", false);
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": { "app.kubernetes.io/managed-by": "holdfast" } },
    });
    match api.create(&kind, None, &namespace).await {
        Err(error) if error.refusal().is_some_and(|refusal| refusal.reason == "AlreadyExists") => Ok(()),
        other => other.map(drop),
    }
}
