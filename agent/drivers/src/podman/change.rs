//! Bringing a pod about, replacing it, taking it away. Every step can be done again after a crash: what is there is
//! looked at first, and what is half made is made anew, never mended.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_core::name::ObjectKey;
use holdfast_core::pod::{Container, Network, PinnedImage, Pod};
use holdfast_core::release::{EnvValue, Release, Restart, SecretRef, Strategy};
use holdfast_core::secret::SecretBytes;
use tokio::time::{Instant, sleep, timeout};

use super::api::Inspected;
use super::client::ApiError;
use super::instance::{Instance, Standing, ended, ended_with_the_box, standing};
use super::marks::PodId;
use super::prober::Answer;
use super::spec::{Places, PodSpec, Role};
use super::strays::Made;
use super::{PodmanDriver, address, images, ports, process};
use crate::{DriverError, beneath};

/// How long a new pod may take to be ready before the old one is stopped.
const READY: Duration = Duration::from_secs(300);
/// How long an init container may run.
const INIT: Duration = Duration::from_secs(600);
/// How often what has no event is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What podman calls a container of which everything is done but its start.
const INITIALIZED: &str = "initialized";

/// What is to be done to one pod.
pub(super) struct Change<'a> {
    pub(super) driver: &'a PodmanDriver,
    pub(super) release: &'a Release,
    pub(super) spec: PodSpec<'a>,
    strategy: Strategy,
}

impl<'a> Change<'a> {
    pub(super) fn new(
        driver: &'a PodmanDriver,
        release: &'a Release,
        key: &'a ObjectKey,
        pod: &'a Pod<PinnedImage>,
        id: &'a PodId,
        strategy: Strategy,
    ) -> Self {
        let spec = PodSpec { owner: &driver.owner, app: &release.app, key, release: release.id(), pod, id };
        Change { driver, release, spec, strategy }
    }

    /// Has this pod running, and no other of its name.
    pub(super) async fn ensure(&self) -> Result<(), DriverError> {
        let images = self.images().await?;
        if matches!(self.spec.pod.network, Network::Bridge { .. }) {
            self.driver.api.ensure_network().await?;
        }
        let mut there = self.driver.there(self.spec.app).await?;
        let instances = there.remove(self.spec.key).unwrap_or_default();
        let (own, others): (Vec<_>, Vec<_>) = instances.into_iter().partition(|one| one.id == *self.spec.id);
        let mut own = own.into_iter().next().map(|own| own.containers).unwrap_or_default();
        if !others.is_empty() {
            // It was stopped for another version that it takes the place of now: it begins anew.
            own.retain(|_, container| {
                !matches!(standing(container), Standing::Ended { .. }) || self.is_over(container)
            });
        }
        self.check_ports(&others).await?;
        match self.strategy {
            Strategy::StartStop if !others.is_empty() => {
                if let Err(error) = self.start_beside(own, &images).await {
                    // The old one goes on; what was to take its place doesn't stay beside it.
                    self.take_away_own().await;
                    return Err(error);
                }
                self.take_away(others).await
            }
            _ if !others.is_empty() => {
                let own = self.stage(own, &images).await?;
                for other in &others {
                    self.driver.stop(other).await?;
                }
                // The ports of the box are free only once the old one's network is gone.
                if matches!(self.spec.pod.network, Network::Bridge { .. }) {
                    self.take_away(others).await?;
                    return self.fill(own, &images).await;
                }
                self.fill(own, &images).await?;
                self.take_away(others).await
            }
            _ => self.fill(own, &images).await,
        }
    }

    /// The ids of its images in podman's store; those that aren't there are loaded.
    async fn images(&self) -> Result<BTreeMap<PinnedImage, String>, DriverError> {
        let mut ids = BTreeMap::new();
        for container in self.spec.pod.all_containers() {
            if !ids.contains_key(&container.image) {
                let driver = self.driver;
                let id =
                    images::ensure(&driver.api, &*driver.images, &driver.loading, &container.image).await?;
                ids.insert(container.image.clone(), id);
            }
        }
        Ok(ids)
    }

