//! From the parser's events to nodes, within bounds.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use serde_json::Value;

use super::{Dialect, Entry, Node, NodeValue, scalar};
use crate::diagnostic::{Diagnostic, Position, quoted};

/// How deep maps and lists may be nested. Deeper trees would be walked on a stack that has an end.
const DEPTH_LIMIT: usize = 64;
/// How many nodes a file may have, aliases followed.
const NODE_LIMIT: usize = 400_000;
/// How many nodes anchors may keep and aliases may repeat.
const ALIAS_LIMIT: usize = 10_000;
/// How many bytes of text anchors may keep and aliases may repeat.
const ALIAS_BYTES: usize = 1 << 20;
/// How many errors are worth reading.
const ERROR_LIMIT: usize = 100;

/// Every document in `bytes`, in order; empty ones are left out. Files over `limit` bytes are refused
/// unread. What can be read beside an error is not returned: a file is whole or it is wrong.
pub fn parse(file: &str, bytes: &[u8], dialect: Dialect, limit: usize) -> Result<Vec<Node>, Vec<Diagnostic>> {
    if bytes.len() > limit {
        let message = format!("the file has {} bytes; at most {limit} are read", bytes.len());
        return Err(vec![Diagnostic::of_file(file, message).hint("split it")]);
    }
    let text = utf8(file, bytes).map_err(|error| vec![error])?;
    let mut builder = Builder::new(file, dialect);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let result = match event {
            Ok((event, span)) => builder.take(event, position(&span.start)),
            Err(error) => {
                builder.error(position(error.marker()), format!("not YAML: {}", error.info()), None);
                break;
            }
        };
        if result.is_err() || builder.errors.len() >= ERROR_LIMIT {
            break;
        }
    }
    if builder.errors.is_empty() { Ok(builder.documents) } else { Err(builder.errors) }
}

fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostic> {
    // A byte order mark is allowed at the beginning (YAML 1.2, chapter 5.2).
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line_start = good.iter().rposition(|b| *b == b'\n').map_or(0, |index| index + 1);
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&good[line_start..]).chars().count() + 1;
        Diagnostic::new(file, place(line, column), "the file is not UTF-8 from here on")
            .hint("save it as UTF-8")
    })
}

fn position(marker: &Marker) -> Position {
    place(marker.line(), marker.col() + 1)
}

fn place(line: usize, column: usize) -> Position {
    let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).max(1);
    Position { line: clamp(line), column: clamp(column) }
}

/// The rest of the file isn't worth reading.
struct Stop;

/// A collection that isn't closed yet.
struct Open {
    at: Position,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, seen: HashSet<String>, key: Option<(Position, String)> },
}

/// A subtree that an alias may repeat, and what that costs.
struct Anchored {
    node: Node,
    nodes: usize,
    bytes: usize,
}

struct Builder<'a> {
    file: &'a str,
    dialect: Dialect,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    repeated: usize,
    repeated_bytes: usize,
    errors: Vec<Diagnostic>,
}

impl<'a> Builder<'a> {
    fn new(file: &'a str, dialect: Dialect) -> Self {
        Builder {
            file,
            dialect,
            documents: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            repeated: 0,
            repeated_bytes: 0,
            errors: Vec::new(),
        }
    }

    fn error(&mut self, at: Position, message: impl Into<String>, hint: Option<&str>) {
        let mut diagnostic = Diagnostic::new(self.file, at, message);
        diagnostic.hint = hint.map(str::to_owned);
        self.errors.push(diagnostic);
    }

    fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), at);
                self.count(at, 1)?;
                self.finish(Node { at, value: NodeValue::Scalar(value) }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", at);
                self.begin(at, anchor, Kind::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", at);
                let kind = Kind::Mapping { entries: Vec::new(), seen: HashSet::new(), key: None };
                self.begin(at, anchor, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Value {
        let result = match tag {
            Some(tag) if tag.is_yaml_core_schema() => scalar::tagged(text, &tag.suffix, self.dialect),
            Some(tag) if !(tag.handle.is_empty() && tag.suffix == "!") => {
                self.error(
                    at,
                    format!("the tag {} is not known", quoted(&tag.to_string())),
                    Some("leave it out"),
                );
                return Value::Null;
            }
            // "!" alone says that it is a string whatever it looks like (YAML 1.2, chapter 6.9.1).
            Some(_) => Ok(Value::String(text.to_owned())),
            None if style == ScalarStyle::Plain => scalar::plain(text, self.dialect),
            None => Ok(Value::String(text.to_owned())),
        };
        result.unwrap_or_else(|bad| {
            self.error(at, bad.message, bad.hint);
            Value::Null
        })
    }

    fn check_tag(&mut self, tag: Option<&Tag>, expected: &str, at: Position) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == expected)
        {
            self.error(
                at,
                format!("the tag {} is not known", quoted(&tag.to_string())),
                Some("leave it out"),
            );
        }
    }

    fn count(&mut self, at: Position, nodes: usize) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes > NODE_LIMIT {
            self.error(at, format!("the file has more than {NODE_LIMIT} values"), Some("split it"));
            return Err(Stop);
        }
        Ok(())
    }

    fn begin(&mut self, at: Position, anchor: usize, kind: Kind) -> Result<(), Stop> {
        self.count(at, 1)?;
        if self.open.len() >= DEPTH_LIMIT {
            self.error(at, format!("nested more than {DEPTH_LIMIT} deep"), None);
            return Err(Stop);
        }
        self.open.push(Open { at, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        // The parser closes only what it opened; without a bug of its own there is always one.
        let Some(open) = self.open.pop() else { return Err(Stop) };
        let value = match open.kind {
            Kind::Sequence(items) => NodeValue::Sequence(items),
            Kind::Mapping { entries, .. } => NodeValue::Mapping(entries),
        };
        self.finish(Node { at: open.at, value }, open.anchor)
    }

    /// Puts a finished node where it belongs: into the list or map around it, or it is a document.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        if anchor > 0 {
            let (nodes, bytes) = size(&node);
            self.repeat(node.at, nodes, bytes)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, bytes });
        }
        let Some(open) = self.open.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut open.kind {
            Kind::Sequence(items) => items.push(node),
            Kind::Mapping { entries, key: key @ Some(_), .. } => {
                if let Some((at, key)) = key.take() {
                    entries.push(Entry { at, key, node });
                }
            }
            Kind::Mapping { key: None, .. } => self.key(node),
        }
        Ok(())
    }

    fn key(&mut self, node: Node) {
        let (key, problem) = match node.value {
            NodeValue::Scalar(Value::String(key)) if key == "<<" => {
                let message = "merge keys (<<) are not supported";
                (key, Some((message.to_owned(), "write the fields out, or use values")))
            }
            NodeValue::Scalar(Value::String(key)) => (key, None),
            _ => {
                let message = format!("a key must be a string; this is {}", node.kind());
                (String::new(), Some((message, "quote it")))
            }
        };
        let mut duplicate = false;
        if let Some(Open { kind: Kind::Mapping { seen, key: slot, .. }, .. }) = self.open.last_mut() {
            duplicate = problem.is_none() && !seen.insert(key.clone());
            *slot = Some((node.at, key.clone()));
        }
        if let Some((message, hint)) = problem {
            self.error(node.at, message, Some(hint));
        }
        if duplicate {
            self.error(
                node.at,
                format!("the key {} is here twice", quoted(&key)),
                Some("remove one of them"),
            );
        }
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Stop> {
        let Some(Anchored { node, nodes, bytes }) = self.anchors.get(&anchor) else {
            self.error(at, "the alias stands inside of what it repeats, or in another document", None);
            return Err(Stop);
        };
        let (node, nodes, bytes) = (node.clone(), *nodes, *bytes);
        if self.open.len() + depth(&node) > DEPTH_LIMIT {
            self.error(at, format!("nested more than {DEPTH_LIMIT} deep by aliases"), None);
            return Err(Stop);
        }
        self.repeat(at, nodes, bytes)?;
        self.count(at, nodes)?;
        self.finish(node, 0)
    }

    fn repeat(&mut self, at: Position, nodes: usize, bytes: usize) -> Result<(), Stop> {
        self.repeated += nodes;
        self.repeated_bytes += bytes;
        if self.repeated > ALIAS_LIMIT || self.repeated_bytes > ALIAS_BYTES {
            let message = format!("anchors and aliases repeat more than {ALIAS_LIMIT} values or 1 MiB");
            self.error(at, message, Some("write the values out"));
            return Err(Stop);
        }
        Ok(())
    }
}

/// Nodes and bytes of text in a tree.
fn size(node: &Node) -> (usize, usize) {
    let sum = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
    match &node.value {
        NodeValue::Scalar(Value::String(text)) => (1, text.len()),
        NodeValue::Scalar(_) => (1, 0),
        NodeValue::Sequence(items) => items.iter().map(size).fold((1, 0), sum),
        NodeValue::Mapping(entries) => {
            entries.iter().map(|entry| sum(size(&entry.node), (1, entry.key.len()))).fold((1, 0), sum)
        }
    }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        NodeValue::Scalar(_) => 0,
        NodeValue::Sequence(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        NodeValue::Mapping(entries) => 1 + entries.iter().map(|e| depth(&e.node)).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
