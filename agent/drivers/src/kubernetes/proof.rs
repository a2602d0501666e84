//! The proof that an object is ours. A label, an annotation and a field manager's name can be written by anybody who may
//! write the object, and tools copy them. So what we write carries a keyed digest over who keeps it and what it is called,
//! and the key lies where only who keeps the whole cluster may read: in a Secret beside our own notes.
//!
//! It lies in the cluster, and not on the box: it lives as long as what it proves, whatever becomes of the box's disk, and
//! all nodes that keep one cluster have the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use holdfast_core::name::{AppName, ObjectKey};
use serde_json::{Value, json};
use sha2::Sha256;

use super::api::{Api, ApiError};
use super::discovery::{Kind, own};
use super::marks::{MANAGER, NAMESPACE, OwnerMark};
use super::sets::ensure_namespace;
use super::status::fields::text;
use super::watched_kind::Record;
use crate::DriverError;

/// How many bytes a key has.
const LENGTH: usize = 32;
/// How soon a key that seems to be another one is read again: another node may have made it.
const DOUBT: Duration = Duration::from_secs(10);
/// An annotation of the Secret: there were objects of ours before this key was made, so that it replaces one that is lost.
const REPLACES: &str = "holdfast.dev/replaces-lost-key";

/// A proof as it stands in an annotation.
pub(super) type Proof = [u8; LENGTH];

/// What makes and checks proofs.
#[derive(Clone)]
pub(super) struct Prover {
    api: Api,
    owner: OwnerMark,
    secrets: Kind,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    key: Option<Arc<Key>>,
    read: Option<Instant>,
    /// Something carries a proof that this key has not made.
    doubted: bool,
}

/// The key of a cluster.
pub(super) struct Key {
    bytes: [u8; LENGTH],
    /// When it was made, if it replaces one that is lost: what is older may carry that one's proof.
    replaces: Option<String>,
}

impl Key {
    /// The proof for what an app calls `key`.
    pub(super) fn prove(&self, owner: &OwnerMark, app: &AppName, key: &ObjectKey) -> String {
        let made = self.mac(owner, app, key).finalize().into_bytes();
        STANDARD.encode(made)
    }

    fn mac(&self, owner: &OwnerMark, app: &AppName, key: &ObjectKey) -> Hmac<Sha256> {
        let mut mac = new_mac(&self.bytes);
        let namespace = key.namespace.as_deref().unwrap_or_default();
        // None of these has a line's end in it.
        for part in ["holdfast/v1", &owner.name, app.as_str(), &key.kind, namespace, &key.name] {
            mac.update(part.as_bytes());
            mac.update(b"\n");
        }
        mac
    }
}

fn new_mac(key: &[u8; LENGTH]) -> Hmac<Sha256> {
    // HMAC takes keys of every length.
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of every length"),
    }
}

/// A proof that an annotation holds.
pub(super) fn proof_in(text: &str) -> Option<Proof> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

impl Prover {
    pub(super) fn new(api: Api, owner: OwnerMark) -> Self {
        let secrets = own("", "Secret", "secrets", true);
        Prover { api, owner, secrets, known: Arc::default() }
    }

    /// One that knows its key already.
    #[cfg(test)]
    pub(super) fn with_key(api: Api, owner: OwnerMark) -> (Self, Arc<Key>) {
        let prover = Prover::new(api, owner);
        let key = Arc::new(Key { bytes: [7; LENGTH], replaces: None });
        prover.known().key = Some(Arc::clone(&key));
        (prover, key)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the key: it may be another cluster.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
    }

    /// The Secret's name.
    fn name(&self) -> String {
        format!("holdfast-{}-key", &self.owner.mark[..8])
    }

    /// The cluster's key, if there is one. It is read once, and again where it proves what it should not fail for.
    pub(super) async fn key(&self) -> Result<Option<Arc<Key>>, DriverError> {
        {
            let known = self.known();
            let is_fresh = known.read.is_some_and(|read| read.elapsed() < DOUBT);
            if let Some(key) = known.key.as_ref().filter(|_| !known.doubted || is_fresh) {
                return Ok(Some(Arc::clone(key)));
            }
        }
        let read = self.read().await?;
        let mut known = self.known();
        (known.read, known.doubted) = (Some(Instant::now()), false);
        // One that somebody removed still proves what it has proved, until this agent ends.
        known.key = read.or(known.key.take());
        Ok(known.key.clone())
    }

