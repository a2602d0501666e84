//! Changing objects: writing, recreating and removing them. Each of these may be done twice.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use holdfast_core::digest::ReleaseId;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::{Object, Release, ServiceAccount};
use serde_json::Value;

use super::KubernetesDriver;
use super::api::{ApiError, Apply, Refusal};
use super::compare::{There, is_immutable};
use super::discovery::Kind;
use super::object::Wanted;
use super::proof::Key;
use super::sets::{self, Members};
use super::status::Status;
use super::watched_kind::{Place, Record, WatchedKind};
use crate::{ApplyStep, DriverError};

/// How long what is removed may take to be gone, and what others need to be served. After that other apps have their
/// turn: the watch tells when it is time to go on.
const WAIT: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often a write is tried again that another one came between.
const TRIES: usize = 4;

impl KubernetesDriver {
    /// Writes an object as the release has it.
    pub(super) async fn write(
        &self,
        release: &Release,
        id: Option<ReleaseId>,
        object: &Object,
    ) -> Result<(), DriverError> {
        let wanted = self.served(release, id, object).await?;
        let mut members = Members::default();
        members.add(&wanted.kind, wanted.namespace());
        self.as_leader(self.sets.cover(&release.app, &members, &wanted.key().to_string())).await??;
        let watched = self.watched_kinds.of(&wanted.watched);
        watched.forget_ended(&wanted.place());
        if let Some((record, _)) = watched.get(&wanted.place())
            && record.leaving.is_some()
        {
            self.wait_until_gone(&wanted.kind, &watched, &record).await?;
        }
        self.put(&wanted, &watched).await?;
        self.wait_until_served(&wanted, &watched).await
    }

    /// Removes an object of ours, which `app` has, and writes it anew.
    pub(super) async fn rewrite(
        &self,
        (app, release): (&AppName, &Release),
        id: Option<ReleaseId>,
        object: &Object,
    ) -> Result<(), DriverError> {
        let wanted = self.served(release, id, object).await?;
        if object.key.holds_data() {
            return Err(DriverError::Release(format!(
                "{} holds data and is never removed and recreated",
                object.key
            )));
        }
        // Who refuses that may let it be later: it is for the deadline to say when the release has failed.
        let taken = self.take_away(app, &wanted.kind, wanted.place()).await;
        taken.map_err(|error| match error {
            DriverError::Release(why) => DriverError::NotYet(why),
            other => other,
        })?;
        self.write(release, id, object).await
    }

    /// Removes an object of an app, whatever the app is to be; what isn't ours stays.
    pub(super) async fn remove(&self, app: &AppName, key: &ObjectKey) -> Result<(), DriverError> {
        let (group, kind) = key.group_and_kind();
        let kinds = match group {
            Some(group) => self.certainly_served(group, kind).await?.into_iter().collect(),
            None => self.kinds.own_groups(&self.api, kind).await?,
        };
        for kind in kinds {
            self.take_away(app, &kind, super::object::place_of(key, &kind)).await?;
        }
        self.tidy(app, key).await
    }

    /// The kind, unless the cluster serves it no more: what was of it is gone then.
    async fn certainly_served(&self, group: &str, kind: &str) -> Result<Option<Arc<Kind>>, DriverError> {
        if let Some(found) = self.kinds.get(&self.api, group, kind).await? {
            return Ok(Some(found));
        }
        self.kinds.forget();
        Ok(self.kinds.get(&self.api, group, kind).await?)
    }

