//! One container of a pod: what runs, its environment, its limits and rights.

use std::collections::BTreeMap;

use super::config::{Configs, Name, Source};
use super::lifecycle;
use super::probe;
use super::record::Record;
use super::support::{
    CAPABILITIES, CONTAINER, ENV, ENV_FROM, FIELD_REF, KEY_REF, MOUNT, PORT, RESOURCE_REF, RESOURCES,
    SECURITY, SOURCE_REF, VALUE_FROM,
};
use crate::diagnostic::quoted;
use crate::image::ImageReference;
use crate::model::decode::{Context, Decode, entries, from_text};
use crate::model::units::{Bytes, MilliCpu};
use crate::pod::{Container, Limits, Mount, Propagation, Protocol, Security};
use crate::release::EnvValue;
use crate::yaml::{Entry, Node, NodeValue};

/// What a container gets from its pod and from the app.
pub(super) struct Surroundings<'a> {
    pub(super) configs: &'a Configs,
    pub(super) namespace: &'a str,
    /// What `fieldRef` finds, by its path.
    pub(super) fields: &'a BTreeMap<String, String>,
    /// The rights that the pod gives to all of its containers.
    pub(super) security: &'a Security,
}

/// A port that a container names.
pub(super) struct Port {
    pub(super) node_at: crate::diagnostic::Position,
    pub(super) name: Option<String>,
    pub(super) container_port: u16,
    pub(super) host_port: Option<u16>,
    pub(super) host_ip: Option<std::net::IpAddr>,
    pub(super) protocol: Protocol,
}

/// Reads a container; none after an error was noted.
pub(super) fn read(
    node: &Node,
    around: &Surroundings<'_>,
    context: &mut Context<'_>,
) -> Option<(Container<ImageReference>, Vec<Port>)> {
    let mut record = Record::of(&CONTAINER, node, context)?;
    for key in ["stdin", "stdinOnce", "tty"] {
        record.only(key, &["false"], context);
    }
    let name = record.required::<String>("name", context);
    let image = record.required_node("image", context).and_then(|node| from_text(node, context));
    let limits = record.node("resources").and_then(|node| limits(node, context)).unwrap_or_default();
    let env = environment(&mut record, name.as_deref(), &limits, around, context);
    let command = expanded(&mut record, "command", &env, context);
    let args = expanded(&mut record, "args", &env, context);
    let ports: Vec<Port> =
        record.items("ports", context).iter().filter_map(|node| port(node, context)).collect();
    let working_dir = record.optional("workingDir", context);
    let mounts = record.items("volumeMounts", context);
    let mounts = mounts.iter().filter_map(|node| mount(node, context)).collect();
    let security = security(record.node("securityContext"), around.security, context);
    let mut read_probe = |key| record.node(key).and_then(|node| probe::read(node, &ports, context));
    let [startup, liveness, readiness] =
        ["startupProbe", "livenessProbe", "readinessProbe"].map(&mut read_probe);
    let lifecycle = lifecycle::read(record.node("lifecycle"), &ports, context);
    record.finish();
    // Only now: all of its errors are told at once.
    let (name, image) = (name?, image?);
    let container = Container {
        name,
        image,
        command,
        args,
        working_dir,
        env,
        mounts,
        limits,
        security,
        startup,
        liveness,
        readiness,
        lifecycle,
    };
    Some((container, ports))
}

/// `env` over `envFrom`. `$(NAME)` is what an earlier variable of the container has.
fn environment(
    record: &mut Record<'_>,
    container: Option<&str>,
    limits: &Limits,
    around: &Surroundings<'_>,
    context: &mut Context<'_>,
) -> BTreeMap<String, EnvValue> {
    let mut env = BTreeMap::new();
    for node in record.items("envFrom", context) {
        env_from(node, around, &mut env, context);
    }
    for node in record.items("env", context) {
        variable(node, (container, limits), around, &mut env, context);
    }
    env
}

