//! podman, by its REST API over its unix socket: rootful and rootless, 4.3 and newer. Nothing is shelled out.
//!
//! A pod is its containers, made by the containers API and named by all that is in them (docs/adr/0008): another
//! pod is another set of containers, so that the new one can be staged while the old one runs, and what is half
//! made is never mistaken for what is whole. podman restarts nothing and probes nothing by itself; the agent does.

mod address;
mod api;
mod change;
mod claims;
mod client;
mod exec;
mod files;
mod fingerprint;
mod hooks;
mod images;
mod instance;
mod logs;
mod marks;
mod places;
mod ports;
mod prober;
mod process;
mod removal;
mod restarts;
mod sockets;
mod spec;
mod strays;
mod unanswered;
mod watch;

pub use fingerprint::fingerprint;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use holdfast_core::digest::Digest;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observed};
use holdfast_core::plan::Action;
use holdfast_core::pod::{Network, PinnedImage, Pod};
use holdfast_core::release::{ExecCheck, Object, Release};
use holdfast_core::runtime::{Abilities, DriverName, Fingerprint};
use tokio::sync::mpsc;

use self::api::Api;
use self::change::Change;
use self::client::{ApiError, Client};
use self::files::Files;
use self::instance::{Instance, Standing, Verdict, standing};
use self::marks::PodId;
use self::prober::{Answer, Prober};
use self::restarts::Restarts;
use self::strays::Strays;
use self::watch::{Notifications, Vigils};
use crate::image::ImageSource;
use crate::keyed_locks::KeyedLocks;
use crate::secret::SecretSource;
use crate::{ApplyStep, Driver, DriverError, DriverEvent, ExecError, Owner};

/// The kind of what outlives pods.
const CLAIM: &str = "PersistentVolumeClaim";
/// How long a step may take: what must be waited for, such as an init container, has limits of its own.
const STEP_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The longest terminationGracePeriodSeconds that a pod is taken with.
const LONGEST_GRACE: Duration = Duration::from_secs(86_400);
/// How many lines of a container that ended are kept.
const LINES_KEPT: usize = 100;

/// What the driver is made with.
pub struct PodmanConfig {
    /// podman's socket.
    pub socket: PathBuf,
    /// A folder in memory for files that documents give.
    pub run_dir: PathBuf,
    /// Who this box is.
    pub owner: Owner,
    /// Where images come from.
    pub images: Arc<dyn ImageSource>,
    /// What opens secrets.
    pub secrets: Arc<dyn SecretSource>,
}

/// The podman driver.
pub struct PodmanDriver {
    socket: PathBuf,
    api: Api,
    owner: Owner,
    images: Arc<dyn ImageSource>,
    loading: KeyedLocks,
    secrets: Arc<dyn SecretSource>,
    files: Files,
    prober: Prober,
    restarts: Restarts,
    strays: Strays,
    notifications: Notifications,
    vigils: Vigils,
    /// The last lines of containers that were started again, by app.
    last_logs: Mutex<BTreeMap<AppName, Vec<String>>>,
}

impl From<ApiError> for DriverError {
    fn from(error: ApiError) -> Self {
        DriverError::Runtime(error.to_string())
    }
}

/// An object of a release as the driver reads it.
enum Wanted {
    Claim,
    Pod(Box<Pod<PinnedImage>>),
}

fn wanted(object: &Object) -> Result<Wanted, DriverError> {
    match object.key.kind.as_str() {
        CLAIM => Ok(Wanted::Claim),
        "Pod" => {
            let pod = serde_json::from_value(object.spec.clone());
            pod.map(|pod| Wanted::Pod(Box::new(pod))).map_err(|error| {
                DriverError::Release(format!(
                    "the spec of {} can't be read by this version of the agent: {error}",
                    object.key
                ))
            })
        }
        _ => Err(DriverError::Release(format!("podman does not support {}", object.key))),
    }
}

/// A pod of a release.
struct WantedPod<'a> {
    key: &'a ObjectKey,
    pod: Pod<PinnedImage>,
    id: PodId,
}

