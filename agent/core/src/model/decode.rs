//! From nodes to types, collecting every error on the way; and the same types as JSON Schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Position, nearest, quoted};
use crate::yaml::{Entry, Node, NodeValue};

/// What a decoder carries with it.
pub struct Context<'a> {
    file: &'a str,
    /// Whether strings may still be templates: their text isn't judged then.
    templates: bool,
    /// Everything that was wrong so far.
    pub errors: Vec<Diagnostic>,
}

impl<'a> Context<'a> {
    /// For a document in `file`.
    pub fn new(file: &'a str) -> Self {
        Context { file, templates: false, errors: Vec::new() }
    }

    /// For a part of a document whose strings are templates that nobody has rendered yet.
    pub fn with_templates(file: &'a str) -> Self {
        Context { file, templates: true, errors: Vec::new() }
    }

    /// The file that is decoded.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// Notes an error.
    pub fn error(&mut self, at: Position, message: impl Into<String>) {
        self.errors.push(Diagnostic::new(self.file, at, message));
    }

    /// Notes an error and what to do about it.
    pub fn error_with(&mut self, at: Position, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(Diagnostic::new(self.file, at, message).hint(hint));
    }

    /// Notes that `node` is of the wrong kind.
    pub fn expected(&mut self, what: &str, node: &Node) {
        let message = format!("expected {what}, found {}", node.kind());
        match &node.value {
            NodeValue::Scalar(Value::Number(_) | Value::Bool(_)) if what.contains("string") => {
                self.error_with(node.at, message, "quote it");
            }
            _ => self.error(node.at, message),
        }
    }

    /// Whether `text` is a template that is still to be rendered.
    pub fn is_pending(&self, text: &str) -> bool {
        self.templates && ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
    }
}

/// A type that documents are made of.
pub trait Decode: Sized {
    /// The value, or `None` after at least one error was noted (or while a template is to be rendered).
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self>;

    /// The JSON Schema of it (draft 2020-12).
    fn schema() -> Value;
}

/// A value with its place, for what is checked against other documents later.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed<T> {
    /// Where it stands.
    pub at: Position,
    /// The value.
    pub value: T,
}

impl<T: Decode> Decode for Placed<T> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        T::decode(node, context).map(|value| Placed { at: node.at, value })
    }

    fn schema() -> Value {
        T::schema()
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        if node.is_null() { Some(None) } else { T::decode(node, context).map(Some) }
    }

    fn schema() -> Value {
        T::schema()
    }
}

impl Decode for String {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let text = node.as_str().map(str::to_owned);
        if text.is_none() {
            context.expected("a string", node);
        }
        text
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl Decode for bool {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        match &node.value {
            NodeValue::Scalar(Value::Bool(value)) => Some(*value),
            _ => {
                context.expected("true or false", node);
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

/// A whole number between bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Decode for Whole<MIN, MAX> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let NodeValue::Scalar(Value::Number(number)) = &node.value else {
            context.expected("a whole number", node);
            return None;
        };
        let number = number.as_u64().filter(|number| (MIN..=MAX).contains(number));
        if number.is_none() {
            context.error(node.at, format!("expected a whole number from {MIN} to {MAX}"));
        }
        number.map(Whole)
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let NodeValue::Sequence(items) = &node.value else {
            context.expected("a list", node);
            return None;
        };
        // Every item is looked at before one that is wrong ends it.
        let decoded: Vec<Option<T>> = items.iter().map(|item| T::decode(item, context)).collect();
        decoded.into_iter().collect()
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

impl<T: Decode + Ord> Decode for BTreeSet<T> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        Vec::decode(node, context).map(|items: Vec<T>| items.into_iter().collect())
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema(), "uniqueItems": true})
    }
}