    async fn served<'a>(
        &self,
        release: &'a Release,
        id: Option<ReleaseId>,
        object: &'a Object,
    ) -> Result<Wanted<'a>, DriverError> {
        let key = self.key_to_write().await?;
        match self.kind_of(object).await? {
            Some((kind, watched)) => Ok(Wanted::new(release, &id.into(), object, kind, watched, Some(key))),
            None => Err(DriverError::NotYet(format!(
                "{}; commit its CustomResourceDefinition in the same app, or name the app that contains it in \
                 dependsOn",
                self.not_served(object).await?
            ))),
        }
    }

    /// What proves what is written. A cluster without a key that has something of ours has lost it.
    pub(super) async fn key_to_write(&self) -> Result<Arc<Key>, DriverError> {
        if let Some(key) = self.prover.key().await? {
            return Ok(key);
        }
        let replaces = !self.sets.apps().await?.is_empty();
        self.as_leader(self.prover.key_to_write(replaces)).await?
    }

    async fn put(&self, wanted: &Wanted<'_>, watched: &WatchedKind) -> Result<(), DriverError> {
        let mut body = wanted.body(&self.owner, &*self.secrets)?;
        let account = wanted.release.account.as_ref();
        let (namespace, name) = (wanted.namespace(), wanted.key().name.as_str());
        for _ in 0..TRIES {
            let how = self.claim(wanted, watched, &mut body).await?;
            let call = self.api.apply(&wanted.kind, namespace, name, &body, how, account);
            let error = match self.as_leader(call).await? {
                Ok(made) => {
                    watched.put(Record::of_value(&made)?, wanted.digest);
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.refusal() {
                Some(refusal) if refusal.code == 409 => {}
                Some(refusal) if is_missing_namespace(refusal, namespace) && account.is_none() => {
                    if let Some(namespace) = namespace {
                        sets::ensure_namespace(&self.api, namespace).await?;
                    }
                }
                _ => return Err(of_write(error, wanted.key(), account, wanted.is_secret())),
            }
        }
        Err(DriverError::Runtime(format!(
            "{}: conflict, other clients keep writing it at the same time",
            wanted.key()
        )))
    }

    /// How an object may be written: what is ours is taken over whole, as long as it is still the same; what nobody has
    /// seen there may have been made by somebody else a moment ago.
    async fn claim(
        &self,
        wanted: &Wanted<'_>,
        watched: &WatchedKind,
        body: &mut Value,
    ) -> Result<Apply, DriverError> {
        let known = watched.get(&wanted.place()).map(|(record, _)| record);
        let uid = match known {
            Some(record) => Some(record.uid.clone()),
            None => {
                let (namespace, name) = (wanted.namespace(), wanted.key().name.as_str());
                match self.api.get_metadata(&wanted.kind, namespace, name).await? {
                    None => None,
                    Some(there) => match self.unmarked(&wanted.release.app, &wanted.watched, &there)? {
                        // Namespaces that the agent has made come to be the app's.
                        There::Nothing | There::Ended => return Ok(Apply::Force),
                        There::Ours(record, _) => Some(record.uid.clone()),
                        There::Another(app, _) => return Err(taken(wanted.key(), &format!("the app {app}"))),
                        There::Foreign(owner) => return Err(taken(wanted.key(), &owner)),
                    },
                }
            }
        };
        let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Ok(Apply::Make);
        };
        match uid {
            Some(uid) => {
                metadata.insert("uid".to_owned(), uid.into());
                Ok(Apply::Force)
            }
            None => {
                metadata.remove("uid");
                Ok(Apply::Make)
            }
        }
    }

    /// What others need is waited for: a definition until its kind is served.
    async fn wait_until_served(&self, wanted: &Wanted<'_>, watched: &WatchedKind) -> Result<(), DriverError> {
        let kind = &wanted.kind.resource;
        if kind.kind != "CustomResourceDefinition" {
            return Ok(());
        }
        self.kinds.forget();
        let place = wanted.place();
        let patience = Patience::begin();
        while watched.get(&place).is_none_or(|(record, _)| record.status != Status::Current) {
            if !patience.again().await {
                return Err(DriverError::NotYet(format!(
                    "{}: the cluster did not serve its kind within {WAIT:?}",
                    wanted.key()
                )));
            }
        }
        self.kinds.forget();
        Ok(())
    }

    /// Removes what is at a place, if it is of this app, and waits for a moment until it is gone.
    async fn take_away(&self, app: &AppName, kind: &Arc<Kind>, place: Place) -> Result<(), DriverError> {
        let watched = self.watched_kinds.of(kind);
        watched.ready().await?;
        watched.forget_ended(&place);
        let Some((mut record, _)) =
            watched.get(&place).filter(|(record, _)| self.prover.is_ours(kind, record, app))
        else {
            return Ok(());
        };
        let (namespace, name) = (place.0.as_deref(), place.1.as_str());
        match &record.leaving {
            None => self.keep_claims(kind, &record).await?,
            // Whoever is to take its finalizers off may never come: the watch tells when it is gone.
            Some(why) if record.has_finalizers => return self.is_gone_or(kind, &watched, &record, why).await,
            Some(_) => {}
        }
        // Its status may be written again and again meanwhile.
        let patience = Patience::begin();
        while record.leaving.is_none() {
            // As it is now, and not as the watch has told: its label may have been taken from it.
            let Some(there) = self.api.get_metadata(kind, namespace, name).await? else { break };
            let there = Record::of_value(&there)?;
            if !self.prover.is_ours(kind, &there, app) {
                return Ok(());
            }
            let version = there.version.to_string();
            let account = there.account.clone();
            let call = self.api.delete(kind, namespace, name, (&there.uid, &version), account.as_ref());
            let done = self.as_leader(call).await?;
            record = Arc::new(there);
            match done {
                Err(error) if error.code() == Some(409) => {
                    if !patience.again().await {
                        return Err(DriverError::NotYet(format!(
                            "{} was not removed: it was modified repeatedly for {WAIT:?}",
                            key_of(kind, &record)
                        )));
                    }
                }
                Err(error) => return Err(of_write(error, &key_of(kind, &record), account.as_ref(), false)),
                Ok(()) => break,
            }
        }
        self.wait_until_gone(kind, &watched, &record).await
    }

    /// An error unless what was on its way out is gone by now.
    async fn is_gone_or(
        &self,
        kind: &Kind,
        watched: &WatchedKind,
        record: &Record,
        why: &str,
    ) -> Result<(), DriverError> {
        let (namespace, name) = (record.place.0.as_deref(), record.place.1.as_str());
        let there = self.api.get_metadata(kind, namespace, name).await?;
        let there = there.as_ref().map(Record::of_value).transpose()?;
        if there.is_some_and(|there| there.uid == record.uid) {
            return Err(not_gone(kind, record, why));
        }
        watched.forget(&record.place);
        Ok(())
    }

    async fn wait_until_gone(
        &self,
        kind: &Kind,
        watched: &WatchedKind,
        record: &Record,
    ) -> Result<(), DriverError> {
        let (namespace, name) = (record.place.0.as_deref(), record.place.1.as_str());
        let patience = Patience::begin();
        loop {
            let there = self.api.get_metadata(kind, namespace, name).await?;
            let there = there.as_ref().map(Record::of_value).transpose()?;
            let Some(there) = there.filter(|there| there.uid == record.uid) else {
                watched.forget(&record.place);
                return Ok(());
            };
            if !patience.again().await {
                let why = there
                    .leaving
                    .unwrap_or_else(|| "the API server does not say what it waits for".to_owned());
                return Err(not_gone(kind, record, &why));
            }
        }
    }

    /// Once an object was taken over, the app that had it doesn't name it any more.
    pub(super) async fn let_go(
        &self,
        step: &ApplyStep<'_>,
        done: Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        match (done, step.from) {
            (Ok(()), Some(from)) => self.tidy(from, step.object).await,
            (done, _) => done,
        }
    }

    /// Has the parent of an app's ApplySet name no more than there is, and nothing of what was `removed`.
    async fn tidy(&self, app: &AppName, removed: &ObjectKey) -> Result<(), DriverError> {
        let mut left = Members::default();
        for member in self.sets.of(app).await?.kinds {
            let (name, group) = member.split_once('.').unwrap_or((&member, ""));
            let Some(kind) = self.kinds.get(&self.api, group, name).await? else { continue };
            let watched = self.watched_kinds.of(&kind);
            watched.ready().await?;
            // The parent is a ConfigMap of ours itself, and no member.
            for record in watched.of_app(app).iter().filter(|record| self.prover.is_ours(&kind, record, app))
            {
                left.add(&kind, record.place.0.as_deref());
            }
        }
        if left == Members::default() {
            self.watched_kinds.used(app, &BTreeSet::new());
            self.restarts.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
            self.coming.forget(app);
            self.looked().remove(app);
        }
        if self.leader().is_some_and(|leader| leader.until().is_err()) {
            return Ok(());
        }
        Ok(self.as_leader(self.sets.keep_only(app, left, &removed.to_string())).await??)
    }
}

