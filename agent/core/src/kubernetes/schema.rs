//! The schemas of Kubernetes' own kinds: fields, types, enums and required fields, as the API servers of the
//! supported releases have them. A manifest that none of them takes is refused before it is anywhere near a cluster.
//!
//! `schema.txt` is made by `scripts/kubernetes-schema.sh` from what Kubernetes publishes. It first names kinds, each
//! with the number of its type; kinds of a version that is not on by default have none, and are not looked into. Then
//! come the types, parted by empty lines, each with a field a line: its name, with `!` if it must be there, and what it
//! is (see [`Type::parse`]).

use serde_json::Value;

use crate::diagnostic::{Diagnostic, nearest, quoted};
use crate::yaml::{Entry, Node, NodeValue};

const TABLE: &str = include_str!("schema.txt");
/// The oldest release that is in the table.
const OLDEST: &str = "1.32";
/// How many errors of one object are worth reading.
const ERROR_LIMIT: usize = 50;

/// The table, as far as it is taken apart.
pub(crate) struct Schema {
    /// `apiVersion`, kind, and the number of its type.
    kinds: Vec<(&'static str, &'static str, Option<usize>)>,
    /// The lines of each type.
    types: Vec<&'static str>,
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Type {
    Text,
    Integer,
    Number,
    Boolean,
    /// A whole number or a text.
    IntegerOrText,
    /// A number, or a text such as `64Mi`.
    Quantity,
    /// Text in base64.
    Bytes,
    /// One of these, parted by `|`.
    Word(&'static str),
    /// A list of what follows.
    List(&'static str),
    /// A map from texts to what follows.
    Map(&'static str),
    /// Another type of the table.
    Record(usize),
    /// Nobody knows before the server.
    Anything,
}

impl Type {
    /// `s`, `i`, `n`, `b`, `x`, `q`, `B`; `|Always|Never`, `[` and `{` before the type of an item, `#` before the
    /// number of a type.
    fn parse(text: &'static str) -> Type {
        let rest = text.get(1..).unwrap_or_default();
        match text.as_bytes().first() {
            Some(b's') => Type::Text,
            Some(b'i') => Type::Integer,
            Some(b'n') => Type::Number,
            Some(b'b') => Type::Boolean,
            Some(b'x') => Type::IntegerOrText,
            Some(b'q') => Type::Quantity,
            Some(b'B') => Type::Bytes,
            Some(b'|') => Type::Word(rest),
            Some(b'[') => Type::List(rest),
            Some(b'{') => Type::Map(rest),
            Some(b'#') => rest.parse().map_or(Type::Anything, Type::Record),
            _ => Type::Anything,
        }
    }
}

/// A field of a type.
struct Field {
    name: &'static str,
    required: bool,
    is: Type,
}

impl Schema {
    pub(crate) fn new() -> Schema {
        let mut parts = TABLE.split("\n\n");
        let kinds = parts.next().unwrap_or_default().lines().filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?, words.next().and_then(|number| number.parse().ok())))
        });
        Schema { kinds: kinds.collect(), types: parts.collect() }
    }

    fn fields(&self, number: usize) -> impl Iterator<Item = Field> {
        self.types.get(number).copied().unwrap_or_default().lines().filter_map(|line| {
            let (name, is) = line.split_once(' ')?;
            let required = name.ends_with('!');
            Some(Field { name: name.trim_end_matches('!'), required, is: Type::parse(is) })
        })
    }

