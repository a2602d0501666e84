//! Kubernetes YAML: from the files in an app's `manifests/` to objects in the order in which they are created.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::Value as TemplateValue;

use super::clash::Places;
use super::documents::Documents;
use super::{order, template};
use crate::diagnostic::{Diagnostic, Position, quoted};
use crate::kubernetes::schema::Schema;
use crate::kubernetes::{too_large as too_large_for_kubernetes, too_much_data};
use crate::lower::{Document, Lowered, config, lower};
use crate::model::ContainerSpec;
use crate::model::app::ContainerDriver;
use crate::model::decode::Context;
use crate::name::{AppName, DeviceName, ObjectKey};
use crate::reading::is_aside;
use crate::release::{Object, SecretRef, Strategy};
use crate::runtime::DriverName;
use crate::secret::SecretBytes;
use crate::select::File;
use crate::tree::stem;
use crate::yaml::{Dialect, MANIFEST_LIMIT, Node, NodeValue, parse};

/// How many objects an app may have.
const OBJECT_LIMIT: usize = 2000;

/// One object as it was found in a file.
struct ObjectInFile<'n> {
    key: ObjectKey,
    file: String,
    node: &'n Node,
}

/// The objects of an app, and what is to be kept apart from them.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// In the order of their making.
    pub(super) objects: Vec<Object>,
    /// Where each of them stands.
    pub(super) places: Places,
    /// What the Secrets among them hold; in the objects stands only where it is found.
    pub(super) secrets: BTreeMap<SecretRef, SecretBytes>,
    /// The same app for podman, or why podman can't hold it.
    pub(super) podman: Option<Result<Lowered, Vec<Diagnostic>>>,
}

