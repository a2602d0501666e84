//! Kubernetes YAML: from the files in an app's `manifests/` to objects in the order of their making.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::Value as TemplateValue;

use super::{order, template};
use crate::diagnostic::{Diagnostic, Position, quoted};
use crate::lower::{Document, Lowered, config, lower};
use crate::model::ContainerSpec;
use crate::model::decode::Context;
use crate::name::{AppName, DeviceName, ObjectKey};
use crate::release::{DriverKind, Object, SecretRef, Strategy};
use crate::secret::SecretBytes;
use crate::select::File;
use crate::yaml::{Dialect, MANIFEST_LIMIT, Node, NodeValue, parse};

/// How many objects an app may have.
const OBJECT_LIMIT: usize = 2000;

/// One object as it was found in a file.
struct Found<'n> {
    key: ObjectKey,
    file: String,
    node: &'n Node,
}

/// The objects of an app, and what is to be kept apart from them.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// In the order of their making.
    pub(super) objects: Vec<Object>,
    /// What the Secrets among them hold; in the objects stands only where it is found.
    pub(super) secrets: BTreeMap<SecretRef, SecretBytes>,
    /// The same app for podman, or why podman can't hold it.
    pub(super) podman: Option<Result<Lowered, Vec<Diagnostic>>>,
}

