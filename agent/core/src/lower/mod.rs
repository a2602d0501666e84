//! Lowering: what Kubernetes' objects are on a box that has podman and no Kubernetes. Pure, and strict: what
//! podman can't hold is an error with its place and its reason, never left out in silence.
//!
//! Deployments and the like become the pods that they would have on one box; ConfigMaps and Secrets go into the
//! pods that use them; claims become volumes; Services become names and ports of the pods that they select. What
//! is held of which kind is in [`support`].

pub(crate) mod config;
mod container;
#[cfg(test)]
mod empty_tests;
mod lifecycle;
pub mod markdown;
mod pod;
mod probe;
mod record;
mod service;
pub mod support;
#[cfg(test)]
mod tests;
mod volume;
mod workload;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use self::config::Configs;
use self::support::{KINDS, Support};
use self::workload::{App, Placed};
use crate::diagnostic::{Diagnostic, Position};
use crate::image::ImageReference;
use crate::model::decode::Context;
use crate::name::{DeviceName, ObjectKey};
use crate::pod::{Network, Pod, Volume};
use crate::release::Strategy;
use crate::yaml::Node;

/// One object of an app's manifests, with its place.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    /// The file that it is in.
    pub file: &'a str,
    /// What it is called; the namespace is filled in.
    pub key: &'a ObjectKey,
    /// What it says.
    pub node: &'a Node,
}

impl Document<'_> {
    /// Its namespace and its name.
    fn name(&self) -> (String, String) {
        (self.key.namespace.clone().unwrap_or_default(), self.key.name.clone())
    }
}

/// An app as podman can hold it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lowered {
    /// The volumes that outlive pods.
    pub claims: BTreeSet<ObjectKey>,
    /// The pods, in the order in which they are made.
    pub pods: Vec<(ObjectKey, Pod<ImageReference>)>,
}

