//! What runs of a workload: its pods, where they are reached, what they say, and programs run in them.

use std::time::Duration;

use holdfast_core::name::ObjectKey;
use holdfast_core::release::{ExecCheck, HttpCheck, Release};
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use serde_json::Value;

use super::KubernetesDriver;
use super::api::{ApiError, escaped};
use super::discovery::own;
use super::pods::{self, LogSource};

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
    async fn pods_at(&self, release: &Release, target: &ObjectKey) -> Option<(Value, Vec<Value>)> {
        let object = self.target(release, target)?;
        let (kind, watched) = self.kind_of(object).await.ok()??;
        let shelf = self.shelves.of(&watched);
        shelf.ready().await.ok()?;
        let set = self.owner.set_of(&release.app);
        // What somebody else has under that name is no workload of the app's.
        shelf
            .get(&super::object::place_of(&object.key, &kind))
            .filter(|(one, _)| one.is_member(&watched, &set))?;
        let live = self.api.get(&kind, object.key.namespace.as_deref(), &object.key.name).await.ok()??;
        let pods = self.pods_of(&object.key, &live).await.ok()?;
        Some((live, pods))
    }

    /// Where an HTTP check is reached: a ready pod's own address, or that of a Service.
    pub(super) async fn reached_at(&self, release: &Release, check: &HttpCheck) -> Option<String> {
        let HttpCheck::Target { target, port, path } = check else { return None };
        let (live, pods) = self.pods_at(release, target).await?;
        if target.kind == "Service" {
            let address =
                live.pointer("/spec/clusterIP")?.as_str().filter(|address| !matches!(*address, "" | "None"));
            if let Some(address) = address {
                return Some(format!("http://{}:{port}{path}", bracketed(address)));
            }
        }
        Some(format!("http://{}{path}", pods::ready_address(&pods, *port)?))
    }

    /// Runs a check's program in a container of the workload.
    pub(super) async fn run_in(&self, release: &Release, check: &ExecCheck) -> Result<(), String> {
        let (_, all) = self
            .pods_at(release, &check.target)
            .await
            .ok_or_else(|| format!("{} is not there", check.target))?;
        let pod = pods::pod_for_exec(&all, check.container.as_deref());
        let pod = pod.ok_or_else(|| format!("{} has no pod that runs", check.target))?;
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let first = || pods::container_names(pod).first().map(|name| (*name).to_owned());
        let container = check.container.clone().or_else(first);
        let connection = &self.api.connection;
        let client = match &release.account {
            Some(account) => connection.client_as(account).await,
            None => connection.client().await,
        };
        let client = client.map_err(|error| error.to_string())?;
        let api = kube::Api::<Pod>::namespaced(client, namespace);
        let params = AttachParams {
            container,
            stdin: false,
            stdout: true,
            stderr: true,
            tty: false,
            ..AttachParams::default()
        };
        let ended = tokio::time::timeout(check.timeout, async {
            let mut process =
                api.exec(name, &check.command, &params).await.map_err(|error| error.to_string())?;
            let status = process.take_status();
            let said = output_of(&mut process).await;
            let status = match status {
                Some(status) => status.await,
                None => None,
            };
            match status {
                Some(status) if status.status.as_deref() == Some("Success") => Ok(()),
                Some(status) => Err(format!("{}{said}", status.message.unwrap_or_default())),
                None => Err("the connection broke off".to_owned()),
            }
        });
        ended.await.unwrap_or_else(|_| Err(format!("it did not end within {:?}", check.timeout)))
    }

    /// The last lines of an app's containers.
    pub(super) async fn last_lines(
        &self,
        workloads: &[(ObjectKey, Value)],
        lines: usize,
    ) -> Result<Vec<String>, ApiError> {
        let mut all = Vec::new();
        for (key, live) in workloads {
            let pods = self.pods_of(key, live).await?;
            for LogSource { namespace, pod, container, .. } in pods::log_sources(&pods) {
                // What a container said before it was started again is what tells why.
                for before in [true, false] {
                    let path = format!(
                        "/api/v1/namespaces/{namespace}/pods/{pod}/log?container={}&tailLines={lines}&previous={before}",
                        escaped(container)
                    );
                    let log = self.api.text(path, format!("read the log of {namespace}/{pod}")).await;
                    let log = log.unwrap_or_default();
                    all.extend(log.lines().map(|line| format!("{pod} {container}: {line}")));
                }
            }
        }
        let first = all.len().saturating_sub(lines);
        Ok(all.split_off(first))
    }
}

/// The first line that a program said, for people.
async fn output_of(process: &mut kube::api::AttachedProcess) -> String {
    use tokio::io::AsyncReadExt;

    /// Bytes of output that are looked at.
    const SHOWN: usize = 300;
    let mut text = Vec::new();
    for mut stream in [process.stderr().map(Box::new)].into_iter().flatten() {
        let mut part = vec![0; SHOWN];
        if let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut part)).await {
            text.extend_from_slice(&part[..count]);
        }
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().next().map(|line| format!(": {line}")).unwrap_or_default()
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
