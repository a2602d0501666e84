//! From the parser's events to nodes, within bounds.

use std::collections::HashMap;

use serde_json::Value;

use super::grammar::{self, Event, Marks, Sink};
use super::mapping::{Mapping, NoMap};
use super::scalar::{self, BadScalar, Scalar, no_key};
use super::scan::{Scanner, Tag};
use super::stream::{Chunk, chunks};
use super::{Dialect, Node, NodeValue};
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
    // kubectl ends the last line of a file, whoever forgot to.
    let ended;
    let text = match dialect {
        Dialect::Kubernetes if !text.is_empty() && !text.ends_with('\n') => {
            ended = format!("{text}\n");
            &ended
        }
        _ => text,
    };
    let parts = match dialect {
        Dialect::Strict => vec![Chunk { text, lines_before: 0 }],
        Dialect::Kubernetes => chunks(file, text).map_err(|error| vec![error])?,
    };
    let mut builder = Builder::new(file, dialect);
    for part in parts {
        builder.documents_in_part = 0;
        let read = unprintable(&part)
            .and_then(|()| grammar::read(&mut Scanner::new(part.text, part.lines_before), &mut builder));
        if let Err(Fault { at, message, hint }) = read {
            builder.error(at, message, hint);
            return Err(builder.errors);
        }
    }
    if builder.errors.is_empty() { Ok(builder.documents) } else { Err(builder.errors) }
}

/// Characters that no YAML has, but as escapes in double quotes (YAML 1.2, chapter 5.1).
fn unprintable(part: &Chunk<'_>) -> Result<(), Fault> {
    let printable = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..);
    for (line, text) in (1..).zip(part.text.split_inclusive('\n')) {
        if let Some((column, c)) = (1..).zip(text.chars()).find(|(_, c)| !printable(*c)) {
            let at = Position { line: part.lines_before.saturating_add(line), column };
            let hint = "remove it, or write it as an escape in double quotes";
            return Err(Fault::new(at, &format!("{c:?} is not allowed in YAML")).hint(hint));
        }
    }
    Ok(())
}

/// Why the rest of a file isn't worth reading.
pub(super) struct Fault {
    at: Position,
    message: String,
    hint: Option<&'static str>,
}

impl Fault {
    /// It is no YAML.
    pub(super) fn new(at: Position, message: &str) -> Self {
        Fault { at, message: format!("not YAML: {message}"), hint: None }
    }

    /// It is none that is taken.
    fn refused(at: Position, message: &str) -> Self {
        Fault { at, message: message.to_owned(), hint: None }
    }

    pub(super) fn hint(self, hint: &'static str) -> Self {
        Fault { hint: Some(hint), ..self }
    }
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

fn place(line: usize, column: usize) -> Position {
    let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).max(1);
    Position { line: clamp(line), column: clamp(column) }
}

/// A collection that isn't closed yet.
struct Open {
    at: Position,
    anchor: Option<String>,
    kind: Kind,
}

enum Kind {
    Sequence(Vec<Node>),
    Mapping(Mapping),
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
    /// How many documents were found in the part that is read.
    documents_in_part: usize,
    open: Vec<Open>,
    anchors: HashMap<String, Anchored>,
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
            documents_in_part: 0,
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

