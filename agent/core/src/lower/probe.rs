//! Probes: what the agent asks a container, alike on every podman.

use std::time::Duration;

use super::container::Port;
use super::record::Record;
use super::support::{EXEC, GRPC, HEADER, HTTP_GET, PROBE, TCP_SOCKET};
use crate::diagnostic::quoted;
use crate::grpc::SERVICE_LIMIT;
use crate::model::decode::{Context, Decode, Whole};
use crate::pod::{Ask, HttpGet, Probe};
use crate::yaml::Node;

/// Reads a probe; none after an error was noted.
pub(super) fn read(node: &Node, ports: &[Port], context: &mut Context<'_>) -> Option<Probe> {
    let mut record = Record::of(&PROBE, node, context)?;
    let asks = [
        record.node("exec").map(|node| exec(node, context).map(Ask::Exec)),
        record.node("httpGet").map(|node| http(node, ports, context).map(Ask::Http)),
        record.node("tcpSocket").map(|node| tcp(node, ports, context)),
        record.node("grpc").map(|node| grpc(node, context)),
    ];
    let mut asks = asks.into_iter().flatten();
    let (first, second) = (asks.next(), asks.next());
    if first.is_none() || second.is_some() {
        context.error(node.at, "the probe must have one of exec, httpGet, tcpSocket, grpc");
    }
    // As with Kubernetes, 0 is the same as left out.
    let mut seconds = |key, default| {
        let written = record.number::<0, 86_400>(key, context).filter(|seconds| *seconds > 0);
        Duration::from_secs(written.unwrap_or(default))
    };
    let (initial_delay, period, timeout) =
        (seconds("initialDelaySeconds", 0), seconds("periodSeconds", 10), seconds("timeoutSeconds", 1));
    let mut times = |key, default| {
        let written = record.number::<0, 10_000>(key, context).filter(|times| *times > 0);
        written.and_then(|times| u32::try_from(times).ok()).unwrap_or(default)
    };
    let (success_threshold, failure_threshold) = (times("successThreshold", 1), times("failureThreshold", 3));
    record.finish();
    Some(Probe { ask: first??, initial_delay, period, timeout, success_threshold, failure_threshold })
}

/// A program; none after an error was noted.
pub(super) fn exec(node: &Node, context: &mut Context<'_>) -> Option<Vec<String>> {
    let mut record = Record::of(&EXEC, node, context)?;
    let command = record.required::<Vec<String>>("command", context);
    record.finish();
    let command = command?;
    if command.is_empty() {
        context.error(node.at, "the command is empty");
        return None;
    }
    Some(command)
}

/// A GET; none after an error was noted.
pub(super) fn http(node: &Node, ports: &[Port], context: &mut Context<'_>) -> Option<HttpGet> {
    let mut record = Record::of(&HTTP_GET, node, context)?;
    let tls = match record.text("scheme").map(|node| (node, node.as_str())) {
        None | Some((_, Some("HTTP" | ""))) => false,
        Some((_, Some("HTTPS"))) => true,
        Some((node, _)) => {
            context.error(node.at, "the scheme must be HTTP or HTTPS");
            return None;
        }
    };
    let host: Option<String> = record.optional("host", context);
    let path = record.optional("path", context).unwrap_or_else(|| "/".to_owned());
    let port = record.required_node("port", context).and_then(|node| port(node, ports, context));
    let headers =
        record.items("httpHeaders", context).iter().filter_map(|node| header(node, context)).collect();
    record.finish();
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    if path.contains([' ', '\r', '\n']) {
        context.error(node.at, format!("{} is not a valid HTTP path", quoted(&path)));
        return None;
    }
    Some(HttpGet { tls, host, port: port?, path, headers })
}

fn header(node: &Node, context: &mut Context<'_>) -> Option<(String, String)> {
    let mut record = Record::of(&HEADER, node, context)?;
    let name = record.required::<String>("name", context);
    let value: String = record.optional("value", context).unwrap_or_default();
    record.finish();
    let name = name?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\n']) {
        context.error(node.at, format!("{} is not a valid HTTP header", quoted(&name)));
        return None;
    }
    Some((name, value))
}

fn tcp(node: &Node, ports: &[Port], context: &mut Context<'_>) -> Option<Ask> {
    let mut record = Record::of(&TCP_SOCKET, node, context)?;
    let host: Option<String> = record.optional("host", context);
    let port = record.required_node("port", context).and_then(|node| port(node, ports, context));
    record.finish();
    Some(Ask::Tcp { host, port: port? })
}

fn grpc(node: &Node, context: &mut Context<'_>) -> Option<Ask> {
    let mut record = Record::of(&GRPC, node, context)?;
    let service: String = record.optional("service", context).unwrap_or_default();
    if service.len() > SERVICE_LIMIT {
        let message = format!("the name of the service is longer than {SERVICE_LIMIT} bytes");
        context.error(record.node("service").map_or(node.at, |node| node.at), message);
    }
    let port = record.required_node("port", context).and_then(|node| match node.as_str() {
        // Unlike the ports of other probes it is a number for Kubernetes too.
        Some(name) => {
            let message = format!("the port of a grpc probe must be a number, not the name {}", quoted(name));
            context.error_with(node.at, message, "write its containerPort");
            None
        }
        None => Whole::<1, 65535>::decode(node, context),
    });
    record.finish();
    Some(Ask::Grpc { port: u16::try_from(port?.0).ok()?, service })
}

/// A port by its number, or by the name that the container gives it.
pub(super) fn port(node: &Node, ports: &[Port], context: &mut Context<'_>) -> Option<u16> {
    let Some(name) = node.as_str() else {
        return Whole::<1, 65535>::decode(node, context).and_then(|port| u16::try_from(port.0).ok());
    };
    let named = ports.iter().find(|port| port.name.as_deref() == Some(name));
    let number = named.map(|port| port.container_port).or_else(|| name.parse().ok().filter(|port| *port > 0));
    if number.is_none() {
        context.error(node.at, format!("no port of the container is called {}", quoted(name)));
    }
    number
}