/// The objects of an app. `root` is what templates see. With `podman_on` they are lowered for that box as well.
pub(super) fn objects(
    app: &AppName,
    container: &ContainerSpec,
    files: &[File],
    root: &TemplateValue,
    podman_on: Option<(&DeviceName, Strategy)>,
) -> Result<Objects, Vec<Diagnostic>> {
    let namespace = namespace_of(app, container);
    let mut sorted: Vec<&File> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut errors = Vec::new();
    let mut documents = Vec::new();
    for file in sorted {
        match read(file, Some(root)) {
            Ok(read) => {
                documents.extend(read.nodes.into_iter().map(|node| (file.path.clone(), node)));
                errors.extend(read.errors);
            }
            Err(mut found) => errors.append(&mut found),
        }
    }
    let cluster_wide = defined_cluster_wide(&documents);
    let mut found = Vec::new();
    for (file, node) in &documents {
        collect(file, node, namespace, &cluster_wide, &mut found, &mut errors);
    }
    refuse_duplicates(&found, &mut errors);
    if errors.is_empty() && found.is_empty() {
        let folder = format!("apps/{app}/manifests");
        let hint = format!("add *.yaml to {folder}, or remove the whole folder apps/{app} to remove the app");
        errors.push(Diagnostic::of_file(folder, "the app has no objects").hint(hint));
    }
    if found.len() > OBJECT_LIMIT {
        let message = format!("the app has {} objects; at most {OBJECT_LIMIT} are allowed", found.len());
        errors.push(Diagnostic::of_file(format!("apps/{app}/manifests"), message));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    found.sort_by(|a, b| (order::rank(&a.key.kind), &a.key).cmp(&(order::rank(&b.key.kind), &b.key)));
    let podman = podman_on.map(|(device, strategy)| {
        let documents: Vec<_> = found
            .iter()
            .map(|found| Document { file: &found.file, key: &found.key, node: found.node })
            .collect();
        lower(&documents, device, strategy)
    });
    let places = found.iter().map(|found| (found.key.clone(), (found.file.clone(), found.node.at))).collect();
    let mut all = Objects { podman, places, ..Objects::default() };
    for ObjectInFile { key, file, node } in found {
        let spec = node.to_json();
        errors.extend(too_large(&file, node, &key, &spec, container));
        let spec = match key.kind.as_str() {
            "Secret" => without_secrets(&key, &file, node, spec, &mut all.secrets)
                .map_err(|mut wrong| errors.append(&mut wrong)),
            _ => Ok(spec),
        };
        all.objects.extend(spec.ok().map(|spec| Object { key, spec }));
    }
    if !errors.is_empty() {
        errors.extend(all.podman.and_then(Result::err).into_iter().flatten());
        return Err(errors);
    }
    Ok(all)
}

/// Where the objects of an app stand that its files without templates name.
pub(crate) fn places(app: &AppName, container: &ContainerSpec, files: &[File]) -> Places {
    let plain = files.iter().filter(|file| !file.path.ends_with(".j2"));
    let documents: Vec<(String, Node)> = plain
        .filter_map(|file| Some((file, read(file, None).ok()?)))
        .flat_map(|(file, documents)| documents.nodes.into_iter().map(|node| (file.path.clone(), node)))
        .collect();
    let cluster_wide = defined_cluster_wide(&documents);
    let mut found = Vec::new();
    for (file, node) in &documents {
        collect(file, node, namespace_of(app, container), &cluster_wide, &mut found, &mut Vec::new());
    }
    found.into_iter().map(|found| (found.key, (found.file, found.node.at))).collect()
}

/// The namespace of an app's objects that name none.
pub(super) fn namespace_of<'a>(app: &'a AppName, container: &'a ContainerSpec) -> &'a str {
    container.namespace.as_ref().unwrap_or(app).as_str()
}

/// Why an object can't be held: it is too large, for itself or for a cluster that the app may be on.
fn too_large(
    file: &str,
    node: &Node,
    key: &ObjectKey,
    object: &serde_json::Value,
    container: &ContainerSpec,
) -> Option<Diagnostic> {
    let on_kubernetes = container.driver.may_be(DriverName::KUBERNETES);
    let why = if on_kubernetes { too_large_for_kubernetes(object) } else { too_much_data(object) }?;
    let hint = "split it, or move the large data into an image or onto a volume";
    Some(Diagnostic::new(file, node.at, format!("{key} is too large: {why}")).hint(hint))
}

/// The objects in an app's manifests without templates that can't be held: they are too large; or, where they are for
/// Kubernetes, no supported release takes them. The box asks its own server, which may know more.
pub(crate) fn check_objects(app: &AppName, container: &ContainerSpec, files: &[File]) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let schema = (container.driver == ContainerDriver::Kubernetes).then(Schema::new);
    // What can't be read was told already.
    let readable = files.iter().filter_map(|file| Some((file, read(file, None).ok()?)));
    for (file, documents) in readable {
        for node in &documents.nodes {
            errors.extend(schema.iter().flat_map(|schema| schema.check(&file.path, node)));
            let mut found = Vec::new();
            collect(
                &file.path,
                node,
                namespace_of(app, container),
                &BTreeSet::new(),
                &mut found,
                &mut Vec::new(),
            );
            let too_large = |ObjectInFile { key, file, node }: &ObjectInFile<'_>| {
                too_large(file, node, key, &node.to_json(), container)
            };
            errors.extend(found.iter().filter_map(too_large));
        }
    }
    errors
}

/// A Secret in which stands where each value is found; the values go to `secrets`.
fn without_secrets(
    key: &ObjectKey,
    file: &str,
    node: &Node,
    mut spec: serde_json::Value,
    secrets: &mut BTreeMap<SecretRef, SecretBytes>,
) -> Result<serde_json::Value, Vec<Diagnostic>> {
    let mut context = Context::new(file);
    let values = config::secret_values(node, &mut context);
    if !context.errors.is_empty() {
        return Err(context.errors);
    }
    let name = (key.namespace.clone().unwrap_or_default(), key.name.clone());
    let mut data = serde_json::Map::new();
    for (key, bytes) in values {
        let secret_ref = config::reference(&name, &key);
        data.insert(key, serde_json::json!({ "secretRef": &secret_ref }));
        secrets.insert(secret_ref, bytes);
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("stringData");
        fields.insert("data".to_owned(), data.into());
    }
    Ok(spec)
}

/// What is wrong with manifests without templates that may run on podman.
#[derive(Default)]
pub(crate) struct Unfit {
    /// For every runtime.
    pub(crate) anywhere: Vec<Diagnostic>,
    /// For podman alone.
    pub(crate) on_podman: Vec<Diagnostic>,
}

