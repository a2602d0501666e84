//! Health checks as documents write them.

use std::time::Duration;

use serde_json::{Value, json};

use super::decode::{Context, Decode, Placed, Whole, from_text, record, text};
use super::units::Span;
use super::wasm::ArtifactRef;
use crate::diagnostic::{Position, quoted};
use crate::http_check::HttpCheck;
use crate::metrics::MetricsCheck;
use crate::name::ObjectKey;
use crate::probe_component::WasmCheck;
use crate::release::{Check, ExecCheck};
use crate::yaml::Node;

record! {
    /// One health check: exactly one of http, tcp, exec, wasm and metrics.
    pub struct CheckFields, "the check" {
        /// A GET that must be answered with 200 to 399.
        "http" => http: Option<HttpCheck> = None;
        /// A connection that must be accepted.
        "tcp" => tcp: Option<TcpFields> = None;
        /// A program that is run in the workload and must exit with code 0.
        "exec" => exec: Option<ExecCheck> = None;
        /// A WebAssembly program that the agent runs beside the app, and that must exit with code 0.
        "wasm" => wasm: Option<WasmCheck<ArtifactRef>> = None;
        /// Conditions on the app's Prometheus metrics over a window of time.
        "metrics" => metrics: Option<MetricsCheck> = None;
    }
}

record! {
    /// A program that is run in the workload and must exit with code 0.
    pub struct ExecFields, "exec" {
        /// An object of the app, such as Deployment/pos.
        "target" => target: ObjectKey;
        /// The container's name; the first container unless given.
        "container" => container: Option<String> = None;
        /// The program and its arguments; there is no shell.
        "command" => command: Placed<Vec<String>>;
        /// How long it may take, at most 1m.
        "timeout" => timeout: Placed<Span> = Placed { at: Position::START, value: Span(EXEC_TIMEOUT) };
    }
}

/// How long a program may take unless it is said.
const EXEC_TIMEOUT: Duration = Duration::from_secs(5);
/// A verdict waits for no program longer than this.
const LONGEST_EXEC: Duration = Duration::from_secs(60);

record! {
    /// A connection that must be accepted.
    pub struct TcpFields, "tcp" {
        /// Host and port, such as 127.0.0.1:5432.
        "address" => address: Address;
    }
}

record! {
    /// Where an HTTP check asks: a url, or a target with its port and path.
    pub struct HttpFields, "http" {
        /// A complete http:// URL.
        "url" => url: Option<Url> = None;
        /// An object of the app, such as Deployment/pos.
        "target" => target: Option<ObjectKey> = None;
        /// The port in the workload.
        "port" => port: Option<Whole<1, 65535>> = None;
        /// The path, with its leading slash.
        "path" => path: Option<UrlPath> = None;
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq)]
pub struct Address(String);

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(['/', '@', ' '])
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if whole {
            Ok(Address(text.to_owned()))
        } else {
            Err(format!("{} is not an address; write host:port", quoted(text)))
        }
    }
}
text!(Address, json!({"type": "string", "examples": ["127.0.0.1:5432"]}));

/// A `http://` URL.
#[derive(Clone, Debug, PartialEq)]
pub struct Url(String);

impl std::str::FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let authority =
            text.strip_prefix("http://").map(|rest| rest.split(['/', '?']).next().unwrap_or(rest));
        let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control());
        match authority {
            Some(authority) if clean && !authority.is_empty() && !authority.contains('@') => {
                Ok(Url(text.to_owned()))
            }
            _ => {
                Err(format!("{} is not a URL that can be checked; write http://host:port/path", quoted(text)))
            }
        }
    }
}

impl Url {
    /// The URL's text.
    pub fn into_string(self) -> String {
        self.0
    }
}
text!(Url, json!({"type": "string", "pattern": "^http://"}));

/// The path of a URL.
#[derive(Clone, Debug, PartialEq)]
pub struct UrlPath(String);

impl std::str::FromStr for UrlPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') && !text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            Ok(UrlPath(text.to_owned()))
        } else {
            Err(format!("{} is not a path; a path begins with '/'", quoted(text)))
        }
    }
}
text!(UrlPath, json!({"type": "string", "pattern": "^/"}));

impl Decode for ObjectKey {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        from_text(node, context)
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[^/]+/[^/]+(/[^/]+)?$", "examples": ["Deployment/pos"]})
    }
}

impl Decode for HttpCheck {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = HttpFields::decode(node, context)?;
        page_of(fields, "an http check", "/", node, context)
    }

    fn schema() -> Value {
        HttpFields::schema()
    }
}

/// Where a check asks; `path` unless one is given with a target.
pub(super) fn page_of(
    fields: HttpFields,
    check: &str,
    path: &str,
    node: &Node,
    context: &mut Context<'_>,
) -> Option<HttpCheck> {
    match (fields.url, fields.target, fields.port, fields.path) {
        (Some(url), None, None, None) => Some(HttpCheck::Url { url: url.0 }),
        (None, Some(target), Some(Whole(port)), given) => Some(HttpCheck::Target {
            target,
            // `Whole` has checked its bounds.
            port: u16::try_from(port).ok()?,
            path: given.map_or_else(|| path.to_owned(), |path| path.0),
        }),
        _ => {
            let message = format!("{check} needs either a url, or a target and a port");
            context.error_with(node.at, message, "write {url: …} or {target: …, port: …, path: …}");
            None
        }
    }
}

impl Decode for ExecCheck {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = ExecFields::decode(node, context)?;
        let (command, timeout) = (fields.command.value, fields.timeout.value.0);
        if command.first().is_none_or(String::is_empty) {
            let hint = "write command: [/bin/check, --quick]";
            context.error_with(fields.command.at, "the command is empty", hint);
            return None;
        }
        if timeout.is_zero() || timeout > LONGEST_EXEC {
            let message = "the timeout of a program must be more than 0s and at most 1m";
            context.error_with(fields.timeout.at, message, "write timeout: 5s");
            return None;
        }
        Some(ExecCheck { target: fields.target, container: fields.container, command, timeout })
    }

    fn schema() -> Value {
        ExecFields::schema()
    }
}

impl Decode for Check<ArtifactRef> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = CheckFields::decode(node, context)?;
        match (fields.http, fields.tcp, fields.exec, fields.wasm, fields.metrics) {
            (Some(http), None, None, None, None) => Some(Check::Http(http)),
            (None, Some(tcp), None, None, None) => Some(Check::Tcp { address: tcp.address.0 }),
            (None, None, Some(exec), None, None) => Some(Check::Exec(exec)),
            (None, None, None, Some(wasm), None) => Some(Check::Wasm(Box::new(wasm))),
            (None, None, None, None, Some(metrics)) => Some(Check::Metrics(Box::new(metrics))),
            _ => {
                context.error(node.at, "a check must have exactly one of http, tcp, exec, wasm and metrics");
                None
            }
        }
    }

    fn schema() -> Value {
        CheckFields::schema()
    }
}