/// The objects of an app. `namespace` is for those that name none; `root` is what templates see. With
/// `podman_on` they are lowered for that box as well.
pub(super) fn objects(
    app: &str,
    namespace: &str,
    files: &[File],
    root: &TemplateValue,
    podman_on: Option<(&DeviceName, Strategy)>,
) -> Result<Objects, Vec<Diagnostic>> {
    let mut sorted: Vec<&File> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut errors = Vec::new();
    let mut documents = Vec::new();
    for file in sorted {
        match read(file, Some(root)) {
            Ok(nodes) => documents.extend(nodes.into_iter().map(|node| (file.path.clone(), node))),
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
        let message = format!("the app has {} objects; at most {OBJECT_LIMIT} are taken", found.len());
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
    let mut all = Objects { podman, ..Objects::default() };
    for Found { key, file, node } in found {
        let spec = match key.kind.as_str() {
            "Secret" => without_secrets(&key, &file, node, &mut all.secrets)
                .map_err(|mut wrong| errors.append(&mut wrong)),
            _ => Ok(node.to_json()),
        };
        all.objects.extend(spec.ok().map(|spec| Object { key, spec }));
    }
    if !errors.is_empty() {
        errors.extend(all.podman.and_then(Result::err).into_iter().flatten());
        return Err(errors);
    }
    Ok(all)
}

/// A Secret in which stands where each value is found; the values go to `secrets`.
fn without_secrets(
    key: &ObjectKey,
    file: &str,
    node: &Node,
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
    let mut spec = node.to_json();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("stringData");
        fields.insert("data".to_owned(), data.into());
    }
    Ok(spec)
}

/// What podman can't hold of manifests without templates, if they may run there.
pub(crate) fn unfit_for_podman(
    app: &AppName,
    container: &ContainerSpec,
    files: &[File],
    strategy: Strategy,
) -> Vec<Diagnostic> {
    let may = container.driver.kind().is_none_or(|kind| kind == DriverKind::Podman);
    // The box's name is only what containers are told.
    let Some(device) = may.then(|| "some-box".parse().ok()).flatten() else { return Vec::new() };
    let namespace = container.namespace.as_ref().unwrap_or(app).as_str();
    match objects(app.as_str(), namespace, files, &TemplateValue::UNDEFINED, Some((&device, strategy))) {
        Ok(Objects { podman: Some(Err(errors)), .. }) => errors,
        Ok(_) => Vec::new(),
        // Most of these are told for every runtime.
        Err(errors) => errors,
    }
}

/// What is wrong in a file of manifests, as far as that shows without a box to render it for.
pub(crate) fn check(file: &File) -> Vec<Diagnostic> {
    match read(file, None) {
        Err(errors) => errors,
        Ok(nodes) => {
            let mut errors = Vec::new();
            for node in &nodes {
                collect(&file.path, node, "default", &BTreeSet::new(), &mut Vec::new(), &mut errors);
            }
            errors
        }
    }
}

/// The documents in a file; templates are rendered with `root`, or without one only looked at.
fn read(file: &File, root: Option<&TemplateValue>) -> Result<Vec<Node>, Vec<Diagnostic>> {
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
    // What people and tools leave in folders.
    if name.starts_with('.') || name.ends_with(".md") {
        return Ok(Vec::new());
    }
    if name.ends_with(".yaml") {
        return parse(&file.path, &file.bytes, Dialect::Kubernetes, MANIFEST_LIMIT);
    }
    if !name.ends_with(".yaml.j2") {
        return wrong(
            "manifests are *.yaml or, as templates, *.yaml.j2",
            "rename the file, or move it to files/",
        );
    }
    let Ok(source) = std::str::from_utf8(&file.bytes) else {
        return wrong("the template is not UTF-8", "save it as UTF-8");
    };
    let Some(root) = root else {
        return template::check(&file.path, source).map(|()| Vec::new());
    };
    let text = template::render(&file.path, Position::START, source, root)?;
    parse(&file.path, text.as_bytes(), Dialect::Kubernetes, MANIFEST_LIMIT)
        .map_err(|errors| errors.into_iter().map(|error| of_rendered(error, &text)).collect())
}

/// An error in what a template made: its line is not the template's, so it is shown.
fn of_rendered(mut error: Diagnostic, text: &str) -> Diagnostic {
    let line = usize::try_from(error.line).unwrap_or(1);
    let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or("");
    error.message = format!("{} in what the template makes", error.message);
    let hint = format!("line {line} of that is {}", quoted(shown));
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
        .filter(|(_, node)| node.get("kind").and_then(Node::as_str) == Some("CustomResourceDefinition"))
        .filter_map(|(_, node)| node.get("spec"))
        .filter(|spec| spec.get("scope").and_then(Node::as_str) == Some("Cluster"))
        .filter_map(|spec| spec.get("names")?.get("kind")?.as_str().map(str::to_owned))
        .collect()
}

/// Takes the object in `node`, or those of a `kind: List`.
fn collect<'n>(
    file: &str,
    node: &'n Node,
    namespace: &str,
    cluster_wide: &BTreeSet<String>,
    found: &mut Vec<Found<'n>>,
    errors: &mut Vec<Diagnostic>,
) {
    if node.get("kind").and_then(Node::as_str) == Some("List") {
        match node.get("items").map(|items| &items.value) {
            Some(NodeValue::Sequence(items)) => {
                items.iter().for_each(|item| collect(file, item, namespace, cluster_wide, found, errors));
            }
            _ => errors.push(Diagnostic::new(file, node.at, "the List has no items")),
        }
        return;
    }
    match object_key(file, node) {
        Ok(mut key) => {
            if order::is_cluster_wide(&key.kind) || cluster_wide.contains(&key.kind) {
                key.namespace = None;
            } else if key.namespace.is_none() {
                key.namespace = Some(namespace.to_owned());
            }
            found.push(Found { key, file: file.to_owned(), node });
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
    field(Some(node), "apiVersion", |text| !text.is_empty());
    let kind = field(Some(node), "kind", is_kind);
    let name = field(metadata, "name", is_name);
    let namespace = match metadata.and_then(|metadata| metadata.get("namespace")) {
        Some(namespace) if !namespace.is_null() => field(metadata, "namespace", is_name),
        _ => None,
    };
    match (kind, name) {
        (Some(kind), Some(name)) if errors.is_empty() => Ok(ObjectKey { kind, namespace, name }),
        _ => Err(errors),
    }
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

fn refuse_duplicates(found: &[Found<'_>], errors: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&ObjectKey, &Found<'_>> = BTreeMap::new();
    for object in found {
        if let Some(first) = seen.insert(&object.key, object) {
            let message = format!("the object {} is here twice", object.key);
            let hint = format!("the other one is {}:{}", first.file, first.node.at.line);
            errors.push(Diagnostic::new(&object.file, object.node.at, message).hint(hint));
        }
    }
}
