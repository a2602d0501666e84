//! Resolve: every artifact's name becomes a digest, once for a release. Nothing after it is mutable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::change::ChangePolicy;
use crate::diagnostic::Diagnostic;
use crate::digest::{Digest, ReleaseId, Revision};
use crate::held::Held;
use crate::http_check::HttpCheck;
use crate::image::ImageReference;
use crate::kubernetes::images::pinned_images;
use crate::limit::FileKind;
use crate::lower::Lowered;
use crate::name::{AppName, ObjectKey};
use crate::pod::PinnedImage;
use crate::release::{
    Check, EnvValue, Object, Policy, Release, SecretRef, Target, WasmWorkload, write_canonical,
};
use crate::render::{ArtifactRef, Desired, DesiredApp, Workload};
use crate::runtime::{DriverName, Form, Runtimes};
use crate::secret::SecretBytes;

/// What a revision makes of this box.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The revision.
    pub revision: Revision,
    /// Every app that it places here and that has no fault.
    pub apps: BTreeMap<AppName, Target>,
    /// The releases that those apps name.
    pub releases: BTreeMap<ReleaseId, Arc<Release>>,
    /// Those of the held apps whose documents can't be read: what they want isn't known.
    pub unread: BTreeSet<AppName>,
    /// What those of the held apps want that were read, and can't be resolved.
    pub wants: BTreeMap<AppName, BTreeSet<ObjectKey>>,
    /// Apps that can't be rendered or resolved, and why. They stay as they are.
    pub held: BTreeMap<AppName, Held>,
    /// When and how much may be changed.
    pub policy: ChangePolicy,
}

impl Resolved {
    /// Holds an app that was resolved: it stays as it is.
    pub fn hold(&mut self, app: AppName, held: Held) {
        if let Some(release) = self.apps.remove(&app).and_then(|target| self.releases.get(&target.release)) {
            let keys = release.objects.iter().map(|object| object.key.clone()).collect();
            self.wants.insert(app.clone(), keys);
        }
        self.held.insert(app, held);
    }
}

/// What must be found out before an app can be resolved.
#[derive(Debug, Default)]
pub struct Needs<'a> {
    /// Artifacts without a digest, and what each is for.
    pub artifacts: BTreeMap<&'a ArtifactRef, FileKind>,
    /// Images that are named by a tag.
    pub images: BTreeSet<&'a ImageReference>,
    /// Secrets to be encrypted.
    pub secrets: BTreeMap<&'a SecretRef, &'a SecretBytes>,
    /// What the app asks for, as one digest: as long as it is the same, what a tag meant is not asked again. What is
    /// in its secrets is no part of it: the digest is kept on disk, and a short secret could be guessed from it.
    pub asked: Option<Digest>,
}

/// What was found out. A name without an answer holds the apps that need it.
#[derive(Debug, Default)]
pub struct Answers {
    /// The digests of artifacts, or why there is none.
    pub artifacts: BTreeMap<ArtifactRef, Result<Digest, String>>,
    /// What each app's tags mean for it.
    pub images: BTreeMap<(AppName, ImageReference), Result<Digest, Unresolved>>,
    /// The digests of encrypted secrets.
    pub secrets: BTreeMap<(AppName, SecretRef), Digest>,
}

/// Why a tag's image isn't known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// Nobody has answered yet: its registry is being asked.
    Unasked,
    /// The image is none that could run here: asking again gives the same answer.
    Wrong(String),
    /// The registry has none of that name, or doesn't give it: it may be pushed yet.
    Missing {
        /// What it said.
        cause: String,
        /// When it is asked again.
        next: Option<Timestamp>,
    },
    /// It couldn't be asked.
    Unreachable {
        /// Why.
        cause: String,
        /// When it is asked again.
        next: Option<Timestamp>,
    },
}

/// What must be found out for each app of a box with these `runtimes`.
pub fn needs<'a>(desired: &'a Desired, runtimes: &Runtimes) -> BTreeMap<&'a AppName, Needs<'a>> {
    let named = desired.apps.iter();
    named.map(|(name, app)| (name, needs_of_app(app, runtimes))).collect()
}