fn env_from(
    node: &Node,
    around: &Surroundings<'_>,
    env: &mut BTreeMap<String, EnvValue>,
    context: &mut Context<'_>,
) {
    let Some(mut record) = Record::of(&ENV_FROM, node, context) else { return };
    let prefix: String = record.optional("prefix", context).unwrap_or_default();
    let sources = [("configMapRef", Source::ConfigMap), ("secretRef", Source::Secret)];
    for (key, source) in sources {
        let Some(node) = record.node(key) else { continue };
        let Some(name) = source_ref(node, source, around, context) else { continue };
        for key in around.configs.keys(source, &name) {
            if let Some(value) = around.configs.env(source, &name, &key) {
                env.insert(format!("{prefix}{key}"), value);
            }
        }
    }
    record.finish();
}

/// The ConfigMap or Secret that is meant, if it is there.
fn source_ref(
    node: &Node,
    source: Source,
    around: &Surroundings<'_>,
    context: &mut Context<'_>,
) -> Option<Name> {
    let mut record = Record::of(&SOURCE_REF, node, context)?;
    let optional = record.flag("optional", context);
    let name = record.required::<String>("name", context);
    record.finish();
    let name = (around.namespace.to_owned(), name?);
    around.configs.has(source, &name, node, optional, context).then_some(name)
}

fn variable(
    node: &Node,
    container: (Option<&str>, &Limits),
    around: &Surroundings<'_>,
    env: &mut BTreeMap<String, EnvValue>,
    context: &mut Context<'_>,
) {
    let Some(mut record) = Record::of(&ENV, node, context) else { return };
    let name = record.required::<String>("name", context);
    let plain = record.optional::<String>("value", context);
    let from = record.node("valueFrom");
    record.finish();
    let Some(name) = name else { return };
    if name.is_empty() || name.contains(['=', '\0']) {
        return context.error(node.at, format!("{} can't be the name of a variable", quoted(&name)));
    }
    let value = match (plain, from) {
        (Some(_), Some(from)) => {
            return context.error(from.at, format!("{} has both value and valueFrom", quoted(&name)));
        }
        (None, Some(from)) => value_from(from, container, around, context),
        (plain, None) => expand(&plain.unwrap_or_default(), env, node, context).map(EnvValue::Plain),
    };
    if let Some(value) = value {
        env.insert(name, value);
    }
}

fn value_from(
    node: &Node,
    container: (Option<&str>, &Limits),
    around: &Surroundings<'_>,
    context: &mut Context<'_>,
) -> Option<EnvValue> {
    let errors_before = context.errors.len();
    let mut record = Record::of(&VALUE_FROM, node, context)?;
    let sources = [
        record.node("configMapKeyRef").map(|node| (Source::ConfigMap, node)),
        record.node("secretKeyRef").map(|node| (Source::Secret, node)),
    ];
    let field = record.node("fieldRef");
    let resource = record.node("resourceFieldRef");
    record.finish();
    if let Some(node) = resource {
        return resource_ref(node, container, context).map(|number| EnvValue::Plain(number.to_string()));
    }
    if let Some((source, node)) = sources.into_iter().flatten().next() {
        return key_ref(node, source, around, context);
    }
    let Some(field) = field else {
        // What was refused was told already.
        if context.errors.len() == errors_before {
            context
                .error(node.at, "valueFrom says nothing: name a key, a field or a resource, or write value");
        }
        return None;
    };
    field_ref(field, around, context).map(EnvValue::Plain)
}

fn key_ref(
    node: &Node,
    source: Source,
    around: &Surroundings<'_>,
    context: &mut Context<'_>,
) -> Option<EnvValue> {
    let mut record = Record::of(&KEY_REF, node, context)?;
    let optional = record.flag("optional", context);
    let name = record.required::<String>("name", context);
    let key = record.required::<String>("key", context);
    record.finish();
    let (name, key) = ((around.namespace.to_owned(), name?), key?);
    if !around.configs.has(source, &name, node, optional, context) {
        return None;
    }
    let value = around.configs.env(source, &name, &key);
    if value.is_none() && !optional {
        let (name, key) = (quoted(&name.1), quoted(&key));
        let message = format!("the {} {name} has no usable value for the key {key}", source.word());
        context.error(node.at, message);
    }
    value
}

