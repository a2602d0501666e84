//! The one of several nodes that writes: a Lease in the cluster, and what the others do meanwhile.

use std::sync::Arc;

use async_trait::async_trait;

use super::api::{Api, ApiError};
use super::discovery::{Kind, own};
use super::lease::{self, Leadership, LeaseStore, Record, Refused, Standing};
use super::marks::{NAMESPACE, OwnerMark};
use super::notifications::Notifications;
use super::sets::ensure_namespace;
use crate::DriverError;

/// Where this node stands among those that keep the same cluster.
pub(super) struct Leader {
    leadership: Leadership,
    cluster: String,
}

impl Leader {
    /// Stands for election, and tells the loop when this node comes to lead.
    pub(super) fn stand(api: Api, cluster: &OwnerMark, device: &str, notifications: Notifications) -> Self {
        let lease = own("coordination.k8s.io", "Lease", "leases", true);
        let store = Lease { api, kind: lease, name: format!("holdfast-{}", &cluster.mark[..8]) };
        let leadership = Leadership::start(Arc::new(store), lease::identity(device));
        let mut changes = leadership.changes();
        tokio::spawn(async move {
            while let Some(standing) = changes.next().await {
                let leads = matches!(standing, Standing::Leads { .. });
                tracing::info!(?standing, "the leader of the cluster");
                notifications.stand_by(!leads);
                if leads {
                    notifications.notify(None, "this node leads the cluster now".to_owned(), true);
                }
            }
        });
        Leader { leadership, cluster: cluster.name.clone() }
    }

    /// By when writes must have ended.
    pub(super) fn until(&self) -> Result<tokio::time::Instant, DriverError> {
        let Some(until) = self.leadership.leads_until() else {
            let cluster = &self.cluster;
            return Err(DriverError::Runtime(match self.leadership.standing() {
                Standing::StandsBy { leader, .. } => {
                    format!(
                        "standing by: {leader} holds the lease of the cluster {cluster} and applies its changes; \
                         this node takes over if that node stops responding"
                    )
                }
                Standing::Unknown { reason } => {
                    format!("it is not known which node holds the lease of the cluster {cluster}: {reason}")
                }
                Standing::Leads { .. } => {
                    format!("this node has just acquired the lease of the cluster {cluster}")
                }
            }));
        };
        Ok(until)
    }

    /// Lets another node lead.
    pub(super) async fn resign(&self) {
        self.leadership.stop().await;
    }
}

/// The Lease in the cluster.
struct Lease {
    api: Api,
    kind: Kind,
    name: String,
}

impl Lease {
    fn body(&self, record: &Record) -> serde_json::Value {
        record.lease(NAMESPACE, &self.name)
    }
}

#[async_trait]
impl LeaseStore for Lease {
    async fn get(&self) -> Result<Option<Record>, String> {
        let found = self.api.get(&self.kind, Some(NAMESPACE), &self.name).await;
        found.map(|found| found.map(Record::read)).map_err(|error| error.to_string())
    }

    async fn create(&self, record: &Record) -> Result<Record, Refused> {
        let lease = self.body(record);
        let made = match self.api.create(&self.kind, Some(NAMESPACE), &lease).await {
            Err(error) if error.is_not_found() => {
                ensure_namespace(&self.api, NAMESPACE)
                    .await
                    .map_err(|error| Refused::Failed(error.to_string()))?;
                self.api.create(&self.kind, Some(NAMESPACE), &lease).await
            }
            other => other,
        };
        made.map(Record::read).map_err(|error| refused(&error, false))
    }

    async fn replace(&self, record: &Record) -> Result<Record, Refused> {
        let made = self.api.replace(&self.kind, Some(NAMESPACE), &self.name, &self.body(record)).await;
        made.map(Record::read).map_err(|error| refused(&error, true))
    }
}

fn refused(error: &ApiError, replaced: bool) -> Refused {
    match error.code() {
        Some(409) => Refused::Conflict,
        Some(404) if replaced => Refused::Conflict,
        _ => Refused::Failed(error.to_string()),
    }
}
