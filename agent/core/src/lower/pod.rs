//! A pod: its containers with their volumes, and how it reaches the network.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Configs;
use super::container::{self, Address, Port, Surroundings, id, profile};
use super::record::Record;
use super::support::{HOST_ALIAS, POD, POD_SECURITY};
use super::volume::{self, Sources};
use crate::diagnostic::{Position, quoted};
use crate::image::ImageReference;
use crate::model::decode::{Context, from_text};
use crate::name::ObjectKey;
use crate::pod::{
    Container, HOST_IP, HOST_IPS, Hook, HostAlias, Network, Pod, PortMapping, Security, Volume,
};
use crate::release::Restart;
use crate::yaml::{Node, NodeValue};

/// How long containers may take to stop unless the pod says otherwise (Kubernetes' default).
const GRACE_SECONDS: u32 = 30;

/// Where a pod's spec stands: what it is called, and what it can refer to.
pub(super) struct Place<'a> {
    pub(super) workload: &'a ObjectKey,
    /// The pod's name.
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) configs: &'a Configs,
    pub(super) claims: &'a BTreeSet<(String, String)>,
    /// Claims of a StatefulSet's own, by the name of the volume.
    pub(super) own_claims: BTreeMap<String, ObjectKey>,
    /// The device: `spec.nodeName`.
    pub(super) node_name: &'a str,
}

/// A pod that was read, with what Services need to know of it.
pub(super) struct Read {
    pub(super) pod: Pod<ImageReference>,
    pub(super) ports: Vec<Port>,
    pub(super) deadline_seconds: Option<u32>,
    /// Whether `restartPolicy` was written.
    pub(super) restart_written: Option<Position>,
}

impl Place<'_> {
    pub(super) fn namespace(&self) -> &str {
        self.workload.namespace.as_deref().unwrap_or_default()
    }

    /// What `fieldRef` finds. A pod on the box's own network has the box's addresses.
    fn fields(&self, on_host: bool) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::from([
            ("status.hostIP".to_owned(), HOST_IP.to_owned()),
            ("status.hostIPs".to_owned(), HOST_IPS.to_owned()),
            ("metadata.name".to_owned(), self.name.clone()),
            ("metadata.namespace".to_owned(), self.namespace().to_owned()),
            ("spec.nodeName".to_owned(), self.node_name.to_owned()),
        ]);
        if on_host {
            fields.insert("status.podIP".to_owned(), HOST_IP.to_owned());
            fields.insert("status.podIPs".to_owned(), HOST_IPS.to_owned());
        }
        let maps = [("labels", &self.labels), ("annotations", &self.annotations)];
        for (what, map) in maps {
            fields
                .extend(map.iter().map(|(key, value)| (format!("metadata.{what}['{key}']"), value.clone())));
        }
        fields
    }
}

