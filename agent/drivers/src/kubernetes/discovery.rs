//! Which kinds the cluster serves: asked once, and again when a kind is missing that a new CustomResourceDefinition may
//! have added.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_core::name::ObjectKey;
use kube::core::discovery::{ApiResource, Scope};
use kube::discovery::{ApiGroup, Discovery};

use super::api::{Api, ApiError, whole};
use super::status;

/// How often the cluster is asked at the most for what it didn't serve.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it may take to tell.
const LIMIT: Duration = Duration::from_secs(20);

/// A kind that the cluster serves.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    /// Group, version, kind and plural.
    pub(super) resource: ApiResource,
    /// Whether its objects stand in namespaces.
    pub(super) namespaced: bool,
    /// Whether its objects say how they are.
    pub(super) has_status: bool,
    /// All versions in which it is served.
    pub(super) versions: Vec<String>,
}

/// A group and a kind in it.
pub(super) type GroupKind = (String, String);

impl Kind {
    /// Group and kind.
    pub(super) fn group_kind(&self) -> GroupKind {
        (self.resource.group.clone(), self.resource.kind.clone())
    }

    /// As ApplySets write it: `Deployment.apps`.
    pub(super) fn in_set(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.kind.clone(),
            group => format!("{}.{group}", self.resource.kind),
        }
    }

    /// The same kind in another version of its group.
    pub(super) fn at(&self, version: &str) -> Kind {
        let mut kind = self.clone();
        kind.resource.version = version.to_owned();
        kind.resource.api_version = match kind.resource.group.as_str() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        kind
    }

    /// The path of an object, or of all of them.
    pub(super) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = if self.resource.group.is_empty() { "/api/" } else { "/apis/" };
        let mut path = format!("{root}{}/", self.resource.api_version);
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str(&format!("namespaces/{namespace}/"));
        }
        path.push_str(&self.resource.plural);
        if let Some(name) = name {
            path.push('/');
            // Names of RBAC have ':' in them, which a path may.
            path.push_str(name);
        }
        path
    }
}

/// Kubernetes' own kinds that the driver itself uses.
pub(super) fn own(group: &str, kind: &str, plural: &str, namespaced: bool) -> Kind {
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    Kind {
        resource: ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        },
        namespaced,
        has_status: status::has_status(group, kind),
        versions: vec!["v1".to_owned()],
    }
}

/// What the cluster serves, as far as it was asked.
#[derive(Default)]
pub(super) struct Kinds {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    kinds: BTreeMap<GroupKind, Arc<Kind>>,
    asked: Option<Instant>,
}

impl Kinds {
    /// The kind of this group, in the version that the server prefers; `None` if it serves no such kind.
    pub(super) async fn get(
        &self,
        api: &Api,
        group: &str,
        kind: &str,
    ) -> Result<Option<Arc<Kind>>, ApiError> {
        let wanted = (group.to_owned(), kind.to_owned());
        {
            let known = self.known();
            if let Some(found) = known.kinds.get(&wanted) {
                return Ok(Some(Arc::clone(found)));
            }
            if known.asked.is_some_and(|asked| asked.elapsed() < PAUSE) {
                return Ok(None);
            }
        }
        self.ask(api).await?;
        Ok(self.known().kinds.get(&wanted).cloned())
    }

    /// Forgets what a definition may have changed.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All kinds of this name in Kubernetes' own groups.
    pub(super) async fn own_groups(&self, api: &Api, kind: &str) -> Result<Vec<Arc<Kind>>, ApiError> {
        // Whatever was asked before.
        self.get(api, "", "ConfigMap").await?;
        let known = self.known();
        let named = known.kinds.values().filter(|known| known.resource.kind == kind);
        let own = named.filter(|known| ObjectKey::kind_of(&known.resource.api_version, kind) == kind);
        Ok(own.cloned().collect())
    }

    /// In which versions a kind of this name is served: of this group, and of Kubernetes' own groups if that is one. Kinds
    /// have moved from one to another, as Deployment did from `extensions` to `apps`.
    pub(super) async fn versions_of(
        &self,
        api: &Api,
        group: &str,
        kind: &str,
    ) -> Result<Vec<String>, ApiError> {
        let is_own = ObjectKey::kind_of(&format!("{group}/v1"), kind) == kind;
        let kinds = match is_own {
            true => self.own_groups(api, kind).await?,
            false => self.get(api, group, kind).await?.into_iter().collect(),
        };
        // Events are served twice, and the core group is told first.
        let versions = kinds
            .iter()
            .flat_map(|kind| kind.versions.iter().map(|version| kind.at(version).resource.api_version));
        Ok(versions.collect())
    }

    async fn ask(&self, api: &Api) -> Result<(), ApiError> {
        let client = api.connection.client().await?;
        let doing = "ask what the cluster serves".to_owned();
        let server = api.connection.server();
        let discovery = match tokio::time::timeout(LIMIT, Discovery::new(client).run_aggregated()).await {
            Ok(Ok(discovery)) => discovery,
            Ok(Err(error)) => {
                return Err(ApiError::Unreachable { doing, server, cause: whole(&error) });
            }
            Err(_) => return Err(ApiError::Silent { doing, server, limit: LIMIT }),
        };
        let mut kinds = BTreeMap::new();
        for group in discovery.groups() {
            for (resource, capabilities) in group.resources_by_stability() {
                let patched =
                    ["patch", "list", "watch"].iter().all(|verb| capabilities.supports_operation(verb));
                if !patched {
                    continue;
                }
                let kind = Kind {
                    namespaced: capabilities.scope == Scope::Namespaced,
                    has_status: status::has_status(&resource.group, &resource.kind),
                    versions: versions_of(group, &resource.kind),
                    resource,
                };
                kinds.entry(kind.group_kind()).or_insert_with(|| Arc::new(kind));
            }
        }
        *self.known() = Known { kinds, asked: Some(Instant::now()) };
        Ok(())
    }
}

fn versions_of(group: &ApiGroup, kind: &str) -> Vec<String> {
    let serves =
        |version: &&str| group.versioned_resources(version).iter().any(|(resource, _)| resource.kind == kind);
    group.versions().filter(serves).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let deployment = own("apps", "Deployment", "deployments", true);
        assert_eq!(deployment.path(Some("pos"), Some("web")), "/apis/apps/v1/namespaces/pos/deployments/web");
        assert_eq!(deployment.path(None, None), "/apis/apps/v1/deployments");
        let namespace = own("", "Namespace", "namespaces", false);
        assert_eq!(namespace.path(Some("pos"), Some("pos")), "/api/v1/namespaces/pos");
        assert_eq!(deployment.at("v1beta2").path(None, None), "/apis/apps/v1beta2/deployments");
        assert_eq!((deployment.in_set(), namespace.in_set()), ("Deployment.apps".into(), "Namespace".into()));
    }
}
