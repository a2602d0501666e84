//! Bringing a pod about, replacing it, taking it away. Every step can be done again after a crash: what is there is
//! looked at first, and what is half made is made anew, never mended.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use holdfast_core::name::ObjectKey;
use holdfast_core::pod::{Container, HostPathKind, Network, PinnedImage, Pod, Volume};
use holdfast_core::release::{EnvValue, Release, SecretRef, Strategy};
use holdfast_core::secret::SecretBytes;
use tokio::time::{Instant, sleep, timeout};

use super::api::Inspected;
use super::client::ApiError;
use super::instance::{self, Instance, Standing, ended, standing};
use super::logs::lines_of;
use super::marks::{self, PodId};
use super::prober::Answer;
use super::spec::{Places, PodSpec, Role, place_key};
use super::{PodmanDriver, images, ports, process};
use crate::DriverError;

/// How long a new pod may take to be ready before the old one is stopped.
const READY: Duration = Duration::from_secs(300);
/// How long an init container may run.
const INIT: Duration = Duration::from_secs(600);
/// How often what has no event is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What is to be done to one pod.
pub(super) struct Change<'a> {
    driver: &'a PodmanDriver,
    release: &'a Release,
    spec: PodSpec<'a>,
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
        let mut there = instance::of_app(&self.driver.api, self.spec.owner, self.spec.app).await?;
        let instances = there.remove(self.spec.key).unwrap_or_default();
        let (own, others): (Vec<_>, Vec<_>) = instances.into_iter().partition(|one| one.id == *self.spec.id);
        let mut own = own.into_iter().next().map(|own| own.containers).unwrap_or_default();
        if !others.is_empty() {
            // It was stopped for another version that it takes the place of now: it begins anew.
            own.retain(|_, container| {
                let standing = standing(container);
                !matches!(standing, Standing::Ended { .. }) || self.is_over(Some(&standing))
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
                    let why = self.last_words(&name, &ended(&wanted.name, code, out_of_memory)).await;
                    return Err(DriverError::Release(why));
                }
                other => return Ok(Err(format!("{} is {other:?}", wanted.name))),
            }
        }
        let asked: Vec<_> =
            running.iter().map(|(wanted, container)| (self.spec.pod, *wanted, container)).collect();
        // The old pod is still asked.
        self.driver.prober.ask(self.spec.app, &asked, &self.driver.api, &self.driver.bell);
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
        let was_made = own.get(&main.name).map(standing);
        if !matches!(was_made, Some(Standing::Running | Standing::Ended { .. })) {
            self.run_init(&own, images, &places).await?;
        }
        let main_name = self.spec.name_of(&main.name);
        let mut renewed = false;
        for (index, container) in self.spec.pod.containers.iter().enumerate() {
            let there = own.get(&container.name).map(standing);
            // Whoever shares the network of one that was made anew must be made anew as well.
            if there == Some(Standing::Running) && !(renewed && index > 0) && !self.is_dead(container, &own) {
                continue;
            }
            if self.is_over(there.as_ref()) {
                continue;
            }
            renewed |= index == 0 && self.spec.pod.network != Network::Host;
            let role = if index == 0 { Role::Main } else { Role::Beside(&main_name) };
            self.run(container, there, images, role, &places).await?;
        }
        for init in &self.spec.pod.init {
            self.driver.delete(&self.spec.name_of(&init.name)).await?;
        }
        Ok(())
    }

    /// Whether its liveness was given up.
    fn is_dead(&self, container: &Container<PinnedImage>, own: &BTreeMap<String, Inspected>) -> bool {
        let answer = own.get(&container.name).map(|there| self.driver.prober.answer(container, there));
        matches!(answer, Some(Answer::Dead(_)))
    }

    /// Whether it ended, and stays so.
    fn is_over(&self, standing: Option<&Standing>) -> bool {
        use holdfast_core::release::Restart;
        match (standing, self.spec.pod.restart) {
            (Some(Standing::Ended { .. }), Restart::Never) => true,
            (Some(Standing::Ended { code, .. }), Restart::OnFailure) => *code == 0,
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
            Some(Standing::Staged) if !self.has_ports() && api.start(&name).await.is_ok() => return Ok(()),
            Some(Standing::Ended { .. } | Standing::Running) => {
                self.driver.restarts.note(&name);
                self.driver.keep_log(self.spec.app, &name).await;
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
        if let Err(error) = api.start(&name).await {
            // Half started is not started.
            self.driver.delete(&name).await?;
            return Err(self.refused(&container.name, error));
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
                    self.driver.api.start(&name).await.map_err(|error| self.refused(&init.name, error))?;
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
                    "somebody removed the init container {}",
                    init.name
                )));
            };
            match standing(&container) {
                Standing::Ended { code: 0, .. } => return Ok(()),
                Standing::Ended { code, out_of_memory } => {
                    let why = format!("the init container {}", ended(&init.name, code, out_of_memory));
                    let why = self.last_words(name, &why).await;
                    self.driver.delete(name).await?;
                    return Err(DriverError::Release(why));
                }
                _ if since.elapsed() >= INIT => {
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
                api.put_secret(&secret_name, secret.expose().to_vec()).await?;
            }
        }
        let body = self.spec.body(container, image, role, places);
        let id = api.create(&body).await.map_err(|error| self.refused(&container.name, error))?;
        self.driver.strays.note(&id);
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
            "{} must not run as root (runAsNonRoot), and its image's user is {user}: write runAsUser",
            container.name
        )))
    }

    fn open(&self, secret: &SecretRef) -> Result<SecretBytes, String> {
        let digest = self.release.secrets.get(&secret.to_string());
        let digest = digest.ok_or_else(|| format!("the release has no secret {secret}"))?;
        self.driver.secrets.open(digest).map_err(|why| format!("the secret {secret} can't be opened: {why}"))
    }

    /// Has the pod's volumes there, and tells where those are that are folders of the box.
    async fn places(&self) -> Result<Places, DriverError> {
        let mut places = Places::default();
        for (name, volume) in &self.spec.pod.volumes {
            match volume {
                Volume::Files(files) => {
                    let folder =
                        self.driver.files.write(self.spec.id, name, files, |secret| self.open(secret));
                    let folder = folder.map_err(|error| {
                        DriverError::Runtime(format!(
                            "the files of the volume {name} can't be written: {error}"
                        ))
                    })?;
                    self.place_parts(&mut places, name, &folder);
                }
                Volume::Host { path, kind } => host_path(path, *kind)?,
                Volume::Claim(claim) => {
                    let found = self.driver.ensure_claim(self.spec.app, claim, self.spec.release).await?;
                    self.place_sub_paths(&mut places, name, Path::new(&found.mountpoint))?;
                }
                Volume::Empty { memory: false, .. } => {
                    let scratch = marks::scratch_name(self.spec.app, self.spec.key, name, self.spec.id);
                    let found = self.ensure_scratch(&scratch).await?;
                    self.place_sub_paths(&mut places, name, Path::new(&found.mountpoint))?;
                }
                Volume::Empty { memory: true, .. } => {}
            }
        }
        Ok(places)
    }

    async fn ensure_scratch(&self, name: &str) -> Result<super::api::Volume, DriverError> {
        if let Some(found) = self.driver.api.volume(name).await? {
            return Ok(found);
        }
        let mut labels = marks::labels(self.spec.owner, self.spec.app, self.spec.key, self.spec.release);
        labels.insert(marks::POD, self.spec.id.0.clone());
        Ok(self.driver.api.create_volume(name, &labels).await?)
    }

    /// Every mount of files is a folder or a file of the box.
    fn place_parts(&self, places: &mut Places, volume: &str, folder: &Path) {
        let mounts = self.spec.pod.all_containers().flat_map(|container| &container.mounts);
        for mount in mounts.filter(|mount| mount.volume == volume) {
            let part = mount.sub_path.as_deref().map_or(folder.to_owned(), |sub| folder.join(sub));
            places.folders.insert(place_key(mount), part.display().to_string());
        }
    }

    /// podman 4.3 passes over a volume's subPath in silence: the part is mounted as a folder of the box, and made
    /// if it isn't there, as Kubernetes does.
    fn place_sub_paths(
        &self,
        places: &mut Places,
        volume: &str,
        mountpoint: &Path,
    ) -> Result<(), DriverError> {
        let mounts = self.spec.pod.all_containers().flat_map(|container| &container.mounts);
        for mount in mounts.filter(|mount| mount.volume == volume) {
            let Some(sub) = &mount.sub_path else { continue };
            let part = mountpoint.join(sub);
            fs::create_dir_all(&part).map_err(|error| {
                DriverError::Runtime(format!("the folder {} can't be made: {error}", part.display()))
            })?;
            places.folders.insert(place_key(mount), part.display().to_string());
        }
        Ok(())
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
        let text = format!("the container {container} can't be started: {error}");
        match &error {
            ApiError::Refused { message, .. } if !is_of_the_box(message) => DriverError::Release(text),
            _ => DriverError::Runtime(text),
        }
    }

    /// A reason with the last lines of the log.
    async fn last_words(&self, name: &str, why: &str) -> String {
        let log = self.driver.api.logs(name, 5).await.map(|log| lines_of(&log)).unwrap_or_default();
        if log.is_empty() { why.to_owned() } else { format!("{why}; its last lines: {}", log.join(" | ")) }
    }

    async fn take_away_own(&self) {
        let there = instance::of_app(&self.driver.api, self.spec.owner, self.spec.app).await;
        let own = there.ok().and_then(|mut there| there.remove(self.spec.key)).unwrap_or_default();
        let own = own.into_iter().filter(|one| one.id == *self.spec.id).collect();
        if let Err(error) = self.take_away(own).await {
            tracing::warn!(app = %self.spec.app, %error, "what was started beside the old version can't be removed yet");
        }
    }

    async fn take_away(&self, instances: Vec<Instance>) -> Result<(), DriverError> {
        for instance in instances {
            self.driver.take_away(self.spec.app, self.spec.key, &instance).await?;
        }
        Ok(())
    }
}

