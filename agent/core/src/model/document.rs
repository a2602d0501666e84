//! The documents of a repository as CONTRACT fixes them: what all have in common; Fleet, Site, Device.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::app::App;
use super::decode::{Context, Decode, Keyed, Placed, record, text, unknown_field};
use super::order::{Purge, PurgeSpec, Stop, StopSpec};
use super::policy::PolicyFields;
use super::selector::{GivenLabels, Selector};
use crate::diagnostic::{Diagnostic, Position, quoted, sorted};
use crate::name::{AppName, DeviceName, SiteName};
use crate::yaml::{DOCUMENT_LIMIT, Dialect, Entry, Node, NodeValue, parse};

/// The version of the documents that this agent reads.
pub const API_VERSION: &str = "holdfast.dev/v1alpha1";

/// Values for templates.
pub type Values = Map<String, Value>;

const LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
const PATH: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(/[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";
text!(AppName, json!({"type": "string", "maxLength": 63, "pattern": LABEL}));
text!(SiteName, json!({"type": "string", "maxLength": 253, "pattern": PATH}));
text!(DeviceName, json!({"type": "string", "maxLength": 253, "pattern": PATH}));

record! {
    /// The document's name, labels and annotations.
    pub struct Metadata, "metadata" {
        /// The document's name. Apps, sites and devices are named by their path.
        "name" => name: Placed<String>;
        /// Labels that selectors match.
        "labels" => labels: GivenLabels = GivenLabels::default();
        /// Anything else, for people and tools. Holdfast ignores it.
        "annotations" => annotations: BTreeMap<String, String> = BTreeMap::new();
    }
}

record! {
    /// Values for one app.
    pub struct AppValues, "the app's entry" {
        /// Values, merged over the layers below.
        "values" => values: Values = Values::new();
    }
}

/// Values for apps, by their names.
pub type AppLayers = Keyed<AppName, AppValues>;

record! {
    /// Values for some boxes of the fleet.
    pub struct Group, "the group" {
        /// The name that messages use.
        "name" => name: String;
        /// Which boxes it applies to.
        "when" => when: Selector;
        /// Values for every app.
        "values" => values: Values = Values::new();
        /// Values for one app, merged over `values`.
        "apps" => apps: AppLayers = AppLayers::default();
        /// When and how much these boxes may be changed; overrides the fleet's policy.
        "policy" => policy: PolicyFields = PolicyFields::none();
    }
}

record! {
    /// What applies to the whole fleet.
    pub struct FleetSpec, "spec" {
        /// Values for every app.
        "values" => values: Values = Values::new();
        /// Values for one app, merged over `values`.
        "apps" => apps: AppLayers = AppLayers::default();
        /// Values and policy for some boxes; they apply in this order.
        "groups" => groups: Vec<Group> = Vec::new();
        /// When and how much boxes may be changed.
        "policy" => policy: PolicyFields = PolicyFields::none();
    }
}

record! {
    /// What applies to a site.
    pub struct SiteSpec, "spec" {
        /// Values for every app.
        "values" => values: Values = Values::new();
        /// Values for one app, merged over `values`.
        "apps" => apps: AppLayers = AppLayers::default();
        /// When and how much its boxes may be changed; overrides the fleet's policy.
        "policy" => policy: PolicyFields = PolicyFields::none();
    }
}

record! {
    /// What applies to one box.
    pub struct DeviceSpec, "spec" {
        /// The site that it belongs to.
        "site" => site: Option<Placed<SiteName>> = None;
        /// Values for every app.
        "values" => values: Values = Values::new();
        /// Values for one app, merged over `values`.
        "apps" => apps: AppLayers = AppLayers::default();
        /// When and how much this box may be changed; overrides its site's policy.
        "policy" => policy: PolicyFields = PolicyFields::none();
    }
}

/// The whole fleet: `holdfast.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: FleetSpec,
}

/// A place with boxes: `sites/<name>.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: SiteSpec,
}

/// A box: `devices/<name>.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: DeviceSpec,
}

/// A kind of document.
pub trait Document: Sized {
    /// As `kind` has it.
    const KIND: &'static str;
    /// What it is, in one sentence.
    const ABOUT: &'static str;
    /// Its `spec`.
    type Spec: Decode;
    /// Whether a document may leave `spec` out.
    const SPEC_OPTIONAL: bool;
    /// What it must be called.
    type Name: FromStr<Err: std::fmt::Display>;

    /// From its parts.
    fn new(metadata: Metadata, spec: Self::Spec) -> Self;
}

