//! The pods of a workload, and where they are reached.

use holdfast_core::name::ObjectKey;
use holdfast_core::release::Release;
use serde_json::Value;
use std::net::SocketAddr;

use super::KubernetesDriver;
use super::api::ApiError;
use super::discovery::own;
use super::pods;

impl KubernetesDriver {
    /// The object of a release that a check names.
    fn target<'a>(
        &self,
        release: &'a Release,
        target: &ObjectKey,
    ) -> Option<&'a holdfast_core::release::Object> {
        let is = |key: &ObjectKey| {
            let namespace = target.namespace.is_none() || target.namespace == key.namespace;
            (&key.kind, &key.name) == (&target.kind, &target.name) && namespace
        };
        release.objects.iter().find(|object| is(&object.key))
    }

    /// The pods of a workload as they are now.
    pub(super) async fn pods_of(&self, key: &ObjectKey, workload: &Value) -> Result<Vec<Value>, ApiError> {
        let kind = own("", "Pod", "pods", true);
        if key.kind == "Pod" {
            return Ok(vec![workload.clone()]);
        }
        match pods::selector_of(workload) {
            Some(selector) => self.api.list(&kind, key.namespace.as_deref(), &selector).await,
            None => Ok(Vec::new()),
        }
    }

    /// The pods of the object that a check names, and the object itself.
    pub(super) async fn pods_at(&self, release: &Release, target: &ObjectKey) -> Option<(Value, Vec<Value>)> {
        let object = self.target(release, target)?;
        let (kind, watched) = self.kind_of(object).await.ok()??;
        let all = self.watched_kinds.of(&watched);
        all.ready().await.ok()?;
        // What somebody else has under that name is no workload of the app's.
        all.get(&super::object::place_of(&object.key, &kind))
            .filter(|(one, _)| self.prover.is_ours(&watched, one, &release.app))?;
        let live = self.api.get(&kind, object.key.namespace.as_deref(), &object.key.name).await.ok()??;
        let pods = self.pods_of(&object.key, &live).await.ok()?;
        Some((live, pods))
    }

    /// Where a port is reached: at a ready pod's own address, or that of a Service.
    pub(super) async fn reached_at(
        &self,
        release: &Release,
        target: &ObjectKey,
        port: u16,
    ) -> Option<SocketAddr> {
        let (live, pods) = self.pods_at(release, target).await?;
        if target.kind == "Service" {
            let address =
                live.pointer("/spec/clusterIP")?.as_str().filter(|address| !matches!(*address, "" | "None"));
            if let Some(address) = address {
                return Some(SocketAddr::new(address.parse().ok()?, port));
            }
        }
        pods::ready_address(&pods, port)
    }
}
