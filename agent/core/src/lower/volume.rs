//! The volumes of a pod.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{Configs, Name, Source};
use super::container::{fault_of, is_below};
use super::record::Record;
use super::support::{
    CLAIM_SOURCE, CONFIG_MAP_SOURCE, EMPTY_DIR, HOST_PATH, ITEM, PROJECTED, PROJECTED_SOURCE, PROJECTION,
    SECRET_SOURCE, VOLUME,
};
use crate::diagnostic::quoted;
use crate::model::decode::{Context, Decode, Whole};
use crate::model::units::Bytes;
use crate::name::ObjectKey;
use crate::pod::{ConfigFile, HostPathKind, Volume};
use crate::yaml::Node;

/// The permissions of files for which none are written.
const DEFAULT_MODE: u32 = 0o644;

/// What the volumes of a pod can refer to.
pub(super) struct Sources<'a> {
    pub(super) configs: &'a Configs,
    /// Every claim of the app.
    pub(super) claims: &'a BTreeSet<Name>,
    /// Claims of the workload's own, by the name of the volume.
    pub(super) own_claims: &'a BTreeMap<String, ObjectKey>,
    pub(super) namespace: &'a str,
}

/// Reads one volume: its name, and what it is.
pub(super) fn read(
    node: &Node,
    sources: &Sources<'_>,
    context: &mut Context<'_>,
) -> Option<(String, Volume)> {
    let mut record = Record::of(&VOLUME, node, context)?;
    let name = record.required::<String>("name", context);
    let mut found = Vec::new();
    if let Some(node) = record.node("persistentVolumeClaim") {
        found.push(claim(node, sources, context));
    }
    if let Some(node) = record.node("emptyDir") {
        found.push(empty_dir(node, context));
    }
    if let Some(node) = record.node("hostPath") {
        found.push(host_path(node, context));
    }
    if let Some(node) = record.node("configMap") {
        found.push(files(node, Source::ConfigMap, sources, context));
    }
    if let Some(node) = record.node("secret") {
        found.push(files(node, Source::Secret, sources, context));
    }
    if let Some(node) = record.node("projected") {
        found.push(projected(node, sources, context));
    }
    record.finish();
    let count = found.len();
    match (name, found.pop()) {
        (Some(name), Some(volume)) if count == 1 => volume.map(|volume| (name, volume)),
        // As with Kubernetes, a volume of which nothing more is said is an empty folder.
        (Some(name), None) if says_nothing(node) => Some((name, Volume::Empty { memory: false, size: None })),
        (Some(name), _) => {
            let told = context.errors.iter().any(|error| error.line >= node.at.line);
            if count != 1 && !told {
                context.error(node.at, format!("the volume {} must have exactly one type", quoted(&name)));
            }
            None
        }
        (None, _) => None,
    }
}

fn says_nothing(node: &Node) -> bool {
    let known =
        |(field, _): &(&str, _)| *field != "name" && node.get(field).is_some_and(|node| !node.is_null());
    !VOLUME.fields.iter().any(known)
}

fn claim(node: &Node, sources: &Sources<'_>, context: &mut Context<'_>) -> Option<Volume> {
    let mut record = Record::of(&CLAIM_SOURCE, node, context)?;
    let name = record.required::<String>("claimName", context);
    record.only("readOnly", &["false"], context);
    record.finish();
    let name = (sources.namespace.to_owned(), name?);
    if !sources.claims.contains(&name) {
        let message = format!("there is no PersistentVolumeClaim {} in the app's manifests", quoted(&name.1));
        let hint = "on podman an app has only what its own manifests give: add the claim there, or use hostPath for a \
            folder of the box";
        context.error_with(node.at, message, hint);
        return None;
    }
    Some(Volume::Claim(claim_key(name)))
}

/// The object that a claim is.
pub(super) fn claim_key((namespace, name): Name) -> ObjectKey {
    ObjectKey { kind: "PersistentVolumeClaim".to_owned(), namespace: Some(namespace), name }
}

fn empty_dir(node: &Node, context: &mut Context<'_>) -> Option<Volume> {
    let mut record = Record::of(&EMPTY_DIR, node, context)?;
    record.only("medium", &["", "Memory"], context);
    let memory = record.text("medium").and_then(Node::as_str) == Some("Memory");
    let size = record.optional::<Bytes>("sizeLimit", context).map(|bytes| bytes.0);
    record.finish();
    Some(Volume::Empty { memory, size })
}

fn host_path(node: &Node, context: &mut Context<'_>) -> Option<Volume> {
    let mut record = Record::of(&HOST_PATH, node, context)?;
    let path = record.required::<String>("path", context);
    let kind = record.text("type").map_or(Some(HostPathKind::Any), |node| host_path_kind(node, context));
    record.finish();
    let path = path?;
    let leaves = path.split('/').any(|part| part == "..");
    if let Some(fault) = fault_of(&path).or_else(|| leaves.then_some("contains ..: write the resolved path"))
    {
        context.error(node.at, format!("the hostPath {} {fault}", quoted(&path)));
        return None;
    }
    Some(Volume::Host { path, kind: kind? })
}