/// What a container may use, in units of `divisor`, rounded up.
fn resource_ref(
    node: &Node,
    (container, limits): (Option<&str>, &Limits),
    context: &mut Context<'_>,
) -> Option<u64> {
    let mut record = Record::of(&RESOURCE_REF, node, context)?;
    let of: Option<String> = record.optional("containerName", context);
    let resource = record.required::<String>("resource", context);
    // As with Kubernetes, whose default it is, 0 is the unit itself.
    let is_zero = |node: &Node| matches!(&node.value, NodeValue::Scalar(value) if value == 0 || value == "0");
    let divisor = record.text("divisor").filter(|node| !is_zero(node));
    record.finish();
    let resource = resource?;
    if of.is_some() && of.as_deref() != container {
        context.error_with(
            node.at,
            "the limits of another container are not available on podman",
            "write the number",
        );
        return None;
    }
    let (amount, divisor) = match resource.as_str() {
        "limits.memory" => {
            let divisor = divisor.map_or(Some(1), |node| Bytes::decode(node, context).map(|bytes| bytes.0));
            (limits.memory, divisor)
        }
        "limits.cpu" | "requests.cpu" => {
            let millis = match resource.as_str() {
                "limits.cpu" => limits.cpu_millis,
                // As with Kubernetes, what isn't asked for is the limit.
                _ => limits.cpu_request_millis.or(limits.cpu_millis),
            };
            let divisor = divisor
                .map_or(Some(1000), |node| MilliCpu::decode(node, context).map(|cpu| u64::from(cpu.0)));
            (millis.map(u64::from), divisor)
        }
        other => {
            let message = format!("{} is not available on podman", quoted(other));
            context.error_with(
                node.at,
                message,
                "available here: limits.cpu, limits.memory, requests.cpu; or write the number",
            );
            return None;
        }
    };
    let Some(amount) = amount else {
        let message = format!("the container has no {resource}");
        context.error_with(node.at, message, "write it under resources, or write the number");
        return None;
    };
    let unit = if resource == "limits.memory" { 1 } else { 1000 };
    divisor.map(|divisor| amount.div_ceil(if divisor == 0 { unit } else { divisor }))
}

fn field_ref(node: &Node, around: &Surroundings<'_>, context: &mut Context<'_>) -> Option<String> {
    let mut record = Record::of(&FIELD_REF, node, context)?;
    let path = record.required::<String>("fieldPath", context);
    record.finish();
    let path = path?;
    let value = around.fields.get(&path).cloned();
    if value.is_some() {
        return value;
    }
    // Kubernetes gives an empty text for a label that isn't there.
    if ["metadata.labels['", "metadata.annotations['"].iter().any(|start| path.starts_with(start)) {
        return Some(String::new());
    }
    if ["status.podIP", "status.podIPs"].contains(&path.as_str()) {
        let message = format!("{} is available on podman only with hostNetwork", quoted(&path));
        let hint = "the pod's own address is known only once it runs: listen on 0.0.0.0, and let others use the \
                    name of a Service";
        context.error_with(node.at, message, hint);
        return None;
    }
    let known = "metadata.name, metadata.namespace, metadata.labels['…'], metadata.annotations['…'], \
                 spec.nodeName, status.hostIP, status.hostIPs";
    context.error_with(
        node.at,
        format!("{} is not available on podman", quoted(&path)),
        format!("available here: {known}"),
    );
    None
}

/// A list of texts in which `$(NAME)` is replaced; none if it is left out or empty.
fn expanded(
    record: &mut Record<'_>,
    key: &'static str,
    env: &BTreeMap<String, EnvValue>,
    context: &mut Context<'_>,
) -> Option<Vec<String>> {
    let node = record.node(key)?;
    // As with Kubernetes, an empty list leaves the image's own.
    let texts = Vec::<String>::decode(node, context).filter(|texts| !texts.is_empty())?;
    texts.iter().map(|text| expand(text, env, node, context)).collect()
}