/// Whether podman's words tell of the box, and not of what it was asked to run.
fn is_of_the_box(message: &str) -> bool {
    const WORDS: [&str; 9] = [
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

/// Has a `hostPath` be what it must be.
fn host_path(path: &str, kind: HostPathKind) -> Result<(), DriverError> {
    use std::os::unix::fs::FileTypeExt;
    let there = fs::metadata(path).ok();
    let is = |test: fn(&fs::FileType) -> bool| there.as_ref().is_some_and(|found| test(&found.file_type()));
    let (fits, what) = match kind {
        HostPathKind::Any => (true, ""),
        HostPathKind::DirectoryOrCreate if there.is_none() => (fs::create_dir_all(path).is_ok(), "a folder"),
        HostPathKind::FileOrCreate if there.is_none() => (fs::File::create_new(path).is_ok(), "a file"),
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => (is(fs::FileType::is_dir), "a folder"),
        HostPathKind::File | HostPathKind::FileOrCreate => (is(fs::FileType::is_file), "a file"),
        HostPathKind::Socket => (is(FileTypeExt::is_socket), "a socket"),
        HostPathKind::CharDevice => (is(FileTypeExt::is_char_device), "a character device"),
        HostPathKind::BlockDevice => (is(FileTypeExt::is_block_device), "a block device"),
    };
    // What Kubernetes calls any, it makes a folder of.
    if kind == HostPathKind::Any && there.is_none() {
        let _ = fs::create_dir_all(path);
    }
    if fits {
        Ok(())
    } else {
        Err(DriverError::Runtime(format!("the hostPath {path} must be {what} on this box")))
    }
}
