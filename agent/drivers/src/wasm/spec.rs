//! Reads a workload out of a release, and says what in it can't be run.

use std::collections::BTreeSet;

use holdfast_core::digest::Digest;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::{EnvValue, Release, WasmWorkload};

use super::protocol::Mark;
use crate::{DriverError, Owner};

/// The kind of a workload.
const KIND: &str = "Wasm";
/// The kind of a folder with data.
const VOLUME: &str = "Volume";
/// Less memory holds no guest: one page of WebAssembly.
const LEAST_MEMORY: u64 = 64 << 10;
/// A share below a thousandth of a core doesn't exist, and one above this is a slip.
const MOST_CPU_MILLIS: u32 = 1_000_000;

/// The key of an app's one workload.
pub(super) fn key_of(app: &AppName) -> ObjectKey {
    ObjectKey::new(KIND, app.as_str())
}

/// The key of a volume.
pub(super) fn volume_key(name: &AppName) -> ObjectKey {
    ObjectKey::new(VOLUME, name.as_str())
}

/// The volume that a key is of.
pub(super) fn volume_of(key: &ObjectKey) -> Option<AppName> {
    (key.kind == VOLUME && key.namespace.is_none()).then(|| key.name.parse().ok()).flatten()
}

/// The workload of a release, with the mark that its process carries.
pub(super) fn read(release: &Release, owner: &Owner) -> Result<(Mark, WasmWorkload<Digest>), DriverError> {
    let app = &release.app;
    let refuse = |why: String| Err(DriverError::Release(format!("the app {app} cannot run: {why}")));
    let mut workloads = release.objects.iter().filter(|object| volume_of(&object.key).is_none());
    let (Some(object), None) = (workloads.next(), workloads.next()) else {
        return refuse("a wasm app has one workload, and volumes".to_owned());
    };
    if object.key != key_of(app) {
        return refuse(format!("its object is {}, and must be {}", object.key, key_of(app)));
    }
    let workload: WasmWorkload<Digest> = match serde_json::from_value(object.spec.clone()) {
        Ok(workload) => workload,
        Err(e) => return refuse(format!("the spec of {} is unreadable: {e}", object.key)),
    };
    if let Err(why) = check(&workload) {
        return refuse(why);
    }
    let spec = Release { objects: vec![object.clone()], ..empty_like(release) };
    let mark = Mark {
        device: owner.device.clone(),
        app: app.clone(),
        release: release.id(),
        spec: Digest::of(&spec.to_bytes()),
    };
    Ok((mark, workload))
}

fn empty_like(release: &Release) -> Release {
    Release {
        app: release.app.clone(),
        driver: release.driver,
        objects: Vec::new(),
        artifacts: BTreeSet::new(),
        secrets: Default::default(),
        account: None,
    }
}

fn check(workload: &WasmWorkload<Digest>) -> Result<(), String> {
    for (name, value) in &workload.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("env has the name {name:?}, which is not valid for an environment variable"));
        }
        match value {
            EnvValue::Secret { secret_ref } => {
                return Err(format!(
                    "env {name} needs the secret {}/{}, but this agent has no source of secrets",
                    secret_ref.name, secret_ref.key
                ));
            }
            EnvValue::Plain(value) if value.contains('\0') => {
                return Err(format!("env {name} holds a NUL character"));
            }
            EnvValue::Plain(_) => {}
        }
    }
    if workload.args.iter().any(|arg| arg.contains('\0')) {
        return Err("an argument holds a NUL character".into());
    }
    let mut guests = BTreeSet::new();
    for dir in &workload.dirs {
        if !dir.guest.starts_with('/') || dir.guest.contains('\0') {
            return Err(format!("dirs: the guest's path {:?} must begin with '/'", dir.guest));
        }
        if !guests.insert(&dir.guest) {
            return Err(format!("dirs: two folders are mounted at {:?} in the guest", dir.guest));
        }
    }
    if workload.limits.memory < LEAST_MEMORY {
        return Err(format!("limits.memory is {} bytes, and must be 64Ki or more", workload.limits.memory));
    }
    if workload.limits.cpu_millis.is_some_and(|millis| millis == 0 || millis > MOST_CPU_MILLIS) {
        return Err("limits.cpu must be more than 0, and at most 1000 cores".into());
    }
    match &workload.http {
        Some(http) if http.listen.port() == 0 => Err("http.listen needs a port other than 0".into()),
        Some(_) if workload.restart != Default::default() => {
            Err("restart is for commands; what serves `http` is always restarted".into())
        }
        _ => Ok(()),
    }
}
