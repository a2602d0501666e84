//! Changing what is there: writing, making anew, removing. Each of these may be done twice.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::{Object, Release, ServiceAccount};

use super::KubernetesDriver;
use super::api::{ApiError, Apply, Refusal};
use super::compare::is_immutable;
use super::discovery::Kind;
use super::object::Wanted;
use super::sets::{self, Members};
use super::shelf::{Place, Record, Shelf};
use super::status::Status;
use crate::DriverError;

/// How long what is removed may take to be gone, and what others need to be served.
const WAIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often a write is tried again that another one came between.
const TRIES: usize = 4;

impl KubernetesDriver {
    /// Writes an object as the release has it.
    pub(super) async fn write(&self, release: &Release, object: &Object) -> Result<(), DriverError> {
        let wanted = self.served(release, object).await?;
        let mut members = Members::default();
        members.add(&wanted.kind, wanted.namespace());
        self.sets.cover(&release.app, &members).await?;
        let shelf = self.shelves.of(&wanted.kind);
        if let Some((record, _)) = shelf.get(&wanted.place())
            && record.leaving.is_some()
        {
            self.wait_until_gone(&wanted.kind, &shelf, &record).await?;
        }
        self.put(&wanted, &shelf).await?;
        self.wait_until_served(&wanted, &shelf).await
    }

    /// Removes an object of ours and writes it anew.
    pub(super) async fn rewrite(&self, release: &Release, object: &Object) -> Result<(), DriverError> {
        let wanted = self.served(release, object).await?;
        if object.key.holds_data() {
            return Err(DriverError::Release(format!(
                "{} holds data and is never removed to be made anew",
                object.key
            )));
        }
        self.take_away(&release.app, &wanted.kind, wanted.place()).await?;
        self.write(release, object).await
    }

    /// Removes an object of an app, whatever the app is to be; what isn't ours stays.
    pub(super) async fn remove(&self, app: &AppName, key: &ObjectKey) -> Result<(), DriverError> {
        let (group, kind) = key.group_and_kind();
        let Some(kind) = self.kind_called(app, group, kind).await? else { return Ok(()) };
        self.take_away(app, &kind, super::object::place_of(key, &kind)).await?;
        self.tidy(app).await
    }

