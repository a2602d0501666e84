//! Deployments and the like: each becomes the pods that it would have on a single box.

use std::collections::{BTreeMap, BTreeSet};

use super::Document;
use super::config::{Configs, Name};
use super::pod::{self, Place, Read};
use super::record::Record;
use super::support::{
    CLAIM, DAEMON_SET, DEPLOYMENT, JOB, METADATA, STATEFUL_SET, TEMPLATE, TEMPLATE_METADATA, Table, WORKLOAD,
};
use super::volume::claim_key;
use crate::diagnostic::Position;
use crate::image::ImageReference;
use crate::model::decode::{Context, Decode};
use crate::name::ObjectKey;
use crate::pod::{Job, Network, Pod};
use crate::release::Restart;
use crate::yaml::Node;

/// How often a Job is tried again unless it says otherwise (Kubernetes' default).
const BACKOFF_LIMIT: u32 = 6;
/// The most pods that one workload may have on a box.
const REPLICA_LIMIT: u64 = 50;

/// A pod with what Services need to know of it.
pub(super) struct Placed {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) read: Read,
    /// The Service that gives a StatefulSet's pods their names.
    pub(super) service: Option<String>,
    pub(super) file: String,
    pub(super) at: Position,
}

/// What workloads can refer to.
pub(super) struct App<'a> {
    pub(super) configs: &'a Configs,
    pub(super) claims: &'a BTreeSet<Name>,
    pub(super) node_name: &'a str,
}

/// What a workload becomes.
#[derive(Default)]
pub(super) struct Lowered {
    pub(super) pods: Vec<Placed>,
    /// Claims that a StatefulSet makes.
    pub(super) claims: Vec<ObjectKey>,
}

/// Reads the workload in `document`, whose kind is one of those that have pods.
pub(super) fn read(document: &Document<'_>, app: &App<'_>, context: &mut Context<'_>) -> Lowered {
    let mut whole = match Record::of(&WORKLOAD, document.node, context) {
        Some(whole) => whole,
        None => return Lowered::default(),
    };
    let _ = (whole.node("apiVersion"), whole.node("kind"));
    let labels = metadata(whole.node("metadata"), &METADATA, context);
    let spec = whole.required_node("spec", context);
    whole.finish();
    let Some(spec) = spec else { return Lowered::default() };
    match document.key.kind.as_str() {
        "Pod" => {
            let mut one = Lowered::default();
            let place = place(document, app, document.key.name.clone(), labels, BTreeMap::new());
            one.pods.extend(pod::read(spec, &place, context).map(|read| placed(document, place, read, None)));
            one
        }
        "Deployment" => deployment(document, spec, app, context),
        "DaemonSet" => daemon_set(document, spec, app, context),
        "StatefulSet" => stateful_set(document, spec, app, context),
        _ => job(document, spec, app, context),
    }
}

/// Labels, and annotations.
type Marks = (BTreeMap<String, String>, BTreeMap<String, String>);

fn metadata(node: Option<&Node>, table: &'static Table, context: &mut Context<'_>) -> Marks {
    let Some(mut record) = node.and_then(|node| Record::of(table, node, context)) else {
        return Marks::default();
    };
    if std::ptr::eq(table, &METADATA) {
        let _ = (record.node("name"), record.node("namespace"));
    }
    let marks = (
        record.optional("labels", context).unwrap_or_default(),
        record.optional("annotations", context).unwrap_or_default(),
    );
    record.finish();
    marks
}

/// `metadata` of an object that has no labels to speak of.
pub(super) fn check_metadata(node: Option<&Node>, context: &mut Context<'_>) {
    let _ = metadata(node, &METADATA, context);
}

fn place<'a>(
    document: &Document<'a>,
    app: &App<'a>,
    name: String,
    (labels, annotations): Marks,
    own_claims: BTreeMap<String, ObjectKey>,
) -> Place<'a> {
    Place {
        workload: document.key,
        name,
        labels,
        annotations,
        configs: app.configs,
        claims: app.claims,
        own_claims,
        node_name: app.node_name,
    }
}

