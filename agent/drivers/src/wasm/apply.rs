//! Changing: starting, replacing and removing workloads.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::name::AppName;
use holdfast_core::plan::Action;
use holdfast_core::release::{Release, WasmWorkload};
use tokio::time::{Instant, sleep};

use super::cgroup::Groups;
use super::client::Client;
use super::files::{self, CONTROL_SOCKET, LAST_WORDS, LIFE_LOCK, RECORD, read_json};
use super::launch::{self, StartError};
use super::look::ProcessState;
use super::protocol::{Mark, Record, Request, StartOrder};
use super::user::User;
use super::{WasmDriver, spec};
use crate::{ApplyStep, DriverError, beneath};

/// What requests in flight get when a workload is stopped.
const GRACE: Duration = Duration::from_secs(2);
/// What a process gets beyond that before it is killed.
const AFTER_GRACE: Duration = Duration::from_millis(500);
/// How long a killed process may take to be gone; one that waits for a broken disk takes for ever.
const DEATH_LIMIT: Duration = Duration::from_secs(5);

impl WasmDriver {
    pub(super) async fn take_step(&self, step: ApplyStep<'_>) -> Result<(), DriverError> {
        if let Some(volume) = spec::volume_of(step.object) {
            return self.take_volume_step(step.app, &volume, step.action).await;
        }
        if *step.object != spec::key_of(step.app) {
            return Err(DriverError::Release(format!(
                "{} is not an object of the WebAssembly driver for the app {}",
                step.object, step.app
            )));
        }
        match step.action {
            // Nothing but the inventory changes.
            Action::Prepare | Action::Orphan | Action::Adopt | Action::Forget => Ok(()),
            Action::Remove | Action::Purge => self.remove(step.app).await,
            Action::Create | Action::Update | Action::Recreate => match step.release {
                Some(release) => self.bring_up(release).await,
                None => Err(DriverError::Runtime(format!(
                    "{} of {} came without a release",
                    step.object, step.app
                ))),
            },
        }
    }

    /// A volume is a folder. It is never removed but where a Purge document asks for that.
    async fn take_volume_step(
        &self,
        app: &AppName,
        volume: &AppName,
        action: Action,
    ) -> Result<(), DriverError> {
        let dir = self.volumes_of(app).join(volume.as_str());
        let done = match action {
            Action::Create | Action::Update | Action::Recreate => self
                .folder_of_volumes(app)
                .and_then(|own| set_mode(&beneath::folder(&own, Path::new(volume.as_str()))?, 0o700)),
            Action::Purge => {
                // Out of the way at once, so that what is made anew in its place is nobody's to remove.
                let going = going(&dir);
                match set_aside(&dir, &going) {
                    // There may be much in it.
                    Ok(()) => tokio::task::spawn_blocking(move || remove_volume(&going))
                        .await
                        .unwrap_or_else(|e| Err(io::Error::other(e))),
                    error => error,
                }
            }
            Action::Prepare | Action::Remove | Action::Orphan | Action::Adopt | Action::Forget => Ok(()),
        };
        done.map_err(|e| DriverError::of_file(format!("{action:?} the volume {}: {e}", dir.display()), &e))
    }

    /// The folder of an app's volumes.
    pub(super) fn volumes_of(&self, app: &AppName) -> PathBuf {
        self.config.state_dir.join("wasm/volumes").join(app.as_str())
    }

    /// Has this release run, whatever ran before.
    async fn bring_up(&self, release: &Release) -> Result<(), DriverError> {
        let (mark, workload) = spec::read(release, &self.config.owner)?;
        let dir = self.dir_of(&mark.app);
        let _lock = lock(&dir, &mark.app).await?;
        let before = match self.find(&mark.app).await {
            ProcessState::Alive { record, status: Ok(_) } if record.mark == mark => {
                self.watchers.follow(&mark.app, &dir);
                return Ok(());
            }
            ProcessState::Ended(outcome) if outcome.mark == mark => return Ok(()),
            ProcessState::Alive { record, .. } if record.mark.device != mark.device => {
                return Err(self.foreign(&mark.app, &record));
            }
            // A process that doesn't answer doesn't heed a word either.
            ProcessState::Alive { record, status } => Some((record, status.is_ok())),
            ProcessState::Ended(_) | ProcessState::Nothing => None,
        };
        match self.replace(&mark, &workload, before.as_ref()).await {
            Err(StartError::Stale(why)) => {
                tracing::info!(app = %mark.app, "compiling again, because the engine doesn't accept the compiled \
                                                 code: {why}");
                self.cache.forget(&workload);
                match self.replace(&mark, &workload, before.as_ref()).await {
                    Err(StartError::Stale(why)) => Err(DriverError::Runtime(format!(
                        "{} cannot load what was just compiled: {why}",
                        mark.app
                    ))),
                    Err(StartError::Driver(e)) => Err(e),
                    Ok(()) => Ok(()),
                }
            }
            Err(StartError::Driver(e)) => Err(e),
            Ok(()) => Ok(()),
        }?;
        self.watchers.follow(&mark.app, &dir);
        Ok(())
    }

