//! Services: on a single box a Service is a name that pods find each other by, or a port of the box.

use std::collections::BTreeMap;

use super::Document;
use super::container::protocol;
use super::probe;
use super::record::Record;
use super::support::{SERVICE, SERVICE_PORT, WORKLOAD};
use super::workload::{Placed, check_metadata};
use crate::diagnostic::{Position, quoted};
use crate::model::decode::Context;
use crate::pod::{Network, PortMapping, Protocol};
use crate::yaml::Node;

/// What a Service gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A name among pods.
    Name,
    /// A port of the box: `nodePort`.
    NodePort,
    /// A port of the box: `port`.
    LoadBalancer,
}

/// Gives what the Service in `document` says to the pods that it selects.
pub(super) fn apply(document: &Document<'_>, pods: &mut [Placed], context: &mut Context<'_>) {
    let Some(mut whole) = Record::of(&WORKLOAD, document.node, context) else { return };
    let _ = (whole.node("apiVersion"), whole.node("kind"));
    check_metadata(whole.node("metadata"), context);
    let spec = whole.required_node("spec", context);
    whole.finish();
    let Some(mut record) = spec.and_then(|spec| Record::of(&SERVICE, spec, context)) else { return };
    let kind = kind(record.text("type"), context);
    record.only("clusterIP", &["None", ""], context);
    cluster_ips(record.node("clusterIPs"), context);
    record.only("sessionAffinity", &["None"], context);
    let selector: Option<BTreeMap<String, String>> = record.optional("selector", context);
    let headless = record.text("clusterIP").and_then(Node::as_str) == Some("None");
    let ports = record.items("ports", context);
    record.finish();
    let (Some(kind), Some(selector)) = (kind, selector.filter(|selector| !selector.is_empty())) else {
        if context.errors.is_empty() {
            let hint = "write the labels of the app's pods under selector";
            context.error_with(
                document.node.at,
                "podman does not support a Service without a selector",
                hint,
            );
        }
        return;
    };
    let (namespace, name) = document.name();
    let has_labels = |pod: &Placed| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
    let mut found = false;
    for pod in pods.iter_mut().filter(|pod| pod.namespace == namespace && has_labels(pod)) {
        found = true;
        add_names(pod, &name, &namespace);
        for node in ports {
            port(node, (&name, kind, headless), pod, context);
        }
    }
    if found {
        return;
    }
    if let Some(other) = pods.iter().find(|pod| has_labels(pod)) {
        let hint = "write the same namespace for both: a Service leads to pods of its own namespace only";
        let message = format!(
            "the Service is in the namespace {}, but the pod {} with matching labels is in {}",
            quoted(&namespace),
            quoted(&other.name),
            quoted(&other.namespace)
        );
        context.error_with(document.node.at, message, hint);
    } else {
        let hint = "correct the selector, or remove the Service: a Service selects only pods of the same app";
        context.error_with(
            document.node.at,
            "no pod of this app has the labels that the Service selects",
            hint,
        );
    }
}

fn kind(node: Option<&Node>, context: &mut Context<'_>) -> Option<Kind> {
    let Some(node) = node else { return Some(Kind::Name) };
    match node.as_str() {
        Some("ClusterIP") => Some(Kind::Name),
        Some("NodePort") => Some(Kind::NodePort),
        Some("LoadBalancer") => Some(Kind::LoadBalancer),
        _ => {
            let hint = "write ClusterIP, NodePort or LoadBalancer";
            context.error_with(node.at, "podman does not support a Service of this type", hint);
            None
        }
    }
}

fn cluster_ips(node: Option<&Node>, context: &mut Context<'_>) {
    let Some(node) = node else { return };
    let crate::yaml::NodeValue::Sequence(items) = &node.value else {
        return context.expected("a list", node);
    };
    if items.iter().any(|item| item.as_str() != Some("None")) {
        context.error_with(node.at, "podman assigns no address to a Service", "remove clusterIPs");
    }
}

/// The names that Kubernetes gives to a Service, as far as podman's own resolver can.
fn add_names(pod: &mut Placed, name: &str, namespace: &str) {
    let Network::Bridge { aliases, .. } = &mut pod.read.pod.network else { return };
    let mut names = vec![name.to_owned()];
    if pod.service.as_deref() == Some(name) {
        names.push(format!("{}.{name}", pod.name));
    }
    for name in names {
        let longer = [".svc", ".svc.cluster.local"].map(|end| format!("{name}.{namespace}{end}"));
        aliases.extend([name.clone(), format!("{name}.{namespace}")].into_iter().chain(longer));
    }
    aliases.sort();
    aliases.dedup();
}

