//! Resolve: every artifact's name becomes a digest, once for a release. Nothing after it is mutable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::digest::{Digest, ReleaseId, Revision};
use crate::generation::PruneLimit;
use crate::held::Held;
use crate::name::{AppName, ObjectKey};
use crate::release::{DriverKind, EnvValue, Object, Release, Target, WasmWorkload};
use crate::render::{ArtifactRef, Desired, DesiredApp, Workload};

/// What a revision makes of this box.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The revision.
    pub revision: Revision,
    /// Every app that it places here and that has no fault.
    pub apps: BTreeMap<AppName, Target>,
    /// The releases that those apps name.
    pub releases: BTreeMap<ReleaseId, Arc<Release>>,
    /// Apps that can't be rendered or resolved, and why. They stay as they are.
    pub held: BTreeMap<AppName, Held>,
    /// How much may be removed.
    pub prune: PruneLimit,
}

/// The runtimes that take containers, the first that the box has is used for `driver: any`.
const CONTAINER_RUNTIMES: [DriverKind; 3] =
    [DriverKind::Kubernetes, DriverKind::Podman, DriverKind::Simulated];

/// Every artifact that must have a digest before `desired` can be resolved.
pub fn artifacts(desired: &Desired) -> BTreeSet<ArtifactRef> {
    let workloads = desired.apps.values().map(|app| &app.workload);
    workloads
        .filter_map(|workload| match workload {
            Workload::Wasm(wasm) => Some(wasm.component.clone()),
            Workload::Container { .. } | Workload::Vm(_) | Workload::Plugin(_) => None,
        })
        .collect()
}

/// Resolves what is desired for a box with these `runtimes`. An artifact without a digest holds the apps that
/// name it, with the reason given for it.
pub fn resolve(
    desired: Desired,
    digests: &BTreeMap<ArtifactRef, Result<Digest, String>>,
    runtimes: &BTreeSet<DriverKind>,
) -> Resolved {
    let mut resolved = Resolved {
        revision: desired.revision,
        apps: BTreeMap::new(),
        releases: BTreeMap::new(),
        held: desired.faulty.into_iter().map(|(name, faults)| (name, faulty(&faults))).collect(),
        prune: desired.prune,
    };
    for (name, app) in desired.apps {
        let DesiredApp { kind, workload, policy } = app;
        match release(&name, workload, digests, runtimes) {
            Ok(release) => {
                let (id, driver) = (release.id(), release.driver);
                let revision = resolved.revision.clone();
                resolved.apps.insert(name, Target { release: id, kind, driver, policy, revision });
                resolved.releases.insert(id, Arc::new(release));
            }
            Err(held) => {
                resolved.held.insert(name, held);
            }
        }
    }
    resolved
}

fn release(
    app: &AppName,
    workload: Workload,
    digests: &BTreeMap<ArtifactRef, Result<Digest, String>>,
    runtimes: &BTreeSet<DriverKind>,
) -> Result<Release, Held> {
    let (driver, objects, artifacts) = match workload {
        Workload::Container { driver, objects, .. } => {
            let any = || CONTAINER_RUNTIMES.into_iter().find(|kind| runtimes.contains(kind));
            let driver = driver.or_else(any).ok_or_else(|| no_driver("containers"))?;
            (driver, objects, BTreeSet::new())
        }
        Workload::Wasm(wasm) => {
            let (wasm, digest) = pin(wasm, digests)?;
            // A workload is strings, numbers and maps with string keys, and so always has a JSON form.
            let spec = serde_json::to_value(wasm).unwrap_or_default();
            let object = Object { key: ObjectKey::new("Wasm", app.as_str()), spec };
            (DriverKind::Wasm, vec![object], BTreeSet::from([digest]))
        }
        Workload::Vm(_) => return Err(no_driver("virtual machines")),
        Workload::Plugin(_) => return Err(no_driver("plugins")),
    };
    if !runtimes.contains(&driver) {
        return Err(no_driver(driver.word()));
    }
    Ok(Release { app: app.clone(), driver, objects, artifacts, secrets: BTreeMap::new() })
}

fn pin(
    wasm: WasmWorkload<ArtifactRef>,
    digests: &BTreeMap<ArtifactRef, Result<Digest, String>>,
) -> Result<(WasmWorkload<Digest>, Digest), Held> {
    if let Some((name, _)) = wasm.env.iter().find(|(_, value)| matches!(value, EnvValue::Secret { .. })) {
        return Err(Held::until_changed(
            format!("env {name} names a secret, and this agent has no source of secrets yet"),
            "take the secretRef out of app.yaml, or wait for an agent that has one",
        ));
    }
    let digest = match digests.get(&wasm.component) {
        Some(Ok(digest)) => *digest,
        Some(Err(cause)) => return Err(Held::until_changed(cause.clone(), "correct it in a new commit")),
        None => {
            return Err(Held::until_changed(
                "its component was not looked for",
                "this is a defect: report it",
            ));
        }
    };
    let WasmWorkload { component: _, args, env, http, dirs, limits, restart } = wasm;
    Ok((WasmWorkload { component: digest, args, env, http, dirs, limits, restart }, digest))
}

fn no_driver(what: &str) -> Held {
    Held::until_changed(
        format!("this box has no runtime for {what}"),
        "switch one on under [drivers] in agent.toml, or place the app elsewhere",
    )
}

/// The first few errors of an app; `holdfast validate` shows them all.
fn faulty(faults: &[Diagnostic]) -> Held {
    const SHOWN: usize = 3;
    let mut cause = faults.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if faults.len() > SHOWN {
        cause.push_str(&format!("; and {} more", faults.len() - SHOWN));
    }
    Held::until_changed(cause, "correct it in a new commit; `holdfast validate` shows every error before")
}