    /// Makes what can be made while the old one still runs: everything but the start, where nothing of the box
    /// can be had by one pod only.
    async fn stage(
        &self,
        own: BTreeMap<String, Inspected>,
        images: &BTreeMap<PinnedImage, String>,
    ) -> Result<BTreeMap<String, Inspected>, DriverError> {
        let shares = match &self.spec.pod.network {
            Network::Host => true,
            Network::Bridge { ports, .. } => ports.is_empty(),
        };
        // Init containers may change data that the old one uses.
        if !shares || !self.spec.pod.init.is_empty() || !own.is_empty() || self.spec.pod.containers.len() > 1
        {
            return Ok(own);
        }
        let Some(main) = self.spec.main() else { return Ok(own) };
        let places = self.places().await?;
        self.make(main, images, Role::Main, &places).await?;
        let name = self.spec.name_of(&main.name);
        self.driver.api.init(&name).await.map_err(|error| self.refused(&main.name, error))?;
        let made = self.driver.api.container(&name).await?;
        Ok(made.into_iter().map(|made| (main.name.clone(), made)).collect())
    }

    /// Starts the new pod beside the old one, and waits until it is ready.
    async fn start_beside(
        &self,
        own: BTreeMap<String, Inspected>,
        images: &BTreeMap<PinnedImage, String>,
    ) -> Result<(), DriverError> {
        self.fill(own, images).await?;
        let since = Instant::now();
        loop {
            let waiting = match self.ready().await? {
                Ok(()) => return Ok(()),
                Err(waiting) => waiting,
            };
            if since.elapsed() >= READY {
                let name = &self.spec.key.name;
                return Err(DriverError::Release(format!(
                    "{name} was not ready within {READY:?}: {waiting}"
                )));
            }
            sleep(LOOK).await;
        }
    }

    /// Whether every container runs, listens and is ready; else what is waited for.
    async fn ready(&self) -> Result<Result<(), String>, DriverError> {
        let mut running = Vec::new();
        for wanted in &self.spec.pod.containers {
            let name = self.spec.name_of(&wanted.name);
            let Some(container) = self.driver.api.container(&name).await? else {
                return Ok(Err(format!("{} is gone", wanted.name)));
            };
            match standing(&container) {
                Standing::Running => running.push((wanted, container)),
                Standing::Ended { code, out_of_memory } => {
                    self.driver.keep_log(self.spec.app, &wanted.name, &name).await;
                    return Err(DriverError::Release(ended(&wanted.name, code, out_of_memory)));
                }
                other => return Ok(Err(format!("{} is not running: {other:?}", wanted.name))),
            }
        }
        let asked: Vec<_> =
            running.iter().map(|(wanted, container)| (self.spec.pod, *wanted, container)).collect();
        // The old pod is still asked.
        self.driver.prober.ask(self.spec.app, &asked, &self.driver.api, &self.driver.notifications);
        for (wanted, container) in &running {
            match self.driver.prober.answer(wanted, container) {
                Answer::Well => {}
                Answer::Starting(why) | Answer::Unready(why) => return Ok(Err(why)),
                Answer::Dead(why) => return Err(DriverError::Release(format!("{}: {why}", wanted.name))),
            }
        }
        Ok(Ok(()))
    }

    /// Makes and starts what of the pod isn't running.
    async fn fill(
        &self,
        own: BTreeMap<String, Inspected>,
        images: &BTreeMap<PinnedImage, String>,
    ) -> Result<(), DriverError> {
        let places = self.places().await?;
        let Some(main) = self.spec.main() else { return Ok(()) };
        // What runs, or ended and is only started again, was made ready when it was made.
        let was_made = own.get(&main.name).and_then(|main| self.standing_since_boot(main));
        if !matches!(was_made, Some(Standing::Running | Standing::Ended { .. })) {
            self.run_init(&own, images, &places).await?;
        }
        let main_name = self.spec.name_of(&main.name);
        let mut renewed = false;
        for (index, container) in self.spec.pod.containers.iter().enumerate() {
            let made = own.get(&container.name);
            let there = made.and_then(|made| self.standing_since_boot(made));
            // Whoever shares the network of one that was made anew must be made anew as well.
            if there == Some(Standing::Running) && !(renewed && index > 0) && !self.is_dead(container, &own) {
                continue;
            }
            if made.is_some_and(|made| self.is_over(made)) {
                continue;
            }
            // What is dead is stopped, and stays as it ends then.
            if there == Some(Standing::Running) && !renewed && self.spec.pod.restart == Restart::Never {
                self.driver.stop_container(&self.spec.name_of(&container.name)).await?;
                continue;
            }
            if index == 0 && self.spec.is_shared() {
                renewed = true;
                // podman would end the others with this one, without their hooks and their time.
                self.stop_all(&own).await?;
            }
            let role = if index == 0 { Role::Main } else { Role::Beside(&main_name) };
            self.run(container, there, images, role, &places).await?;
        }
        for init in &self.spec.pod.init {
            self.driver.delete(&self.spec.name_of(&init.name)).await?;
        }
        Ok(())
    }