/// The entries of a map, or an error.
pub fn entries<'n>(node: &'n Node, context: &mut Context<'_>) -> Option<&'n [Entry]> {
    match &node.value {
        NodeValue::Mapping(entries) => Some(entries),
        _ => {
            context.expected("a map", node);
            None
        }
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let decoded: Vec<Option<(String, T)>> = entries(node, context)?
            .iter()
            .map(|entry| T::decode(&entry.node, context).map(|value| (entry.key.clone(), value)))
            .collect();
        decoded.into_iter().collect()
    }

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

/// A map whose keys are of a type of their own, with the places of its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyed<K, T>(pub BTreeMap<K, Placed<T>>);

impl<K, T> Default for Keyed<K, T> {
    fn default() -> Self {
        Keyed(BTreeMap::new())
    }
}

impl<K: FromStr<Err: Display> + Ord, T: Decode> Decode for Keyed<K, T> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let mut whole = true;
        let mut map = BTreeMap::new();
        for entry in entries(node, context)? {
            let key = entry.key.parse::<K>();
            if let Err(error) = &key {
                context.error(entry.at, error.to_string());
            }
            match (key, T::decode(&entry.node, context)) {
                (Ok(key), Some(value)) => {
                    map.insert(key, Placed { at: entry.at, value });
                }
                _ => whole = false,
            }
        }
        whole.then_some(Keyed(map))
    }

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

/// Any map, as JSON: values, whose meaning is the templates'.
impl Decode for Map<String, Value> {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        entries(node, context)?;
        match node.to_json() {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }

    fn schema() -> Value {
        json!({"type": "object"})
    }
}

/// Decodes a string by its `FromStr`.
pub fn from_text<T: FromStr<Err: Display>>(node: &Node, context: &mut Context<'_>) -> Option<T> {
    let text = String::decode(node, context)?;
    if context.is_pending(&text) {
        return None;
    }
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            context.error(node.at, T::Err::to_string(&error));
            None
        }
    }
}

/// As [`from_text`], for what may be written as a number as well.
pub fn from_text_or_number<T: FromStr<Err: Display>>(node: &Node, context: &mut Context<'_>) -> Option<T> {
    let NodeValue::Scalar(Value::Number(number)) = &node.value else { return from_text(node, context) };
    let text = Value::String(number.to_string());
    from_text(&Node { at: node.at, value: NodeValue::Scalar(text) }, context)
}

/// The fields of one record: taken out one by one; what is left at the end is unknown.
pub struct Fields<'n> {
    at: Position,
    record: &'static str,
    left: Vec<&'n Entry>,
}

impl<'n> Fields<'n> {
    /// The fields of `node`, if it is a map.
    pub fn of(record: &'static str, node: &'n Node, context: &mut Context<'_>) -> Option<Self> {
        let left = entries(node, context)?.iter().collect();
        Some(Fields { at: node.at, record, left })
    }

    fn take(&mut self, key: &str) -> Option<&'n Entry> {
        let index = self.left.iter().position(|entry| entry.key == key)?;
        Some(self.left.swap_remove(index))
    }

    /// A field that must be there.
    pub fn required<T: Decode>(&mut self, key: &str, context: &mut Context<'_>) -> Option<T> {
        match self.take(key) {
            Some(entry) if !entry.node.is_null() => T::decode(&entry.node, context),
            Some(entry) => {
                context.error(entry.at, format!("{key} of {} is empty, but it is required", self.record));
                None
            }
            None => {
                context.error(self.at, format!("{} has no {key}, which is required", self.record));
                None
            }
        }
    }

    /// A field that may be left out, or be left empty.
    pub fn optional<T: Decode>(
        &mut self,
        key: &str,
        default: impl FnOnce() -> T,
        context: &mut Context<'_>,
    ) -> Option<T> {
        match self.take(key) {
            Some(entry) if !entry.node.is_null() => T::decode(&entry.node, context),
            _ => Some(default()),
        }
    }

    /// Every field that nobody took is an error.
    pub fn finish(self, known: &[&str], context: &mut Context<'_>) {
        for entry in self.left {
            unknown_field(entry, self.record, known, context);
        }
    }
}