    /// Why no supported release of Kubernetes takes the object in `node`, whose `apiVersion` and `kind` are texts.
    pub(crate) fn check(&self, file: &str, node: &Node) -> Vec<Diagnostic> {
        let text = |key: &str| node.get(key).and_then(Node::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let mut check = Check { schema: self, file, errors: Vec::new() };
        match self.kinds.iter().find(|known| (known.0, known.1) == (version, kind)) {
            Some((.., Some(number))) => check.record(node, *number, &mut Vec::new()),
            Some((.., None)) => {}
            None => {
                check.errors.extend(self.unknown(file, node, version, kind));
                if let (Some(metadata), Some(number)) = (node.get("metadata"), self.metadata()) {
                    check.record(metadata, number, &mut vec!["metadata".to_owned()]);
                }
            }
        }
        check.errors
    }

    /// For each field of the record at `path` in this kind, how Kubernetes' own tools write that nothing is said: `{}`, `[]`
    /// or `""`. The name of a list or map in the path leads to what it holds.
    #[cfg(test)]
    pub(crate) fn empties(
        &self,
        version: &str,
        kind: &str,
        path: &[&str],
    ) -> Vec<(&'static str, &'static str)> {
        let known = self.kinds.iter().find(|known| (known.0, known.1) == (version, kind));
        let mut number = known.and_then(|known| known.2).unwrap_or_else(|| panic!("no {kind}"));
        for name in path {
            let field = self.fields(number).find(|field| field.name == *name);
            let mut is = field.unwrap_or_else(|| panic!("{kind} has no {name} in {path:?}")).is;
            if let Type::List(of) | Type::Map(of) = is {
                is = Type::parse(of);
            }
            let Type::Record(of) = is else { panic!("{name} in {path:?} is no record") };
            number = of;
        }
        let empty = |is| match is {
            Type::Record(_) | Type::Map(_) => Some("{}"),
            Type::List(_) => Some("[]"),
            Type::Text | Type::Word(_) => Some("\"\""),
            _ => None,
        };
        self.fields(number).filter_map(|field| Some((field.name, empty(field.is)?))).collect()
    }

    /// The type of every object's `metadata`.
    fn metadata(&self) -> Option<usize> {
        let number = self.kinds.first()?.2?;
        match self.fields(number).find(|field| field.name == "metadata")?.is {
            Type::Record(number) => Some(number),
            _ => None,
        }
    }

    /// A kind that isn't in the table is somebody's own, unless its group is one of Kubernetes'.
    fn unknown(&self, file: &str, node: &Node, version: &str, kind: &str) -> Option<Diagnostic> {
        let own = |known: &(&str, &str, Option<usize>)| group(known.0) == group(version);
        if group(version) != "extensions" && !self.kinds.iter().any(own) {
            return None;
        }
        let at = |key: &str| node.get(key).map_or(node.at, |node| node.at);
        let newest = self.kinds.iter().find(|known| known.1 == kind && known.2.is_some());
        if let Some((newest, ..)) = newest {
            let message = format!("no release of Kubernetes since {OLDEST} serves {kind} of {version}");
            return Some(
                Diagnostic::new(file, at("apiVersion"), message).hint(format!("write apiVersion: {newest}")),
            );
        }
        let message = format!("{version} has no kind {}", quoted(kind));
        let error = Diagnostic::new(file, at("kind"), message);
        Some(match nearest(kind, self.kinds.iter().map(|known| known.1)) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint(format!("no Kubernetes release since {OLDEST} has it")),
        })
    }
}

/// One object while it is looked at. `path` is where in it, for people.
struct Check<'s> {
    schema: &'s Schema,
    file: &'s str,
    errors: Vec<Diagnostic>,
}