    /// Stops what runs of the pod, asked together.
    async fn stop_all(&self, own: &BTreeMap<String, Inspected>) -> Result<(), DriverError> {
        let running = own.values().filter(|container| standing(container) == Standing::Running);
        let stops = running.map(|container| self.driver.stop_container(&container.name));
        join_all(stops).await.into_iter().collect()
    }

    /// Whether its liveness was given up, or its postStart hook failed.
    fn is_dead(&self, container: &Container<PinnedImage>, own: &BTreeMap<String, Inspected>) -> bool {
        let answer = own.get(&container.name).map(|there| self.driver.prober.answer(container, there));
        matches!(answer, Some(Answer::Dead(_)))
    }

    /// How a container is; none for what ended with the box, as that is no end of its own: it begins anew.
    fn standing_since_boot(&self, container: &Inspected) -> Option<Standing> {
        (!ended_with_the_box(container, self.spec.pod.restart)).then(|| standing(container))
    }

    /// Whether it ended, and stays so.
    fn is_over(&self, container: &Inspected) -> bool {
        match (self.standing_since_boot(container), self.spec.pod.restart) {
            (Some(Standing::Ended { .. }), Restart::Never) => true,
            (Some(Standing::Ended { code, .. }), Restart::OnFailure) => code == 0,
            _ => false,
        }
    }

