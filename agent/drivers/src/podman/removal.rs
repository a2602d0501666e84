//! Stopping a pod and taking it away, with all that was made for it and nothing else.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_core::name::{AppName, ObjectKey};
use tokio::time::timeout;

use super::client::ApiError;
use super::instance::{Instance, Standing, standing};
use super::{PodmanDriver, marks, process, strays};
use crate::DriverError;

/// How long a container may take to stop that doesn't say it: Kubernetes' default.
const GRACE: Duration = Duration::from_secs(30);
/// How long a container that is killed may take to go.
const KILLED: Duration = Duration::from_secs(10);

impl PodmanDriver {
    /// Stops every container of an instance. As with Kubernetes they are asked together, and have the same time.
    pub(super) async fn stop(&self, instance: &Instance) -> Result<(), DriverError> {
        let all = instance.containers.values().map(|container| self.stop_container(&container.name));
        join_all(all).await.into_iter().collect()
    }

    /// Has a container's preStop hook done, asks it to stop, waits for that as long as its own pod let it take, whatever replaces it, and then kills
    /// it. podman's own stop looks ten times a second; the kernel tells at once.
    pub(super) async fn stop_container(&self, name: &str) -> Result<(), DriverError> {
        let container = match self.api.container(name).await {
            // It goes by force.
            Ok(None) | Err(ApiError::Refused { .. }) => return Ok(()),
            Ok(Some(container)) => container,
            Err(error) => return Err(error.into()),
        };
        if standing(&container) != Standing::Running {
            return Ok(());
        }
        let pid = container.state.pid;
        let grace = self.before_stop(&container, container.grace().unwrap_or(GRACE)).await;
        // It may end in this moment.
        let asked = self.api.kill(name, &container.stop_signal()).await;
        match asked {
            // The same was asked for before, and podman is still at it, or has too much to do: killed now, it would have no time.
            Err(error @ ApiError::Busy { .. }) => return Err(error.into()),
            // A podman that takes its time sends the signal later: the time to heed it is given all the same.
            Ok(_) | Err(ApiError::Silent { .. }) => {
                if timeout(grace, process::gone(pid)).await.is_ok() {
                    return Ok(());
                }
            }
            Err(ApiError::Refused { .. } | ApiError::Unreachable { .. }) => {}
        }
        if let Err(error) = self.api.kill(name, "SIGKILL").await {
            tracing::debug!(name, %error, "a container can't be killed by podman");
        }
        match timeout(KILLED, process::gone(pid)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(DriverError::Runtime(format!("{name} still runs after SIGKILL: process {pid}"))),
        }
    }

    /// Stops an instance, and removes all that was made for it.
    pub(super) async fn take_away(
        &self,
        app: &AppName,
        key: &ObjectKey,
        instance: &Instance,
    ) -> Result<(), DriverError> {
        self.stop(instance).await?;
        for container in instance.containers.values() {
            self.delete(&container.name).await?;
            self.restarts.forget(&container.name);
        }
        self.sweep(app, key, instance).await
    }

    /// Removes a container, and what podman lost sight of.
    pub(super) async fn delete(&self, name: &str) -> Result<(), ApiError> {
        let there = match self.api.container(name).await {
            // It can't say what it has: then what is left is found by the ids that were noted.
            Err(ApiError::Refused { .. }) => {
                self.api.delete_container(name).await?;
                self.strays.sweep(&self.api).await;
                return Ok(());
            }
            there => there?,
        };
        if let Some(there) = &there
            && there.config.labels.get(marks::DEVICE).map(String::as_str) != Some(self.owner.device.as_str())
        {
            return Err(ApiError::Refused {
                what: format!("to remove {name}"),
                status: 409,
                message: "a container of that name exists which this agent didn't create: rename it"
                    .to_owned(),
            });
        }
        // Also without one: what is left of a create that was cut off has the name, and is seen nowhere else.
        self.api.delete_container(name).await?;
        let Some(there) = there else { return Ok(()) };
        match standing(&there) {
            Standing::Running | Standing::Ended { .. } | Standing::Paused => {}
            Standing::Staged | Standing::Broken(_) => strays::end(&there.id).await,
        }
        self.strays.forget(&there.id);
        Ok(())
    }

    /// Removes what goes with a pod: its scratch volumes, its secrets, its files.
    async fn sweep(&self, app: &AppName, key: &ObjectKey, instance: &Instance) -> Result<(), DriverError> {
        let device = self.owner.device.to_string();
        let object = key.to_string();
        let labels = [
            (marks::DEVICE, device.as_str()),
            (marks::APP, app.as_str()),
            (marks::OBJECT, &object),
            (marks::POD, instance.id.as_str()),
        ];
        for volume in self.api.volumes(&labels).await? {
            if marks::is_scratch(&volume.name, app, key, &instance.id) {
                self.api.delete_volume(&volume.name).await?;
            }
        }
        let names: Vec<&str> =
            instance.containers.values().map(|container| container.name.as_str()).collect();
        for secret in self.api.secrets().await? {
            if names.iter().any(|name| secret.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))) {
                self.api.delete_secret(&secret).await?;
            }
        }
        self.files
            .remove(&instance.id)
            .map_err(|error| DriverError::Runtime(format!("the files of {key} can't be removed: {error}")))
    }
}
