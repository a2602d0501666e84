//! Desired: what this box should have, app by app, with every template rendered and nothing resolved yet.

pub(crate) mod clash;
mod documents;
pub(crate) mod manifests;
mod order;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;

use self::clash::{Named, Places};
use minijinja::value::Serde;
use minijinja::{Value as TemplateValue, context};
use serde::Serialize;
use serde_json::Value;

use crate::change::ChangePolicy;
use crate::diagnostic::{Diagnostic, sorted};
use crate::digest::Revision;
use crate::lower::Lowered;
use crate::model::Body;
use crate::model::app::ContainerDriver;
use crate::model::decode::{Context, Decode};
use crate::model::wasm::WasmFields;
use crate::name::{AppName, DeviceName, ObjectKey};
use crate::reading::Part;
use crate::release::{Check, Object, Policy, SecretRef, ServiceAccount, WasmWorkload, WorkloadKind};
use crate::runtime::DriverName;
use crate::secret::SecretBytes;
use crate::select::{File, PlacedApp, Selected};
use crate::yaml::{Entry, Node, NodeValue};

pub use crate::model::ArtifactRef;

/// What a box is to hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// The revision that it was rendered from.
    pub revision: Revision,
    /// The box.
    pub device: DeviceName,
    /// Every app that runs here and could be rendered.
    pub apps: BTreeMap<AppName, DesiredApp>,
    /// Every app that may run here and has an error. What ran of it before keeps running.
    pub faulty: BTreeMap<AppName, Vec<Diagnostic>>,
    /// When and how much may be changed.
    pub policy: ChangePolicy,
}

/// One app as it is to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredApp {
    /// What kind of workload it is.
    pub kind: WorkloadKind,
    /// The workload.
    pub workload: Workload,
    /// How it is judged and changed.
    pub policy: Policy<ArtifactRef>,
}

/// A workload whose artifacts are still called by their places.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Workload {
    /// Kubernetes objects, in the order in which they are made.
    Container {
        /// The namespace of objects that name none.
        namespace: String,
        /// The runtime, if a certain one is asked for.
        driver: Option<DriverName>,
        /// As whom its objects are made, on Kubernetes.
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<ServiceAccount>,
        /// Every object; a key's namespace is filled in, its spec is as it was written, but for Secrets: they
        /// say where each of their values is found.
        objects: Vec<Object>,
        /// What the Secrets hold.
        #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "by_name")]
        secrets: BTreeMap<SecretRef, SecretBytes>,
        /// The same for a box with podman, if it may run on one and can.
        #[serde(skip_serializing_if = "Option::is_none")]
        podman: Option<Lowered>,
        /// Why podman can't hold it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        unfit_for_podman: Vec<Diagnostic>,
        /// Where each object stands.
        #[serde(skip)]
        places: Places,
    },
    /// A WebAssembly workload.
    Wasm(WasmWorkload<ArtifactRef>),
    /// A virtual machine.
    Vm(Value),
    /// Whatever a plugin makes of it.
    Plugin(Value),
}

/// JSON has strings as keys only.
fn by_name<S: serde::Serializer>(
    secrets: &BTreeMap<SecretRef, SecretBytes>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(secrets.iter().map(|(secret, bytes)| (secret.to_string(), bytes)))
}

/// Renders what was selected of a verified revision. `manifests` is what lies in the folders that [`Selected::folders`] names; an
/// error in them holds that app alone. The same input gives the same bytes, in whatever order files come.
pub fn render(selected: Selected<'_>, manifests: &BTreeMap<AppName, Part>) -> Desired {
    let mut desired = Desired {
        revision: selected.revision(),
        device: selected.device.clone(),
        apps: BTreeMap::new(),
        faulty: selected.faulty.clone(),
        policy: selected.policy.clone(),
    };
    for (name, placed) in &selected.apps {
        let nothing = Part::default();
        let part = manifests.get(name).unwrap_or(&nothing);
        if !part.errors.is_empty() {
            desired.faulty.insert(name.clone(), sorted(part.errors.clone()));
            continue;
        }
        match workload(&selected, name, placed, &part.files) {
            Ok(workload) => {
                let kind = placed.app.spec.workload.kind();
                let policy = in_repository(name, placed.app.spec.policy.clone());
                desired.apps.insert(name.clone(), DesiredApp { kind, workload, policy });
            }
            Err(errors) => {
                desired.faulty.insert(name.clone(), sorted(errors));
            }
        }
    }
    refuse_clashes(&mut desired);
    desired
}

/// Of two apps that name the same object neither is touched: nobody can tell which of them is meant.
fn refuse_clashes(desired: &mut Desired) {
    let named: Vec<Named<'_>> = desired
        .apps
        .iter()
        .filter_map(|(name, app)| match &app.workload {
            Workload::Container { driver, places, .. } => Some((name, *driver, places)),
            _ => None,
        })
        .collect();
    let found: Vec<_> =
        clash::clashes(&named).into_iter().map(|(name, errors)| (name.clone(), sorted(errors))).collect();
    for (name, errors) in found {
        desired.apps.remove(&name);
        desired.faulty.insert(name, errors);
    }
}