fn placed(document: &Document<'_>, place: Place<'_>, read: Read, service: Option<String>) -> Placed {
    Placed {
        namespace: place.namespace().to_owned(),
        name: place.name,
        labels: place.labels,
        read,
        service,
        file: document.file.to_owned(),
        at: document.node.at,
    }
}

/// The template of a workload: its marks, and its spec.
fn template<'n>(record: &mut Record<'n>, context: &mut Context<'_>) -> Option<(Marks, &'n Node)> {
    let node = record.required_node("template", context)?;
    let mut template = Record::of(&TEMPLATE, node, context)?;
    let marks = metadata(template.node("metadata"), &TEMPLATE_METADATA, context);
    let spec = template.required_node("spec", context);
    template.finish();
    Some((marks, spec?))
}

/// A workload finds its pods by their labels: a selector that doesn't match them is refused by Kubernetes.
fn check_selector(selector: Option<&Node>, labels: &BTreeMap<String, String>, context: &mut Context<'_>) {
    let Some(wanted) = selector.and_then(|node| node.get("matchLabels")) else { return };
    let Some(wanted) = BTreeMap::<String, String>::decode(wanted, context) else { return };
    if wanted.iter().any(|(key, value)| labels.get(key) != Some(value)) {
        let at = selector.map_or(Position::START, |node| node.at);
        context.error(at, "the selector doesn't match the template's labels");
    }
}

fn deployment(document: &Document<'_>, spec: &Node, app: &App<'_>, context: &mut Context<'_>) -> Lowered {
    let Some(mut record) = Record::of(&DEPLOYMENT, spec, context) else { return Lowered::default() };
    let replicas_at = record.node("replicas").map_or(spec.at, |node| node.at);
    let replicas = record.number::<0, REPLICA_LIMIT>("replicas", context).unwrap_or(1);
    let selector = record.node("selector");
    let template = template(&mut record, context);
    record.finish();
    let Some((marks, spec)) = template else { return Lowered::default() };
    check_selector(selector, &marks.0, context);
    let mut lowered = Lowered::default();
    for index in 0..replicas {
        let base = &document.key.name;
        let name = if index == 0 { base.clone() } else { format!("{base}-{index}") };
        let place = place(document, app, name, marks.clone(), BTreeMap::new());
        let Some(read) = pod::read(spec, &place, context) else { return lowered };
        always_only(&read, context);
        if replicas > 1 && takes_ports_of_the_box(&read.pod) {
            context.error_with(
                replicas_at,
                format!("{replicas} pods can't share a host port"),
                "write replicas: 1, or take hostPort and hostNetwork out and add a Service",
            );
            return lowered;
        }
        lowered.pods.push(placed(document, place, read, None));
    }
    lowered
}

fn takes_ports_of_the_box(pod: &Pod<ImageReference>) -> bool {
    match &pod.network {
        Network::Host => true,
        Network::Bridge { ports, .. } => !ports.is_empty(),
    }
}

/// Kubernetes takes no other restartPolicy here.
fn always_only(read: &Read, context: &mut Context<'_>) {
    if let (Some(at), true) = (read.restart_written, read.pod.restart != Restart::Always) {
        context.error_with(
            at,
            "pods of this kind are always restarted",
            "use a Job for a workload that runs to completion",
        );
    }
}

fn daemon_set(document: &Document<'_>, spec: &Node, app: &App<'_>, context: &mut Context<'_>) -> Lowered {
    let Some(mut record) = Record::of(&DAEMON_SET, spec, context) else { return Lowered::default() };
    let selector = record.node("selector");
    let template = template(&mut record, context);
    record.finish();
    let Some((marks, spec)) = template else { return Lowered::default() };
    check_selector(selector, &marks.0, context);
    let place = place(document, app, document.key.name.clone(), marks, BTreeMap::new());
    let mut lowered = Lowered::default();
    if let Some(read) = pod::read(spec, &place, context) {
        always_only(&read, context);
        lowered.pods.push(placed(document, place, read, None));
    }
    lowered
}

