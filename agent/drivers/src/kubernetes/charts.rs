//! Charts for k3s' Helm controller: their health, by their own status and by the Job that installs them. The Job isn't
//! ours, and nothing is written on the chart when it ends: so it is watched for as long as it is waited for.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt;
use holdfast_core::name::AppName;
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use serde_json::Value;
use tokio::task::AbortHandle;

use super::KubernetesDriver;
use super::api::Api;
use super::discovery::own;
use super::notifications::Notifications;
use super::object::Wanted;
use super::status::fields::number;
use super::status::{Status, helm_job, helm_status};
use crate::DriverError;

/// The Jobs that are waited for, by namespace and name.
#[derive(Default)]
pub(super) struct Installs {
    waits: Mutex<BTreeMap<(String, String), (AbortHandle, Seen)>>,
}

/// What was seen of a chart when its Job was last asked for: which version of it, and how it was.
type Seen = (Option<i64>, Status);

impl KubernetesDriver {
    /// How a chart is. While that is up to its Job, the loop is told when the Job has come on.
    pub(super) async fn chart_status(&self, wanted: &Wanted<'_>) -> Result<Status, DriverError> {
        let Some(mut chart) = self.api.get(&wanted.kind, wanted.namespace(), &wanted.key().name).await?
        else {
            return Ok(Status::InProgress { reason: "it does not exist yet".to_owned() });
        };
        let Some((namespace, name)) = helm_job(&chart) else { return Ok(helm_status(&chart, None)) };
        let jobs = own("batch", "Job", "jobs", true);
        let job = self.api.get(&jobs, Some(&namespace), &name).await?;
        let status = helm_status(&chart, job.as_ref());
        // The values are most of a chart, and nothing is judged by them.
        if let Some(spec) = chart.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("valuesContent");
        }
        self.installs.note(
            (namespace, name),
            Wait {
                api: self.api.clone(),
                notifications: self.notifications.clone(),
                app: wanted.release.app.clone(),
                chart,
                before: status.clone(),
            },
        );
        Ok(status)
    }
}

impl Installs {
    /// Has the Job watched if the chart waits for it, and no longer if it doesn't.
    fn note(&self, job: (String, String), wait: Wait) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.retain(|_, (task, _)| !task.is_finished());
        let seen = (number(&wait.chart, "/metadata/generation"), wait.before.clone());
        if waits.get(&job).is_some_and(|(_, before)| *before == seen) {
            return;
        }
        if let Some((task, _)) = waits.remove(&job) {
            task.abort();
        }
        if matches!(wait.before, Status::InProgress { .. }) {
            let (namespace, name) = job.clone();
            let task = tokio::spawn(wait.follow(namespace, name)).abort_handle();
            waits.insert(job, (task, seen));
        }
    }
}

impl Drop for Installs {
    fn drop(&mut self) {
        let waits = self.waits.get_mut().unwrap_or_else(PoisonError::into_inner);
        waits.values().for_each(|(task, _)| task.abort());
    }
}

/// One chart that waits for its Job.
struct Wait {
    api: Api,
    notifications: Notifications,
    app: AppName,
    chart: Value,
    /// How it was when that was asked.
    before: Status,
}

impl Wait {
    /// Tells the loop once the chart is otherwise than it was.
    async fn follow(self, namespace: String, name: String) {
        // Without a way to the server there is nothing to wait for: the loop hears when it is back.
        let Ok(client) = self.api.connection.client().await else { return };
        let jobs = own("batch", "Job", "jobs", true);
        let jobs = kube::Api::<DynamicObject>::namespaced_with(client, &namespace, &jobs.resource);
        // What breaks off is watched again, with growing pauses.
        let mut seen = pin!(watch_object(jobs, &name).default_backoff());
        while let Some(job) = seen.next().await {
            let Ok(job) = job else { continue };
            let job = job.and_then(|job| serde_json::to_value(job).ok());
            if helm_status(&self.chart, job.as_ref()) != self.before {
                let what = format!("the Job {namespace}/{name} of a chart has progressed");
                return self.notifications.notify(Some(self.app), what, false);
            }
        }
    }
}