impl Check<'_> {
    fn error(&mut self, node: crate::diagnostic::Position, message: String, hint: Option<String>) {
        if self.errors.len() < ERROR_LIMIT {
            let mut error = Diagnostic::new(self.file, node, message);
            error.hint = hint;
            self.errors.push(error);
        }
    }

    fn record(&mut self, node: &Node, number: usize, path: &mut Vec<String>) {
        let NodeValue::Mapping(entries) = &node.value else { return self.expected("a map", node, path) };
        for entry in entries {
            match self.schema.fields(number).find(|field| field.name == entry.key) {
                Some(field) => self.entry(entry, field.is, path),
                None => self.unknown_field(entry, number, path),
            }
        }
        for field in self.schema.fields(number).filter(|field| field.required) {
            if node.get(field.name).is_none_or(Node::is_null) {
                let message = format!("{} has no {}, which is required", shown(path), field.name);
                self.error(node.at, message, None);
            }
        }
    }

    fn entry(&mut self, entry: &Entry, is: Type, path: &mut Vec<String>) {
        path.push(entry.key.clone());
        self.value(&entry.node, is, path);
        path.pop();
    }

    fn unknown_field(&mut self, entry: &Entry, number: usize, path: &[String]) {
        let message = format!("unknown field {} in {}", quoted(&entry.key), shown(path));
        let near = nearest(&entry.key, self.schema.fields(number).map(|field| field.name));
        let hint = match near {
            Some(near) => format!("did you mean {near}?"),
            None => "no supported release of Kubernetes has it here".to_owned(),
        };
        self.error(entry.at, message, Some(hint));
    }

    fn value(&mut self, node: &Node, is: Type, path: &mut Vec<String>) {
        // What is null counts as left out.
        let value = match &node.value {
            NodeValue::Scalar(Value::Null) => return,
            NodeValue::Scalar(value) => Some(value),
            _ => None,
        };
        let whole = value.is_some_and(|value| value.is_i64() || value.is_u64());
        let text = value.and_then(Value::as_str);
        match is {
            Type::Anything => {}
            Type::Record(number) => self.record(node, number, path),
            Type::List(of) => self.list(node, Type::parse(of), path),
            Type::Map(of) => match &node.value {
                NodeValue::Mapping(entries) => {
                    entries.iter().for_each(|entry| self.entry(entry, Type::parse(of), path));
                }
                _ => self.expected("a map", node, path),
            },
            Type::Text | Type::Bytes if text.is_none() => self.expected("a string", node, path),
            Type::Text | Type::Bytes => {}
            Type::Integer if !whole => self.expected("a whole number", node, path),
            Type::Number if !value.is_some_and(Value::is_number) => self.expected("a number", node, path),
            Type::Boolean if !value.is_some_and(Value::is_boolean) => {
                self.expected("true or false", node, path)
            }
            Type::IntegerOrText if !whole && text.is_none() => {
                self.expected("a whole number or a string", node, path);
            }
            Type::Quantity if text.is_none() && !value.is_some_and(Value::is_number) => {
                self.expected("a quantity, such as 1 or 64Mi", node, path);
            }
            Type::Integer | Type::Number | Type::Boolean | Type::IntegerOrText | Type::Quantity => {}
            Type::Word(words) => match text {
                None => self.expected("a string", node, path),
                // An empty one is the default.
                Some(text) if text.is_empty() || words.split('|').any(|word| word == text) => {}
                Some(text) => self.no_such_word(node, text, words, path),
            },
        }
    }

    fn list(&mut self, node: &Node, of: Type, path: &mut Vec<String>) {
        let NodeValue::Sequence(items) = &node.value else { return self.expected("a list", node, path) };
        let name = path.pop().unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            path.push(format!("{name}[{index}]"));
            self.value(item, of, path);
            path.pop();
        }
        path.push(name);
    }

    fn no_such_word(&mut self, node: &Node, text: &str, words: &str, path: &[String]) {
        let message = format!("{}: {} is not one of {}", shown(path), quoted(text), words.replace('|', ", "));
        let hint = nearest(text, words.split('|')).map(|near| format!("did you mean {near}?"));
        self.error(node.at, message, hint);
    }

    fn expected(&mut self, what: &str, node: &Node, path: &[String]) {
        let is_text = node.as_str().is_some();
        let hint = match (what, &node.value) {
            ("a string", NodeValue::Scalar(_)) => Some("quote it".to_owned()),
            ("a whole number" | "a number" | "true or false", _) if is_text => {
                Some("remove the quotes, if there are any".to_owned())
            }
            _ => None,
        };
        self.error(node.at, format!("{} must be {what}, found {}", shown(path), node.kind()), hint);
    }
}

/// The group of an `apiVersion`; Kubernetes' first has none.
fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

