//! Kubernetes, by its API: server-side apply, ApplySets, watches. What a manifest sets is ours; all else in an object
//! is others'. Whether something differs is for the server to say.
//!
//! What the cluster holds of ours is watched, so that a pass with nothing to do asks for nothing (`watched_kind`); what may
//! differ is rehearsed by the server (`compare`); what differs is written (`change`).

mod api;
pub mod archives;
mod change;
mod charts;
mod claims;
mod compare;
mod connection;
mod discovery;
mod events;
mod fingerprint;
mod health;
mod kubeconfig;
mod leader;
mod lease;
mod logs;
mod marks;
mod notifications;
mod object;
mod pods;
mod programs;
mod proof;
mod serving;
mod sets;
mod status;
mod watched_kind;
mod workload;

pub use fingerprint::fingerprint;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use holdfast_core::digest::Digest;
use holdfast_core::health::Health;
use holdfast_core::kubernetes::images::pinned_images;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observed};
use holdfast_core::plan::Action;
use holdfast_core::release::{ExecCheck, Release};
use holdfast_core::runtime::{Abilities, DriverName, Fingerprint};
use serde_json::Value;
use tokio::sync::mpsc;

use self::api::{Api, Apply};
use self::archives::Archives;
use self::change::is_missing_namespace;
use self::compare::{Pair, There, WIDTH, side_by_side};
use self::connection::Connection;
use self::discovery::Kinds;
use self::leader::Leader;
use self::marks::OwnerMark;
use self::notifications::Notifications;
use self::object::Wanted;
use self::proof::Prover;
use self::sets::Sets;
use self::watched_kind::WatchedKinds;
use crate::secret::SecretSource;
use crate::{ApplyStep, Driver, DriverError, DriverEvent, ExecError, Owner};

/// How long a step may take: a definition is waited for, and what is removed until it is gone.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// How long a look may take: less than whoever looks waits, as an API server that is slow says nothing about an app.
const PROBE_LIMIT: Duration = Duration::from_secs(4);

/// What the driver is made with.
pub struct KubernetesConfig {
    /// How the API server is reached; needn't be there yet.
    pub kubeconfig: PathBuf,
    /// Which of its contexts, if not the current one.
    pub context: Option<String>,
    /// The name of the cluster, if several boxes keep it.
    pub cluster: Option<String>,
    /// Who this box is.
    pub owner: Owner,
    /// What opens secrets.
    pub secrets: Arc<dyn SecretSource>,
    /// Where images are put for a node that reaches no registry, if they are.
    pub archives: Option<Archives>,
}

/// The Kubernetes driver.
pub struct KubernetesDriver {
    api: Api,
    owner: OwnerMark,
    prover: Prover,
    secrets: Arc<dyn SecretSource>,
    archives: Option<Archives>,
    kinds: Arc<Kinds>,
    watched_kinds: WatchedKinds,
    sets: Sets,
    notifications: Notifications,
    device: String,
    /// The cluster, if other nodes keep it as well.
    cluster: Option<OwnerMark>,
    leader: OnceLock<Leader>,
    /// The kubeconfig that what is known was seen by.
    generation: AtomicU64,
    /// The Jobs that charts wait for.
    installs: charts::Installs,
    /// The StatefulSets that were looked at for claims.
    looked: Mutex<claims::Looked>,
    /// Which kinds come by definitions, and which are waited for.
    coming: serving::Coming,
    /// How often the pods of apps were started again, and what was seen then of what they belong to.
    restarts: Mutex<BTreeMap<AppName, (u64, u64)>>,
}

impl KubernetesDriver {
    /// A driver for the cluster that the kubeconfig names.
    pub fn new(config: KubernetesConfig) -> Self {
        let api = Api { connection: Arc::new(Connection::new(config.kubeconfig, config.context)) };
        let owner = OwnerMark::of(config.cluster.as_deref().unwrap_or(config.owner.device.as_str()));
        let notifications = Notifications::default();
        let kinds = Arc::new(Kinds::default());
        let prover = Prover::new(api.clone(), owner.clone());
        KubernetesDriver {
            watched_kinds: WatchedKinds::new(
                api.clone(),
                owner.clone(),
                prover.clone(),
                notifications.clone(),
                Arc::clone(&kinds),
            ),
            prover,
            generation: AtomicU64::new(0),
            sets: Sets::new(api.clone(), owner.clone(), config.cluster.is_some()),
            kinds,
            secrets: config.secrets,
            archives: config.archives,
            api,
            owner,
            notifications,
            device: config.owner.device.to_string(),
            cluster: config.cluster.as_deref().map(OwnerMark::of),
            leader: OnceLock::new(),
            installs: charts::Installs::default(),
            looked: Mutex::default(),
            coming: serving::Coming::default(),
            restarts: Mutex::default(),
        }
    }

