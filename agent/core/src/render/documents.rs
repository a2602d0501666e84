//! The objects in a file of manifests: Lists are split, and fields that only a server writes are dropped, so that what
//! `kubectl get -o yaml` prints can be committed as it is; fields that would make the cluster remove data are
//! overridden.

use serde_json::Value;

use crate::diagnostic::{Diagnostic, Position};
use crate::yaml::{Entry, Node, NodeValue};

/// Fields of `metadata` that only a server writes.
const SERVER_MADE: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
    // A copy of the whole object, with what a Secret holds in the clear.
    LAST_APPLIED,
];
/// An annotation: what `kubectl apply` remembers.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// When a cluster removes the claims of a StatefulSet by itself.
const CLAIMS_GO: [&str; 2] = ["whenDeleted", "whenScaled"];

/// The objects of a file, what is wrong with its lists, and what was dropped.
#[derive(Default)]
pub(super) struct Documents {
    pub(super) nodes: Vec<Node>,
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
}

impl Documents {
    pub(super) fn of(file: &str, nodes: Vec<Node>) -> Documents {
        let mut documents = Documents::default();
        nodes.into_iter().for_each(|node| documents.take(file, node, None));
        documents
    }

    /// Takes an object, or those of a list: one of kind `List`, or of a kind that ends so and has `items`. Items of the
    /// latter kind need not say what they are: the list does.
    fn take(&mut self, file: &str, mut node: Node, item_of: Option<(&str, &str)>) {
        if let (Some((version, kind)), NodeValue::Mapping(entries)) = (item_of, &mut node.value) {
            for (key, text) in [("kind", kind), ("apiVersion", version)] {
                if !entries.iter().any(|entry| entry.key == key) {
                    let value = NodeValue::Scalar(Value::String(text.to_owned()));
                    let node = Node { at: node.at, value };
                    entries.insert(0, Entry { at: node.at, key: key.to_owned(), node });
                }
            }
        }
        let text = |key: &str| node.get(key).and_then(Node::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let of = match kind.strip_suffix("List") {
            Some("") if version == "v1" => Some(None),
            Some(of) if !of.is_empty() && is_sequence(node.get("items")) => {
                Some(Some((version.as_str(), of)))
            }
            _ => None,
        };
        let Some(of) = of else { return self.object(file, node) };
        let at = node.at;
        match items(node) {
            Some(items) => items.into_iter().for_each(|item| self.take(file, item, of)),
            None => self.errors.push(Diagnostic::new(file, at, "the List has no items")),
        }
    }

    fn object(&mut self, file: &str, mut node: Node) {
        let mut dropped = Vec::new();
        let servers_status = has_servers_status(&node);
        if let NodeValue::Mapping(entries) = &mut node.value {
            if servers_status {
                remove(entries, &["status"], &mut dropped);
            }
            let metadata = entries.iter_mut().find(|entry| entry.key == "metadata");
            if let Some(Entry { node: Node { value: NodeValue::Mapping(metadata), .. }, .. }) = metadata {
                remove(metadata, &SERVER_MADE, &mut dropped);
                let annotations = metadata.iter_mut().find(|entry| entry.key == "annotations");
                if let Some(Entry { node: Node { value: NodeValue::Mapping(entries), .. }, .. }) = annotations
                {
                    remove(entries, &[LAST_APPLIED], &mut dropped);
                }
            }
        }
        if let Some((at, _)) = dropped.first() {
            let names = dropped.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
            let message = format!("these fields are set by the API server and are ignored: {names}");
            self.warnings.push(Diagnostic::new(file, *at, message).hint("remove them from the file"));
        }
        for (at, when) in retain_claims(&mut node) {
            let message = format!(
                "{when}: Delete is treated as Retain, because objects that hold data are never removed \
                 automatically"
            );
            let hint = "write Retain; to remove claims that are no longer wanted, use a Purge document";
            self.warnings.push(Diagnostic::new(file, at, message).hint(hint));
        }
        self.nodes.push(node);
    }
}

/// Has a StatefulSet keep the claims that the cluster would remove with it, or with a pod when there are fewer of them: by
/// a commit that makes it smaller, or by whatever scales it. Gives where it was told otherwise.
fn retain_claims(node: &mut Node) -> Vec<(Position, &'static str)> {
    let text = |key: &str| node.get(key).and_then(Node::as_str).unwrap_or_default();
    if text("kind") != "StatefulSet" || !text("apiVersion").starts_with("apps/") {
        return Vec::new();
    }
    let policy =
        entry_of(node, "spec").and_then(|spec| entry_of(spec, "persistentVolumeClaimRetentionPolicy"));
    let Some(policy) = policy else { return Vec::new() };
    let mut told = Vec::new();
    for when in CLAIMS_GO {
        if let Some(what) = entry_of(policy, when).filter(|what| what.as_str() == Some("Delete")) {
            what.value = NodeValue::Scalar(Value::String("Retain".to_owned()));
            told.push((what.at, when));
        }
    }
    told
}

fn entry_of<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    let NodeValue::Mapping(entries) = &mut node.value else { return None };
    entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node)
}

