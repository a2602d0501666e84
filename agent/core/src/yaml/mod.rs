//! YAML as trees of nodes that know their place in the file.
//!
//! The parser's events are put together here, so that what the field's parsers let pass is refused with line
//! and column: duplicate keys, keys that aren't strings, aliases that explode, trees too deep or too large.

mod grammar;
mod kubernetes;
mod mapping;
mod parse;
mod scalar;
mod scan;
mod stream;
mod strict;

use serde_json::{Map, Value};

use crate::diagnostic::Position;

pub use parse::parse;

/// The largest document of Holdfast's own kinds, in bytes.
pub const DOCUMENT_LIMIT: usize = 1 << 20;
/// The largest file of manifests, in bytes. Some files of CRDs have several MiB.
pub const MANIFEST_LIMIT: usize = 8 << 20;

/// Whose rules a plain scalar is read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// YAML 1.2's core schema, and numbers with a leading zero are refused: whether `0042` is 42, 34 or a
    /// name depends on who reads it.
    Strict,
    /// As kubectl reads it, that is YAML 1.1: `0644` is octal, `yes` and `on` are booleans, `<<` merges maps, and
    /// keys may be numbers.
    Kubernetes,
}

/// One value, and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// The value.
    pub value: NodeValue,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeValue {
    /// Null, a boolean, a number or a string; never an array or an object.
    Scalar(Value),
    /// A sequence.
    Sequence(Vec<Node>),
    /// A mapping in the order of the file. No key is there twice.
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the key stands.
    pub at: Position,
    /// The key.
    pub key: String,
    /// The value.
    pub node: Node,
}

impl Node {
    /// The value of `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            NodeValue::Mapping(entries) => {
                entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
            }
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether this is null, as an empty value is.
    pub fn is_null(&self) -> bool {
        matches!(self.value, NodeValue::Scalar(Value::Null))
    }

    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Scalar(Value::Null) => "nothing",
            NodeValue::Scalar(Value::Bool(_)) => "a boolean",
            NodeValue::Scalar(Value::Number(_)) => "a number",
            NodeValue::Scalar(_) => "a string",
            NodeValue::Sequence(_) => "a list",
            NodeValue::Mapping(_) => "a map",
        }
    }

    /// The same as JSON.
    pub fn to_json(&self) -> Value {
        match &self.value {
            NodeValue::Scalar(value) => value.clone(),
            NodeValue::Sequence(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            NodeValue::Mapping(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }
}