/// Reads the pod's spec; none after an error was noted.
pub(super) fn read(node: &Node, place: &Place<'_>, context: &mut Context<'_>) -> Option<Read> {
    let errors_before = context.errors.len();
    let mut record = Record::of(&POD, node, context)?;
    for (key, words) in [
        ("os", None),
        ("shareProcessNamespace", Some("false")),
        ("setHostnameAsFQDN", Some("false")),
        ("hostUsers", Some("true")),
    ] {
        match words {
            Some(word) => record.only(key, &[word], context),
            None => linux_only(record.node(key), context),
        }
    }
    let security =
        record.node("securityContext").map_or_else(Security::default, |node| rights(node, context));
    let host = record.flag("hostNetwork", context);
    let fields = place.fields(host);
    let around = Surroundings {
        configs: place.configs,
        namespace: place.namespace(),
        fields: &fields,
        security: &security,
    };
    let init_nodes = record.items("initContainers", context);
    let (init, _) = containers(init_nodes, &around, context);
    let has_hooks = |node: &&Node| matches!(&node.value, NodeValue::Mapping(hooks) if !hooks.is_empty());
    for node in init_nodes.iter().filter_map(|node| node.get("lifecycle")).filter(has_hooks) {
        let hint = "Kubernetes doesn't allow hooks there either: run the program in the container itself";
        context.error_with(node.at, "podman does not support lifecycle of an init container", hint);
    }
    let list = record.required_node("containers", context).map(|list| list.at);
    let nodes = record.items("containers", context);
    if let Some(at) = list.filter(|_| nodes.is_empty()) {
        context.error(at, "the pod has no containers");
    }
    let (containers, ports) = containers(nodes, &around, context);
    let volumes = volumes(&mut record, place, context);
    let network = network(host, &ports, context);
    let restart_node = record.text("restartPolicy");
    let restart = restart_node.and_then(|node| restart(node, context)).unwrap_or(Restart::Always);
    let hosts =
        record.items("hostAliases", context).iter().filter_map(|node| host_alias(node, context)).collect();
    let seconds = |seconds: Option<u64>| seconds.and_then(|seconds| u32::try_from(seconds).ok());
    let pod = Pod {
        workload: place.workload.clone(),
        hostname: record.optional("hostname", context).unwrap_or_else(|| place.name.clone()),
        network,
        hosts,
        init,
        containers,
        volumes,
        restart,
        job: None,
        grace_seconds: seconds(record.number::<0, 86_400>("terminationGracePeriodSeconds", context))
            .unwrap_or(GRACE_SECONDS),
        host_pid: record.flag("hostPID", context),
        host_ipc: record.flag("hostIPC", context),
    };
    let deadline_seconds = seconds(record.number::<1, 4_000_000>("activeDeadlineSeconds", context));
    record.finish();
    check(&pod, list.unwrap_or(node.at), context);
    (context.errors.len() == errors_before).then_some(Read {
        pod,
        ports,
        deadline_seconds,
        restart_written: restart_node.map(|node| node.at),
    })
}

fn containers(
    nodes: &[Node],
    around: &Surroundings<'_>,
    context: &mut Context<'_>,
) -> (Vec<Container<ImageReference>>, Vec<Port>) {
    let read: Vec<_> = nodes.iter().filter_map(|node| container::read(node, around, context)).collect();
    let (containers, ports): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    (containers, ports.into_iter().flatten().collect())
}

fn volumes(
    record: &mut Record<'_>,
    place: &Place<'_>,
    context: &mut Context<'_>,
) -> BTreeMap<String, Volume> {
    let sources = Sources {
        configs: place.configs,
        claims: place.claims,
        own_claims: &place.own_claims,
        namespace: place.namespace(),
    };
    let mut volumes: BTreeMap<String, Volume> =
        sources.own_claims.iter().map(|(name, key)| (name.clone(), Volume::Claim(key.clone()))).collect();
    for node in record.items("volumes", context) {
        let Some((name, volume)) = volume::read(node, &sources, context) else { continue };
        if volumes.insert(name.clone(), volume).is_some() {
            context.error(node.at, format!("the volume {} is defined twice", quoted(&name)));
        }
    }
    volumes
}

/// What can only be seen of the pod as a whole.
fn check(pod: &Pod<ImageReference>, at: Position, context: &mut Context<'_>) {
    let mut names = BTreeSet::new();
    for container in pod.all_containers() {
        for hook in [&container.lifecycle.post_start, &container.lifecycle.pre_stop].into_iter().flatten() {
            // Kubernetes refuses it as well.
            if let Hook::Sleep(seconds) = hook
                && *seconds > pod.grace_seconds
            {
                let (name, grace) = (&container.name, pod.grace_seconds);
                let message = format!(
                    "a hook of the container {name} sleeps for {seconds} s, longer than the pod's \
                     terminationGracePeriodSeconds of {grace}"
                );
                context.error_with(at, message, "let it sleep less, or give the pod more time");
            }
        }
        if !is_label(&container.name) {
            context.error(
                at,
                format!("{} can't be a container's name: use a-z, 0-9 and '-'", quoted(&container.name)),
            );
        }
        if !names.insert(&container.name) {
            context.error(at, format!("the container {} is defined twice", quoted(&container.name)));
        }
        let mut taken = BTreeSet::new();
        for mount in &container.mounts {
            // `/data` and `/data/` are one place.
            if !taken.insert(mount.path.trim_end_matches('/')) {
                let (name, path) = (&container.name, quoted(&mount.path));
                context.error(at, format!("the container {name} mounts two volumes at {path}"));
            }
        }
        for mount in container.mounts.iter().filter(|mount| !pod.volumes.contains_key(&mount.volume)) {
            // The volume may be there, with an error of its own.
            if context.errors.is_empty() {
                let message = format!(
                    "the container {} mounts {}, but the pod has no such volume",
                    container.name,
                    quoted(&mount.volume)
                );
                context.error(at, message);
            }
        }
    }
}