    /// Makes a call that only the node may make that leads, and that ends before another may lead.
    async fn as_leader<T>(&self, call: impl Future<Output = T>) -> Result<T, DriverError> {
        let Some(leader) = self.leader() else { return Ok(call.await) };
        tokio::time::timeout_at(leader.until()?, call).await.map_err(|_| {
            DriverError::Runtime(
                "this node lost the lease of the cluster before the API server answered".to_owned(),
            )
        })
    }

    /// An error while another node writes. What that one has done already is no step here.
    fn stands_by(&self) -> Result<(), DriverError> {
        self.leader().map_or(Ok(()), |leader| leader.until().map(drop))
    }

    /// Forgets what was seen by another kubeconfig: it may have been another cluster.
    fn follow_kubeconfig(&self) {
        let now = *self.api.connection.generations().borrow();
        if self.generation.swap(now, Ordering::Relaxed) != now {
            self.kinds.forget();
            self.sets.forget();
            self.prover.forget();
        }
    }

    /// What is to be written again, so that the parent of the app's ApplySet comes back: without it nobody else finds
    /// what is ours.
    async fn orphaned_by_parent(
        &self,
        app: &AppName,
        pairs: &[Pair<'_>],
        seen: &mut AppObservation,
    ) -> Result<(), DriverError> {
        let mut there =
            pairs.iter().filter(|pair| matches!(pair.there, There::Ours(..))).map(|pair| pair.wanted.key());
        let first = there.find(|key| seen.get(key) == Some(&Observed::Same)).cloned();
        let Some(first) = first.and_then(|key| seen.get_mut(&key)) else { return Ok(()) };
        let (kind, place) = self.sets.place_of(app);
        let Some(kind) = self.kinds.get(&self.api, &kind.resource.group, &kind.resource.kind).await? else {
            return Ok(());
        };
        let watched = self.watched_kinds.of(&kind);
        watched.ready().await?;
        if watched.get(&place).is_some() || self.sets.has_parent(app).await? {
            return Ok(());
        }
        self.sets.lost(app);
        let difference = format!("the parent of its ApplySet, ConfigMap/{}, is gone", place.1);
        *first = Observed::Drift { difference, recreate: false };
        Ok(())
    }

    /// Where this node stands, if it isn't the only one.
    fn leader(&self) -> Option<&Leader> {
        let cluster = self.cluster.as_ref()?;
        // Not before the runtime is there to run it.
        Some(self.leader.get_or_init(|| {
            Leader::stand(self.api.clone(), cluster, &self.device, self.notifications.clone())
        }))
    }

    /// What is there of an app that was not asked for.
    async fn extras(
        &self,
        app: &AppName,
        wanted: &BTreeSet<(discovery::GroupKind, watched_kind::Place)>,
    ) -> Result<AppObservation, DriverError> {
        let mut extras = AppObservation::new();
        for member in self.sets.of(app).await?.kinds {
            let (name, group) = member.split_once('.').unwrap_or((&member, ""));
            // A kind that isn't served any more has no objects.
            let Some(kind) = self.kinds.get(&self.api, group, name).await? else { continue };
            let watched = self.watched_kinds.of(&kind);
            watched.ready().await?;
            for record in watched.of_app(app) {
                if self.prover.is_ours(&kind, &record, app)
                    && record.leaving.is_none()
                    && !wanted.contains(&(kind.group_kind(), record.place.clone()))
                {
                    let (namespace, name) = record.place.clone();
                    let written = ObjectKey::kind_of(&kind.resource.api_version, &kind.resource.kind);
                    let key = record.key.clone().unwrap_or(ObjectKey { kind: written, namespace, name });
                    extras.insert(key, Observed::Extra { release: record.release });
                }
            }
        }
        Ok(extras)
    }

    /// Puts the images that the release keeps where the node imports them from.
    async fn stage_images(&self, release: &Release) -> Result<(), DriverError> {
        let Some(archives) = &self.archives else { return Ok(()) };
        let named = pinned_images(&release.objects).into_iter();
        for image in named.filter(|image| release.artifacts.contains(&image.digest)) {
            archives.ensure(&image).await?;
        }
        Ok(())
    }

    /// Has the server rehearse all that is new, before anything is changed.
    async fn rehearse(&self, release: &Release) -> Result<(), DriverError> {
        let (wanted, _) = self.wanted(release).await?;
        let pairs = self.pairs(&release.app, wanted).await?;
        let missing = Mutex::default();
        let mut asked: Vec<BoxFuture<'_, Result<(), DriverError>>> = Vec::new();
        for pair in &pairs {
            if !pair.is_confirmed() && !matches!(pair.there, There::Foreign(_) | There::Ended) {
                asked.push(Box::pin(self.rehearse_one(&pair.wanted, &missing)));
            }
        }
        side_by_side(asked).await.into_iter().collect()
    }

    /// In a namespace that isn't there yet nothing can be rehearsed: it is noted as `missing`, and the others that are
    /// to stand in it are not asked for.
    async fn rehearse_one(
        &self,
        wanted: &Wanted<'_>,
        missing: &Mutex<BTreeSet<String>>,
    ) -> Result<(), DriverError> {
        let missing = || missing.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.namespace().is_some_and(|namespace| missing().contains(namespace)) {
            return Ok(());
        }
        let body = wanted.body(&self.owner, &*self.secrets)?;
        let (namespace, name) = (wanted.namespace(), wanted.key().name.as_str());
        let account = wanted.release.account.as_ref();
        match self.api.apply(&wanted.kind, namespace, name, &body, Apply::Rehearse, account).await {
            Ok(_) => Ok(()),
            Err(error) if error.refusal().is_some_and(|refusal| is_missing_namespace(refusal, namespace)) => {
                missing().extend(namespace.map(str::to_owned));
                Ok(())
            }
            // What it needs may come with the release itself; whether a field may change is the planner's matter.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.refusal().is_some_and(compare::is_immutable) => Ok(()),
            Err(error) => Err(change::of_write(error, wanted.key(), account, wanted.is_secret())),
        }
    }

    /// The objects of a release that run something, as they are now.
    async fn workloads(&self, app: &AppName) -> Result<Vec<(ObjectKey, Value)>, DriverError> {
        let selector = format!("{}={}", marks::PART_OF, self.owner.set_of(app));
        let mut all = Vec::new();
        for member in self.sets.of(app).await?.kinds {
            let (name, group) = member.split_once('.').unwrap_or((&member, ""));
            if !has_pods(name) {
                continue;
            }
            let Some(kind) = self.kinds.get(&self.api, group, name).await? else { continue };
            for object in self.api.list(&kind, None, &selector).await? {
                let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
                let key = ObjectKey {
                    kind: name.to_owned(),
                    namespace: text("/metadata/namespace"),
                    name: text("/metadata/name").unwrap_or_default(),
                };
                all.push((key, object));
            }
        }
        Ok(all)
    }

    /// What the watch has told of an app's workloads, as one number that is another with each change.
    async fn seen_of_workloads(&self, app: &AppName) -> Result<u64, DriverError> {
        let mut hasher = DefaultHasher::new();
        for member in self.sets.of(app).await?.kinds {
            let (name, group) = member.split_once('.').unwrap_or((&member, ""));
            if let Some(watched) =
                self.watched_kinds.find(&(group.to_owned(), name.to_owned())).filter(|_| has_pods(name))
            {
                watched.of_app(app).iter().for_each(|record| (&record.uid, record.version).hash(&mut hasher));
            }
        }
        Ok(hasher.finish())
    }

    /// Whatever was away may be back: the loop hears of it.
    fn heard<T>(&self, result: Result<T, DriverError>) -> Result<T, DriverError> {
        if matches!(result, Err(DriverError::Runtime(_))) {
            self.notifications.ring_when_back(&self.api);
        }
        result
    }
}

/// Whether objects of this kind run something.
fn has_pods(kind: &str) -> bool {
    matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "Pod")
}