fn workload(
    selected: &Selected<'_>,
    name: &AppName,
    placed: &PlacedApp,
    files: &[File],
) -> Result<Workload, Vec<Diagnostic>> {
    let root = root(selected, name, placed);
    match &placed.app.spec.workload {
        Body::Container(container) => {
            let namespace = manifests::namespace_of(name, container);
            let driver = container.driver;
            let account = placed.app.spec.service_account.as_ref().map(|account| ServiceAccount {
                namespace: namespace.to_owned(),
                name: account.as_str().to_owned(),
            });
            let on_podman = driver.may_be(DriverName::PODMAN);
            let podman_on = on_podman.then_some((&selected.device, placed.app.spec.policy.strategy));
            let found = manifests::objects(name, container, files, &root, podman_on)?;
            check_targets(placed, &found)?;
            let (podman, unfit_for_podman) = match found.podman {
                None => (None, Vec::new()),
                Some(Ok(lowered)) => (Some(lowered), Vec::new()),
                // Nothing else could take it.
                Some(Err(errors)) if driver == ContainerDriver::Podman => return Err(errors),
                Some(Err(errors)) => (None, sorted(errors)),
            };
            Ok(Workload::Container {
                namespace: namespace.to_owned(),
                driver: driver.name(),
                account,
                objects: found.objects,
                secrets: found.secrets,
                podman,
                unfit_for_podman,
                places: found.places,
            })
        }
        Body::Wasm(node) => wasm(name, &placed.file, &filled(&placed.file, node, &root)?).map(Workload::Wasm),
        Body::Vm(node) => Ok(Workload::Vm(filled(&placed.file, node, &root)?.to_json())),
        Body::Plugin(node) => Ok(Workload::Plugin(filled(&placed.file, node, &root)?.to_json())),
    }
}

/// A check of an object that the app doesn't have could never succeed.
fn check_targets(placed: &PlacedApp, found: &manifests::Objects) -> Result<(), Vec<Diagnostic>> {
    let objects = found.objects.iter().map(|object| &object.key);
    let pods = found.podman.iter().flatten().flat_map(|lowered| &lowered.pods).map(|(key, _)| key);
    let keys: Vec<&ObjectKey> = objects.chain(pods).collect();
    let is = |key: &ObjectKey, target: &ObjectKey| {
        let namespace = target.namespace.is_none() || target.namespace == key.namespace;
        key.kind == target.kind && key.name == target.name && namespace
    };
    let targets = placed.app.spec.policy.health.checks.iter().filter_map(Check::target);
    let missing = targets.filter(|target| !keys.iter().any(|key| is(key, target)));
    let errors: Vec<Diagnostic> = missing
        .map(|target| {
            let message = format!("health.checks targets {target}, but the app has no such object");
            let known = keys.iter().map(|key| key.to_string()).collect::<Vec<_>>().join(", ");
            Diagnostic::of_file(&placed.file, message).hint(format!("the app has {known}"))
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What templates see (CONTRACT: `values`, `labels`, `device.name`, `site.name`, `app.name`).
fn root(selected: &Selected<'_>, name: &AppName, placed: &PlacedApp) -> TemplateValue {
    let site =
        selected.site.as_ref().map(|site| [("name", site.as_str())].into_iter().collect::<BTreeMap<_, _>>());
    context! {
        values => Serde(&placed.values),
        labels => Serde(&selected.labels),
        device => context! { name => selected.device.as_str() },
        site => Serde(site.unwrap_or_default()),
        app => context! { name => name.as_str() },
    }
}

/// The tree with every string in it rendered. A string stays a string, whatever comes out.
fn filled(file: &str, node: &Node, root: &TemplateValue) -> Result<Node, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let filled = fill(file, node, root, &mut errors);
    if errors.is_empty() { Ok(filled) } else { Err(errors) }
}

fn fill(file: &str, node: &Node, root: &TemplateValue, errors: &mut Vec<Diagnostic>) -> Node {
    let value = match &node.value {
        NodeValue::Scalar(Value::String(text)) if template::is_template(text) => {
            match template::render(file, node.at, text, root) {
                Ok(text) => NodeValue::Scalar(Value::String(text)),
                Err(mut found) => {
                    errors.append(&mut found);
                    NodeValue::Scalar(Value::Null)
                }
            }
        }
        NodeValue::Scalar(value) => NodeValue::Scalar(value.clone()),
        NodeValue::Sequence(items) => {
            NodeValue::Sequence(items.iter().map(|item| fill(file, item, root, errors)).collect())
        }
        NodeValue::Mapping(entries) => {
            let filled = |entry: &Entry, errors: &mut Vec<Diagnostic>| Entry {
                at: entry.at,
                key: entry.key.clone(),
                node: fill(file, &entry.node, root, errors),
            };
            NodeValue::Mapping(entries.iter().map(|entry| filled(entry, errors)).collect())
        }
    };
    Node { at: node.at, value }
}

fn wasm(name: &AppName, file: &str, node: &Node) -> Result<WasmWorkload<ArtifactRef>, Vec<Diagnostic>> {
    let mut context = Context::new(file);
    let fields = WasmFields::decode(node, &mut context);
    let workload = fields.map(|fields| fields.into_workload(node.at, &mut context));
    match workload {
        Some(mut workload) if context.errors.is_empty() => {
            workload.component = of_app(name, workload.component);
            Ok(workload)
        }
        _ => Err(context.errors),
    }
}

/// An artifact that a document names relative to its app's folder.
fn of_app(name: &AppName, artifact: ArtifactRef) -> ArtifactRef {
    match artifact {
        ArtifactRef::File(path) => ArtifactRef::File(format!("apps/{name}/{path}")),
        other => other,
    }
}

fn in_repository(name: &AppName, policy: Policy<ArtifactRef>) -> Policy<ArtifactRef> {
    let Ok(policy) = policy.try_map(|artifact| Ok::<_, Infallible>(of_app(name, artifact)));
    policy
}
