//! A mapping while it is read: each key occurs once, and `<<` merges the entries of other maps.

use std::collections::HashMap;

use super::{Entry, Node, NodeValue};
use crate::diagnostic::Position;

/// A mapping that isn't closed yet.
#[derive(Default)]
pub(super) struct Mapping {
    entries: Vec<Entry>,
    /// Where each key's entry is.
    seen: HashMap<String, Occurrence>,
    /// The key whose value comes next.
    key: Option<Key>,
}

struct Occurrence {
    index: usize,
    /// It stands in the file here, and not only in what was merged.
    explicit: bool,
}

enum Key {
    Plain(Position, String),
    /// `<<`
    Merge,
    /// What can't be one.
    None,
}

/// What was merged is no map.
pub(super) struct NoMap {
    pub(super) at: Position,
    pub(super) kind: &'static str,
}

impl Mapping {
    /// Whether the next node is a key.
    pub(super) fn wants_key(&self) -> bool {
        self.key.is_none()
    }

    /// A key; false if it was there already.
    pub(super) fn key(&mut self, at: Position, key: String) -> bool {
        let duplicate = self.seen.get(&key).is_some_and(|seen| seen.explicit);
        self.key = Some(Key::Plain(at, key));
        !duplicate
    }

    /// The key `<<`.
    pub(super) fn merge_key(&mut self) {
        self.key = Some(Key::Merge);
    }

    /// A key that can't be one; its value is passed over.
    pub(super) fn no_key(&mut self) {
        self.key = Some(Key::None);
    }

    /// The value of the last key.
    pub(super) fn value(&mut self, node: Node) -> Result<(), NoMap> {
        match self.key.take() {
            Some(Key::Plain(at, key)) => {
                self.put(Entry { at, key, node }, true);
                Ok(())
            }
            Some(Key::Merge) => self.merge(node),
            Some(Key::None) | None => Ok(()),
        }
    }

    /// What is merged replaces what stands before it and is replaced by what follows, as kubectl has it; of several
    /// maps the first counts most.
    fn merge(&mut self, node: Node) -> Result<(), NoMap> {
        let maps = match node.value {
            NodeValue::Sequence(items) => items,
            _ => vec![node],
        };
        for map in maps.into_iter().rev() {
            let (at, kind) = (map.at, map.kind());
            let NodeValue::Mapping(entries) = map.value else { return Err(NoMap { at, kind }) };
            entries.into_iter().for_each(|entry| self.put(entry, false));
        }
        Ok(())
    }

    fn put(&mut self, entry: Entry, explicit: bool) {
        match self.seen.get_mut(&entry.key) {
            Some(seen) => {
                seen.explicit |= explicit;
                if let Some(before) = self.entries.get_mut(seen.index) {
                    *before = entry;
                }
            }
            None => {
                self.seen.insert(entry.key.clone(), Occurrence { index: self.entries.len(), explicit });
                self.entries.push(entry);
            }
        }
    }

    /// The entries in the order in which their keys were met.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}