fn stateful_set(document: &Document<'_>, spec: &Node, app: &App<'_>, context: &mut Context<'_>) -> Lowered {
    let Some(mut record) = Record::of(&STATEFUL_SET, spec, context) else { return Lowered::default() };
    let replicas_at = record.node("replicas").map_or(spec.at, |node| node.at);
    let replicas = record.number::<0, REPLICA_LIMIT>("replicas", context).unwrap_or(1);
    if replicas > 1 {
        context.error_with(
            replicas_at,
            format!(
                "podman does not support a StatefulSet of {replicas} pods: all of them would be on one box"
            ),
            "write replicas: 1",
        );
    }
    let selector = record.node("selector");
    let service = record.optional::<String>("serviceName", context).filter(|name| !name.is_empty());
    let pod_name = format!("{}-0", document.key.name);
    let own_claims = claim_templates(&mut record, document, &pod_name, context);
    let template = template(&mut record, context);
    record.finish();
    let Some((marks, spec)) = template else { return Lowered::default() };
    check_selector(selector, &marks.0, context);
    let mut lowered = Lowered { claims: own_claims.values().cloned().collect(), ..Lowered::default() };
    let place = place(document, app, pod_name, marks, own_claims);
    if let Some(read) = pod::read(spec, &place, context) {
        always_only(&read, context);
        if replicas == 1 {
            lowered.pods.push(placed(document, place, read, service));
        }
    }
    lowered
}

/// A StatefulSet's own claims: the volume's name, and the claim that its pod has.
fn claim_templates(
    record: &mut Record<'_>,
    document: &Document<'_>,
    pod_name: &str,
    context: &mut Context<'_>,
) -> BTreeMap<String, ObjectKey> {
    let mut claims = BTreeMap::new();
    for node in record.items("volumeClaimTemplates", context) {
        let name = node.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::as_str);
        let Some(name) = name else {
            context.error(node.at, "the claim template has no metadata.name");
            continue;
        };
        claim(node, context);
        let (namespace, _) = document.name();
        claims.insert(name.to_owned(), claim_key((namespace, format!("{name}-{pod_name}"))));
    }
    claims
}

/// Reads a claim: nothing of it is of use to podman but its name.
pub(super) fn claim(node: &Node, context: &mut Context<'_>) {
    let Some(spec) = node.get("spec") else { return };
    let Some(mut record) = Record::of(&CLAIM, spec, context) else { return };
    record.only("volumeMode", &["Filesystem"], context);
    record.finish();
}

fn job(document: &Document<'_>, spec: &Node, app: &App<'_>, context: &mut Context<'_>) -> Lowered {
    let Some(mut record) = Record::of(&JOB, spec, context) else { return Lowered::default() };
    for (key, word) in [("completions", "1"), ("parallelism", "1"), ("completionMode", "NonIndexed")] {
        record.only(key, &[word], context);
    }
    let number = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
    let backoff_limit = number(record.number::<0, 1000>("backoffLimit", context)).unwrap_or(BACKOFF_LIMIT);
    let deadline = number(record.number::<1, 4_000_000>("activeDeadlineSeconds", context));
    let template = template(&mut record, context);
    record.finish();
    let Some((marks, spec)) = template else { return Lowered::default() };
    let place = place(document, app, document.key.name.clone(), marks, BTreeMap::new());
    let mut lowered = Lowered::default();
    if let Some(mut read) = pod::read(spec, &place, context) {
        if read.pod.restart == Restart::Always {
            let at = read.restart_written.unwrap_or(spec.at);
            context.error_with(
                at,
                "the pod of a Job runs to completion",
                "write restartPolicy: Never or OnFailure",
            );
        }
        // What failed is tried again as often as backoffLimit says, in a new container either way.
        read.pod.restart = Restart::OnFailure;
        read.pod.job = Some(Job { backoff_limit, deadline_seconds: deadline.or(read.deadline_seconds) });
        lowered.pods.push(placed(document, place, read, None));
    }
    lowered
}