#[async_trait]
impl Driver for KubernetesDriver {
    fn name(&self) -> DriverName {
        DriverName::KUBERNETES
    }

    fn abilities(&self) -> Abilities {
        fingerprint::abilities(self.archives.is_some())
    }

    async fn fingerprint(&self) -> Fingerprint {
        fingerprint::fingerprint_of(&self.api, self.abilities()).await
    }

    fn check(&self, release: &Release) -> Result<(), DriverError> {
        match release.objects.iter().find_map(change::too_large) {
            Some(why) => Err(DriverError::Release(why)),
            None => Ok(()),
        }
    }

    async fn prepare(&self, release: &Release) -> Result<(), DriverError> {
        // A cluster that still starts needs its images all the same.
        self.stage_images(release).await?;
        self.heard(self.kinds_are_served(release).await)?;
        self.heard(self.rehearse(release).await)
    }

    async fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, DriverError> {
        let seen = async {
            self.follow_kubeconfig();
            self.prover.key().await?;
            let (wanted, unknown) = match desired {
                Some(release) => self.wanted(release).await?,
                None => Default::default(),
            };
            let mut used: BTreeSet<_> = wanted.iter().map(|wanted| wanted.kind.group_kind()).collect();
            let places = wanted.iter().map(|wanted| (wanted.kind.group_kind(), wanted.place())).collect();
            let pairs = self.pairs(app, wanted).await?;
            self.note_ended(app, &pairs).await?;
            let mut seen = self.compare(&pairs).await?;
            self.orphaned_by_parent(app, &pairs, &mut seen).await?;
            let (parents, _) = self.sets.place_of(app);
            used.insert(parents.group_kind());
            seen.extend(unknown.into_iter().map(|key| (key.clone(), Observed::Absent)));
            for member in self.sets.of(app).await?.kinds {
                let (name, group) = member.split_once('.').unwrap_or((&member, ""));
                used.insert((group.to_owned(), name.to_owned()));
            }
            for (key, extra) in self.extras(app, &places).await? {
                seen.entry(key).or_insert(extra);
            }
            self.template_claims(app, &mut seen).await?;
            self.watched_kinds.used(app, &used);
            Ok(seen)
        };
        self.heard(seen.await)
    }