    /// In a file of manifests, kubectl reads one document between two lines of `---`.
    fn begin_document(&mut self, at: Position) -> Result<(), Fault> {
        self.anchors.clear();
        self.documents_in_part += 1;
        if self.dialect == Dialect::Kubernetes && self.documents_in_part > 1 {
            let fault = Fault::refused(at, "a second document begins here, which kubectl would ignore");
            return Err(fault.hint("separate documents with a line of ---"));
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, plain: bool, marks: Marks, at: Position) -> Result<(), Fault> {
        self.count(at, 1)?;
        let read = read(text, plain, marks.tag.as_ref(), self.dialect);
        let is_key = self.mapping().is_some_and(|mapping| mapping.wants_key());
        let merges = self.dialect == Dialect::Kubernetes && is_merge_key(text, plain, marks.tag.as_ref());
        if is_key && merges {
            self.merge_key();
            return Ok(());
        }
        if is_key && marks.anchor.is_none() {
            self.key(at, read.and_then(|scalar| scalar.into_key(self.dialect)));
            return Ok(());
        }
        let value = read.and_then(|scalar| scalar.into_value(self.dialect)).unwrap_or_else(|bad| {
            self.error(at, bad.message, bad.hint);
            Value::Null
        });
        self.finish(Node { at, value: NodeValue::Scalar(value) }, marks.anchor)
    }

    fn mapping(&mut self) -> Option<&mut Mapping> {
        match self.open.last_mut() {
            Some(Open { kind: Kind::Mapping(mapping), .. }) => Some(mapping),
            _ => None,
        }
    }

    fn count(&mut self, at: Position, nodes: usize) -> Result<(), Fault> {
        self.nodes += nodes;
        match self.nodes > NODE_LIMIT {
            true => {
                Err(Fault::refused(at, &format!("the file has more than {NODE_LIMIT} values"))
                    .hint("split it"))
            }
            false => Ok(()),
        }
    }

    /// Tags of collections say nothing to kubectl.
    fn begin(&mut self, at: Position, marks: Marks, expected: &str, kind: Kind) -> Result<(), Fault> {
        self.count(at, 1)?;
        if self.open.len() >= DEPTH_LIMIT {
            return Err(Fault::refused(at, &format!("nested more than {DEPTH_LIMIT} deep")));
        }
        if let Some(tag) = marks.tag.filter(|tag| !matches!(tag, Tag::Own(name) if name == expected))
            && self.dialect == Dialect::Strict
        {
            let BadScalar { message, hint } = unknown_tag(&tag);
            self.error(at, message, hint);
        }
        // In it, its name means nothing yet.
        marks.anchor.as_ref().map(|name| self.anchors.remove(name));
        self.open.push(Open { at, anchor: marks.anchor, kind });
        Ok(())
    }

    fn end(&mut self, at: Position) -> Result<(), Fault> {
        let Some(open) = self.open.pop() else { return Err(Fault::new(at, "nothing is open here")) };
        let value = match open.kind {
            Kind::Sequence(items) => NodeValue::Sequence(items),
            Kind::Mapping(mapping) => NodeValue::Mapping(mapping.into_entries()),
        };
        self.finish(Node { at: open.at, value }, open.anchor)
    }

    /// Puts a finished node where it belongs: into the list or map around it, or it is a document.
    fn finish(&mut self, node: Node, anchor: Option<String>) -> Result<(), Fault> {
        if let Some(name) = anchor {
            let (nodes, bytes) = size(&node);
            self.repeat(node.at, nodes, bytes)?;
            self.anchors.insert(name, Anchored { node: node.clone(), nodes, bytes });
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None if node.is_null() => {}
            None => self.documents.push(node),
            Some(Kind::Sequence(items)) => items.push(node),
            Some(Kind::Mapping(mapping)) if mapping.wants_key() => {
                let key = match node.value {
                    NodeValue::Scalar(value) => Scalar::of(value).into_key(self.dialect),
                    _ => Err(no_key(node.kind())),
                };
                self.key(node.at, key);
            }
            Some(Kind::Mapping(mapping)) => {
                if let Err(NoMap { at, kind }) = mapping.value(node) {
                    self.error(at, format!("<< merges maps; this is {kind}"), None);
                }
            }
        }
        Ok(())
    }

    fn key(&mut self, at: Position, key: Result<String, BadScalar>) {
        let key = key.and_then(|key| match self.dialect {
            Dialect::Strict if key == "<<" => Err(BadScalar {
                message: "merge keys (<<) are not supported".to_owned(),
                hint: Some("write the fields out, or use values"),
            }),
            _ => Ok(key),
        });
        let problem = match (key, self.mapping()) {
            (Ok(key), Some(mapping)) => {
                let shown = quoted(&key);
                (!mapping.key(at, key)).then(|| BadScalar {
                    message: format!("the key {shown} is duplicated"),
                    hint: Some("remove one of them"),
                })
            }
            (Err(bad), Some(mapping)) => {
                mapping.no_key();
                Some(bad)
            }
            (_, None) => None,
        };
        if let Some(BadScalar { message, hint }) = problem {
            self.error(at, message, hint);
        }
    }

    fn merge_key(&mut self) {
        if let Some(mapping) = self.mapping() {
            mapping.merge_key();
        }
    }

    fn alias(&mut self, name: &str, at: Position) -> Result<(), Fault> {
        let Some(Anchored { node, nodes, bytes }) = self.anchors.get(name) else {
            let message =
                format!("the anchor &{name} is not defined before this alias, or the alias is inside of it");
            return Err(Fault::refused(at, &message));
        };
        let (node, nodes, bytes) = (node.clone(), *nodes, *bytes);
        if self.open.len() + depth(&node) > DEPTH_LIMIT {
            return Err(Fault::refused(at, &format!("nested more than {DEPTH_LIMIT} deep by aliases")));
        }
        self.repeat(at, nodes, bytes)?;
        self.count(at, nodes)?;
        self.finish(node, None)
    }

    fn repeat(&mut self, at: Position, nodes: usize, bytes: usize) -> Result<(), Fault> {
        self.repeated += nodes;
        self.repeated_bytes += bytes;
        if self.repeated > ALIAS_LIMIT || self.repeated_bytes > ALIAS_BYTES {
            let message = format!("anchors and aliases repeat more than {ALIAS_LIMIT} values or 1 MiB");
            return Err(Fault::refused(at, &message).hint("write the values out"));
        }
        Ok(())
    }
}

impl Sink for Builder<'_> {
    fn take(&mut self, event: Event, at: Position) -> Result<(), Fault> {
        match event {
            Event::Document => self.begin_document(at),
            Event::Scalar { text, plain, marks } => self.scalar(&text, plain, marks, at),
            Event::Sequence(marks) => self.begin(at, marks, "seq", Kind::Sequence(Vec::new())),
            Event::Mapping(marks) => self.begin(at, marks, "map", Kind::Mapping(Mapping::default())),
            Event::End => self.end(at),
            Event::Alias(name) => self.alias(&name, at),
        }?;
        match self.errors.len() >= ERROR_LIMIT {
            true => Err(Fault::refused(at, "too many errors: the file is not checked beyond this point")),
            false => Ok(()),
        }
    }
}

