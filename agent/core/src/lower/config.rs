//! ConfigMaps and Secrets: what the app's documents give to its containers. podman has neither; what is in
//! them goes into the pods that use them.

use std::collections::{BTreeMap, BTreeSet};

use super::Document;
use super::record::Record;
use super::support::{CONFIG_MAP, SECRET};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::diagnostic::quoted;
use crate::model::decode::{Context, Decode, entries};
use crate::pod::FileContent;
use crate::release::{EnvValue, SecretRef};
use crate::secret::SecretBytes;
use crate::yaml::Node;

/// A namespace and a name in it.
pub(crate) type Name = (String, String);

/// Everything that containers can refer to by a key.
#[derive(Default)]
pub(super) struct Configs {
    maps: BTreeMap<Name, BTreeMap<String, ConfigValue>>,
    /// Only their keys: what they hold is none of a pod's business.
    secrets: BTreeMap<Name, BTreeSet<String>>,
}

#[derive(Clone)]
enum ConfigValue {
    Text(String),
    Base64(String),
}

/// Which of the two kinds is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    ConfigMap,
    Secret,
}

impl Source {
    pub(super) fn word(self) -> &'static str {
        match self {
            Source::ConfigMap => "ConfigMap",
            Source::Secret => "Secret",
        }
    }
}

impl Configs {
    pub(super) fn add_map(&mut self, document: &Document<'_>, context: &mut Context<'_>) {
        let Some(mut record) = Record::of(&CONFIG_MAP, document.node, context) else { return };
        let _ = (record.node("apiVersion"), record.node("kind"), record.node("metadata"));
        let mut values = BTreeMap::new();
        if let Some(data) = record.optional::<BTreeMap<String, String>>("data", context) {
            values.extend(data.into_iter().map(|(key, text)| (key, ConfigValue::Text(text))));
        }
        for (key, bytes) in decoded(record.node("binaryData"), context) {
            values.insert(key, ConfigValue::Base64(STANDARD.encode(&bytes)));
        }
        record.finish();
        self.maps.insert(document.name(), values);
    }

    pub(super) fn add_secret(&mut self, document: &Document<'_>, context: &mut Context<'_>) {
        if Record::of(&SECRET, document.node, context).is_some() {
            let keys = secret_values(document.node, context).into_keys().collect();
            self.secrets.insert(document.name(), keys);
        }
    }

    /// Whether there is such a ConfigMap or Secret; an error is noted if there must be one.
    pub(super) fn has(
        &self,
        source: Source,
        name: &Name,
        at: &Node,
        optional: bool,
        context: &mut Context<'_>,
    ) -> bool {
        let there = match source {
            Source::ConfigMap => self.maps.contains_key(name),
            Source::Secret => self.secrets.contains_key(name),
        };
        if !there && !optional {
            let message = format!("there is no {} {} in the app's manifests", source.word(), quoted(&name.1));
            let hint = "on podman an app has only what its own manifests give: add it there, as a template (.yaml.j2) \
                where a site or a device gives its values";
            context.error_with(at.at, message, hint);
        }
        there
    }

    /// The keys of a ConfigMap or Secret.
    pub(super) fn keys(&self, source: Source, name: &Name) -> Vec<String> {
        match source {
            Source::ConfigMap => {
                self.maps.get(name).into_iter().flat_map(|map| map.keys().cloned()).collect()
            }
            Source::Secret => self.secrets.get(name).into_iter().flatten().cloned().collect(),
        }
    }

    /// One key as the value of a variable; none if there is no such key, or if it is no text.
    pub(super) fn env(&self, source: Source, name: &Name, key: &str) -> Option<EnvValue> {
        match source {
            Source::ConfigMap => match self.maps.get(name)?.get(key)? {
                ConfigValue::Text(text) => Some(EnvValue::Plain(text.clone())),
                ConfigValue::Base64(_) => None,
            },
            Source::Secret => {
                self.secrets.get(name)?.get(key)?;
                Some(EnvValue::Secret { secret_ref: reference(name, key) })
            }
        }
    }

    /// One key as what is in a file.
    pub(super) fn file(&self, source: Source, name: &Name, key: &str) -> Option<FileContent> {
        match source {
            Source::ConfigMap => Some(match self.maps.get(name)?.get(key)? {
                ConfigValue::Text(text) => FileContent::Text(text.clone()),
                ConfigValue::Base64(text) => FileContent::Base64(text.clone()),
            }),
            Source::Secret => {
                self.secrets.get(name)?.get(key)?;
                Some(FileContent::Secret(reference(name, key)))
            }
        }
    }
}

/// What a Secret holds, by its keys: `data` in base64, and over it `stringData`.
pub(crate) fn secret_values(node: &Node, context: &mut Context<'_>) -> BTreeMap<String, SecretBytes> {
    let data = decoded(node.get("data").filter(|node| !node.is_null()), context);
    let mut values: BTreeMap<String, SecretBytes> =
        data.into_iter().map(|(key, bytes)| (key, SecretBytes::new(bytes))).collect();
    if let Some(texts) = node.get("stringData").filter(|node| !node.is_null()) {
        let texts = BTreeMap::<String, String>::decode(texts, context).unwrap_or_default();
        values.extend(texts.into_iter().map(|(key, text)| (key, SecretBytes::new(text.into_bytes()))));
    }
    values
}

/// How a key of a Secret is referred to.
pub(crate) fn reference((namespace, name): &Name, key: &str) -> SecretRef {
    SecretRef { name: format!("{namespace}/{name}"), key: key.to_owned() }
}

/// A map whose values are in base64.
fn decoded(node: Option<&Node>, context: &mut Context<'_>) -> Vec<(String, Vec<u8>)> {
    let Some(entries) = node.and_then(|node| entries(node, context)) else { return Vec::new() };
    let mut values = Vec::new();
    for entry in entries {
        let Some(text) = String::decode(&entry.node, context) else { continue };
        // kubectl takes base64 that was broken into lines.
        let text: String = text.split_ascii_whitespace().collect();
        match STANDARD.decode(text) {
            Ok(bytes) => values.push((entry.key.clone(), bytes)),
            Err(_) => context.error_with(
                entry.node.at,
                format!("the value of {} is not base64", quoted(&entry.key)),
                "encode it, or write it as text under stringData (Secret) or data (ConfigMap)",
            ),
        }
    }
    values
}