fn host_path_kind(node: &Node, context: &mut Context<'_>) -> Option<HostPathKind> {
    const KINDS: [(&str, HostPathKind); 8] = [
        ("", HostPathKind::Any),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    let text = String::decode(node, context)?;
    let kind = KINDS.into_iter().find(|(word, _)| *word == text).map(|(_, kind)| kind);
    if kind.is_none() {
        let words = KINDS[1..].iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        context.error(node.at, format!("{} is not one of {words}", quoted(&text)));
    }
    kind
}

/// A configMap or secret volume.
fn files(node: &Node, source: Source, sources: &Sources<'_>, context: &mut Context<'_>) -> Option<Volume> {
    let (table, name_key) = match source {
        Source::ConfigMap => (&CONFIG_MAP_SOURCE, "name"),
        Source::Secret => (&SECRET_SOURCE, "secretName"),
    };
    let mut record = Record::of(table, node, context)?;
    let mode = record.node("defaultMode").map_or(Some(DEFAULT_MODE), |node| mode(node, context));
    let found = source_files(&mut record, name_key, source, sources, context);
    record.finish();
    let mode = mode?;
    Some(Volume::Files(with_modes(found?, mode)))
}

/// Files of which some have permissions of their own.
type Files = BTreeMap<String, (Option<u32>, crate::pod::FileContent)>;

fn with_modes(files: Files, default: u32) -> BTreeMap<String, ConfigFile> {
    let whole =
        |(path, (mode, content))| (path, ConfigFile { mode: Option::unwrap_or(mode, default), content });
    files.into_iter().map(whole).collect()
}

/// The files that a ConfigMap or Secret gives: all of its keys, or its `items`.
fn source_files(
    record: &mut Record<'_>,
    name_key: &'static str,
    source: Source,
    sources: &Sources<'_>,
    context: &mut Context<'_>,
) -> Option<Files> {
    let optional = record.flag("optional", context);
    let at = record.required_node(name_key, context)?;
    let name = (sources.namespace.to_owned(), String::decode(at, context)?);
    let items = record.items("items", context);
    if !sources.configs.has(source, &name, at, optional, context) {
        return optional.then(Files::new);
    }
    let content = |key: &str| sources.configs.file(source, &name, key);
    if items.is_empty() {
        let keys = sources.configs.keys(source, &name);
        return Some(
            keys.into_iter().filter_map(|key| Some((key.clone(), (None, content(&key)?)))).collect(),
        );
    }
    let mut files = Files::new();
    for node in items {
        let Some((key, path, mode)) = item(node, context) else { continue };
        match content(&key) {
            Some(content) => {
                files.insert(path, (mode, content));
            }
            None if optional => {}
            None => context.error(node.at, format!("{} has no key {}", quoted(&name.1), quoted(&key))),
        }
    }
    Some(files)
}

fn item(node: &Node, context: &mut Context<'_>) -> Option<(String, String, Option<u32>)> {
    let mut record = Record::of(&ITEM, node, context)?;
    let key = record.required::<String>("key", context);
    let path = record.required::<String>("path", context);
    let mode = record.node("mode").and_then(|node| mode(node, context));
    record.finish();
    let path = path?;
    if path.is_empty() || !is_below(&path) {
        context.error(node.at, format!("the path {} leaves its volume", quoted(&path)));
        return None;
    }
    Some((key?, path, mode))
}

/// Permissions: YAML 1.1 reads `0644` as octal, and JSON has the decimal number.
fn mode(node: &Node, context: &mut Context<'_>) -> Option<u32> {
    Whole::<0, 0o777>::decode(node, context).and_then(|mode| u32::try_from(mode.0).ok())
}

fn projected(node: &Node, sources: &Sources<'_>, context: &mut Context<'_>) -> Option<Volume> {
    let mut record = Record::of(&PROJECTED, node, context)?;
    let default = record.node("defaultMode").map_or(Some(DEFAULT_MODE), |node| mode(node, context));
    let mut all = Files::new();
    for node in record.items("sources", context) {
        let Some(mut projection) = Record::of(&PROJECTION, node, context) else { continue };
        for (key, source) in [("configMap", Source::ConfigMap), ("secret", Source::Secret)] {
            let Some(node) = projection.node(key) else { continue };
            let Some(mut record) = Record::of(&PROJECTED_SOURCE, node, context) else { continue };
            all.extend(source_files(&mut record, "name", source, sources, context).unwrap_or_default());
            record.finish();
        }
        projection.finish();
    }
    record.finish();
    let default = default?;
    Some(Volume::Files(with_modes(all, default)))
}