/// Whether a key is the `<<` of YAML 1.1.
fn is_merge_key(text: &str, plain: bool, tag: Option<&Tag>) -> bool {
    text == "<<"
        && match tag {
            None => plain,
            Some(Tag::NonSpecific) => true,
            Some(Tag::Own(name)) => name == "merge",
            Some(Tag::Other(_)) => false,
        }
}

fn read(text: &str, plain: bool, tag: Option<&Tag>, dialect: Dialect) -> Result<Scalar, BadScalar> {
    match tag {
        None if plain => scalar::plain(text, dialect),
        // "!" alone says that it is a string whatever it looks like (YAML 1.2, chapter 6.9.1).
        None | Some(Tag::NonSpecific) => Ok(Scalar::Text(text.to_owned())),
        Some(Tag::Own(name)) => scalar::tagged(text, name, dialect),
        Some(tag) if dialect == Dialect::Strict => Err(unknown_tag(tag)),
        Some(Tag::Other(_)) => Ok(Scalar::Text(text.to_owned())),
    }
}

fn unknown_tag(tag: &Tag) -> BadScalar {
    let shown = match tag {
        Tag::NonSpecific => "!".to_owned(),
        Tag::Own(name) => format!("!!{name}"),
        Tag::Other(tag) => tag.clone(),
    };
    BadScalar::new(format!("the tag {} is not known", quoted(&shown)), "leave it out")
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