    async fn apps(&self) -> Result<Vec<AppName>, DriverError> {
        self.heard(self.sets.apps().await.map_err(DriverError::from))
    }

    async fn apply(&self, step: ApplyStep<'_>) -> Result<(), DriverError> {
        let object = step.release.and_then(|release| Some((release, release.object(step.object)?)));
        let done = match (step.action, object) {
            (Action::Create | Action::Update, Some((release, object))) => {
                self.stands_by()?;
                self.write(release, step.id, object).await
            }
            (Action::Recreate, Some((release, object))) => {
                self.stands_by()?;
                let from = step.from.unwrap_or(step.app);
                let done = self.rewrite((from, release), step.id, object).await;
                self.let_go(&step, done).await
            }
            // What another app has is written as it is to be, and so comes to carry this app's marks.
            (Action::Adopt, Some((release, object))) if step.from.is_some() => {
                self.stands_by()?;
                let done = self.write(release, step.id, object).await;
                self.let_go(&step, done).await
            }
            (Action::Purge, _) => self.remove(step.app, step.object).await,
            // What holds data is never removed, whatever the plan says.
            (Action::Remove, _) if !step.object.holds_data() => {
                self.remove(step.app, step.object).await.map_err(change::of_removal)
            }
            (Action::Adopt, _) => {
                let done = self.adopt_claim(step.app, step.object).await;
                self.let_go(&step, done).await
            }
            (Action::Remove | Action::Orphan | Action::Prepare | Action::Forget, _) => Ok(()),
            (_, None) => Err(DriverError::Runtime(format!("{} is not in the release", step.object))),
        };
        self.heard(done)
    }

    fn step_limit(&self, _: &ApplyStep<'_>) -> Duration {
        STEP_LIMIT
    }

    fn width(&self) -> usize {
        WIDTH
    }

    async fn health(&self, release: &Release) -> Health {
        let health = tokio::time::timeout(PROBE_LIMIT, self.health(release)).await;
        match health
            .unwrap_or_else(|_| Err(DriverError::Runtime(format!("no answer within {PROBE_LIMIT:?}"))))
        {
            Ok(health) => health,
            // A cluster whose API is away runs on.
            Err(DriverError::Runtime(why)) => {
                self.notifications.ring_when_back(&self.api);
                tracing::debug!(app = %release.app, why, "the app's health can't be determined");
                Health::Unknown
            }
            Err(error) => Health::Unhealthy { reason: error.to_string() },
        }
    }

    async fn address_of(&self, release: &Release, target: &ObjectKey, port: u16) -> Option<SocketAddr> {
        self.reached_at(release, target, port).await
    }

    async fn exec(&self, release: &Release, check: &ExecCheck) -> Result<(), ExecError> {
        self.run_in(release, check).await
    }

    async fn restarts(&self, release: &Release) -> Option<u64> {
        // A container that was started again was not ready for a moment, and what it belongs to says so.
        let seen = self.seen_of_workloads(&release.app).await.ok()?;
        let known = self.restarts.lock().unwrap_or_else(PoisonError::into_inner).get(&release.app).copied();
        if let Some((_, times)) = known.filter(|(then, _)| *then == seen) {
            return Some(times);
        }
        let mut times = 0;
        for (key, live) in self.workloads(&release.app).await.ok()? {
            times += pods::restarts(&self.pods_of(&key, &live).await.ok()?);
        }
        self.restarts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(release.app.clone(), (seen, times));
        Some(times)
    }

    async fn logs(&self, app: &AppName, lines: usize) -> Result<Vec<String>, DriverError> {
        self.last_lines(app, lines).await
    }

    fn watch(self: Arc<Self>, events: mpsc::Sender<DriverEvent>) {
        self.notifications.connect(events);
        let _ = self.leader();
    }

    async fn stop(&self) {
        if let Some(leader) = self.leader.get() {
            leader.resign().await;
        }
    }

    async fn collect(&self, keep: &BTreeSet<Digest>) {
        if let Some(archives) = &self.archives {
            archives.collect(keep).await;
        }
    }
}