fn shown(path: &[String]) -> String {
    if path.is_empty() { "the object".to_owned() } else { path.join(".") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Dialect, MANIFEST_LIMIT, parse};

    fn errors(text: &str) -> Vec<String> {
        let nodes = parse("f.yaml", text.as_bytes(), Dialect::Kubernetes, MANIFEST_LIMIT).unwrap();
        nodes
            .iter()
            .flat_map(|node| Schema::new().check("f.yaml", node))
            .map(|error| error.to_string())
            .collect()
    }

    fn pod(container: &str) -> Vec<String> {
        errors(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: p }}\nspec:\n  containers:\n  - {{ name: c, image: x, {container} }}\n"
        ))
    }

    #[test]
    fn every_type_of_the_table_is_there_and_can_be_read() {
        let schema = Schema::new();
        assert!(schema.kinds.iter().filter(|kind| kind.2.is_some()).count() > 50);
        let fields = (0..schema.types.len()).flat_map(|number| schema.fields(number));
        let last = |mut is: Type| loop {
            match is {
                Type::List(of) | Type::Map(of) => is = Type::parse(of),
                is => break is,
            }
        };
        let kinds = schema.kinds.iter().filter_map(|kind| kind.2.map(Type::Record));
        for is in fields.map(|field| last(field.is)).chain(kinds) {
            assert!(!matches!(is, Type::Record(number) if number >= schema.types.len()), "{is:?}");
        }
    }

    #[test]
    fn what_every_server_takes_passes() {
        assert!(pod("imagePullPolicy: '', resources: { limits: { cpu: 1, memory: 64Mi } }").is_empty());
        assert!(
            pod("ports: [ { containerPort: 80 } ], readinessProbe: { httpGet: { port: http } }").is_empty()
        );
        assert!(pod("env: [ { name: A, value: }, { name: B, value: 'yes' } ], args: []").is_empty());
    }

    #[test]
    fn a_number_or_boolean_for_a_variable_or_an_annotation_is_told_with_its_place() {
        assert_eq!(
            pod("env: [ { name: A, value: 1 } ]"),
            ["f.yaml:6:51: spec.containers[0].env[0].value must be a string, found a number (quote it)"]
        );
        let annotated =
            "apiVersion: example.com/v1\nkind: Rocket\nmetadata:\n  name: p\n  annotations:\n    a: on\n";
        for annotated in
            [annotated.to_owned(), annotated.replace("example.com/v1\nkind: Rocket", "v1\nkind: Namespace")]
        {
            assert_eq!(
                errors(&annotated),
                ["f.yaml:6:8: metadata.annotations.a must be a string, found a boolean (quote it)"]
            );
        }
    }

    #[test]
    fn unknown_fields_wrong_types_and_missing_fields_are_told() {
        assert_eq!(
            pod("imagePullPolice: Always"),
            [
                "f.yaml:6:26: unknown field \"imagePullPolice\" in spec.containers[0] (did you mean imagePullPolicy?)"
            ]
        );
        assert_eq!(
            pod("ports: [ { containerPort: '80' } ]"),
            [
                "f.yaml:6:52: spec.containers[0].ports[0].containerPort must be a whole number, found a string (remove the quotes, if there are any)"
            ]
        );
        assert_eq!(
            pod("imagePullPolicy: Allways"),
            [
                "f.yaml:6:43: spec.containers[0].imagePullPolicy: \"Allways\" is not one of Always, IfNotPresent, Never (did you mean Always?)"
            ]
        );
        assert_eq!(
            pod("volumeMounts: [ { name: v } ]"),
            ["f.yaml:6:42: spec.containers[0].volumeMounts[0] has no mountPath, which is required"]
        );
        assert_eq!(pod("args: x"), ["f.yaml:6:32: spec.containers[0].args must be a list, found a string"]);
    }

    #[test]
    fn a_kind_or_version_that_no_server_has_is_told() {
        assert_eq!(
            errors("apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: { name: a }\n"),
            [
                "f.yaml:1:13: no release of Kubernetes since 1.32 serves Ingress of extensions/v1beta1 (write apiVersion: networking.k8s.io/v1)"
            ]
        );
        assert_eq!(
            errors("apiVersion: apps/v1\nkind: Deploymnt\nmetadata: { name: a }\n"),
            ["f.yaml:2:7: apps/v1 has no kind \"Deploymnt\" (did you mean Deployment?)"]
        );
    }
}
