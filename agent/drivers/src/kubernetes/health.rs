//! The health of an app: what its objects report in their status and, where that is no more than a count, what the
//! server knows about the pods and their node, and its events.

use holdfast_core::health::Health;
use holdfast_core::kubernetes::images::pinned_images;
use holdfast_core::release::Release;
use serde_json::Value;

use super::discovery::own;
use super::object::Wanted;
use super::status::Status;
use super::status::fields::text;
use super::watched_kind::Record;
use super::{KubernetesDriver, has_pods, pods};
use crate::DriverError;

/// What keeps an object from being as it should.
enum Cause {
    /// Something is wrong.
    Trouble(String),
    /// Nothing is, as far as anybody knows; so it waits for this.
    Wait(String),
}

impl KubernetesDriver {
    pub(super) async fn health(&self, release: &Release) -> Result<Health, DriverError> {
        let (wanted, unknown) = self.wanted(release).await?;
        if let Some(key) = unknown.first() {
            return Ok(Health::Unhealthy { reason: format!("{key}: the cluster serves no such kind") });
        }
        if self.holds_nothing(release, &wanted).await? {
            return Ok(Health::Unknown);
        }
        let mut starting = None;
        for wanted in &wanted {
            let watched = self.watched_kinds.of(&wanted.watched);
            watched.ready().await?;
            if self.has_ended(&release.app, wanted, &watched).await? {
                continue;
            }
            let key = wanted.key();
            let Some((record, _)) = watched.get(&wanted.place()) else {
                return Ok(Health::Unhealthy { reason: format!("{key} does not exist") });
            };
            if !self.prover.is_ours(&wanted.watched, &record, &release.app) {
                return Ok(Health::Unhealthy {
                    reason: format!("{key} exists, but no longer belongs to the app"),
                });
            }
            let status = match key.kind.as_str() {
                "HelmChart.helm.cattle.io" => self.chart_status(wanted).await?,
                _ => record.status.clone(),
            };
            match status {
                Status::Current => {}
                Status::InProgress { reason } => match self.cause(wanted, &record).await? {
                    Some(Cause::Trouble(trouble)) => {
                        return Ok(Health::Unhealthy { reason: format!("{key}: {trouble}") });
                    }
                    Some(Cause::Wait(why)) => starting = starting.or(Some(format!("{key}: {reason}: {why}"))),
                    None => starting = starting.or(Some(format!("{key}: {reason}"))),
                },
                Status::Failed { reason } | Status::Terminating { reason } => {
                    let cause = match self.cause(wanted, &record).await? {
                        Some(Cause::Trouble(cause) | Cause::Wait(cause)) if !reason.contains(&cause) => {
                            format!("; {cause}")
                        }
                        _ => String::new(),
                    };
                    return Ok(Health::Unhealthy { reason: format!("{key}: {reason}{cause}") });
                }
            }
        }
        Ok(starting.map_or(Health::Healthy, |reason| Health::Starting { reason }))
    }

    /// Whether nothing that a release names is its app's, and something is another's: how that one is says nothing of
    /// this app.
    async fn holds_nothing(&self, release: &Release, wanted: &[Wanted<'_>]) -> Result<bool, DriverError> {
        let mut others = false;
        for wanted in wanted {
            let watched = self.watched_kinds.of(&wanted.watched);
            watched.ready().await?;
            match watched.get(&wanted.place()) {
                Some((record, _)) if self.prover.is_ours(&wanted.watched, &record, &release.app) => {
                    return Ok(false);
                }
                Some(_) => others = true,
                None if self.has_ended(&release.app, wanted, &watched).await? => return Ok(false),
                None => {}
            }
        }
        Ok(others)
    }

    /// The first cause that the server knows: what is wrong with the pods, with their node, and what events say of the
    /// pods and of the object itself.
    async fn cause(&self, wanted: &Wanted<'_>, record: &Record) -> Result<Option<Cause>, DriverError> {
        let namespace = wanted.namespace();
        if has_pods(&wanted.key().kind) {
            let live = self.api.get(&wanted.kind, namespace, &wanted.key().name).await?;
            let pods = match live {
                Some(live) => self.pods_of(wanted.key(), &live).await?,
                None => Vec::new(),
            };
            if let Some(trouble) = pods::trouble(&pods) {
                let hint = self.why_not_imported(wanted.release, &trouble.reason).unwrap_or_default();
                return Ok(Some(Cause::Trouble(format!("{}{hint}", trouble.reason))));
            }
            if let Some(pod) = pods::unready(&pods) {
                let said = match self.node_of(pod).await {
                    Some(trouble) => Some(trouble),
                    None => self.last_warning(namespace, text(pod, "/metadata/uid")).await,
                };
                let name = text(pod, "/metadata/name").unwrap_or("without a name");
                let said = said.or_else(|| pods::own_word(pod));
                return Ok(said.map(|said| Cause::Wait(format!("pod {name}: {said}"))));
            }
        }
        Ok(self.last_warning(namespace, Some(&record.uid)).await.map(Cause::Wait))
    }

    /// Why a node may pull an image that was put there for it.
    fn why_not_imported(&self, release: &Release, trouble: &str) -> Option<&'static str> {
        const PULLS: [&str; 3] = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"];
        self.archives.as_ref()?;
        let staged = pinned_images(&release.objects)
            .into_iter()
            .any(|image| release.artifacts.contains(&image.digest));
        (staged && PULLS.iter().any(|word| trouble.contains(word))).then_some(
            "; its image was put into images_dir, but a kubelet that once pulled the same image under another name \
             ignores that, unless its imagePullCredentialsVerificationPolicy is NeverVerify",
        )
    }

    /// What is wrong with a pod's node. Who may not read nodes doesn't get to know.
    async fn node_of(&self, pod: &Value) -> Option<String> {
        let node = text(pod, "/spec/nodeName")?;
        let node = self.api.get(&own("", "Node", "nodes", false), None, node).await.ok()??;
        pods::trouble_at_node(&node)
    }
}