    /// The cluster's key, which is made if there is none. `replaces`: objects of ours are there already.
    pub(super) async fn key_to_write(&self, replaces: bool) -> Result<Arc<Key>, DriverError> {
        if let Some(key) = self.key().await? {
            return Ok(key);
        }
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes)
            .map_err(|error| DriverError::Runtime(format!("the kernel gives no random bytes: {error}")))?;
        let mut secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "holdfast.dev/key",
            "immutable": true,
            "metadata": {
                "name": self.name(), "namespace": NAMESPACE, "labels": { "app.kubernetes.io/managed-by": MANAGER },
            },
            "data": { "key": STANDARD.encode(bytes) },
        });
        if replaces {
            secret["metadata"]["annotations"] = json!({ REPLACES: "true" });
        }
        match self.api.create(&self.secrets, Some(NAMESPACE), &secret).await {
            Err(error) if error.is_not_found() => {
                ensure_namespace(&self.api, NAMESPACE).await?;
                self.create(&secret).await?;
            }
            Err(error) if is_there(&error) => {}
            other => drop(other?),
        }
        // As it is there: another node may have been faster.
        self.known().read = None;
        self.key()
            .await?
            .ok_or_else(|| DriverError::Runtime(format!("Secret/{NAMESPACE}/{} is gone again", self.name())))
    }

    async fn create(&self, secret: &Value) -> Result<(), ApiError> {
        match self.api.create(&self.secrets, Some(NAMESPACE), secret).await {
            Err(error) if is_there(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn read(&self) -> Result<Option<Arc<Key>>, DriverError> {
        let Some(secret) = self.api.get(&self.secrets, Some(NAMESPACE), &self.name()).await? else {
            return Ok(None);
        };
        let bytes = text(&secret, "/data/key").and_then(proof_in).ok_or_else(|| {
            let name = self.name();
            DriverError::Runtime(format!(
                "Secret/{NAMESPACE}/{name} has no key of {LENGTH} bytes: delete the Secret, and the agent creates \
                 a new one"
            ))
        })?;
        let notes = secret.pointer("/metadata/annotations");
        let replaces = notes.and_then(|notes| notes.get(REPLACES)).is_some();
        let made = text(&secret, "/metadata/creationTimestamp").map(str::to_owned);
        Ok(Some(Arc::new(Key { bytes, replaces: made.filter(|_| replaces) })))
    }

    /// Whether what is at a place is an app's of ours, and written by us: controllers copy labels onto what they make,
    /// and anybody may put some on, and more.
    pub(super) fn is_ours(&self, kind: &Kind, record: &Record, app: &AppName) -> bool {
        record.app.as_ref() == Some(app)
            && record.is_member(kind, &self.owner.set_of(app))
            && self.may_be_ours(record)
    }

    /// Whether it carries the proof, or may be from before there was one.
    pub(super) fn may_be_ours(&self, record: &Record) -> bool {
        let mut known = self.known();
        let Some(key) = known.key.as_ref() else {
            // Without a key nothing was written with one: what is there is from before it was lost.
            return true;
        };
        if self.is_proved_by(key, record) {
            return true;
        }
        // The server writes both times, in UTC and to the second.
        let is_older = key
            .replaces
            .as_ref()
            .is_some_and(|since| record.created.as_ref().is_some_and(|made| made < since));
        known.doubted |= !is_older;
        is_older
    }

    /// Whether it carries the proof.
    pub(super) fn is_proved(&self, record: &Record) -> bool {
        let known = self.known();
        known.key.as_ref().is_some_and(|key| self.is_proved_by(key, record))
    }

    fn is_proved_by(&self, key: &Key, record: &Record) -> bool {
        let (Some(app), Some(called), Some(proof)) = (&record.app, &record.key, &record.proof) else {
            return false;
        };
        key.mac(&self.owner, app, called).verify_slice(proof).is_ok()
    }
}

fn is_there(error: &ApiError) -> bool {
    error.refusal().is_some_and(|refusal| refusal.reason == "AlreadyExists")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_object_of_one_app_of_one_owner() {
        let key = Key { bytes: [7; LENGTH], replaces: None };
        let (owner, app) = (OwnerMark::of("till-1"), "pos".parse().unwrap());
        let object: ObjectKey = "ConfigMap/shop/config".parse().unwrap();
        let proof = key.prove(&owner, &app, &object);
        assert!(proof_in(&proof).is_some());
        let others = [
            key.prove(&OwnerMark::of("till-2"), &app, &object),
            key.prove(&owner, &"web".parse().unwrap(), &object),
            key.prove(&owner, &app, &"ConfigMap/shop/other".parse().unwrap()),
            Key { bytes: [8; LENGTH], replaces: None }.prove(&owner, &app, &object),
        ];
        assert!(others.iter().all(|other| *other != proof));
    }
}