impl Unfit {
    /// Reads them as a box with podman does.
    pub(crate) fn of(app: &AppName, container: &ContainerSpec, files: &[File], strategy: Strategy) -> Self {
        let may = container.driver.may_be(DriverName::PODMAN);
        // The box's name is only what containers are told.
        let Some(device) = may.then(|| "some-box".parse().ok()).flatten() else { return Unfit::default() };
        match objects(app, container, files, &TemplateValue::UNDEFINED, Some((&device, strategy))) {
            Ok(Objects { podman: Some(Err(on_podman)), .. }) => Unfit { on_podman, ..Unfit::default() },
            Ok(_) => Unfit::default(),
            Err(anywhere) => Unfit { anywhere, ..Unfit::default() },
        }
    }
}

/// What is wrong in a file of manifests, as far as that shows without a box to render it for.
pub(crate) fn check(file: &File) -> Vec<Diagnostic> {
    match read(file, None) {
        Err(errors) => errors,
        Ok(Documents { nodes, mut errors, .. }) => {
            for node in &nodes {
                collect(&file.path, node, "default", &BTreeSet::new(), &mut Vec::new(), &mut errors);
            }
            errors
        }
    }
}

/// What is no error in a file of manifests and still worth a look.
pub(crate) fn warnings(file: &File) -> Vec<Diagnostic> {
    read(file, None).map(|documents| documents.warnings).unwrap_or_default()
}

/// The documents in a file; templates are rendered with `root`, or without one only looked at.
fn read(file: &File, root: Option<&TemplateValue>) -> Result<Documents, Vec<Diagnostic>> {
    let name = file.path.rsplit('/').next().unwrap_or(&file.path);
    let wrong = |message: &str, hint: &str| Err(vec![Diagnostic::of_file(&file.path, message).hint(hint)]);
    match name.to_ascii_lowercase().as_str() {
        "kustomization.yaml" | "kustomization.yml" | "kustomization" => {
            return wrong(
                "kustomizations are not built on the box",
                "run `kustomize build` in CI and commit what it prints to manifests/",
            );
        }
        "chart.yaml" | "chart.yml" => {
            return wrong(
                "Helm charts are not rendered on the box",
                "run `helm template` in CI and commit what it prints to manifests/",
            );
        }
        _ => {}
    }
    if is_aside(name) {
        return Ok(Documents::default());
    }
    if stem(name).is_some() {
        let nodes = parse(&file.path, &file.bytes, Dialect::Kubernetes, MANIFEST_LIMIT)?;
        return Ok(Documents::of(&file.path, nodes));
    }
    if name.strip_suffix(".j2").and_then(stem).is_none() {
        return wrong(
            "manifests are *.yaml (or *.yml) or, as templates, *.yaml.j2 (or *.yml.j2)",
            "rename the file, or move it to files/",
        );
    }
    let Ok(source) = std::str::from_utf8(&file.bytes) else {
        return wrong("the template is not UTF-8", "save it as UTF-8");
    };
    let Some(root) = root else {
        return template::check(&file.path, source).map(|()| Documents::default());
    };
    let text = template::render(&file.path, Position::START, source, root)?;
    parse(&file.path, text.as_bytes(), Dialect::Kubernetes, MANIFEST_LIMIT)
        .map(|nodes| Documents::of(&file.path, nodes))
        .map_err(|errors| errors.into_iter().map(|error| of_rendered(error, &text)).collect())
}

/// An error in what a template made: its line is not the template's, so it is shown.
fn of_rendered(mut error: Diagnostic, text: &str) -> Diagnostic {
    let line = usize::try_from(error.line).unwrap_or(1);
    let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or("");
    error.message = format!("{} in the output of the template", error.message);
    let hint = format!("line {line} of the output is {}", quoted(shown));
    error.hint = Some(match error.hint.take() {
        Some(before) => format!("{before}; {hint}"),
        None => hint,
    });
    error
}

/// Kinds that a CustomResourceDefinition of the same app puts outside of namespaces.
fn defined_cluster_wide(documents: &[(String, Node)]) -> BTreeSet<String> {
    documents
        .iter()
        .filter(|(_, node)| kind_of(node).as_deref() == Some("CustomResourceDefinition"))
        .filter_map(|(_, node)| node.get("spec"))
        .filter(|spec| spec.get("scope").and_then(Node::as_str) == Some("Cluster"))
        .filter_map(|spec| {
            let group = spec.get("group")?.as_str()?;
            Some(ObjectKey::kind_of(&format!("{group}/"), spec.get("names")?.get("kind")?.as_str()?))
        })
        .collect()
}