    /// Has one container running.
    async fn run(
        &self,
        container: &Container<PinnedImage>,
        there: Option<Standing>,
        images: &BTreeMap<PinnedImage, String>,
        role: Role<'_>,
        places: &Places,
    ) -> Result<(), DriverError> {
        let api = &self.driver.api;
        let name = self.spec.name_of(&container.name);
        match &there {
            Some(Standing::Paused) => return api.unpause(&name).await.map_err(Into::into),
            // What was staged is only to be started; where that fails it is made anew.
            Some(Standing::Staged) if !self.has_ports() && self.start(container, places).await.is_ok() => {
                return Ok(());
            }
            Some(Standing::Ended { .. } | Standing::Running) => {
                self.driver.restarts.note(&name);
                self.driver.keep_log(self.spec.app, &container.name, &name).await;
            }
            _ => {}
        }
        if there == Some(Standing::Running) {
            self.driver.stop_container(&name).await?;
        }
        self.make(container, images, role, places).await?;
        if matches!(role, Role::Main) {
            self.check_ports(&[]).await?;
        }
        if let Err(error) = self.start(container, places).await {
            // Half started is not started.
            self.driver.delete(&name).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Starts a container that was made. podman and its runtime resolve the folders that they mount by themselves, from
    /// their paths and after us; so where a workload can write to what is above such a folder, everything of the start
    /// is done but the start, and what is mounted then, which nobody can exchange any more, is compared with what was
    /// meant. Nothing of the container has run by then.
    async fn start(&self, container: &Container<PinnedImage>, places: &Places) -> Result<(), DriverError> {
        let (api, name) = (&self.driver.api, self.spec.name_of(&container.name));
        let refused = |error| self.refused(&container.name, error);
        let meant = places.meant_of(container);
        if !meant.is_empty() {
            let initialized = api.container(&name).await?.filter(|made| made.state.status == INITIALIZED);
            if initialized.is_none() {
                api.init(&name).await.map_err(refused)?;
            }
            let made = api.container(&name).await?;
            let pid = made.map_or(0, |made| made.state.pid);
            beneath::has_mounted(pid, &meant).map_err(|why| {
                DriverError::Runtime(format!("the container {} is not started: {why}", container.name))
            })?;
        }
        api.start(&name).await.map_err(refused)?;
        if container.lifecycle.post_start.is_some()
            // Else it is run when somebody looks next.
            && let Ok(Some(started)) = api.container(&name).await
        {
            let asked = [(self.spec.pod, container, &started)];
            self.driver.prober.ask(self.spec.app, &asked, api, &self.driver.notifications);
        }
        Ok(())
    }

    /// Runs the init containers one after the other. One that ended well before a crash isn't run again.
    async fn run_init(
        &self,
        own: &BTreeMap<String, Inspected>,
        images: &BTreeMap<PinnedImage, String>,
        places: &Places,
    ) -> Result<(), DriverError> {
        for init in &self.spec.pod.init {
            let name = self.spec.name_of(&init.name);
            let there = own.get(&init.name).map(standing);
            match there {
                Some(Standing::Ended { code: 0, .. }) => continue,
                Some(Standing::Running) => {}
                _ => {
                    self.make(init, images, Role::Init, places).await?;
                    self.start(init, places).await?;
                }
            }
            self.wait_for_init(init, &name).await?;
        }
        Ok(())
    }

    async fn wait_for_init(&self, init: &Container<PinnedImage>, name: &str) -> Result<(), DriverError> {
        let since = Instant::now();
        loop {
            let Some(container) = self.driver.api.container(name).await? else {
                return Err(DriverError::Runtime(format!(
                    "the init container {} was removed from outside",
                    init.name
                )));
            };
            match standing(&container) {
                Standing::Ended { code: 0, .. } => return Ok(()),
                Standing::Ended { code, out_of_memory } => {
                    self.driver.keep_log(self.spec.app, &init.name, name).await;
                    self.driver.delete(name).await?;
                    let how = ended(&init.name, code, out_of_memory);
                    return Err(DriverError::Release(format!("the init container {how}")));
                }
                _ if since.elapsed() >= INIT => {
                    self.driver.keep_log(self.spec.app, &init.name, name).await;
                    self.driver.delete(name).await?;
                    let name = &init.name;
                    return Err(DriverError::Release(format!(
                        "the init container {name} did not end within {INIT:?}"
                    )));
                }
                Standing::Running => {
                    // Its end is seen by the kernel; podman writes the exit code down a little later.
                    let _ = timeout(INIT, process::gone(container.state.pid)).await;
                    sleep(LOOK).await;
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    /// Makes a container anew: nothing of one that had its name is left.
    async fn make(
        &self,
        container: &Container<PinnedImage>,
        images: &BTreeMap<PinnedImage, String>,
        role: Role<'_>,
        places: &Places,
    ) -> Result<(), DriverError> {
        let api = &self.driver.api;
        let image = images.get(&container.image).map_or("", String::as_str);
        if container.security.non_root && container.security.user.is_none() {
            self.check_user(container, image).await?;
        }
        let name = self.spec.name_of(&container.name);
        // What is left of a create that was cut off has the name, and is seen nowhere else (docs/adr/0008).
        self.driver.delete(&name).await?;
        for (variable, value) in &container.env {
            if let EnvValue::Secret { secret_ref } = value {
                let secret = self.open(secret_ref).map_err(DriverError::Runtime)?;
                let secret_name = self.spec.secret_name(&container.name, variable);
                api.put_secret(&secret_name, secret.expose()).await?;
            }
        }
        let container = &*with_address(container, address::of_the_box)?;
        let body = self.spec.body(container, image, role, places);
        let id = api.create(&body).await.map_err(|error| self.refused(&container.name, error))?;
        self.driver.strays.note(&id, Made::of(self.spec.pod, container));
        Ok(())
    }

    /// `runAsNonRoot`: the image's own user must not be root.
    async fn check_user(&self, container: &Container<PinnedImage>, image: &str) -> Result<(), DriverError> {
        let user = self.driver.api.image(image).await?.map(|image| image.user).unwrap_or_default();
        let id = user.split(':').next().unwrap_or_default();
        if id.parse::<u32>().is_ok_and(|id| id != 0) {
            return Ok(());
        }
        let user = if id.is_empty() { "root" } else { id };
        Err(DriverError::Release(format!(
            "{} must not run as root (runAsNonRoot), but its image's user is {user}: set runAsUser",
            container.name
        )))
    }

    pub(super) fn open(&self, secret: &SecretRef) -> Result<SecretBytes, String> {
        let digest = self.release.secrets.get(&secret.to_string());
        let digest = digest.ok_or_else(|| format!("the release has no secret {secret}"))?;
        self.driver.secrets.open(digest).map_err(|why| format!("the secret {secret} can't be opened: {why}"))
    }

    fn has_ports(&self) -> bool {
        matches!(&self.spec.pod.network, Network::Bridge { ports, .. } if !ports.is_empty())
    }

    /// Whether the ports of the box can be had, or are those of `others`, which go. A start that finds a port taken
    /// does harm to whoever has it (docs/adr/0008), so it is not even tried.
    async fn check_ports(&self, others: &[Instance]) -> Result<(), DriverError> {
        let Network::Bridge { ports: wanted, .. } = &self.spec.pod.network else { return Ok(()) };
        let running = others.iter().flat_map(|other| other.containers.values());
        let published: Vec<_> = running.flat_map(super::api::Inspected::published).collect();
        ports::free(wanted, &published).await.map_err(DriverError::Runtime)
    }

    /// Why podman doesn't make or start a container, sorted by whose problem it is.
    fn refused(&self, container: &str, error: ApiError) -> DriverError {
        let mut text = format!("the container {container} can't be started: {error}");
        if matches!(&error, ApiError::Refused { message, .. } if lacks_a_firewall(message)) {
            text.push_str(NO_FIREWALL);
        }
        match &error {
            ApiError::Refused { message, .. } if !is_of_the_box(message) => DriverError::Release(text),
            _ => DriverError::Runtime(text),
        }
    }

    async fn take_away_own(&self) {
        let there = self.driver.there(self.spec.app).await;
        let own = there.ok().and_then(|mut there| there.remove(self.spec.key)).unwrap_or_default();
        let own = own.into_iter().filter(|one| one.id == *self.spec.id).collect();
        if let Err(error) = self.take_away(own).await {
            tracing::warn!(app = %self.spec.app, %error, "the new version, started beside the old one, can't be \
                                                          removed yet");
        }
    }

    async fn take_away(&self, instances: Vec<Instance>) -> Result<(), DriverError> {
        for instance in instances {
            self.driver.take_away(self.spec.app, self.spec.key, &instance).await?;
        }
        Ok(())
    }
}

/// The container as it is on a box with these addresses.
fn with_address<'a>(
    container: &'a Container<PinnedImage>,
    addresses: impl FnOnce() -> Vec<IpAddr>,
) -> Result<Cow<'a, Container<PinnedImage>>, DriverError> {
    if !container.wants_address() {
        return Ok(Cow::Borrowed(container));
    }
    let addresses = addresses();
    let Some(first) = addresses.first() else {
        return Err(DriverError::Runtime(format!(
            "the box has no address yet, which the container {} is to be told (status.hostIP): it has no default \
             route; check its network",
            container.name
        )));
    };
    Ok(Cow::Owned(container.at(*first, &addresses)))
}

/// What to do about a box on which no pod gets a network.
const NO_FIREWALL: &str = "; the firewall program that sets up pod networks is missing on this box: install \
                           nftables (iptables for podman 4); see `holdfast doctor`";

/// Whether podman says that the program is missing by which it makes a pod's network.
fn lacks_a_firewall(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let names_it = ["nft", "iptables"].iter().any(|tool| message.contains(tool));
    message.contains("netavark") && (names_it || message.contains("no such file"))
}

/// Whether podman's words tell of the box, and not of what it was asked to run.
fn is_of_the_box(message: &str) -> bool {
    const WORDS: [&str; 14] = [
        // What makes a pod's network: its ports were tried before, so it is not what was asked for.
        "netavark",
        "aardvark",
        "slirp4netns",
        "pasta failed",
        "iptables",
        "no space left on device",
        "read-only file system",
        "input/output error",
        "disk quota exceeded",
        "too many open files",
        "cannot allocate memory",
        "resource temporarily unavailable",
        "database is locked",
        "database disk image is malformed",
    ];
    let message = message.to_ascii_lowercase();
    WORDS.iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests;