    /// Loads the new, stops the old, starts the new. What connects meanwhile waits for the new one's answer.
    async fn replace(
        &self,
        mark: &Mark,
        workload: &WasmWorkload<Digest>,
        before: Option<&(Record, bool)>,
    ) -> Result<(), StartError> {
        let code = self.cache.ensure(workload).await.map_err(StartError::Driver)?;
        let user = self.config.user.user().map_err(|why| StartError::Driver(DriverError::Runtime(why)))?;
        let volumes = self.make_folders(&mark.app, workload, user).map_err(|e| {
            StartError::Driver(DriverError::of_file(
                format!("cannot create the folders of {}: {e}", mark.app),
                &e,
            ))
        })?;
        let dir = self.dir_of(&mark.app);
        let order = StartOrder {
            mark: mark.clone(),
            code,
            workload: workload.clone(),
            dir: dir.clone(),
            volumes,
            outcome: self.outcome_of(&mark.app),
            user,
            takes_over_from: before.filter(|(_, answers)| *answers).map(|(record, _)| record.pid),
        };
        let loaded = launch::load(&self.config.program, &Groups::open(), &order).await?;
        if let Some((record, answers)) = before {
            stop(&dir, record, *answers).await.map_err(StartError::Driver)?;
        }
        loaded.go(&dir).await
    }

    /// Makes what the workload finds on the disk, and returns the folder of the app's volumes.
    fn make_folders(
        &self,
        app: &AppName,
        workload: &WasmWorkload<Digest>,
        user: Option<User>,
    ) -> io::Result<std::path::PathBuf> {
        files::make_private_dir(&self.config.state_dir.join("wasm/ended"))?;
        let volumes = self.volumes_of(app);
        if workload.dirs.is_empty() {
            return Ok(volumes);
        }
        let own = self.folder_of_volumes(app)?;
        if let Some(user) = user {
            // It goes through here to its volumes, and has no say in what lies here: a link in the place of a volume
            // would be given to it the next time.
            fchown(&own, Some(nix::unistd::geteuid().as_raw()), Some(user.gid))?;
            set_mode(&own, 0o710)?;
        }
        for dir in &workload.dirs {
            let volume = beneath::folder(&own, Path::new(dir.volume.as_str()))?;
            if let Some(user) = user {
                fchown(&volume, Some(user.uid), Some(user.gid))?;
            }
            set_mode(&volume, 0o700)?;
        }
        Ok(volumes)
    }

    /// The folder of an app's volumes, made if it isn't there, and reached through no link.
    fn folder_of_volumes(&self, app: &AppName) -> io::Result<OwnedFd> {
        let of_all = self.config.state_dir.join("wasm/volumes");
        files::make_private_dir(&of_all)?;
        beneath::folder(beneath::base(&of_all)?, Path::new(app.as_str()))
    }

    /// Stops the app and removes all of it but its volumes.
    async fn remove(&self, app: &AppName) -> Result<(), DriverError> {
        let dir = self.dir_of(app);
        if !dir.exists() && !self.outcome_of(app).exists() {
            return Ok(());
        }
        let _lock = lock(&dir, app).await?;
        // The record is enough: whether it answers doesn't matter.
        if let Some(record) = read_json::<Record>(&dir.join(RECORD)).filter(Record::is_alive) {
            if record.mark.device != self.config.owner.device {
                return Err(self.foreign(app, &record));
            }
            stop(&dir, &record, true).await?;
        }
        self.remove_files(app, &dir)
            .map_err(|e| DriverError::Runtime(format!("cannot remove what is left of {app}: {e}")))
    }

    fn remove_files(&self, app: &AppName, dir: &Path) -> io::Result<()> {
        files::remove_if_there(&self.outcome_of(app))?;
        for name in [CONTROL_SOCKET, LAST_WORDS, LIFE_LOCK, RECORD] {
            files::remove_if_there(&dir.join(name))?;
        }
        // The agent's lock goes with the folder, at the end: from then on the next agent makes a new one.
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn foreign(&self, app: &AppName, record: &Record) -> DriverError {
        DriverError::Runtime(format!(
            "the app {app} is run by process {} for the device {}, not for {}; the agent does not touch it",
            record.pid, record.mark.device, self.config.owner.device
        ))
    }
}

fn set_mode(folder: &OwnedFd, mode: u32) -> io::Result<()> {
    fs::File::from(folder.try_clone()?).set_permissions(fs::Permissions::from_mode(mode))
}

/// Where a volume goes before it is removed. No volume has such a name.
fn going(dir: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".purged-");
    name.push(dir.file_name().unwrap_or_default());
    dir.with_file_name(name)
}

/// Moves a volume away; what was moved before and isn't gone yet is gone first.
fn set_aside(dir: &Path, going: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if going.exists() {
        fs::remove_dir_all(going)?;
    }
    fs::rename(dir, going)
}

/// Removes a volume that was set aside, and the folder that it was the last one in.
fn remove_volume(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    match dir.parent().map(fs::remove_dir) {
        Some(Err(e)) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(e)
        }
        _ => Ok(()),
    }
}

async fn lock(dir: &Path, app: &AppName) -> Result<files::AppLock, DriverError> {
    let locked = files::lock_app(dir).await;
    locked
        .map_err(|e| DriverError::Runtime(format!("cannot take the lock of {app} in {}: {e}", dir.display())))
}

/// Ends a process: with a word where it `answers`, and if that doesn't help, by force.
async fn stop(dir: &Path, record: &Record, answers: bool) -> Result<(), DriverError> {
    let request = Request::Stop { grace_millis: GRACE.as_millis() as u64 };
    if answers && let Ok(mut client) = Client::ask(dir, record, &request).await {
        client.answer().await.ok();
        wait_for_end(record, GRACE + AFTER_GRACE).await;
    }
    record.kill();
    if wait_for_end(record, DEATH_LIMIT).await {
        return Ok(());
    }
    Err(DriverError::Runtime(format!(
        "process {} of the app {} doesn't end, even after SIGKILL; it may be waiting for a disk",
        record.pid, record.mark.app
    )))
}

/// Whether the process is gone within `limit`. It is looked at often, since a service is down meanwhile.
async fn wait_for_end(record: &Record, limit: Duration) -> bool {
    let begun = Instant::now();
    while record.is_alive() {
        if begun.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(1)).await;
    }
    true
}