/// The kind of an object as keys have it, if that can be told.
fn kind_of(node: &Node) -> Option<String> {
    let version = node.get("apiVersion").and_then(Node::as_str).unwrap_or_default();
    Some(ObjectKey::kind_of(version, node.get("kind")?.as_str()?))
}

/// Takes the object in `node`.
fn collect<'n>(
    file: &str,
    node: &'n Node,
    namespace: &str,
    cluster_wide: &BTreeSet<String>,
    found: &mut Vec<ObjectInFile<'n>>,
    errors: &mut Vec<Diagnostic>,
) {
    match object_key(file, node) {
        Ok(mut key) => {
            if order::is_cluster_wide(&key.kind) || cluster_wide.contains(&key.kind) {
                key.namespace = None;
            } else if key.namespace.is_none() {
                key.namespace = Some(namespace.to_owned());
            }
            found.push(ObjectInFile { key, file: file.to_owned(), node });
        }
        Err(mut wrong) => errors.append(&mut wrong),
    }
}

fn object_key(file: &str, node: &Node) -> Result<ObjectKey, Vec<Diagnostic>> {
    let NodeValue::Mapping(_) = node.value else {
        return Err(vec![Diagnostic::new(
            file,
            node.at,
            format!("expected an object, found {}", node.kind()),
        )]);
    };
    let mut errors = Vec::new();
    let mut field = |parent: Option<&Node>, key: &str, fits: fn(&str) -> bool| {
        let value = parent.and_then(|parent| parent.get(key));
        match value.map(|value| (value, value.as_str())) {
            Some((_, Some(text))) if fits(text) => Some(text.to_owned()),
            Some((value, Some(text))) => {
                errors.push(Diagnostic::new(
                    file,
                    value.at,
                    format!("{} can't be the object's {key}", quoted(text)),
                ));
                None
            }
            Some((value, None)) => {
                let message = format!("the object's {key} must be a string, found {}", value.kind());
                errors.push(Diagnostic::new(file, value.at, message));
                None
            }
            None => {
                errors.push(Diagnostic::new(file, node.at, format!("the object has no {key}")));
                None
            }
        }
    };
    let metadata = node.get("metadata");
    let version = field(Some(node), "apiVersion", is_api_version);
    let kind = field(Some(node), "kind", is_kind);
    let name = field(metadata, "name", is_name);
    let namespace = match metadata.and_then(|metadata| metadata.get("namespace")) {
        Some(namespace) if !namespace.is_null() && namespace.as_str() != Some("") => {
            field(metadata, "namespace", is_name)
        }
        _ => None,
    };
    match (version, kind, name) {
        (Some(version), Some(kind), Some(name)) if errors.is_empty() => {
            Ok(ObjectKey { kind: ObjectKey::kind_of(&version, &kind), namespace, name })
        }
        _ => Err(errors),
    }
}

/// `version` or `group/version`; the group is a part of the object's key.
fn is_api_version(text: &str) -> bool {
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    let plain = |part: &str, more: &[u8]| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    plain(version, b"-")
        && (!text.contains('/') || (group.len() <= 253 && group.split('.').all(|part| plain(part, b"-"))))
}

fn is_kind(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// What Kubernetes allows of any kind (RBAC has ':' in names).
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| {
        b.is_ascii_lowercase() || b.is_ascii_uppercase() || b.is_ascii_digit() || b"-.:_".contains(&b)
    };
    (1..=253).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

fn refuse_duplicates(found: &[ObjectInFile<'_>], errors: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&ObjectKey, &ObjectInFile<'_>> = BTreeMap::new();
    for object in found {
        if let Some(first) = seen.insert(&object.key, object) {
            let message = format!("the object {} is defined twice", object.key);
            let hint = format!("it is also defined at {}:{}", first.file, first.node.at.line);
            errors.push(Diagnostic::new(&object.file, object.node.at, message).hint(hint));
        }
    }
}