impl WantedPod<'_> {
    /// What is there of it.
    fn own<'t>(&self, there: &'t BTreeMap<ObjectKey, Vec<Instance>>) -> Option<&'t Instance> {
        there.get(self.key)?.iter().find(|instance| instance.id == self.id)
    }

    /// Whether a check's target is this pod, by its own name or by that of the workload that it is made for.
    fn is_named(&self, target: &ObjectKey) -> bool {
        [self.key, &self.pod.workload].into_iter().any(|key| {
            let namespace = target.namespace.as_ref();
            (&key.kind, &key.name) == (&target.kind, &target.name)
                && namespace.is_none_or(|namespace| key.namespace.as_ref() == Some(namespace))
        })
    }
}

impl PodmanDriver {
    /// A driver for the podman at `config.socket`, which needn't be there yet.
    pub fn new(config: PodmanConfig) -> Self {
        let strays = Strays::new(&config.run_dir);
        PodmanDriver {
            api: Api::new(Client::new(&config.socket)),
            socket: config.socket,
            owner: config.owner,
            images: config.images,
            loading: KeyedLocks::default(),
            secrets: config.secrets,
            files: Files::new(&config.run_dir),
            prober: Prober::new(strays.clone()),
            restarts: Restarts::default(),
            strays,
            notifications: Notifications::default(),
            vigils: Vigils::default(),
            last_logs: Mutex::default(),
        }
    }

    /// Everything that podman has of an app, by object.
    async fn there(&self, app: &AppName) -> Result<BTreeMap<ObjectKey, Vec<Instance>>, ApiError> {
        instance::of_app(&self.api, &self.owner, app, &self.strays).await
    }

    /// The pods of a release.
    fn pods<'a>(&self, release: &'a Release) -> Result<Vec<WantedPod<'a>>, DriverError> {
        let mut pods = Vec::new();
        for object in &release.objects {
            if let Wanted::Pod(pod) = wanted(object)? {
                let id = PodId::of(&self.owner, release, &object.key, &pod);
                pods.push(WantedPod { key: &object.key, pod: *pod, id });
            }
        }
        Ok(pods)
    }

    /// How a pod is, as podman and the kernel have it.
    fn difference(
        &self,
        app: &AppName,
        wanted: &WantedPod<'_>,
        there: &BTreeMap<ObjectKey, Vec<Instance>>,
    ) -> Observed {
        let count = there.get(wanted.key).map_or(0, Vec::len);
        let Some(own) = wanted.own(there) else {
            return match count {
                0 => Observed::Absent,
                _ => drift("another version of the pod is running", true),
            };
        };
        if count > 1 {
            return drift("another version of the pod exists as well", false);
        }
        let pod = &wanted.pod;
        match own.verdict(pod) {
            Verdict::Well => self.liveness(app, pod, own),
            Verdict::Done | Verdict::Failed(_) => Observed::Same,
            Verdict::Wrong(why) | Verdict::Rebooted(why) => drift(&why, false),
            Verdict::Restart(name, why) => self.restart(app, pod, own, &name, &why),
        }
    }

    /// A container that ended is started again, after a pause that grows.
    fn restart(
        &self,
        app: &AppName,
        pod: &Pod<PinnedImage>,
        own: &Instance,
        name: &str,
        why: &str,
    ) -> Observed {
        let Some(container) = own.containers.get(name) else { return Observed::Same };
        let times = self.restarts.times(&container.name);
        if pod.job.as_ref().is_some_and(|job| times >= job.backoff_limit) {
            return Observed::Same;
        }
        self.after_pause(app, &container.name, why)
    }

    /// Drift once the container's pause is over; before, the loop is woken at its end.
    fn after_pause(&self, app: &AppName, container: &str, why: &str) -> Observed {
        if self.restarts.wait(container).is_zero() {
            return drift(why, false);
        }
        if let Some(pause) = self.restarts.end_of_pause(container) {
            let (notifications, app, what) =
                (self.notifications.clone(), app.clone(), format!("{container} may be started again"));
            tokio::spawn(async move {
                // A moment later: what is over is over.
                tokio::time::sleep(pause + Duration::from_millis(10)).await;
                notifications.notify(Some(app), what).await;
            });
        }
        Observed::Same
    }

    fn liveness(&self, app: &AppName, pod: &Pod<PinnedImage>, own: &Instance) -> Observed {
        for spec in &pod.containers {
            let Some(container) = own.containers.get(&spec.name) else { continue };
            if let Answer::Dead(why) = self.prober.answer(spec, container) {
                let times = self.restarts.times(&container.name);
                if pod.job.as_ref().is_some_and(|job| times >= job.backoff_limit) {
                    return Observed::Same;
                }
                return self.after_pause(app, &container.name, &format!("{}: {why}", spec.name));
            }
        }
        Observed::Same
    }

    /// Has the probes and the vigils of an app follow what is there.
    fn follow(&self, app: &AppName, pods: &[WantedPod<'_>], there: &BTreeMap<ObjectKey, Vec<Instance>>) {
        let mut processes = Vec::new();
        let mut asked = Vec::new();
        for wanted in pods {
            let Some(own) = wanted.own(there) else { continue };
            for spec in &wanted.pod.containers {
                let Some(container) = own.containers.get(&spec.name) else { continue };
                if standing(container) == Standing::Running {
                    processes.extend([container.state.pid, container.state.conmon_pid]);
                    asked.push((&wanted.pod, spec, container));
                }
            }
        }
        self.vigils.keep(app, &processes, &self.notifications);
        self.prober.keep(app, &asked, &self.api, &self.notifications);
    }

    /// Keeps the last lines of a container that is about to go, for the app's diagnosis. Nothing of them is in the
    /// reason of a failure, which goes into status, events, the journal and the anchor: they are as secret as the app.
    async fn keep_log(&self, app: &AppName, name: &str, container: &str) {
        let mut read = self.api.logs(container, LINES_KEPT).await;
        if read.is_err() {
            // The container goes after this, and with it what it said.
            read = self.api.logs(container, LINES_KEPT).await;
        }
        let lines = said(name, read);
        let mut kept = self.last_logs.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(app.clone(), lines);
    }

    async fn remove(&self, app: &AppName, key: &ObjectKey) -> Result<(), DriverError> {
        let mut there = self.there(app).await?;
        for instance in there.remove(key).unwrap_or_default() {
            self.take_away(app, key, &instance).await?;
        }
        Ok(())
    }
}

