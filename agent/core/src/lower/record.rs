//! Reading a Kubernetes object by the table of what podman can hold: what isn't in the table is unknown, what is
//! refused there is refused here, and what is held there is read here.

use std::any::TypeId;
use std::collections::BTreeSet;

use super::support::{Support, Table};
use crate::diagnostic::{Position, nearest, quoted};
use crate::model::decode::{Context, Decode, Whole, entries};
use crate::model::units::Bytes;
use crate::yaml::{Entry, Node, NodeValue};

/// The fields of one record.
pub(super) struct Record<'n> {
    table: &'static Table,
    entries: &'n [Entry],
    /// Where the record begins.
    pub(super) at: Position,
    /// What was asked for, to hold the readers to the table.
    asked: BTreeSet<&'static str>,
}

impl<'n> Record<'n> {
    /// Reads `node` by `table`; every field that podman can't hold is an error.
    pub(super) fn of(table: &'static Table, node: &'n Node, context: &mut Context<'_>) -> Option<Self> {
        let entries = entries(node, context)?;
        for entry in entries.iter().filter(|entry| !entry.node.is_null()) {
            match table.support(&entry.key) {
                Some(Support::Refused(_)) if asks_for_nothing(&entry.node) => {}
                Some(Support::Refused(why)) => context.error_with(
                    entry.at,
                    format!("podman does not support {} of {}", entry.key, table.record),
                    why,
                ),
                Some(_) => {}
                None => unknown(entry, table, context),
            }
        }
        Some(Record { table, entries, at: node.at, asked: BTreeSet::new() })
    }

    /// A text that may be left out; as with Kubernetes, an empty one is the same as none. Of a field that is no text, an empty
    /// text is an error as any other: `runAsNonRoot: ""` doesn't mean false.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'n Node> {
        self.node(key).filter(|node| node.as_str() != Some(""))
    }

    /// A field that may be left out.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        debug_assert!(
            matches!(self.table.support(key), Some(Support::Supported | Support::Partly(_))),
            "{key} of {} is read, but the table says that it isn't",
            self.table.record
        );
        self.asked.insert(key);
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
            .filter(|node| !node.is_null())
    }

    /// A value that may be left out.
    pub(super) fn optional<T: Decode + 'static>(
        &mut self,
        key: &'static str,
        context: &mut Context<'_>,
    ) -> Option<T> {
        let is_text = [TypeId::of::<String>(), TypeId::of::<Bytes>()].contains(&TypeId::of::<T>());
        let node = if is_text { self.text(key) } else { self.node(key) };
        node.and_then(|node| T::decode(node, context))
    }

    /// A value that must be there; none after an error was noted.
    pub(super) fn required<T: Decode>(&mut self, key: &'static str, context: &mut Context<'_>) -> Option<T> {
        let node = self.required_node(key, context)?;
        T::decode(node, context)
    }

    /// A field that must be there; none after an error was noted.
    pub(super) fn required_node(&mut self, key: &'static str, context: &mut Context<'_>) -> Option<&'n Node> {
        let node = self.text(key);
        if node.is_none() {
            context.error(self.at, format!("{} has no {key}, which is required", self.table.record));
        }
        node
    }

    /// `true` or `false`; `false` if it is left out.
    pub(super) fn flag(&mut self, key: &'static str, context: &mut Context<'_>) -> bool {
        self.optional(key, context).unwrap_or(false)
    }

    /// A whole number that may be left out.
    pub(super) fn number<const MIN: u64, const MAX: u64>(
        &mut self,
        key: &'static str,
        context: &mut Context<'_>,
    ) -> Option<u64> {
        self.optional::<Whole<MIN, MAX>>(key, context).map(|number| number.0)
    }

    /// The items of a list; none if it is left out.
    pub(super) fn items(&mut self, key: &'static str, context: &mut Context<'_>) -> &'n [Node] {
        let Some(node) = self.node(key) else { return &[] };
        match &node.value {
            NodeValue::Sequence(items) => items,
            _ => {
                context.expected("a list", node);
                &[]
            }
        }
    }

    /// A word that podman holds in these forms only.
    pub(super) fn only(&mut self, key: &'static str, words: &[&str], context: &mut Context<'_>) {
        let Some(node) = self.text(key) else { return };
        let written = match &node.value {
            NodeValue::Scalar(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            _ => return context.expected(&format!("one of {}", words.join(", ")), node),
        };
        if !words.contains(&written.as_str()) {
            let message =
                format!("podman does not support {key}: {} of {}", quoted(&written), self.table.record);
            context.error_with(node.at, message, format!("write {}, or leave it out", words.join(" or ")));
        }
    }

    /// Ends the reading. In tests a field that the table calls supported and nobody asked for is a defect.
    pub(super) fn finish(self) {
        if cfg!(debug_assertions) {
            for (key, support) in self.table.fields {
                let is_supported = matches!(support, Support::Supported | Support::Partly(_));
                debug_assert!(
                    !is_supported || self.asked.contains(key),
                    "the table says that {key} of {} is supported, but no code reads it",
                    self.table.record
                );
            }
        }
    }
}

/// Whether a field that podman has nothing for is written with what it is for Kubernetes when it is left out. A number is
/// not: 0 retries are a wish.
fn asks_for_nothing(node: &Node) -> bool {
    match &node.value {
        NodeValue::Sequence(items) => items.is_empty(),
        NodeValue::Mapping(entries) => entries.is_empty(),
        NodeValue::Scalar(value) => value.as_str() == Some("") || value.as_bool() == Some(false),
    }
}

fn unknown(entry: &Entry, table: &Table, context: &mut Context<'_>) {
    let message = format!("unknown field {} in {}", quoted(&entry.key), table.record);
    match nearest(&entry.key, table.names()) {
        Some(name) => context.error_with(entry.at, message, format!("did you mean {name}?")),
        None => context.error_with(
            entry.at,
            message,
            "Kubernetes has no such field here, or the field is too new for this agent",
        ),
    }
}