fn is_label(name: &str) -> bool {
    name.parse::<crate::name::AppName>().is_ok()
}

/// The ports that are published, unless the pod uses the box's own network.
fn network(host: bool, ports: &[Port], context: &mut Context<'_>) -> Network {
    let mut published = Vec::new();
    for port in ports {
        let Some(host_port) = port.host_port else { continue };
        if host && host_port != port.container_port {
            let message = "with hostNetwork, hostPort and containerPort must be equal";
            context.error(port.node_at, message);
        }
        published.push(PortMapping {
            host_ip: port.host_ip,
            host_port,
            container_port: port.container_port,
            protocol: port.protocol,
        });
    }
    published.sort();
    let taken = |a: &PortMapping, b: &PortMapping| {
        a.host_port == b.host_port && a.protocol == b.protocol && a.host_ip == b.host_ip
    };
    if let Some(pair) = published.windows(2).find(|pair| taken(&pair[0], &pair[1])) {
        let at = ports.first().map_or(Position::START, |port| port.node_at);
        context.error(at, format!("the hostPort {} is given twice", pair[0].host_port));
    }
    if host { Network::Host } else { Network::Bridge { ports: published, aliases: Vec::new() } }
}

fn linux_only(node: Option<&Node>, context: &mut Context<'_>) {
    if let Some(node) = node.filter(|node| node.get("name").and_then(Node::as_str) != Some("linux")) {
        context.error(node.at, "boxes run Linux: write name: linux, or leave os out");
    }
}

fn restart(node: &Node, context: &mut Context<'_>) -> Option<Restart> {
    match node.as_str() {
        Some("Always") => Some(Restart::Always),
        Some("OnFailure") => Some(Restart::OnFailure),
        Some("Never") => Some(Restart::Never),
        _ => {
            context.error(node.at, "restartPolicy is one of Always, OnFailure, Never");
            None
        }
    }
}

fn rights(node: &Node, context: &mut Context<'_>) -> Security {
    let Some(mut record) = Record::of(&POD_SECURITY, node, context) else { return Security::default() };
    for key in ["seccompProfile", "appArmorProfile"] {
        profile(record.node(key), key, context);
    }
    record.only("supplementalGroupsPolicy", &["Merge"], context);
    let mut groups: Vec<u32> = record
        .optional::<Vec<crate::model::decode::Whole<0, 4_294_967_294>>>("supplementalGroups", context)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|group| u32::try_from(group.0).ok())
        .collect();
    groups.extend(id(&mut record, "fsGroup", context));
    groups.sort_unstable();
    groups.dedup();
    let security = Security {
        user: id(&mut record, "runAsUser", context),
        group: id(&mut record, "runAsGroup", context),
        groups,
        non_root: record.flag("runAsNonRoot", context),
        ..Security::default()
    };
    record.finish();
    security
}

fn host_alias(node: &Node, context: &mut Context<'_>) -> Option<HostAlias> {
    let mut record = Record::of(&HOST_ALIAS, node, context)?;
    let ip = record.required_node("ip", context).and_then(|node| from_text::<Address>(node, context));
    let names = record.required::<Vec<String>>("hostnames", context);
    record.finish();
    let names = names?;
    if let Some(name) = names.iter().find(|name| name.is_empty() || name.contains([' ', '\n', '\t', ':'])) {
        context.error(node.at, format!("{} is not a host name", quoted(name)));
        return None;
    }
    Some(HostAlias { ip: ip?.0, names })
}
