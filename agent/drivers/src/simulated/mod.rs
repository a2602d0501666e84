//! The simulated driver: a folder that stands for a runtime. It keeps the trait honest in tests and
//! benchmarks: everything that a driver promises is kept here, and every fault can be asked for.
//!
//! - [`world`]: the runtime itself, pure, for model tests.
//! - [`script`]: faults, delays and crashes, by annotations and by `script.json`.
//! - [`log`]: what was asked, and what that proves.
//! - `folder`: files, and what somebody else does to them.

mod folder;
pub mod log;
mod object;
pub mod script;
pub mod world;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use holdfast_core::clock::{BootId, Moment};
use holdfast_core::digest::Digest;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::AppObservation;
use holdfast_core::plan::Action;
use holdfast_core::release::{ExecCheck, Release};
use holdfast_core::runtime::{Abilities, DriverName, Fingerprint, Form, Names};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};

use crate::{ApplyStep, CALL_LIMIT, Driver, DriverError, DriverEvent, ExecError, Owner};
use folder::Folder;
use log::Line;
use world::{Applied, Fault, Seen};

/// How often a call that is held looks whether it still is.
const HELD_PAUSE: Duration = Duration::from_millis(20);

/// What the simulated runtime takes and can do.
pub const ABILITIES: Abilities = Abilities {
    takes: Form::Manifests,
    rank: u8::MAX,
    names: Names::Shared,
    start_stop: false,
    exec: true,
    addresses: true,
    holds_data: true,
    accounts: false,
    stages_images: false,
    engine: false,
};

/// What is simulated by this folder.
pub fn fingerprint(dir: &Path) -> Fingerprint {
    let shown = dir.display();
    if !dir.is_dir() {
        let detail = format!("there is no folder {shown}: it is made when the agent starts");
        return Fingerprint::unusable(DriverName::SIMULATED, ABILITIES, detail);
    }
    Fingerprint {
        driver: DriverName::SIMULATED,
        usable: true,
        version: None,
        detail: format!("simulated by the folder {shown}"),
        abilities: Some(ABILITIES),
    }
}

/// The driver. Several may be open on one folder, as when an old agent's process still ends.
pub struct SimulatedDriver {
    folder: Mutex<Folder>,
    dir: String,
    boot: BootId,
    limit: Duration,
    /// Another call than the watcher's found that somebody changed something.
    found: Notify,
}