/// Lowers the objects of an app for a box. Every error is told.
pub fn lower(
    documents: &[Document<'_>],
    device: &DeviceName,
    strategy: Strategy,
) -> Result<Lowered, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    for document in documents {
        errors.extend(unsupported(document));
    }
    let (configs, mut claims) = configs_and_claims(documents, &mut errors);
    let names: BTreeSet<_> =
        claims.iter().map(|key| (key.namespace.clone().unwrap_or_default(), key.name.clone())).collect();
    let app = App { configs: &configs, claims: &names, node_name: device.as_str() };
    let mut pods = Vec::new();
    for document in of_kinds(documents, &["Pod", "Deployment", "DaemonSet", "StatefulSet", "Job"]) {
        let lowered = with_context(document, &mut errors, |context| workload::read(document, &app, context));
        claims.extend(lowered.claims);
        pods.extend(lowered.pods);
    }
    // A Service without its pods would be one more error for the same cause.
    if errors.is_empty() {
        for document in of_kinds(documents, &["Service"]) {
            with_context(document, &mut errors, |context| service::apply(document, &mut pods, context));
        }
        errors.extend(clashes(&pods));
        if strategy == Strategy::StartStop {
            errors.extend(pods.iter().filter_map(not_twice));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let pods = pods.into_iter().map(|placed| (ObjectKey::new("Pod", placed.name), placed.read.pod)).collect();
    Ok(Lowered { claims, pods })
}

fn configs_and_claims(
    documents: &[Document<'_>],
    errors: &mut Vec<Diagnostic>,
) -> (Configs, BTreeSet<ObjectKey>) {
    let mut configs = Configs::default();
    let mut claims = BTreeSet::new();
    for document in documents {
        with_context(document, errors, |context| match document.key.kind.as_str() {
            "ConfigMap" => configs.add_map(document, context),
            "Secret" => configs.add_secret(document, context),
            "PersistentVolumeClaim" => {
                workload::claim(document.node, context);
                claims.insert(volume::claim_key(document.name()));
            }
            _ => {}
        });
    }
    (configs, claims)
}

fn of_kinds<'a, 'd>(
    documents: &'a [Document<'d>],
    kinds: &'a [&str],
) -> impl Iterator<Item = &'a Document<'d>> {
    documents.iter().filter(|document| kinds.contains(&document.key.kind.as_str()))
}

fn with_context<T>(
    document: &Document<'_>,
    errors: &mut Vec<Diagnostic>,
    read: impl FnOnce(&mut Context<'_>) -> T,
) -> T {
    let mut context = Context::new(document.file);
    let value = read(&mut context);
    errors.append(&mut context.errors);
    value
}

/// Why podman can't hold this kind at all.
fn unsupported(document: &Document<'_>) -> Option<Diagnostic> {
    let version = document.node.get("apiVersion").and_then(Node::as_str).unwrap_or_default();
    let (group, kind) = document.key.group_and_kind();
    let at = document.node.get("kind").map_or(document.node.at, |node| node.at);
    let refused = |what: &str| {
        let hint = "write `driver: kubernetes` under container in app.yaml for boxes with Kubernetes, or remove \
                    the object";
        Some(
            Diagnostic::new(document.file, at, format!("podman does not support the kind {what}")).hint(hint),
        )
    };
    let known = KINDS.iter().find(|(known, ..)| *known == kind);
    // It may only share its name with one of Kubernetes' own.
    if let (Some(_), Some(group)) = (known, group) {
        return refused(&format!("{kind} of {group}"));
    }
    match known {
        Some((.., Support::Refused(why))) => Some(
            Diagnostic::new(document.file, at, format!("podman does not support the kind {kind}")).hint(*why),
        ),
        Some((_, known, support)) if *known == version || matches!(support, Support::NoEffect(_)) => None,
        Some((_, known, _)) => Some(
            Diagnostic::new(document.file, at, format!("podman does not support {kind} of {version}"))
                .hint(format!("write apiVersion: {known}")),
        ),
        None => refused(kind),
    }
}

/// Pods of one app that can't be on one box together.
fn clashes(pods: &[Placed]) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let mut names: BTreeMap<&str, &Placed> = BTreeMap::new();
    let mut ports = BTreeMap::new();
    for pod in pods {
        if let Some(other) = names.insert(&pod.name, pod) {
            let message = format!("two workloads create a pod named {}", pod.name);
            errors.push(clash(pod, other.at, &other.file, message));
        }
        let Network::Bridge { ports: published, .. } = &pod.read.pod.network else { continue };
        for port in published {
            if let Some(other) = ports.insert((port.host_port, port.protocol, port.host_ip), pod) {
                let message = format!("two pods use the port {} of the box", port.host_port);
                errors.push(clash(pod, other.at, &other.file, message));
            }
        }
    }
    errors
}

/// Why two pods of this kind can't be there at the same time, as `strategy: start-stop` has them.
fn not_twice(pod: &Placed) -> Option<Diagnostic> {
    let spec = &pod.read.pod;
    let port = match &spec.network {
        Network::Bridge { ports, .. } => ports.first(),
        Network::Host => None,
    };
    let cause = match port {
        Some(port) => format!("the port {} of the box can't lead to two pods", port.host_port),
        None if spec.volumes.values().any(|volume| matches!(volume, Volume::Claim(_))) => {
            "two pods would write to the same volume".to_owned()
        }
        None => return None,
    };
    let message = format!("strategy: start-stop is not possible for the pod {}: {cause}", pod.name);
    let hint = "write strategy: stop-start; or use hostNetwork, no claims, and SO_REUSEPORT in the program";
    Some(Diagnostic::new(&pod.file, pod.at, message).hint(hint))
}

fn clash(pod: &Placed, other: Position, file: &str, message: String) -> Diagnostic {
    Diagnostic::new(&pod.file, pod.at, message).hint(format!("the other one is {file}:{}", other.line))
}
