//! Data that the cluster itself creates and removes: the claims of a StatefulSet's templates, and claims that are owned
//! by an object and would be removed with it.
//!
//! Nothing of ours is removed before the claims that hang on it would stay. Those of templates are marked as the app's, so
//! that they are known, listed once nothing wants them any more, and go only as every other claim does.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observed};
use serde_json::{Value, json};

use super::KubernetesDriver;
use super::api::{ApiError, Apply};
use super::change::{Patience, key_of};
use super::discovery::{Kind, own};
use super::marks;
use super::sets::Members;
use super::status::fields::{list, text};
use super::watched_kind::Record;
use crate::DriverError;

/// How many owners are asked for, one after the other, to find out whether a claim would go with an object.
const DEPTH: usize = 6;
const CLAIM: &str = "PersistentVolumeClaim";
const WHEN_DELETED: &str = "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted";

/// Which versions of an app's StatefulSets have been looked at for claims, by uid.
pub(super) type Looked = BTreeMap<AppName, BTreeMap<String, u64>>;

fn claims() -> Kind {
    own("", CLAIM, "persistentvolumeclaims", true)
}

fn stateful_sets() -> (String, String) {
    ("apps".to_owned(), "StatefulSet".to_owned())
}

impl KubernetesDriver {
    /// The claims of the app's StatefulSets that don't carry our marks yet: they are left over until they are taken in.
    /// The server is asked only when a StatefulSet has changed, as it does when claims come.
    pub(super) async fn template_claims(
        &self,
        app: &AppName,
        seen: &mut AppObservation,
    ) -> Result<(), DriverError> {
        let Some(watched) = self.watched_kinds.find(&stateful_sets()) else { return Ok(()) };
        let members =
            watched.of_app(app).into_iter().filter(|record| self.prover.is_ours(&watched.kind, record, app));
        let mut looked = BTreeMap::new();
        for record in members {
            let known = self.looked().get(app).and_then(|known| known.get(&record.uid)).copied();
            if known != Some(record.version) {
                let mut unmarked = false;
                for claim in self.claims_of(&watched.kind, &record).await? {
                    if !is_marked(&claim, &self.owner.mark, app) {
                        unmarked = true;
                        let (namespace, name) = (record.place.0.clone(), name_of(&claim).to_owned());
                        let key = ObjectKey { kind: CLAIM.to_owned(), namespace, name };
                        seen.entry(key).or_insert(Observed::Extra { release: None });
                    }
                }
                if unmarked {
                    continue;
                }
            }
            looked.insert(record.uid.clone(), record.version);
        }
        self.looked().insert(app.clone(), looked);
        Ok(())
    }

    pub(super) fn looked(&self) -> std::sync::MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The claims that a StatefulSet's templates have made.
    async fn claims_of(&self, kind: &Kind, record: &Record) -> Result<Vec<Value>, ApiError> {
        let (namespace, name) = (record.place.0.as_deref(), record.place.1.as_str());
        let Some(set) = self.api.get(kind, namespace, name).await? else { return Ok(Vec::new()) };
        let templates: BTreeSet<String> = list(&set, "/spec/volumeClaimTemplates")
            .iter()
            .filter_map(|one| Some(format!("{}-{name}", text(one, "/metadata/name")?)))
            .collect();
        if templates.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut pages = self.api.metadata_pages(&claims(), namespace);
        while let Some(page) = pages.next().await? {
            found.extend(page.into_iter().filter(|claim| {
                let parts = name_of(claim).rsplit_once('-');
                parts.is_some_and(|(template, ordinal)| {
                    templates.contains(template) && ordinal.bytes().all(|byte| byte.is_ascii_digit())
                })
            }));
        }
        Ok(found)
    }

    /// Marks a claim that one of the app's StatefulSets has made as the app's. Nothing else of it is changed.
    pub(super) async fn adopt_claim(&self, app: &AppName, key: &ObjectKey) -> Result<(), DriverError> {
        if key.kind != CLAIM {
            return Ok(());
        }
        self.stands_by()?;
        let (kind, namespace) = (claims(), key.namespace.as_deref());
        let Some(claim) = self.api.get_metadata(&kind, namespace, &key.name).await? else { return Ok(()) };
        let is_marked =
            claim.pointer("/metadata/labels").and_then(|labels| labels.get(marks::OWNER)).is_some();
        if is_marked && !self.is_another_apps(app, key, &claim)? {
            return Ok(());
        }
        let proof = self.key_to_write().await?;
        let mut members = Members::default();
        members.add(&kind, namespace);
        self.as_leader(self.sets.cover(app, &members, &key.to_string())).await??;
        let body = json!({
            "apiVersion": "v1",
            "kind": CLAIM,
            "metadata": {
                "name": key.name, "namespace": key.namespace, "uid": claim.pointer("/metadata/uid"),
                "labels": {
                    (marks::OWNER): self.owner.mark, (marks::APP): app, (marks::PART_OF): self.owner.set_of(app),
                },
                "annotations": {
                    (marks::OBJECT): key.to_string(), (marks::PROOF): proof.prove(&self.owner, app, key),
                },
            },
        });
        let call = self.api.apply(&kind, namespace, &key.name, &body, Apply::Force, None);
        self.as_leader(call).await??;
        Ok(())
    }