/// What the container `name` said, a line each, or why that couldn't be had: what others said is worth having without it.
fn said(name: &str, log: Result<Vec<u8>, ApiError>) -> Vec<String> {
    match log {
        Ok(log) => logs::lines_of(&log).into_iter().map(|line| format!("{name}: {line}")).collect(),
        Err(error) => vec![format!("{name}: (its log could not be read: {error})")],
    }
}

fn drift(difference: &str, recreate: bool) -> Observed {
    Observed::Drift { difference: difference.to_owned(), recreate }
}

#[async_trait]
impl Driver for PodmanDriver {
    fn name(&self) -> DriverName {
        DriverName::PODMAN
    }

    fn abilities(&self) -> Abilities {
        fingerprint::ABILITIES
    }

    async fn fingerprint(&self) -> Fingerprint {
        fingerprint::fingerprint(&self.socket).await
    }

    fn check(&self, release: &Release) -> Result<(), DriverError> {
        self.pods(release).map(drop)
    }

    async fn prepare(&self, release: &Release) -> Result<(), DriverError> {
        let pods = self.pods(release)?;
        let containers = pods.iter().flat_map(|wanted| wanted.pod.all_containers());
        let images: BTreeSet<&PinnedImage> = containers.map(|container| &container.image).collect();
        for image in images {
            images::ensure(&self.api, &*self.images, &self.loading, image).await?;
        }
        Ok(())
    }

    async fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, DriverError> {
        let there = self.there(app).await;
        if there.is_err() {
            self.notifications.ring_when_back(&self.api, &self.owner);
        }
        let mut there = there?;
        let mut seen = AppObservation::new();
        let pods = desired.map(|release| self.pods(release)).transpose()?.unwrap_or_default();
        self.follow(app, &pods, &there);
        for wanted in &pods {
            seen.insert(wanted.key.clone(), self.difference(app, wanted, &there));
            there.remove(wanted.key);
        }
        for object in desired.into_iter().flat_map(|release| &release.objects) {
            if object.key.kind == CLAIM {
                seen.insert(object.key.clone(), self.observe_claim(app, &object.key).await?);
            }
        }
        for (key, instances) in there {
            let release = instances.first().and_then(|instance| instance.release);
            seen.insert(key, Observed::Extra { release });
        }
        for held in self.claims_of(app).await? {
            seen.entry(held.key).or_insert(Observed::Extra { release: held.release });
        }
        Ok(seen)
    }