macro_rules! document {
    ($type:ident, $spec:ty, $name:ty, $optional:literal, $about:literal) => {
        impl Document for $type {
            const KIND: &'static str = stringify!($type);
            const ABOUT: &'static str = $about;
            type Spec = $spec;
            const SPEC_OPTIONAL: bool = $optional;
            type Name = $name;

            fn new(metadata: Metadata, spec: $spec) -> Self {
                $type { metadata, spec }
            }
        }
    };
}
document!(Fleet, FleetSpec, AppName, true, "The whole fleet: holdfast.yaml.");
document!(Site, SiteSpec, SiteName, true, "A place with boxes: sites/<name>.yaml.");
document!(Device, DeviceSpec, DeviceName, true, "A box: devices/<name>.yaml.");
document!(Stop, StopSpec, AppName, false, "An emergency stop: stops/<name>.yaml.");
document!(
    Purge,
    PurgeSpec,
    AppName,
    false,
    "Permission to remove orphaned objects that hold data: purges/<name>.yaml."
);
document!(App, super::app::AppSpec, AppName, false, "An app: apps/<name>/app.yaml.");

/// The one document in a file, as a tree.
pub fn read_one(file: &str, bytes: &[u8]) -> Result<Node, Vec<Diagnostic>> {
    let mut documents = parse(file, bytes, Dialect::Strict, DOCUMENT_LIMIT)?.into_iter();
    match (documents.next(), documents.next()) {
        (Some(node), None) => Ok(node),
        (None, _) => {
            Err(vec![Diagnostic::of_file(file, "the file is empty").hint("it must hold one document")])
        }
        (Some(_), Some(second)) => {
            let message = "a second document in this file";
            Err(vec![Diagnostic::new(file, second.at, message).hint("give each document a file of its own")])
        }
    }
}

/// Reads the document in `bytes`. With `expected` its name must be that.
pub fn read<D: Document>(file: &str, bytes: &[u8], expected: Option<&str>) -> Result<D, Vec<Diagnostic>> {
    let node = read_one(file, bytes)?;
    from_node(file, &node, expected)
}

/// Reads a document from its tree. With `expected` its name must be that.
pub fn from_node<D: Document>(file: &str, node: &Node, expected: Option<&str>) -> Result<D, Vec<Diagnostic>> {
    let mut context = Context::new(file);
    let document = decode::<D>(node, expected, &mut context);
    match document {
        Some(document) if context.errors.is_empty() => Ok(document),
        _ => Err(sorted(context.errors)),
    }
}

const TOP: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

fn decode<D: Document>(node: &Node, expected: Option<&str>, context: &mut Context<'_>) -> Option<D> {
    let NodeValue::Mapping(entries) = &node.value else {
        context.expected("a document", node);
        return None;
    };
    check_type(node, "apiVersion", API_VERSION, context)?;
    check_type(node, "kind", D::KIND, context)?;
    let mut metadata = None;
    let mut spec = None;
    for entry in entries {
        match entry.key.as_str() {
            "metadata" => metadata = Metadata::decode(&entry.node, context),
            "spec" if D::SPEC_OPTIONAL && entry.node.is_null() => {}
            "spec" => spec = Some(D::Spec::decode(&entry.node, context)),
            "apiVersion" | "kind" => {}
            _ => unknown_field(entry, "the document", &TOP, context),
        }
    }
    if node.get("metadata").is_none() {
        context.error(node.at, "the document has no metadata; metadata.name is required");
    }
    if let Some(metadata) = &metadata {
        check_name::<D>(&metadata.name, expected, context);
    }
    let spec = match spec {
        Some(spec) => spec,
        None if D::SPEC_OPTIONAL => D::Spec::decode(&empty(node.at), context),
        None => {
            context.error(node.at, "the document has no spec, which is required");
            None
        }
    };
    Some(D::new(metadata?, spec?))
}

/// A wrong `apiVersion` or `kind` makes every other error meaningless, so it stands alone.
fn check_type(node: &Node, key: &str, expected: &str, context: &mut Context<'_>) -> Option<()> {
    let Some(found) = node.get(key) else {
        context.error_with(node.at, format!("the document has no {key}"), format!("write {key}: {expected}"));
        return None;
    };
    if found.as_str() == Some(expected) {
        return Some(());
    }
    let found_text = found.as_str().map_or_else(|| found.kind().to_owned(), quoted);
    context.error_with(
        found.at,
        format!("{key} is {found_text}; here it must be {expected}"),
        format!("write {key}: {expected}"),
    );
    None
}

fn check_name<D: Document>(name: &Placed<String>, expected: Option<&str>, context: &mut Context<'_>) {
    if let Err(error) = name.value.parse::<D::Name>() {
        context.error(name.at, error.to_string());
    } else if let Some(expected) = expected
        && name.value != expected
    {
        let message = format!("the name {} doesn't match the file's path", quoted(&name.value));
        context.error_with(name.at, message, format!("the path requires the name {expected}"));
    }
}

fn empty(at: Position) -> Node {
    Node { at, value: NodeValue::Mapping(Vec::<Entry>::new()) }
}

/// The JSON Schema of a kind (draft 2020-12).
pub fn schema_of<D: Document>() -> Value {
    let mut required = vec!["apiVersion", "kind", "metadata"];
    if !D::SPEC_OPTIONAL {
        required.push("spec");
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": D::KIND,
        "description": D::ABOUT,
        "type": "object",
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": D::KIND},
            "metadata": Metadata::schema(),
            "spec": D::Spec::schema(),
        },
        "required": required,
        "additionalProperties": false,
    })
}
