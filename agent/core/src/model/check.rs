//! Health checks as documents write them.

use serde_json::{Value, json};

use super::decode::{Context, Decode, Whole, from_text, record, text};
use crate::diagnostic::quoted;
use crate::name::ObjectKey;
use crate::release::{Check, HttpCheck};
use crate::yaml::Node;

record! {
    /// One health check: exactly one of http and tcp.
    pub struct CheckFields, "the check" {
        /// A GET that must be answered with 200 to 399.
        "http" => http: Option<HttpCheck> = None;
        /// A connection that must be taken.
        "tcp" => tcp: Option<TcpFields> = None;
    }
}

record! {
    /// A connection that must be taken.
    pub struct TcpFields, "tcp" {
        /// Host and port, such as 127.0.0.1:5432.
        "address" => address: Address;
    }
}

record! {
    /// Where an HTTP check asks: a url, or a target with its port and path.
    pub struct HttpFields, "http" {
        /// A whole http:// URL.
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
            Err(format!("{} is not a path; it begins with '/'", quoted(text)))
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
        match (fields.url, fields.target, fields.port, fields.path) {
            (Some(url), None, None, None) => Some(HttpCheck::Url { url: url.0 }),
            (None, Some(target), Some(Whole(port)), path) => Some(HttpCheck::Target {
                target,
                // `Whole` has checked its bounds.
                port: u16::try_from(port).ok()?,
                path: path.map_or_else(|| "/".to_owned(), |path| path.0),
            }),
            _ => {
                let message = "an http check needs either a url, or a target and a port";
                context.error_with(node.at, message, "write {url: …} or {target: …, port: …, path: …}");
                None
            }
        }
    }

    fn schema() -> Value {
        HttpFields::schema()
    }
}

impl Decode for Check {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = CheckFields::decode(node, context)?;
        match (fields.http, fields.tcp) {
            (Some(http), None) => Some(Check::Http(http)),
            (None, Some(tcp)) => Some(Check::Tcp { address: tcp.address.0 }),
            _ => {
                context.error(node.at, "a check is exactly one of http and tcp");
                None
            }
        }
    }

    fn schema() -> Value {
        CheckFields::schema()
    }
}