fn needs_of_app<'a>(app: &'a DesiredApp, runtimes: &Runtimes) -> Needs<'a> {
    let mut needs = needs_of(&app.workload, runtimes);
    if runtimes.has_engine() {
        needs.artifacts.extend(app.policy.components().map(|component| (component, FileKind::Component)));
    }
    needs
}

fn needs_of<'a>(workload: &'a Workload, runtimes: &Runtimes) -> Needs<'a> {
    let mut needs = Needs::default();
    match workload {
        Workload::Wasm(wasm) => {
            needs.artifacts.insert(&wasm.component, FileKind::Component);
        }
        Workload::Container { driver, secrets, podman, .. } => {
            let pods = podman.iter().flat_map(|lowered| &lowered.pods);
            needs.secrets = secrets.iter().collect();
            let runtime = container_runtime(*driver, runtimes).and_then(|driver| runtimes.get(driver));
            if runtime.is_some_and(|abilities| abilities.takes == Form::Pods) {
                let containers = pods.flat_map(|(_, pod)| pod.all_containers());
                let images = containers.map(|container| &container.image);
                needs.images = images.filter(|image| image.digest.is_none()).collect();
                let mut bytes = Vec::new();
                // Strings, numbers and maps with string keys always have a JSON form.
                write_canonical(&serde_json::to_value(workload).unwrap_or_default(), &mut bytes);
                needs.asked = Some(Digest::of(&bytes));
            }
        }
        Workload::Vm(_) | Workload::Plugin(_) => {}
    }
    needs
}

/// The runtime for containers: the one that is asked for, or the first that the box has.
fn container_runtime(asked: Option<DriverName>, runtimes: &Runtimes) -> Option<DriverName> {
    asked.or_else(|| runtimes.for_containers())
}

/// Resolves what is desired for a box with these `runtimes`. What isn't known holds the apps that need it, with
/// the reason given for it.
pub fn resolve(desired: Desired, answers: &Answers, runtimes: &Runtimes) -> Resolved {
    let mut resolved = Resolved {
        unread: desired.faulty.keys().cloned().collect(),
        wants: BTreeMap::new(),
        revision: desired.revision,
        apps: BTreeMap::new(),
        releases: BTreeMap::new(),
        held: desired.faulty.into_iter().map(|(name, faults)| (name, faulty(&faults))).collect(),
        policy: desired.policy,
    };
    for (name, app) in desired.apps {
        let DesiredApp { kind, workload, policy } = app;
        let wants = keys(&workload);
        let release = release(&name, workload, answers, runtimes).and_then(|release| {
            judgeable(&policy, &release, runtimes)?;
            Ok(release)
        });
        let policy = judged_by(policy, answers, runtimes);
        let both = release.and_then(|release| Ok((release, policy?)));
        match both {
            Ok((release, policy)) => {
                let (id, driver) = (release.id(), release.driver);
                let revision = resolved.revision.clone();
                resolved.apps.insert(name, Target { release: id, kind, driver, policy, revision });
                resolved.releases.insert(id, Arc::new(release));
            }
            Err(held) => {
                resolved.wants.insert(name.clone(), wants);
                resolved.held.insert(name, held);
            }
        }
    }
    resolved
}

/// The objects of a workload, on whichever runtime.
fn keys(workload: &Workload) -> BTreeSet<ObjectKey> {
    let Workload::Container { objects, podman, .. } = workload else { return BTreeSet::new() };
    let lowered = podman
        .iter()
        .flat_map(|lowered| lowered.claims.iter().chain(lowered.pods.iter().map(|(key, _)| key)));
    objects.iter().map(|object| &object.key).chain(lowered).cloned().collect()
}