impl SimulatedDriver {
    /// A driver on the runtime in `dir`, which is made if it isn't there.
    pub fn open(dir: &Path, owner: &Owner) -> Result<Self, DriverError> {
        let shown = dir.display().to_string();
        let failed = |why: String| {
            DriverError::Runtime(format!(
                "cannot open the simulated runtime in {shown}: {why}; see that the folder can be written and that fs.inotify.max_user_instances is not used up"
            ))
        };
        let folder = Folder::open(dir, owner.device.clone()).map_err(|error| failed(error.to_string()))?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| failed(format!("the boot id cannot be read: {error}")))?;
        Ok(SimulatedDriver {
            folder: Mutex::new(folder),
            dir: shown,
            boot: BootId(boot.trim().to_owned()),
            limit: CALL_LIMIT,
            found: Notify::new(),
        })
    }

    /// With another limit for a call to a runtime that hangs.
    pub fn with_limit(self, limit: Duration) -> Self {
        SimulatedDriver { limit, ..self }
    }

    fn now(&self) -> Moment {
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Moment { boot: self.boot.clone(), uptime }
    }

    fn lock(&self) -> MutexGuard<'_, Folder> {
        // A panic in another call left nothing half done that the folder does not tell.
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime as it is now. The calls to it are short, so they are made on the spot.
    fn with<T>(&self, call: impl FnOnce(&mut Folder) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut folder = self.lock();
        folder.refresh().map_err(|error| self.broken(&error))?;
        let result = call(&mut folder);
        if folder.has_changes() {
            self.found.notify_one();
        }
        result
    }

    fn broken(&self, error: &std::io::Error) -> Fault {
        Fault::Runtime(format!("the simulated runtime in {} cannot be used: {error}", self.dir))
    }

    /// Waits as the script asks.
    async fn wait(&self, call: &str, app: Option<&AppName>, release: Option<&Release>) {
        let mut told = false;
        while self.with(|folder| Ok(folder.world.script.holds(call, app))).unwrap_or_default() {
            if !std::mem::replace(&mut told, true) {
                let line = self.line("held", app, call);
                if let Err(error) = self.lock().note(&line) {
                    tracing::warn!(dir = self.dir, %error, "the log of the simulated runtime can't be written");
                }
            }
            tokio::time::sleep(HELD_PAUSE).await;
        }
        let delay = self.with(|folder| Ok(folder.world.delay(release))).unwrap_or_default();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// What comes of a fault.
    async fn end<T>(&self, doing: &str, result: Result<T, Fault>) -> Result<T, DriverError> {
        match result {
            Ok(value) => Ok(value),
            Err(Fault::Release(why)) => Err(DriverError::Release(why)),
            Err(Fault::Runtime(why)) => Err(DriverError::Runtime(why)),
            Err(Fault::NotYet(why)) => Err(DriverError::NotYet(why)),
            Err(Fault::Stays(why)) => Err(DriverError::Stays(why)),
            Err(Fault::Hang) => {
                let limit = self.lock().world.script.limit.unwrap_or(self.limit);
                tokio::time::sleep(limit).await;
                Err(DriverError::Runtime(format!(
                    "the simulated runtime did not answer within {limit:?} when asked to {doing}"
                )))
            }
            Err(Fault::Crash) => die(),
        }
    }

    fn line<'a>(&self, op: &'a str, app: impl Into<Option<&'a AppName>>, outcome: &'a str) -> Line<'a> {
        Line {
            op: Cow::Borrowed(op),
            app: app.into().map(Cow::Borrowed),
            object: None,
            release: None,
            outcome: Cow::Borrowed(outcome),
            observed: None,
            pid: std::process::id(),
            uptime: self.now().uptime.as_secs_f64(),
        }
    }

    fn observe_now(
        &self,
        folder: &mut Folder,
        app: &AppName,
        desired: Option<&Release>,
    ) -> Result<AppObservation, Fault> {
        let observation = folder.world.observe(app, desired)?;
        let mut release = None;
        for (key, observed) in &observation {
            let seen = Seen::from(observed);
            if !folder.is_news(key, seen) {
                continue;
            }
            release = release.or_else(|| desired.map(Release::id));
            let line = Line {
                object: Some(Cow::Borrowed(key)),
                release,
                observed: Some(seen),
                ..self.line("observe", app, "ok")
            };
            folder.note(&line).map_err(|error| self.broken(&error))?;
        }
        Ok(observation)
    }

    fn apply_now(&self, folder: &mut Folder, step: &ApplyStep<'_>) -> Result<(), Fault> {
        if !folder::fits(step.object) {
            return Err(Fault::Release(format!("{} has too long a name for a file", step.object)));
        }
        let before = folder.world.objects.get(step.object).cloned();
        let Applied { seen, mut result } = folder.world.apply(&self.now(), step);
        if folder.world.objects.get(step.object) != before.as_ref()
            && let Err(error) = folder.save(step.object)
        {
            result = Err(Fault::Runtime(format!("cannot write {} in {}: {error}", step.object, self.dir)));
        }
        folder.acted_on(step.object);
        let line = Line {
            object: Some(Cow::Borrowed(step.object)),
            release: step.release.map(Release::id),
            observed: Some(seen),
            ..self.line(word(step.action), step.app, outcome(&result))
        };
        folder.note(&line).map_err(|error| self.broken(&error))?;
        result.map(drop)
    }

    fn prepare_now(&self, folder: &mut Folder, release: &Release) -> Result<(), Fault> {
        let result = folder.world.check(release).and_then(|()| folder.world.prepare(release)).map(|()| "ok");
        let line =
            Line { release: Some(release.id()), ..self.line("prepare", &release.app, outcome(&result)) };
        folder.note(&line).map_err(|error| self.broken(&error))?;
        result.map(drop)
    }
}

/// The agent's process ends here, as by a power cut: no destructor runs, nothing is flushed.
fn die() -> ! {
    // Killing oneself cannot be refused.
    let _ = kill(Pid::this(), Signal::SIGKILL);
    std::process::abort()
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Prepare => "prepare",
        Action::Create => "create",
        Action::Update => "update",
        Action::Recreate => "recreate",
        Action::Remove => "remove",
        Action::Orphan => "orphan",
        Action::Purge => "purge",
        Action::Adopt => "adopt",
        Action::Forget => "forget",
    }
}