    /// The kind of an object of which only the key is known.
    async fn kind_called(
        &self,
        app: &AppName,
        group: Option<&str>,
        kind: &str,
    ) -> Result<Option<Arc<Kind>>, DriverError> {
        if let Some(group) = group {
            return Ok(self.kinds.get(&self.api, group, kind).await?);
        }
        // One of Kubernetes' own groups: those that the app has objects of, as its parent tells.
        for member in self.sets.of(app).await?.kinds {
            let (name, group) = member.split_once('.').unwrap_or((&member, ""));
            if name == kind
                && ObjectKey::kind_of(&format!("{group}/v1"), kind) == kind
                && let Some(found) = self.kinds.get(&self.api, group, kind).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn served<'a>(&self, release: &'a Release, object: &'a Object) -> Result<Wanted<'a>, DriverError> {
        match self.kind_of(object).await? {
            Some(kind) => Ok(Wanted::new(release, object, kind)),
            None => Err(DriverError::NotYet(format!(
                "{}: the cluster serves no such kind; commit its CustomResourceDefinition with it, or let the app depend on the one that brings it",
                object.key
            ))),
        }
    }

    async fn put(&self, wanted: &Wanted<'_>, shelf: &Shelf) -> Result<(), DriverError> {
        let body = wanted.body(&self.owner, wanted.release.id(), &*self.secrets)?;
        let account = wanted.release.account.as_ref();
        let (namespace, name) = (wanted.namespace(), wanted.key().name.as_str());
        let mut tries = 0;
        loop {
            tries += 1;
            // What nobody has seen there may have been made by somebody else a moment ago.
            let how = if shelf.get(&wanted.place()).is_some() { Apply::Force } else { Apply::Make };
            let call = self.api.apply(&wanted.kind, namespace, name, &body, how, account);
            let error = match self.as_leader(call).await? {
                Ok(made) => {
                    shelf.put(Record::of_value(&made)?, wanted.digest);
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.refusal() {
                Some(refusal) if refusal.code == 409 && how == Apply::Make && is_taken(refusal) => {
                    let who =
                        format!("{}: somebody else made it meanwhile: {}", wanted.key(), refusal.message);
                    return Err(DriverError::Runtime(who));
                }
                Some(refusal) if refusal.code == 409 && tries < TRIES => {}
                Some(refusal)
                    if is_missing_namespace(refusal, namespace) && account.is_none() && tries < TRIES =>
                {
                    if let Some(namespace) = namespace {
                        sets::ensure_namespace(&self.api, namespace).await?;
                    }
                }
                _ => return Err(of_write(error, wanted.key(), account)),
            }
        }
    }

    /// What others need is waited for: a definition until its kind is served.
    async fn wait_until_served(&self, wanted: &Wanted<'_>, shelf: &Shelf) -> Result<(), DriverError> {
        let kind = &wanted.kind.resource;
        if kind.kind != "CustomResourceDefinition" {
            return Ok(());
        }
        self.kinds.forget();
        let place = wanted.place();
        let patience = Patience::begin();
        while shelf.get(&place).is_none_or(|(record, _)| record.status != Status::Current) {
            if !patience.again().await {
                return Err(DriverError::NotYet(format!(
                    "{}: its kind was not served within {WAIT:?}",
                    wanted.key()
                )));
            }
        }
        self.kinds.forget();
        Ok(())
    }

    /// Removes what is at a place, if it is of this app, and waits until it is gone.
    async fn take_away(&self, app: &AppName, kind: &Arc<Kind>, place: Place) -> Result<(), DriverError> {
        let shelf = self.shelves.of(kind);
        shelf.ready().await.map_err(DriverError::Runtime)?;
        let Some((record, _)) = shelf.get(&place) else { return Ok(()) };
        if record.app.as_ref() != Some(app)
            || record.part_of.as_deref() != Some(self.owner.set_of(app).as_str())
        {
            return Ok(());
        }
        if record.leaving.is_none() {
            let (namespace, name) = (place.0.as_deref(), place.1.as_str());
            let call = self.api.delete(kind, namespace, name, &record.uid, record.account.as_ref());
            match self.as_leader(call).await? {
                // Another one is there by now: it isn't the one that was to go.
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(of_write(error, &key_of(kind, &record), record.account.as_ref())),
                Ok(()) => {}
            }
        }
        self.wait_until_gone(kind, &shelf, &record).await
    }

    async fn wait_until_gone(&self, kind: &Kind, shelf: &Shelf, record: &Record) -> Result<(), DriverError> {
        let (namespace, name) = (record.place.0.as_deref(), record.place.1.as_str());
        let patience = Patience::begin();
        loop {
            let there = self.api.get_metadata(kind, namespace, name).await?;
            let there = there.as_ref().map(Record::of_value).transpose()?;
            let Some(there) = there.filter(|there| there.uid == record.uid) else {
                shelf.forget(&record.place);
                return Ok(());
            };
            if !patience.again().await {
                let why =
                    there.leaving.unwrap_or_else(|| "the API server has not begun to remove it".to_owned());
                return Err(DriverError::NotYet(format!(
                    "{} is not gone after {WAIT:?}: {why}",
                    key_of(kind, record)
                )));
            }
        }
    }

    /// Has the parent of an app's ApplySet name no more than there is.
    pub(super) async fn tidy(&self, app: &AppName) -> Result<(), DriverError> {
        let mut left = Members::default();
        for member in self.sets.of(app).await?.kinds {
            let (name, group) = member.split_once('.').unwrap_or((&member, ""));
            let Some(kind) = self.kinds.get(&self.api, group, name).await? else { continue };
            // The parent is a ConfigMap of ours itself, and no member.
            let members =
                self.shelves.of(&kind).of_app(app).into_iter().filter(|record| record.part_of.is_some());
            for record in members {
                left.add(&kind, record.place.0.as_deref());
            }
        }
        Ok(self.sets.keep_only(app, left).await?)
    }
}

fn key_of(kind: &Kind, record: &Record) -> ObjectKey {
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
struct Patience(tokio::time::Instant);

impl Patience {
    fn begin() -> Self {
        Patience(tokio::time::Instant::now() + WAIT)
    }

    /// Whether to look again; a moment later.
    async fn again(&self) -> bool {
        let goes_on = tokio::time::Instant::now() < self.0;
        if goes_on {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        goes_on
    }
}

/// Whether others own what was to be made.
fn is_taken(refusal: &Refusal) -> bool {
    refusal.causes.iter().any(|cause| cause.reason == "FieldManagerConflict")
}

fn is_missing_namespace(refusal: &Refusal, namespace: Option<&str>) -> bool {
    let Some(namespace) = namespace else { return false };
    refusal.code == 404 && refusal.message.contains(&format!("namespaces \"{namespace}\" not found"))
}

/// What follows from a write that was refused.
pub(super) fn of_write(error: ApiError, key: &ObjectKey, account: Option<&ServiceAccount>) -> DriverError {
    let Some(refusal) = error.refusal() else { return error.into() };
    let said = format!("{key}: {}", refusal.message);
    match refusal.code {
        // Admission decided about what is in the object.
        400 | 403 if refusal.message.contains("denied the request") => DriverError::Release(said),
        403 if refusal.message.contains("is being terminated") => DriverError::NotYet(said),
        403 => DriverError::NotYet(match account {
            Some(account) => format!(
                "{said}; the app acts as {account} and may do what that account may: give it a Role, or write another serviceAccount"
            ),
            None => format!("{said}; give the agent's account the right"),
        }),
        404 => DriverError::NotYet(said),
        422 if is_immutable(refusal) => DriverError::Runtime(said),
        400 | 413 | 422 => DriverError::Release(said),
        // Such as a webhook that nobody answers for yet.
        500 => DriverError::NotYet(said),
        _ => error.into(),
    }
}

/// What an object weighs as it is sent, which a cluster's store must take.
pub(super) fn too_large(object: &Object) -> Option<String> {
    holdfast_core::kubernetes::too_large(&object.spec).map(|why| format!("{}: {why}", object.key))
}

impl From<ApiError> for DriverError {
    fn from(error: ApiError) -> Self {
        DriverError::Runtime(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> DriverError {
        let status = Refusal { code, message: message.to_owned(), ..Refusal::default() };
        let error = ApiError::Refused { doing: "apply".into(), status: Box::new(status) };
        of_write(error, &ObjectKey::new("Deployment", "web"), None)
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
        assert!(matches!(refused(500, "failed calling webhook \"x\""), DriverError::NotYet(_)));
        assert!(matches!(refused(503, "shutting down"), DriverError::Runtime(_)));
        assert!(matches!(refused(429, "too many requests"), DriverError::Runtime(_)));
    }
}