fn release(
    app: &AppName,
    workload: Workload,
    answers: &Answers,
    runtimes: &Runtimes,
) -> Result<Release, Held> {
    let release = match workload {
        Workload::Container { driver, account, objects, secrets, podman, unfit_for_podman, .. } => {
            let driver = container_runtime(driver, runtimes).ok_or_else(|| no_driver("containers"))?;
            let abilities = runtimes.get(driver).ok_or_else(|| no_driver(driver.as_str()))?;
            let mut release = empty(app, driver);
            if abilities.takes == Form::Pods {
                hold_pods(&mut release, podman, &unfit_for_podman, answers)?;
            } else {
                if abilities.stages_images {
                    release.artifacts.extend(pinned_images(&objects).into_iter().map(|image| image.digest));
                }
                release.objects = objects;
                release.account = account.filter(|_| abilities.accounts);
                note_secrets(&mut release, secrets.keys(), answers)?;
            }
            release
        }
        Workload::Wasm(wasm) => {
            let (wasm, digest) = pin(wasm, answers)?;
            let driver = runtimes.for_components().ok_or_else(|| no_driver("wasm"))?;
            let mut release = empty(app, driver);
            // Objects of their own, since they outlive the workload.
            let volumes: BTreeSet<&AppName> = wasm.dirs.iter().map(|dir| &dir.volume).collect();
            release.objects.extend(volumes.into_iter().map(|volume| Object {
                key: ObjectKey::new("Volume", volume.as_str()),
                spec: Value::Object(Default::default()),
            }));
            // A workload is strings, numbers and maps with string keys, and so always has a JSON form.
            let spec = serde_json::to_value(wasm).unwrap_or_default();
            release.objects.push(Object { key: ObjectKey::new("Wasm", app.as_str()), spec });
            release.artifacts.insert(digest);
            release
        }
        Workload::Vm(_) => return Err(no_driver("virtual machines")),
        Workload::Plugin(_) => return Err(no_driver("plugins")),
    };
    Ok(release)
}

/// An error where the app's runtime can't do what a check needs: it would never be found good.
fn judgeable(policy: &Policy<ArtifactRef>, release: &Release, runtimes: &Runtimes) -> Result<(), Held> {
    let Some(abilities) = runtimes.get(release.driver) else { return Ok(()) };
    for check in &policy.health.checks {
        let (missing, instead) = match check {
            Check::Exec(_) if !abilities.exec => ("run a check's program in a workload", "use another check"),
            Check::Http(HttpCheck::Target { .. }) if !abilities.addresses => {
                ("tell the address of a workload", "write the check's url")
            }
            _ => continue,
        };
        let driver = release.driver;
        return Err(Held::until_changed(
            format!(
                "health.checks needs something that the runtime {driver} of this box cannot do: {missing}"
            ),
            format!("{instead}, or place the app on boxes with another runtime"),
        ));
    }
    Ok(())
}

/// The policy, every probe component by its digest.
fn judged_by(policy: Policy<ArtifactRef>, answers: &Answers, runtimes: &Runtimes) -> Result<Policy, Held> {
    policy.try_map(|component| {
        if runtimes.has_engine() {
            return digest_of(&component, answers);
        }
        Err(Held::until_changed(
            "health.checks has a wasm check, but this agent has no WebAssembly engine",
            "install an agent that is built with it and set drivers.wasm.enabled in agent.toml, or remove the check",
        ))
    })
}

fn digest_of(artifact: &ArtifactRef, answers: &Answers) -> Result<Digest, Held> {
    match answers.artifacts.get(artifact) {
        Some(Ok(digest)) => Ok(*digest),
        Some(Err(cause)) => Err(Held::until_changed(cause.clone(), "correct it in a new commit")),
        None => Err(Held::until_changed(
            "the agent did not look up a component",
            "this is a bug in the agent: report it",
        )),
    }
}

fn empty(app: &AppName, driver: DriverName) -> Release {
    Release {
        app: app.clone(),
        driver,
        objects: Vec::new(),
        artifacts: BTreeSet::new(),
        secrets: BTreeMap::new(),
        account: None,
    }
}

