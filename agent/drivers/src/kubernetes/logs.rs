//! The last lines of an app's containers: from the kubelets, through the API server.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use holdfast_core::name::AppName;
use serde_json::Value;
use tokio::time::Instant;

use super::KubernetesDriver;
use super::api::escaped;
use super::pods::{self, LogSource};
use crate::DriverError;

/// How long all logs may take: who asks gives up a little later, and then has none of them.
const LIMIT: Duration = Duration::from_secs(4);
/// How many logs are asked for.
const LOGS: usize = 24;
/// How many of them at the same time.
const AT_ONCE: usize = 8;
/// How much of a log is kept, in bytes: its end.
const KEPT: usize = 64 << 10;

impl KubernetesDriver {
    /// The last lines of an app's containers. Those of the newest pod are the last, as it is the one that is asked
    /// about when a release failed; where there are too many the oldest pods' go. A log that can't be had is a line that
    /// says why.
    pub(super) async fn last_lines(&self, app: &AppName, lines: usize) -> Result<Vec<String>, DriverError> {
        if lines == 0 {
            return Ok(Vec::new());
        }
        let until = Instant::now() + LIMIT;
        let all = tokio::time::timeout_at(until, self.pods_of_app(app)).await.map_err(|_| {
            DriverError::Runtime(format!("the API server did not list the pods within {LIMIT:?}"))
        })??;
        let sources = pods::log_sources(&all);
        let runs = sources.iter().flat_map(|source| source.runs().map(move |previous| (*source, previous)));
        let mut asked = Vec::new();
        for (source, previous) in runs.take(LOGS) {
            asked.push(self.log_of(source, previous, lines, until));
        }
        let mut newest_first: Vec<Vec<String>> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        // One run, if the container began to wait for its next start meanwhile; or two that said the same.
        newest_first.dedup();
        newest_first.reverse();
        let mut all = newest_first.concat();
        let first = all.len().saturating_sub(lines);
        Ok(all.split_off(first))
    }

    async fn pods_of_app(&self, app: &AppName) -> Result<Vec<Value>, DriverError> {
        let mut all = Vec::new();
        for (key, live) in self.workloads(app).await? {
            all.extend(self.pods_of(&key, &live).await?);
        }
        Ok(all)
    }

    /// The last lines of what one container says, or said before it was started again.
    async fn log_of(&self, of: LogSource<'_>, previous: bool, lines: usize, until: Instant) -> Vec<String> {
        let LogSource { namespace, pod, container, .. } = of;
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}/log?container={}&tailLines={lines}&previous={previous}",
            escaped(container)
        );
        let doing = format!("read the log of {namespace}/{pod}");
        let left = until.saturating_duration_since(Instant::now());
        // As it is told when it is over.
        let left = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        match self.api.end_of(path, doing, KEPT, left).await {
            // What is gone is answered as if the container had said so.
            Ok(log) if is_kubelets_own(&log) => Vec::new(),
            Ok(log) => log.lines().map(|line| format!("{pod} {container}: {line}")).collect(),
            // The pod has gone meanwhile, or the node has thrown away what was said before.
            Err(error) if matches!(error.code(), Some(400 | 404)) => Vec::new(),
            Err(error) => vec![format!("{pod} {container}: holdfast: {error}")],
        }
    }
}

/// Whether this is no log, but the kubelet's word that it has none any more: it gives that in the log's place, with a 200
/// (k8s.io/kubernetes, pkg/kubelet/kubelet_pods.go and kuberuntime_logs.go).
fn is_kubelets_own(log: &str) -> bool {
    let said = log.trim_end();
    said.lines().count() == 1
        && said.strip_prefix("unable to retrieve container logs for ").is_some_and(|id| id.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kubelet_says_in_place_of_a_log_is_no_log() {
        assert!(is_kubelets_own("unable to retrieve container logs for containerd://abc"));
        assert!(!is_kubelets_own("unable to retrieve container logs for the customer\n"));
        assert!(!is_kubelets_own("step 1\nunable to retrieve container logs for containerd://abc\n"));
        assert!(!is_kubelets_own(""));
    }
}