    /// Whether we have marked a claim as another app's of this box: it came from there with its StatefulSet, which may
    /// control it.
    fn is_another_apps(&self, app: &AppName, key: &ObjectKey, claim: &Value) -> Result<bool, ApiError> {
        let record = Record::of_value(claim)?;
        let is_others = record.app.as_ref().is_some_and(|other| other != app);
        Ok(is_others && record.key.as_ref() == Some(key) && self.prover.is_proved(&record))
    }

    /// Has the claims stay that would go with an object of ours; an error if they can't.
    pub(super) async fn keep_claims(&self, kind: &Kind, record: &Record) -> Result<(), DriverError> {
        if kind.group_kind() == stateful_sets() {
            return self.retain_claims(kind, record).await;
        }
        // Of the other kinds of Kubernetes' own none owns a claim but a pod, whose ephemeral volumes are to go with it.
        if ObjectKey::kind_of(&kind.resource.api_version, &kind.resource.kind) == kind.resource.kind {
            return Ok(());
        }
        let namespace = record.place.0.as_deref();
        let mut pages = self.api.metadata_pages(&claims(), namespace);
        let mut going = Vec::new();
        while let Some(page) = pages.next().await? {
            for claim in page {
                if self.goes_with(&claim, &record.uid).await? {
                    going.push(format!("{CLAIM}/{}", name_of(&claim)));
                }
            }
        }
        match going.is_empty() {
            true => Ok(()),
            false => Err(DriverError::NotYet(format!(
                "{} is not removed: the cluster would also delete {}, which hold data and are owned by it; remove \
                 the owner reference from them, or delete it by hand",
                key_of(kind, record),
                going.join(", ")
            ))),
        }
    }

    /// Has a StatefulSet keep its claims when it is removed, and waits until they no longer belong to it.
    async fn retain_claims(&self, kind: &Kind, record: &Record) -> Result<(), DriverError> {
        let (namespace, name) = (record.place.0.as_deref(), record.place.1.as_str());
        let patience = Patience::begin();
        loop {
            let Some(set) = self.api.get(kind, namespace, name).await? else { return Ok(()) };
            if text(&set, "/metadata/uid") != Some(record.uid.as_str()) {
                return Ok(());
            }
            if text(&set, WHEN_DELETED) == Some("Delete") {
                let keep = json!({ "spec": { "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain" } } });
                let call = self.api.merge(kind, namespace, name, &keep, record.account.as_ref());
                self.as_leader(call).await??;
            }
            let mut going = None;
            let mut pages = self.api.metadata_pages(&claims(), namespace);
            while let Some(page) = pages.next().await? {
                let owned = page.into_iter().find(|claim| owners_of(claim).any(|owner| owner == record.uid));
                going = going.or(owned);
            }
            let Some(claim) = going else { return Ok(()) };
            if !patience.again().await {
                return Err(DriverError::NotYet(format!(
                    "StatefulSet/{name} is not removed: it still owns {CLAIM}/{}, which would be deleted with it \
                     although it is to be retained; check that the cluster's controller manager runs",
                    name_of(&claim)
                )));
            }
        }
    }

    /// Whether an object would go if the one with this uid did: by its owners, and theirs.
    async fn goes_with(&self, object: &Value, uid: &str) -> Result<bool, ApiError> {
        let namespace = text(object, "/metadata/namespace").map(str::to_owned);
        let mut level = vec![object.clone()];
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for object in &level {
                if owners_of(object).any(|owner| owner == uid) {
                    return Ok(true);
                }
                for owner in list(object, "/metadata/ownerReferences") {
                    let (Some(api_version), Some(name), Some(of)) =
                        (text(owner, "/apiVersion"), text(owner, "/name"), text(owner, "/kind"))
                    else {
                        continue;
                    };
                    // What a pod owns is meant to go with it.
                    if of == "Pod" {
                        continue;
                    }
                    let group = api_version.split_once('/').map_or("", |(group, _)| group);
                    if let Some(kind) = self.kinds.get(&self.api, group, of).await? {
                        next.extend(self.api.get_metadata(&kind, namespace.as_deref(), name).await?);
                    }
                }
            }
            if next.is_empty() {
                return Ok(false);
            }
            level = next;
        }
        Ok(false)
    }
}

fn owners_of(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/metadata/ownerReferences").iter().filter_map(|owner| text(owner, "/uid"))
}

fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name").unwrap_or_default()
}

fn is_marked(claim: &Value, owner: &str, app: &AppName) -> bool {
    let label = |name: &str| claim.pointer("/metadata/labels").and_then(|labels| labels.get(name)?.as_str());
    label(marks::OWNER) == Some(owner) && label(marks::APP) == Some(app.as_str())
}