/// The claims and pods of an app, every image by its digest.
fn hold_pods(
    release: &mut Release,
    podman: Option<Lowered>,
    unfit: &[Diagnostic],
    answers: &Answers,
) -> Result<(), Held> {
    let Lowered { claims, pods } = podman.ok_or_else(|| faulty(unfit))?;
    release.objects = claims.into_iter().map(|key| Object { key, spec: Value::Null }).collect();
    for (key, pod) in pods {
        note_secrets(release, pod.secrets(), answers)?;
        let app = release.app.clone();
        let artifacts = &mut release.artifacts;
        let pod = pod.try_map_images(|reference| {
            let digest = image_digest(&app, &reference, answers)?;
            artifacts.insert(digest);
            Ok::<_, Held>(PinnedImage { reference: reference.pinned(digest), digest })
        })?;
        // A pod is strings, numbers and maps with string keys, and so always has a JSON form.
        release.objects.push(Object { key, spec: serde_json::to_value(pod).unwrap_or_default() });
    }
    Ok(())
}

fn image_digest(app: &AppName, image: &ImageReference, answers: &Answers) -> Result<Digest, Held> {
    if let Some(digest) = image.digest {
        return Ok(digest);
    }
    match answers.images.get(&(app.clone(), image.clone())) {
        Some(Ok(digest)) => Ok(*digest),
        Some(Err(Unresolved::Unasked)) => Err(Held {
            cause: format!("the digest of the image {image} is not known yet"),
            next: None,
            unblock:
                "nothing to do: the agent is asking the registry; an image that is named by its digest does not \
                 need this"
                    .into(),
        }),
        Some(Err(Unresolved::Wrong(cause))) => {
            Err(Held::until_changed(cause.clone(), "correct the image in a new commit, or push it"))
        }
        Some(Err(Unresolved::Missing { cause, next })) => Err(Held {
            cause: cause.clone(),
            next: *next,
            unblock: "push the image, or correct its name in a new commit".into(),
        }),
        Some(Err(Unresolved::Unreachable { cause, next })) => Err(Held {
            cause: cause.clone(),
            next: *next,
            unblock:
                "nothing to do: the agent asks the registry again; an image that is named by its digest does not \
                 need this"
                    .into(),
        }),
        None => Err(Held::until_changed(
            format!("the agent did not look up the digest of {image}"),
            "this is a bug in the agent: report it",
        )),
    }
}

/// Notes what each secret was encrypted as: a changed secret is a changed release.
fn note_secrets<'a>(
    release: &mut Release,
    secrets: impl Iterator<Item = &'a SecretRef>,
    answers: &Answers,
) -> Result<(), Held> {
    for secret in secrets {
        let Some(digest) = answers.secrets.get(&(release.app.clone(), secret.clone())) else {
            let cause = format!("the secret {} was not encrypted", secret.name);
            return Err(Held::until_changed(cause, "this is a bug in the agent: report it"));
        };
        release.secrets.insert(secret.to_string(), *digest);
        release.artifacts.insert(*digest);
    }
    Ok(())
}

fn pin(wasm: WasmWorkload<ArtifactRef>, answers: &Answers) -> Result<(WasmWorkload<Digest>, Digest), Held> {
    if let Some((name, _)) = wasm.env.iter().find(|(_, value)| matches!(value, EnvValue::Secret { .. })) {
        return Err(Held::until_changed(
            format!("env {name} refers to a secret, but this agent has no source of secrets yet"),
            "remove the secretRef from app.yaml, or wait for a version of the agent that has one",
        ));
    }
    let digest = digest_of(&wasm.component, answers)?;
    let WasmWorkload { component: _, args, env, http, dirs, limits, restart } = wasm;
    Ok((WasmWorkload { component: digest, args, env, http, dirs, limits, restart }, digest))
}

fn no_driver(what: &str) -> Held {
    Held::until_changed(
        format!("this box has no runtime for {what}"),
        "enable one under [drivers] in agent.toml, or place the app on other boxes",
    )
}