/// Notes an unknown field, with the name that was probably meant.
pub fn unknown_field(entry: &Entry, record: &str, known: &[&str], context: &mut Context<'_>) {
    let message = format!("unknown field {} in {record}", quoted(&entry.key));
    match nearest(&entry.key, known.iter().copied()) {
        Some(name) => context.error_with(entry.at, message, format!("did you mean {name}?")),
        None => context.error_with(entry.at, message, format!("allowed here: {}", known.join(", "))),
    }
}

/// From one declaration a struct, its decoder, and its JSON Schema.
///
/// `"key" => field: Type;` must be given; `"key" => field: Type = default;` may be left out.
macro_rules! record {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident, $called:literal {
            $(
                $(#[doc = $field_doc:literal])+
                $key:literal => $field:ident: $type:ty $(= $default:expr)?;
            )*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $field_doc])+ pub $field: $type, )*
        }

        impl $crate::model::decode::Decode for $name {
            fn decode(
                node: &$crate::yaml::Node,
                context: &mut $crate::model::decode::Context<'_>,
            ) -> Option<Self> {
                let mut fields = $crate::model::decode::Fields::of($called, node, context)?;
                $( let $field: Option<$type> = record!(@take fields, context, $key $(, $default)?); )*
                fields.finish(&[$($key),*], context);
                Some($name { $($field: $field?),* })
            }

            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                let keys = [$( record!(@required $key $(, $default)?) ),*];
                let required: Vec<&str> = keys.into_iter().flatten().collect();
                $(
                    let schema = <$type as $crate::model::decode::Decode>::schema();
                    let text = concat!($($field_doc),+);
                    properties.insert($key.to_owned(), $crate::model::decode::described(schema, text));
                )*
                let schema = serde_json::json!({
                    "type": "object",
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                });
                $crate::model::decode::described(schema, concat!($($doc),+))
            }
        }
    };
    (@take $fields:ident, $context:ident, $key:literal) => { $fields.required($key, $context) };
    (@take $fields:ident, $context:ident, $key:literal, $default:expr) => {
        $fields.optional($key, || $default, $context)
    };
    (@required $key:literal) => { Some($key) };
    (@required $key:literal, $default:expr) => { None::<&str> };
}
pub(crate) use record;

/// From one declaration an enum of words, its decoder, and its JSON Schema.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $( $word => Ok($name::$variant), )+
                    _ => Err($crate::model::decode::not_one_of(text, &[$($word),+])),
                }
            }
        }

        impl $crate::model::decode::Decode for $name {
            fn decode(
                node: &$crate::yaml::Node,
                context: &mut $crate::model::decode::Context<'_>,
            ) -> Option<Self> {
                $crate::model::decode::from_text(node, context)
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"type": "string", "enum": [$($word),+]})
            }
        }
    };
}
pub(crate) use words;

/// A type that is read from a string, or with `number` from a number as well.
macro_rules! text {
    ($type:ty, $schema:expr) => { text!(@by from_text, $type, $schema); };
    ($type:ty, number, $schema:expr) => { text!(@by from_text_or_number, $type, $schema); };
    (@by $read:ident, $type:ty, $schema:expr) => {
        impl $crate::model::decode::Decode for $type {
            fn decode(
                node: &$crate::yaml::Node,
                context: &mut $crate::model::decode::Context<'_>,
            ) -> Option<Self> {
                $crate::model::decode::$read(node, context)
            }

            fn schema() -> serde_json::Value {
                $schema
            }
        }
    };
}
pub(crate) use text;

/// The message for a word that isn't one of the known ones.
pub fn not_one_of(text: &str, words: &[&str]) -> String {
    format!("{} is not one of {}", quoted(text), words.join(", "))
}

/// A schema with a description: the words of the documentation.
pub fn described(mut schema: Value, text: &str) -> Value {
    if let Value::Object(map) = &mut schema {
        map.insert("description".to_owned(), Value::from(text.trim()));
    }
    schema
}