/// Whether `status` is the server's: of Kubernetes' own kinds it is; of somebody else's where a server wrote the rest,
/// since these may have a field of their own that is called so.
fn has_servers_status(node: &Node) -> bool {
    let version = node.get("apiVersion").and_then(Node::as_str).unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let dumped = node.get("metadata").and_then(|metadata| metadata.get("resourceVersion")).is_some();
    dumped || !group.contains('.') || group.ends_with(".k8s.io")
}

/// Takes entries out, and notes those that say something.
fn remove(entries: &mut Vec<Entry>, names: &[&'static str], dropped: &mut Vec<(Position, &'static str)>) {
    entries.retain(|entry| {
        let Some(name) = names.iter().find(|name| **name == entry.key) else { return true };
        // What `kubectl create --dry-run` prints has these, and nothing in them.
        let empty = match &entry.node.value {
            NodeValue::Mapping(entries) => entries.is_empty(),
            _ => entry.node.is_null(),
        };
        if !empty {
            dropped.push((entry.at, name));
        }
        false
    });
}

fn is_sequence(node: Option<&Node>) -> bool {
    node.is_some_and(|node| matches!(node.value, NodeValue::Sequence(_)))
}

fn items(node: Node) -> Option<Vec<Node>> {
    let NodeValue::Mapping(entries) = node.value else { return None };
    match entries.into_iter().find(|entry| entry.key == "items")?.node.value {
        NodeValue::Sequence(items) => Some(items),
        NodeValue::Scalar(Value::Null) => Some(Vec::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::yaml::{Dialect, MANIFEST_LIMIT, parse};

    fn documents(text: &str) -> Documents {
        Documents::of(
            "f.yaml",
            parse("f.yaml", text.as_bytes(), Dialect::Kubernetes, MANIFEST_LIMIT).unwrap(),
        )
    }

    fn objects(text: &str) -> Vec<Value> {
        documents(text).nodes.iter().map(Node::to_json).collect()
    }

    #[test]
    fn lists_are_taken_apart_whatever_their_kind() {
        let item = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" } });
        for list in [
            "apiVersion: v1\nkind: List\nitems:\n- { apiVersion: v1, kind: ConfigMap, metadata: { name: a } }\n",
            "apiVersion: v1\nkind: ConfigMapList\nitems:\n- { apiVersion: v1, kind: ConfigMap, metadata: { name: a } }\n",
            "apiVersion: v1\nkind: ConfigMapList\nmetadata: { resourceVersion: '1' }\nitems: [ { metadata: { name: a } } ]\n",
            "apiVersion: v1\nkind: List\nitems: [ { apiVersion: v1, kind: ConfigMapList, items: [ { metadata: { name: a } } ] } ]\n",
        ] {
            assert_eq!(json!(objects(list)), json!([item]), "{list}");
        }
        assert_eq!(objects("apiVersion: v1\nkind: List\nitems: []\n"), [] as [Value; 0]);
        assert_eq!(documents("apiVersion: v1\nkind: List\n").errors[0].message, "the List has no items");
    }

    #[test]
    fn a_kind_of_somebodys_own_that_only_ends_so_is_an_object() {
        let text =
            "apiVersion: shop.example/v1\nkind: PriceList\nmetadata: { name: a }\nspec: { items: [ 1 ] }\n";
        assert_eq!(objects(text)[0]["kind"], "PriceList");
    }

    #[test]
    fn what_a_server_wrote_is_dropped_with_one_warning() {
        let dumped = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{}'\n    b: c\n  uid: x\n  resourceVersion: '1'\n  generation: 1\n  creationTimestamp: '2026-01-01T00:00:00Z'\n  managedFields: []\nstatus: { phase: Active }\n";
        let documents = documents(dumped);
        assert_eq!(
            documents.nodes[0].to_json(),
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "annotations": { "b": "c" } } })
        );
        let [warning] = &documents.warnings[..] else { panic!("{:?}", documents.warnings) };
        assert_eq!(
            warning.to_string(),
            "f.yaml:13:1: these fields are set by the API server and are ignored: status, uid, resourceVersion, generation, creationTimestamp, managedFields, kubectl.kubernetes.io/last-applied-configuration (remove them from the file)"
        );
    }

    #[test]
    fn claims_that_the_cluster_would_remove_by_itself_are_retained_with_a_warning() {
        let set = |version: &str, kind: &str, policy: &str| {
            format!(
                "apiVersion: {version}\nkind: {kind}\nmetadata: {{ name: a }}\nspec:\n  persistentVolumeClaimRetentionPolicy: {policy}\n"
            )
        };
        let of = |text: &str| {
            let documents = documents(text);
            let policy = documents.nodes[0].to_json()["spec"]["persistentVolumeClaimRetentionPolicy"].clone();
            let warnings: Vec<_> = documents.warnings.iter().map(ToString::to_string).collect();
            (policy, warnings)
        };
        let (policy, warnings) =
            of(&set("apps/v1", "StatefulSet", "{ whenScaled: Delete, whenDeleted: Delete }"));
        assert_eq!(policy, json!({ "whenScaled": "Retain", "whenDeleted": "Retain" }));
        assert_eq!(warnings.len(), 2);
        assert!(
            warnings[0].starts_with("f.yaml:5:76: whenDeleted: Delete is treated as Retain"),
            "{warnings:?}"
        );
        for kept in [
            set("apps/v1", "StatefulSet", "{ whenScaled: Retain }"),
            set("apps/v1", "StatefulSet", "Delete"),
            set("example.com/v1", "StatefulSet", "{ whenScaled: Delete }"),
            set("apps/v1", "Other", "{ whenScaled: Delete }"),
        ] {
            let before = parse("f.yaml", kept.as_bytes(), Dialect::Kubernetes, MANIFEST_LIMIT).unwrap();
            let (policy, warnings) = of(&kept);
            assert_eq!(before[0].to_json()["spec"]["persistentVolumeClaimRetentionPolicy"], policy);
            assert_eq!(warnings, [""; 0]);
        }
    }

    #[test]
    fn what_a_generator_left_empty_is_dropped_without_a_word() {
        let documents = documents(
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: a, creationTimestamp: null }\nspec: {}\nstatus: {}\n",
        );
        assert_eq!(
            documents.nodes[0].to_json(),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a" }, "spec": {} })
        );
        assert!(documents.warnings.is_empty());
        let own = "apiVersion: example.com/v1\nkind: Rocket\nmetadata: { name: a }\nstatus: fueled\n";
        assert_eq!(objects(own)[0]["status"], "fueled");
    }
}