/// The first few errors of an app; `holdfast validate` shows them all.
fn faulty(faults: &[Diagnostic]) -> Held {
    const SHOWN: usize = 3;
    let mut cause = faults.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if faults.len() > SHOWN {
        cause.push_str(&format!("; and {} more", faults.len() - SHOWN));
    }
    Held::until_changed(
        cause,
        "correct it in a new commit; `holdfast validate` shows every error before you push",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::ServiceAccount;
    use crate::repository::{Files, render_for};
    use crate::runtime::Abilities;
    use crate::testing::{abilities, runtimes};

    const HEAD: &str = "apiVersion: holdfast.dev/v1alpha1\n";
    const PROBE: &str = "apps/pos/files/ask.wat";

    /// An app on the simulated runtime that is judged by a probe.
    fn judged_by_a_probe() -> Desired {
        let spec = "container: {driver: simulated}\n  health: {checks: [{wasm: {component: files/ask.wat}}]}";
        desired(spec, "kind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\n")
    }

    /// The app `pos` with this in its spec and this one manifest.
    fn desired(spec: &str, manifest: &str) -> Desired {
        let files: Files = [
            ("holdfast.yaml", format!("{HEAD}kind: Fleet\nmetadata: {{name: f}}\n")),
            ("devices/d.yaml", format!("{HEAD}kind: Device\nmetadata: {{name: d}}\n")),
            (
                "apps/pos/app.yaml",
                format!("{HEAD}kind: App\nmetadata: {{name: pos}}\nspec:\n  placement: {{}}\n  {spec}\n"),
            ),
            ("apps/pos/manifests/c.yaml", manifest.to_owned()),
        ]
        .map(|(path, text)| (path.to_owned(), text.into_bytes()))
        .into();
        render_for(&files, &"d".parse().unwrap(), &semver::Version::new(0, 1, 0)).unwrap()
    }

    fn with_probe(content: &str) -> Answers {
        let artifact = ArtifactRef::File(PROBE.into());
        Answers { artifacts: [(artifact, Ok(Digest::of(content.as_bytes())))].into(), ..Answers::default() }
    }

    fn both() -> Runtimes {
        runtimes(&[DriverName::SIMULATED, DriverName::WASM])
    }

    fn only<T>(map: &BTreeMap<AppName, T>) -> &T {
        map.values().next().unwrap()
    }

    #[test]
    fn an_account_is_in_the_release_for_kubernetes_and_in_no_other() {
        let mut desired = judged_by_a_probe();
        let app = desired.apps.values_mut().next().unwrap();
        app.policy.health.checks.clear();
        let Workload::Container { driver, account, podman, .. } = &mut app.workload else { panic!() };
        let deployer = ServiceAccount { namespace: "shop".into(), name: "deployer".into() };
        (*driver, *account, *podman) = (None, Some(deployer.clone()), Some(Lowered::default()));
        let account_on = |kind: DriverName| {
            let resolved = resolve(desired.clone(), &Answers::default(), &runtimes(&[kind]));
            resolved.releases.values().next().unwrap().account.clone()
        };
        assert_eq!(account_on(DriverName::KUBERNETES), Some(deployer));
        assert_eq!(account_on(DriverName::PODMAN), None);
        assert_eq!(account_on(DriverName::SIMULATED), None);
    }

    #[test]
    fn another_probe_is_another_policy_and_no_other_release() {
        let one = resolve(judged_by_a_probe(), &with_probe("one"), &both());
        let two = resolve(judged_by_a_probe(), &with_probe("two"), &both());
        let (one, two) = (only(&one.apps), only(&two.apps));
        assert_eq!(one.release, two.release);
        assert_ne!(one.policy, two.policy);
        assert_eq!(one.policy.components().collect::<Vec<_>>(), [&Digest::of(b"one")]);
    }

    #[test]
    fn a_probe_is_looked_for_and_one_that_is_not_there_holds_its_app() {
        let desired = judged_by_a_probe();
        let artifact = ArtifactRef::File(PROBE.into());
        assert!(
            only(&needs(&desired, &both()).into_iter().map(|(n, v)| (n.clone(), v)).collect())
                .artifacts
                .contains_key(&artifact)
        );
        let missing = [(artifact, Err(format!("{PROBE} is not in the repository")))].into();
        let resolved = resolve(desired, &Answers { artifacts: missing, ..Answers::default() }, &both());
        assert!(resolved.apps.is_empty());
        assert!(only(&resolved.held).cause.contains(PROBE), "{resolved:?}");
    }

    #[test]
    fn an_agent_without_an_engine_holds_an_app_that_is_judged_by_a_probe() {
        let runtimes = runtimes(&[DriverName::SIMULATED]);
        let desired = judged_by_a_probe();
        assert!(needs(&desired, &runtimes).values().all(|needs| needs.artifacts.is_empty()));
        let resolved = resolve(desired, &Answers::default(), &runtimes);
        let held = only(&resolved.held);
        assert!(held.cause.contains("this agent has no WebAssembly engine"), "{held:?}");
        assert!(resolved.apps.is_empty() && resolved.releases.is_empty());
    }

    /// `secret-tag`, one of the inputs that showed a fault: any Secret, and an image by tag.
    fn a_secret_and_a_tag(password: &str) -> Desired {
        let manifest = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s }}\nstringData: {{ k: {password} }}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: p }}\nspec: {{ containers: [ {{ name: c, image: \"r.example/app:1\" }} ] }}\n"
        );
        desired("container: {driver: podman}", &manifest)
    }

    #[test]
    fn an_app_with_a_secret_and_an_image_by_tag_asks_for_the_tag_and_is_resolved() {
        let runtimes = runtimes(&[DriverName::PODMAN]);
        let desired = a_secret_and_a_tag("hunter2");
        let (asked, image) = {
            let needs = needs(&desired, &runtimes);
            let needs = needs.values().next().unwrap();
            (needs.asked, (*needs.images.iter().next().unwrap()).clone())
        };
        assert!(asked.is_some(), "a tag is only asked for an app that says what it asks for");
        let digest = Digest::of(b"image");
        let answers =
            Answers { images: [(("pos".parse().unwrap(), image), Ok(digest))].into(), ..Answers::default() };
        let resolved = resolve(desired, &answers, &runtimes);
        assert_eq!(resolved.held, BTreeMap::new());
        assert_eq!(resolved.releases.len(), 1);
    }

    #[test]
    fn what_a_secret_holds_is_no_part_of_what_is_kept_about_a_tag() {
        let runtimes = runtimes(&[DriverName::PODMAN]);
        let (one, two) = (a_secret_and_a_tag("hunter2"), a_secret_and_a_tag("hunter3"));
        let asked = |desired: &Desired| needs(desired, &runtimes).values().next().unwrap().asked;
        assert_eq!(asked(&one), asked(&two));
        let shown = serde_json::to_string(&one).unwrap();
        assert!(shown.contains("(secret)") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn images_are_kept_for_kubernetes_only_by_a_box_that_gives_it_its_images() {
        let digest = Digest::of(b"image");
        let manifest = format!(
            "kind: Pod\napiVersion: v1\nmetadata: {{name: p}}\nspec: {{containers: [{{name: a, image: \"r.example/a@{digest}\"}}, {{name: b, image: \"r.example/b:v1\"}}]}}\n"
        );
        let kept = |kind: &str, stages_images: bool| {
            let all = [DriverName::KUBERNETES, DriverName::SIMULATED];
            let stages = |driver| stages_images && driver == DriverName::KUBERNETES;
            let all =
                all.map(|driver| (driver, Abilities { stages_images: stages(driver), ..abilities(driver) }));
            let runtimes = Runtimes::from_iter(all);
            let desired = desired(&format!("container: {{driver: {kind}}}"), &manifest);
            let resolved = resolve(desired, &Answers::default(), &runtimes);
            only(&resolved.apps);
            let release = resolved.releases.values().next().unwrap();
            release.artifacts.iter().copied().collect::<Vec<_>>()
        };
        assert_eq!(kept("kubernetes", true), [digest]);
        assert_eq!(kept("kubernetes", false), []);
        assert_eq!(kept("simulated", true), []);
    }
}