    async fn apps(&self) -> Result<Vec<AppName>, DriverError> {
        let device = self.owner.device.to_string();
        let labels = [(marks::DEVICE, device.as_str())];
        let containers = self.api.containers(&labels).await?;
        let volumes = self.api.volumes(&labels).await?;
        let claims = self.owners_of(&volumes).await?;
        let parts = containers.iter().filter_map(|one| {
            let name = one.names.first()?;
            marks::part(&self.owner, &one.labels, name).map(|part| part.app)
        });
        // A scratch volume whose pod is gone is left over from what was killed.
        let scratch = volumes.iter().filter(|one| !claims::is_claim(one));
        let scratch = scratch.filter_map(|one| one.labels.get(marks::APP)?.parse().ok());
        let apps: BTreeSet<AppName> = parts.chain(scratch).chain(claims).collect();
        Ok(apps.into_iter().collect())
    }

    async fn apply(&self, step: ApplyStep<'_>) -> Result<(), DriverError> {
        let object = step.release.and_then(|release| Some((release, release.object(step.object)?)));
        match (step.action, object) {
            (Action::Create | Action::Update | Action::Recreate, Some((release, object))) => {
                match wanted(object)? {
                    Wanted::Claim => self.ensure_claim(step.app, step.object, release.id()).await.map(drop),
                    Wanted::Pod(pod) => {
                        let id = PodId::of(&self.owner, release, step.object, &pod);
                        Change::new(self, release, step.object, &pod, &id, step.strategy).ensure().await
                    }
                }
            }
            (Action::Purge, _) => self.purge_claim(step.app, step.object).await,
            // What holds data is never removed, whatever the plan says.
            (Action::Remove, _) if !step.object.holds_data() => self.remove(step.app, step.object).await,
            (Action::Adopt, _) if step.from.is_some() => self.take_claim(step.app, step.object).await,
            (Action::Remove | Action::Adopt | Action::Orphan | Action::Prepare | Action::Forget, _) => Ok(()),
            (_, None) => Err(DriverError::Runtime(format!("{} is not in the release", step.object))),
        }
    }

    /// Each request has a limit of its own; beside those a step waits for pods to stop, and only they know for how long.
    fn step_limit(&self, _: &ApplyStep<'_>) -> Duration {
        STEP_LIMIT + LONGEST_GRACE
    }

    async fn health(&self, release: &Release) -> Health {
        let (there, pods) = match (self.there(&release.app).await, self.pods(release)) {
            (Ok(there), Ok(pods)) => (there, pods),
            // Containers run on without podman's service.
            (Err(error), _) => {
                tracing::debug!(app = %release.app, %error, "the app's health can't be determined");
                self.notifications.ring_when_back(&self.api, &self.owner);
                return Health::Unknown;
            }
            (_, Err(error)) => return Health::Unhealthy { reason: error.to_string() },
        };
        self.follow(&release.app, &pods, &there);
        let mut starting = None;
        for wanted in &pods {
            let Some(own) = wanted.own(&there) else {
                return Health::Unhealthy { reason: format!("{} does not exist", wanted.key) };
            };
            match self.health(&wanted.pod, own) {
                Health::Healthy => {}
                Health::Starting { reason } => starting = Some(reason),
                ill => return ill,
            }
        }
        starting.map_or(Health::Healthy, |reason| Health::Starting { reason })
    }

    async fn address_of(&self, release: &Release, target: &ObjectKey, port: u16) -> Option<SocketAddr> {
        let pods = self.pods(release).ok()?;
        let wanted = pods.iter().find(|wanted| wanted.is_named(target))?;
        self.reached_at(&release.app, wanted, port).await
    }

    async fn exec(&self, release: &Release, check: &ExecCheck) -> Result<(), ExecError> {
        self.run_in(release, check).await
    }

    async fn restarts(&self, release: &Release) -> Option<u64> {
        let mut times = 0;
        for WantedPod { key, pod, id } in self.pods(release).ok()? {
            let names =
                pod.containers.iter().map(|spec| marks::container_name(&release.app, key, &spec.name, &id));
            times += names.map(|name| u64::from(self.restarts.times(&name))).sum::<u64>();
        }
        Some(times)
    }