fn outcome(result: &Result<&'static str, Fault>) -> &'static str {
    match result {
        Ok(word) => word,
        Err(Fault::Release(_)) => "failed",
        Err(Fault::Runtime(_)) => "retry",
        Err(Fault::NotYet(_)) => "not-yet",
        Err(Fault::Stays(_)) => "stays",
        Err(Fault::Hang) => "hang",
        Err(Fault::Crash) => "crash",
    }
}

#[async_trait]
impl Driver for SimulatedDriver {
    fn name(&self) -> DriverName {
        DriverName::SIMULATED
    }

    fn abilities(&self) -> Abilities {
        ABILITIES
    }

    async fn fingerprint(&self) -> Fingerprint {
        self.wait("fingerprint", None, None).await;
        match self.end("say what it is", self.with(|folder| folder.world.reach())).await {
            Ok(()) => fingerprint(Path::new(&self.dir)),
            Err(error) => Fingerprint::unusable(DriverName::SIMULATED, ABILITIES, error.to_string()),
        }
    }

    fn check(&self, release: &Release) -> Result<(), DriverError> {
        let long = |key: &&ObjectKey| !folder::fits(key);
        if let Some(key) = release.objects.iter().map(|object| &object.key).find(long) {
            return Err(DriverError::Release(format!("{key} has too long a name for a file")));
        }
        self.with(|folder| folder.world.check(release)).map_err(|fault| match fault {
            Fault::Release(why) => DriverError::Release(why),
            fault => DriverError::Runtime(format!("{fault:?}")),
        })
    }

    async fn prepare(&self, release: &Release) -> Result<(), DriverError> {
        self.wait("prepare", Some(&release.app), Some(release)).await;
        let result = self.with(|folder| self.prepare_now(folder, release));
        self.end("prepare a release", result).await
    }

    async fn observe(&self, app: &AppName, desired: Option<&Release>) -> Result<AppObservation, DriverError> {
        self.wait("observe", Some(app), None).await;
        let result = self.with(|folder| self.observe_now(folder, app, desired));
        self.end("say what there is", result).await
    }

    async fn apps(&self) -> Result<Vec<AppName>, DriverError> {
        self.wait("apps", None, None).await;
        self.end("list its apps", self.with(|folder| folder.world.apps())).await
    }

    async fn apply(&self, step: ApplyStep<'_>) -> Result<(), DriverError> {
        self.wait("apply", Some(step.app), step.release).await;
        let result = self.with(|folder| self.apply_now(folder, &step));
        self.end("apply a step", result).await
    }

    async fn health(&self, release: &Release) -> Health {
        self.wait("probe", Some(&release.app), None).await;
        let now = self.now();
        let reached = self.end("probe an app", self.with(|folder| folder.world.reach())).await;
        match reached {
            Ok(()) => self.with(|folder| Ok(folder.world.health(&now, release))).unwrap_or(Health::Unknown),
            Err(_) => Health::Unknown,
        }
    }

    async fn address_of(&self, release: &Release, target: &ObjectKey, _port: u16) -> Option<SocketAddr> {
        self.lock().world.address_of(release, target)
    }

    async fn exec(&self, release: &Release, check: &ExecCheck) -> Result<(), ExecError> {
        self.wait("exec", Some(&release.app), None).await;
        match self.with(|folder| folder.world.exec(release, check)) {
            Err(Fault::Hang) => {
                tokio::time::sleep(check.timeout).await;
                let words = check.command.join(" ");
                Err(ExecError::Failed(format!("{words} did not end within {:?}", check.timeout)))
            }
            result => match self.end("run a program", result).await {
                Ok(verdict) => verdict.map_err(ExecError::Failed),
                Err(error) => Err(ExecError::NotRun(error.to_string())),
            },
        }
    }

    async fn logs(&self, app: &AppName, lines: usize) -> Result<Vec<String>, DriverError> {
        self.wait("logs", Some(app), None).await;
        let result = self.with(|folder| {
            folder.world.reach()?;
            folder.end_of_log().map_err(|error| self.broken(&error))
        });
        let log = self.end("show a log", result).await?;
        let mark = format!("\"app\":\"{app}\"");
        let mut last: Vec<String> =
            log.lines().rev().filter(|line| line.contains(&mark)).take(lines).map(str::to_owned).collect();
        last.reverse();
        Ok(last)
    }

    async fn collect(&self, _: &BTreeSet<Digest>) {
        self.wait("collect", None, None).await;
    }

    fn watch(self: Arc<Self>, events: mpsc::Sender<DriverEvent>) {
        tokio::spawn(async move {
            if let Err(error) = self.follow(&events).await {
                tracing::warn!(
                    dir = self.dir,
                    %error,
                    "changes to the simulated runtime are not noticed any more until the next pass"
                );
            }
        });
    }
}

impl SimulatedDriver {
    /// Reports what others change until nobody listens.
    async fn follow(&self, events: &mpsc::Sender<DriverEvent>) -> std::io::Result<()> {
        // Deprecated for types whose descriptor may change under it; an `OwnedFd`'s doesn't.
        #[allow(deprecated)]
        let queue = AsyncFd::new(self.lock().queue()?)?;
        loop {
            let changes = {
                let mut folder = self.lock();
                folder.refresh()?;
                folder.take_changes()
            };
            for (app, what) in changes {
                if events.send(DriverEvent { driver: self.name(), app, what, back: false }).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                guard = queue.readable() => {
                    let mut guard = guard?;
                    let mut folder = self.lock();
                    folder.refresh()?;
                    guard.clear_ready();
                }
                () = self.found.notified() => {}
                () = events.closed() => return Ok(()),
            }
        }
    }
}