fn not_gone(kind: &Kind, record: &Record, why: &str) -> DriverError {
    DriverError::NotYet(format!("{} is still being deleted: {why}", key_of(kind, record)))
}

fn taken(key: &ObjectKey, owner: &str) -> DriverError {
    DriverError::Runtime(format!("{key} was just taken over by {owner}"))
}

pub(super) fn key_of(kind: &Kind, record: &Record) -> ObjectKey {
    record.key.clone().unwrap_or_else(|| {
        let (namespace, name) = record.place.clone();
        ObjectKey {
            kind: ObjectKey::kind_of(&kind.resource.api_version, &kind.resource.kind),
            namespace,
            name,
        }
    })
}

/// For as long as something is waited for.
pub(super) struct Patience(tokio::time::Instant);

impl Patience {
    pub(super) fn begin() -> Self {
        Patience(tokio::time::Instant::now() + WAIT)
    }

    /// Whether to look again; a moment later.
    pub(super) async fn again(&self) -> bool {
        let goes_on = tokio::time::Instant::now() < self.0;
        if goes_on {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        goes_on
    }
}

pub(super) fn is_missing_namespace(refusal: &Refusal, namespace: Option<&str>) -> bool {
    let Some(namespace) = namespace else { return false };
    refusal.code == 404 && refusal.message.contains(&format!("namespaces \"{namespace}\" not found"))
}

/// Whether an object has a field that its kind hasn't, or one of another type. A server-side apply is refused then by a
/// 500 with nothing but words (k8s.io/apimachinery, pkg/util/managedfields/internal/structuredmerge.go).
pub(super) fn is_ill_typed(refusal: &Refusal) -> bool {
    refusal.code == 500 && refusal.message.contains("failed to create typed patch object")
}

/// What follows from a write that was refused; of a `secret` nothing is told that stands in it.
pub(super) fn of_write(
    error: ApiError,
    key: &ObjectKey,
    account: Option<&ServiceAccount>,
    secret: bool,
) -> DriverError {
    let Some(refusal) = error.refusal() else { return error.into() };
    let said = format!("{key}: {}", refusal.told(secret));
    match refusal.code {
        // Admission decided about what is in the object.
        400 | 403 if refusal.message.contains("denied the request") => DriverError::Release(said),
        403 if refusal.message.contains("is being terminated") => DriverError::NotYet(said),
        403 => DriverError::NotYet(match account {
            Some(account) => format!(
                "{said}; the app acts as {account} and has only its permissions: bind a Role to it, or set another \
                 serviceAccount"
            ),
            None => format!("{said}; grant this permission to the agent's account (RBAC)"),
        }),
        404 => DriverError::NotYet(said),
        422 if is_immutable(refusal) => DriverError::Runtime(said),
        _ if is_ill_typed(refusal) => DriverError::Release(said),
        400 | 413 | 422 => DriverError::Release(said),
        // Nobody answers for it yet. Any other 500 is the cluster's own, such as a store that is too slow.
        500 if refusal.message.contains("webhook") => DriverError::NotYet(said),
        _ => DriverError::Runtime(said),
    }
}

/// What follows from a removal that didn't come to its end: what the cluster refuses, and what hangs on a finalizer, is the
/// cluster's matter. Only one that can't be asked keeps the rest from going on.
pub(super) fn of_removal(error: DriverError) -> DriverError {
    match error {
        DriverError::Release(why) | DriverError::NotYet(why) => DriverError::Stays(why),
        other => other,
    }
}

/// What an object weighs as it is sent, which a cluster's store must take.
pub(super) fn too_large(object: &Object) -> Option<String> {
    holdfast_core::kubernetes::too_large(&object.spec).map(|why| format!("{}: {why}", object.key))
}

impl From<ApiError> for DriverError {
    fn from(error: ApiError) -> Self {
        match error.code() {
            // The server is there, and answers so about this alone.
            Some(400 | 403 | 404 | 422) => DriverError::NotYet(error.to_string()),
            _ => DriverError::Runtime(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> DriverError {
        let status = Refusal { code, message: message.to_owned(), ..Refusal::default() };
        let error = ApiError::Refused { doing: "apply".into(), status: Box::new(status) };
        of_write(error, &ObjectKey::new("Deployment", "web"), None, false)
    }

    #[test]
    fn what_lies_at_the_object_is_told_from_what_lies_at_the_cluster() {
        assert!(matches!(refused(422, "spec.replicas: Invalid value: -1"), DriverError::Release(_)));
        assert!(matches!(refused(400, "unknown field \"spec.replcas\""), DriverError::Release(_)));
        assert!(matches!(
            refused(403, "admission webhook \"x\" denied the request: no"),
            DriverError::Release(_)
        ));
        assert!(matches!(refused(403, "User \"x\" cannot patch resource"), DriverError::NotYet(_)));
        assert!(matches!(refused(403, "namespace pos is being terminated"), DriverError::NotYet(_)));
        let ill = "failed to create typed patch object (a/b; apps/v1, Kind=Deployment): .spec.x: field not declared in schema";
        assert!(matches!(refused(500, ill), DriverError::Release(_)));
        assert!(matches!(refused(500, "failed calling webhook \"x\""), DriverError::NotYet(_)));
        assert!(matches!(refused(500, "etcdserver: request timed out"), DriverError::Runtime(_)));
        assert!(matches!(refused(503, "shutting down"), DriverError::Runtime(_)));
        assert!(matches!(refused(429, "too many requests"), DriverError::Runtime(_)));
    }
}