    async fn logs(&self, app: &AppName, lines: usize) -> Result<Vec<String>, DriverError> {
        let kept = self.last_logs.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned();
        let mut all = kept.unwrap_or_default();
        let there = match self.there(app).await {
            Ok(there) => there,
            Err(error) if all.is_empty() => return Err(error.into()),
            // What was kept is worth having without the rest.
            Err(error) => {
                all.push(format!("(the logs of running containers could not be read: {error})"));
                BTreeMap::new()
            }
        };
        for (name, container) in there.values().flatten().flat_map(|instance| &instance.containers) {
            all.extend(said(name, self.api.logs(&container.id, lines).await));
        }
        let first = all.len().saturating_sub(lines);
        Ok(all.split_off(first))
    }

    fn watch(self: Arc<Self>, events: mpsc::Sender<DriverEvent>) {
        self.notifications.connect(events);
        let (api, owner) = (self.api.clone(), self.owner.clone());
        tokio::spawn(watch::listen(api, owner, self.notifications.clone(), self.strays.clone()));
    }

    async fn collect(&self, keep: &BTreeSet<Digest>) {
        images::collect(&self.api, keep).await;
    }
}

impl PodmanDriver {
    /// How one pod is.
    fn health(&self, pod: &Pod<PinnedImage>, own: &Instance) -> Health {
        match own.verdict(pod) {
            Verdict::Done => return Health::Healthy,
            Verdict::Failed(why) | Verdict::Wrong(why) => return Health::Unhealthy { reason: why },
            Verdict::Rebooted(why) => return Health::Starting { reason: why },
            Verdict::Restart(name, why) => {
                let times = own.containers.get(&name).map_or(0, |one| self.restarts.times(&one.name));
                return Health::Unhealthy { reason: format!("{why}; it was restarted {times} times") };
            }
            Verdict::Well => {}
        }
        let answers: Vec<Answer> = pod
            .containers
            .iter()
            .filter_map(|spec| Some(self.prober.answer(spec, own.containers.get(&spec.name)?)))
            .collect();
        if let Some(Answer::Dead(reason)) = answers.iter().find(|answer| matches!(answer, Answer::Dead(_))) {
            return Health::Unhealthy { reason: reason.clone() };
        }
        // A job that still runs is not done, and not ill before its time is over.
        if let Some(job) = &pod.job {
            let limit = job.deadline_seconds.map(|seconds| Duration::from_secs(seconds.into()));
            let ages = own.containers.values().filter_map(|container| process::age(container.state.pid));
            let late = limit.filter(|limit| ages.max().is_some_and(|age| age > *limit));
            return match late {
                Some(limit) => Health::Unhealthy { reason: format!("the job did not end within {limit:?}") },
                None => Health::Starting { reason: "the job still runs".to_owned() },
            };
        }
        let mut starting = None;
        for answer in answers {
            match answer {
                Answer::Well => {}
                Answer::Starting(reason) => starting = Some(reason),
                Answer::Unready(reason) | Answer::Dead(reason) => return Health::Unhealthy { reason },
            }
        }
        starting.map_or(Health::Healthy, |reason| Health::Starting { reason })
    }

    /// `host:port` at which the agent reaches a port of a pod.
    async fn reached_at(&self, app: &AppName, wanted: &WantedPod<'_>, port: u16) -> Option<SocketAddr> {
        let WantedPod { key, pod, id } = wanted;
        let Network::Bridge { ports, .. } = &pod.network else {
            return Some((Ipv4Addr::LOCALHOST, port).into());
        };
        let main = pod.containers.first()?;
        let container = self.api.container(&marks::container_name(app, key, &main.name, id)).await.ok()??;
        let published = ports.iter().find(|mapping| mapping.container_port == port);
        // Without root the bridge can't be reached from the box itself, but a published port can.
        match (container.address(), published) {
            (Some(address), _) if !self.api.is_rootless().await.unwrap_or(false) => {
                Some(SocketAddr::new(address.parse().ok()?, port))
            }
            (_, Some(mapping)) => {
                let host = mapping.host_ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
                Some(SocketAddr::new(host, mapping.host_port))
            }
            (_, None) => None,
        }
    }
}
