//! Objects as they should be: with a kind that the cluster serves, with our marks, and with the secrets that only the
//! driver decrypts.

use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::name::ObjectKey;
use holdfast_core::release::{Object, Release, SecretRef, canonical_json};
use serde_json::{Map, Value, json};

use super::discovery::Kind;
use super::marks::{self, OwnerMark};
use super::proof::Key;
use super::watched_kind::Place;
use crate::DriverError;
use crate::secret::SecretSource;

/// An object of a release.
#[derive(Clone)]
pub(super) struct Wanted<'a> {
    pub(super) release: &'a Release,
    pub(super) object: &'a Object,
    /// Its kind in the version that it names.
    pub(super) kind: Arc<Kind>,
    /// Its kind in the version that the server prefers.
    pub(super) watched: Arc<Kind>,
    /// The digest of what is to be written, without our marks.
    pub(super) digest: Digest,
    id: Name,
    /// What proves it, if the cluster has a key.
    prover: Option<Arc<Key>>,
}

/// What a release is called: a digest over all of it, computed once for all of its objects, when it is first needed.
#[derive(Clone, Default)]
pub(super) struct Name(Arc<OnceLock<ReleaseId>>);

impl From<Option<ReleaseId>> for Name {
    fn from(id: Option<ReleaseId>) -> Self {
        Name(Arc::new(id.map_or_else(OnceLock::new, OnceLock::from)))
    }
}

/// What an object says it is.
pub(super) fn version_and_kind(object: &Object) -> Result<(&str, &str, &str), DriverError> {
    let text = |field: &str| object.spec.get(field).and_then(Value::as_str);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Err(DriverError::Release(format!("{} has no apiVersion or no kind", object.key)));
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Ok((group, version, kind))
}

/// Where an object is, in a cluster that has its kind.
pub(super) fn place_of(key: &ObjectKey, kind: &Kind) -> Place {
    (key.namespace.clone().filter(|_| kind.namespaced), key.name.clone())
}

impl<'a> Wanted<'a> {
    pub(super) fn new(
        release: &'a Release,
        id: &Name,
        object: &'a Object,
        kind: Arc<Kind>,
        watched: Arc<Kind>,
        prover: Option<Arc<Key>>,
    ) -> Self {
        let mut bytes = canonical_json(&object.spec);
        // What the secrets are is part of what is written, and stands in no digest that others see.
        for reference in secrets_in(&object.spec) {
            if let Some(digest) = release.secrets.get(&reference.to_string()) {
                bytes.extend(digest.to_string().into_bytes());
            }
        }
        Wanted { release, object, kind, watched, digest: Digest::of(&bytes), id: id.clone(), prover }
    }