/// `$(NAME)` becomes the variable's value, `$$(` a `$(`; what isn't set stays as it is written (Kubernetes,
/// "Define dependent environment variables").
fn expand(
    text: &str,
    env: &BTreeMap<String, EnvValue>,
    node: &Node,
    context: &mut Context<'_>,
) -> Option<String> {
    if text.contains('\0') {
        context.error(node.at, "variables and arguments can't contain a NUL character");
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| Some((name, after, env.get(name)?))) {
            Some((_, after, EnvValue::Plain(value))) => {
                out.push_str(value);
                rest = after;
            }
            Some((name, _, EnvValue::Secret { .. })) => {
                let message = format!("$({name}) is a secret, and would be visible in plain text");
                context.error_with(node.at, message, "let the program read the variable itself");
                return None;
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Some(out)
}

fn port(node: &Node, context: &mut Context<'_>) -> Option<Port> {
    let mut record = Record::of(&PORT, node, context)?;
    let number = |number: Option<u64>| number.and_then(|number| u16::try_from(number).ok());
    let container_port = record.number::<1, 65535>("containerPort", context);
    if container_port.is_none() && record.required_node("containerPort", context).is_none() {
        return None;
    }
    let port = Port {
        node_at: node.at,
        name: record.optional("name", context),
        container_port: number(container_port)?,
        host_port: number(record.number::<1, 65535>("hostPort", context)),
        host_ip: record.text("hostIP").and_then(|node| from_text::<Address>(node, context)).map(|ip| ip.0),
        protocol: record.text("protocol").and_then(|node| protocol(node, context)).unwrap_or_default(),
    };
    record.finish();
    Some(port)
}

/// An IP address.
pub(super) struct Address(pub(super) std::net::IpAddr);

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Address).map_err(|_| format!("{} is not an IP address", quoted(text)))
    }
}

/// `TCP`, `UDP` or `SCTP`.
pub(super) fn protocol(node: &Node, context: &mut Context<'_>) -> Option<Protocol> {
    match String::decode(node, context)?.as_str() {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        other => {
            context.error(node.at, format!("{} is not one of TCP, UDP, SCTP", quoted(other)));
            None
        }
    }
}

/// What is wrong with an absolute path of a mount. A colon is what podman and Kubernetes both refuse: it separates the
/// parts of a mount where these are written in one line.
pub(super) fn fault_of(path: &str) -> Option<&'static str> {
    match path {
        _ if !path.starts_with('/') => Some("is not an absolute path: begin it with /"),
        _ if path.contains(':') => {
            Some("contains a colon, which neither podman nor Kubernetes allows in a path")
        }
        _ if path.contains('\0') => Some("contains a NUL character"),
        _ => None,
    }
}

fn mount(node: &Node, context: &mut Context<'_>) -> Option<Mount> {
    let mut record = Record::of(&MOUNT, node, context)?;
    let volume = record.required::<String>("name", context);
    let path = record.required::<String>("mountPath", context);
    let sub_path: Option<String> = record.optional("subPath", context);
    let propagation = record.text("mountPropagation").and_then(|node| propagation(node, context));
    let read_only = record.flag("readOnly", context);
    record.finish();
    let path = path?;
    if let Some(fault) = fault_of(&path) {
        context.error(node.at, format!("the mountPath {} {fault}", quoted(&path)));
        return None;
    }
    if let Some(sub) = sub_path.as_deref().filter(|sub| !is_below(sub)) {
        context.error(node.at, format!("the subPath {} leaves its volume", quoted(sub)));
        return None;
    }
    let sub_path = sub_path.filter(|sub| !sub.is_empty());
    Some(Mount { volume: volume?, path, sub_path, read_only, propagation })
}

/// Whether a relative path goes down only.
pub(super) fn is_below(path: &str) -> bool {
    !path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..")
}