fn port(
    node: &Node,
    (service, kind, headless): (&str, Kind, bool),
    pod: &mut Placed,
    context: &mut Context<'_>,
) {
    let Some(mut record) = Record::of(&SERVICE_PORT, node, context) else { return };
    let number = record.number::<1, 65535>("port", context).and_then(|port| u16::try_from(port).ok());
    let target = record.text("targetPort");
    let node_port = record.number::<1, 65535>("nodePort", context).and_then(|port| u16::try_from(port).ok());
    let protocol = record.text("protocol").and_then(|node| protocol(node, context)).unwrap_or_default();
    let Some(number) = number else {
        record.required_node("port", context);
        return;
    };
    record.finish();
    let target_at = target.map_or(node.at, |node| node.at);
    let target = match target {
        Some(node) => target_port(node, pod, context),
        None => Some(number),
    };
    let Some(target) = target else { return };
    let of_the_box = match kind {
        Kind::Name => None,
        Kind::LoadBalancer => Some(number),
        Kind::NodePort if node_port.is_some() => node_port,
        Kind::NodePort => {
            context.error_with(node.at, "a NodePort Service needs nodePort", "write nodePort");
            return;
        }
    };
    match of_the_box {
        Some(host_port) => publish(pod, host_port, target, protocol, node.at, context),
        None if headless => {}
        None => check_name(service, pod, (number, target), target_at, context),
    }
}

/// A port of the pod by its number, or by the name that one of its containers gives it.
fn target_port(node: &Node, pod: &Placed, context: &mut Context<'_>) -> Option<u16> {
    let (Some(name), ports) = (node.as_str(), &pod.read.ports) else {
        return probe::port(node, &pod.read.ports, context);
    };
    if ports.iter().any(|port| port.name.as_deref() == Some(name))
        || name.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return probe::port(node, ports, context);
    }
    let names: Vec<&str> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
    let hint = match names.is_empty() {
        true => "write its number, or give it a name under ports of its container".to_owned(),
        false => format!("its ports are called {}", names.join(", ")),
    };
    context.error_with(node.at, format!("no port of the pod is called {}", quoted(name)), hint);
    None
}

/// Publishes a port of the box that leads to the pod's `target`.
fn publish(
    pod: &mut Placed,
    host_port: u16,
    target: u16,
    protocol: Protocol,
    at: Position,
    context: &mut Context<'_>,
) {
    match &mut pod.read.pod.network {
        Network::Host if host_port == target => {}
        Network::Host => context.error_with(
            at,
            format!("the pod uses hostNetwork, so its port {target} can't be published as {host_port}"),
            "give both the same number",
        ),
        Network::Bridge { ports, .. } => {
            let taken = |port: &&PortMapping| port.host_port == host_port && port.protocol == protocol;
            match ports.iter().find(taken) {
                Some(port) if port.container_port == target => {}
                Some(_) => context.error(at, format!("the port {host_port} of the box is used twice")),
                None => {
                    ports.push(PortMapping { host_ip: None, host_port, container_port: target, protocol });
                    ports.sort();
                }
            }
        }
    }
}

/// A name leads to the pod itself, so the port must be the pod's own. On Kubernetes it leads to an address of the Service's,
/// whose port is another's by rules in the kernel; podman has no such address, and rules on the pod's own would hide whatever
/// else listens on that port in it.
fn check_name(
    service: &str,
    pod: &Placed,
    (port, target): (u16, u16),
    at: Position,
    context: &mut Context<'_>,
) {
    if pod.read.pod.network == Network::Host {
        let hint = "use 127.0.0.1, or remove hostNetwork";
        let message = format!(
            "the pod {} uses hostNetwork, so the name of a Service can't resolve to it",
            quoted(&pod.name)
        );
        return context.error_with(at, message, hint);
    }
    if port != target {
        let hint = format!(
            "write port: {target} and have clients use {service}:{target}, which is the same on Kubernetes; or have the \
             program listen on {port}; or write type: LoadBalancer to have the port {port} of the box"
        );
        let message = format!(
            "podman can't redirect a port of a Service: the name {} leads to the pod itself, whose port is {target}, and \
             nothing there answers on {port}",
            quoted(service)
        );
        context.error_with(at, message, hint);
    }
}