    pub(super) fn key(&self) -> &'a ObjectKey {
        &self.object.key
    }

    pub(super) fn place(&self) -> Place {
        place_of(self.key(), &self.kind)
    }

    pub(super) fn namespace(&self) -> Option<&'a str> {
        self.key().namespace.as_deref().filter(|_| self.kind.namespaced)
    }

    pub(super) fn is_secret(&self) -> bool {
        self.kind.resource.group.is_empty() && self.kind.resource.kind == "Secret"
    }

    /// Whether it is a Job that the cluster removes some time after it has ended.
    pub(super) fn goes_when_ended(&self) -> bool {
        self.kind.resource.group == "batch"
            && self.kind.resource.kind == "Job"
            && self.object.spec.pointer("/spec/ttlSecondsAfterFinished").is_some_and(|after| !after.is_null())
    }

    /// What is written.
    pub(super) fn body(&self, owner: &OwnerMark, secrets: &dyn SecretSource) -> Result<Value, DriverError> {
        let release = self.id.0.get_or_init(|| self.release.id());
        let mut body = self.object.spec.clone();
        if self.is_secret() {
            self.open(&mut body, secrets)?;
        }
        let Some(fields) = body.as_object_mut() else {
            return Err(DriverError::Release(format!("{} is not an object", self.key())));
        };
        fields.remove("status");
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        let Some(metadata) = metadata.as_object_mut() else {
            return Err(DriverError::Release(format!("{}: metadata is not an object", self.key())));
        };
        // What only the server may say.
        for field in
            ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"]
        {
            metadata.remove(field);
        }
        metadata.insert("name".to_owned(), self.key().name.clone().into());
        match self.namespace() {
            Some(namespace) => metadata.insert("namespace".to_owned(), namespace.into()),
            None => metadata.remove("namespace"),
        };
        // Marks are ours to make.
        for field in ["labels", "annotations"] {
            if let Some(Value::Object(marks)) = metadata.get_mut(field) {
                marks.retain(|name, _| !is_reserved(name));
            }
        }
        let app = &self.release.app;
        add(
            metadata,
            "labels",
            [
                (marks::OWNER, owner.mark.clone()),
                (marks::APP, app.to_string()),
                (marks::PART_OF, owner.set_of(app)),
            ],
        );
        add(
            metadata,
            "annotations",
            [
                (marks::OBJECT, self.key().to_string()),
                (marks::RELEASE, release.to_string()),
                (marks::APPLIED, self.digest.to_string()),
            ],
        );
        if let Some(key) = &self.prover {
            add(metadata, "annotations", [(marks::PROOF, key.prove(owner, app, self.key()))]);
        }
        if let Some(account) = &self.release.account {
            add(metadata, "annotations", [(marks::ACCOUNT, account.to_string())]);
        }
        Ok(body)
    }

    fn open(&self, body: &mut Value, secrets: &dyn SecretSource) -> Result<(), DriverError> {
        let Some(Value::Object(data)) = body.get_mut("data") else { return Ok(()) };
        for value in data.values_mut() {
            let Some(reference) = reference_in(value) else { continue };
            let digest = self.release.secrets.get(&reference.to_string()).ok_or_else(|| {
                DriverError::Release(format!("{}: the secret {reference} was not encrypted", self.key()))
            })?;
            let bytes = secrets.open(digest).map_err(|why| {
                DriverError::Runtime(format!("{}: the secret {reference} can't be opened: {why}", self.key()))
            })?;
            *value = STANDARD.encode(bytes.expose()).into();
        }
        Ok(())
    }
}

/// Whether a label or an annotation of this name is a mark of ours, or of ApplySets.
fn is_reserved(name: &str) -> bool {
    name.starts_with("holdfast.dev/") || name.starts_with("applyset.kubernetes.io/")
}

fn reference_in(value: &Value) -> Option<SecretRef> {
    serde_json::from_value(value.get("secretRef")?.clone()).ok()
}

fn secrets_in(spec: &Value) -> Vec<SecretRef> {
    let data = spec.get("data").and_then(Value::as_object).into_iter().flatten();
    data.filter_map(|(_, value)| reference_in(value)).collect()
}

fn add<const N: usize>(metadata: &mut Map<String, Value>, field: &str, marks: [(&str, String); N]) {
    let all = metadata.entry(field).or_insert_with(|| json!({}));
    if !all.is_object() {
        *all = json!({});
    }
    if let Some(all) = all.as_object_mut() {
        all.extend(marks.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))));
    }
}

/// The same object without what the server alone says and without our own notes, to be compared.
pub(super) fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return object };
    for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
        metadata.remove(field);
    }
    let notes = [marks::RELEASE, marks::APPLIED, marks::OBJECT, marks::ACCOUNT, marks::PROOF];
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|name, _| !notes.contains(&name.as_str()));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    object
}

/// Whether everything that `wanted` sets stands in `live` as it is set. Where the server writes a value otherwise than
/// it was given, the answer is no, though nothing differs: then the server is asked.
pub(super) fn stands_in(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(name, value)| live.get(name).is_some_and(|live| stands_in(value, live)))
        }
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len()
                && wanted.iter().zip(live).all(|(wanted, live)| stands_in(wanted, live))
        }
        (wanted, live) => wanted == live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_and_stands_there_is_told_from_what_differs() {
        let live = json!({"spec": {"replicas": 1, "paused": false, "list": [{"a": 1, "b": 2}]}});
        assert!(stands_in(&json!({"spec": {"replicas": 1, "list": [{"a": 1}]}}), &live));
        for other in
            [json!({"spec": {"replicas": 2}}), json!({"spec": {"list": []}}), json!({"metadata": {}})]
        {
            assert!(!stands_in(&other, &live), "{other}");
        }
    }

    #[test]
    fn what_is_compared_has_neither_the_servers_notes_nor_ours() {
        let object = json!({
            "metadata": {"name": "a", "uid": "1", "resourceVersion": "2", "annotations": {marks::RELEASE: "x"}},
            "status": {"ready": true},
        });
        assert_eq!(comparable(&object), json!({"metadata": {"name": "a"}}));
    }
}