fn propagation(node: &Node, context: &mut Context<'_>) -> Option<Propagation> {
    match String::decode(node, context)?.as_str() {
        "None" => None,
        "HostToContainer" => Some(Propagation::HostToContainer),
        "Bidirectional" => Some(Propagation::Bidirectional),
        other => {
            let message = format!("{} is not one of None, HostToContainer, Bidirectional", quoted(other));
            context.error(node.at, message);
            None
        }
    }
}

fn limits(node: &Node, context: &mut Context<'_>) -> Option<Limits> {
    let mut record = Record::of(&RESOURCES, node, context)?;
    let mut limits = Limits::default();
    for entry in amounts(record.node("limits"), context) {
        match entry.key.as_str() {
            "memory" => limits.memory = Bytes::decode(&entry.node, context).map(|bytes| bytes.0),
            "cpu" => limits.cpu_millis = MilliCpu::decode(&entry.node, context).map(|cpu| cpu.0),
            // What the root file system takes isn't counted.
            "ephemeral-storage" => {}
            other => context.error_with(
                entry.at,
                format!("podman can't limit {}", quoted(other)),
                "devices are given by hostPath volumes; memory and cpu are limited",
            ),
        }
    }
    for entry in amounts(record.node("requests"), context) {
        if entry.key == "cpu" {
            limits.cpu_request_millis = MilliCpu::decode(&entry.node, context).map(|cpu| cpu.0);
        }
    }
    record.finish();
    Some(limits)
}

fn amounts<'n>(node: Option<&'n Node>, context: &mut Context<'_>) -> &'n [Entry] {
    node.and_then(|node| entries(node, context)).unwrap_or(&[])
}

/// The container's own rights over those that its pod gives.
fn security(node: Option<&Node>, pod: &Security, context: &mut Context<'_>) -> Security {
    let mut security = pod.clone();
    let Some(mut record) = node.and_then(|node| Record::of(&SECURITY, node, context)) else {
        return security;
    };
    security.user = id(&mut record, "runAsUser", context).or(security.user);
    security.group = id(&mut record, "runAsGroup", context).or(security.group);
    security.non_root = record.optional("runAsNonRoot", context).unwrap_or(security.non_root);
    security.privileged = record.flag("privileged", context);
    security.read_only = record.flag("readOnlyRootFilesystem", context);
    security.no_new_privileges = record.optional("allowPrivilegeEscalation", context) == Some(false);
    record.only("procMount", &["Default"], context);
    for key in ["seccompProfile", "appArmorProfile"] {
        profile(record.node(key), key, context);
    }
    if let Some(mut capabilities) =
        record.node("capabilities").and_then(|node| Record::of(&CAPABILITIES, node, context))
    {
        security.add = capability_names(capabilities.optional("add", context));
        security.drop = capability_names(capabilities.optional("drop", context));
        capabilities.finish();
    }
    record.finish();
    if security.non_root && security.user == Some(0) {
        context.error(
            node.map_or(crate::diagnostic::Position::START, |node| node.at),
            "runAsNonRoot is set, and runAsUser is 0",
        );
    }
    security
}

fn capability_names(names: Option<Vec<String>>) -> Vec<String> {
    let mut names: Vec<String> = names
        .unwrap_or_default()
        .iter()
        .map(|name| name.to_ascii_uppercase())
        .map(|name| name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The number of a user or group.
pub(super) fn id(record: &mut Record<'_>, key: &'static str, context: &mut Context<'_>) -> Option<u32> {
    record.number::<0, 4_294_967_294>(key, context).and_then(|id| u32::try_from(id).ok())
}

/// Only podman's own profile is held.
pub(super) fn profile(node: Option<&Node>, key: &str, context: &mut Context<'_>) {
    let Some(node) = node else { return };
    if node.get("type").and_then(Node::as_str) != Some("RuntimeDefault") {
        let message = format!("podman does not support this {key}");
        context.error_with(node.at, message, "write type: RuntimeDefault, or leave it out");
    }
}
