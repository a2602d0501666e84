//! How an object in the cluster differs from the one that should be there. The server itself tells, by what it would
//! make of it: nobody else knows its defaults. It is asked only when something may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use holdfast_core::name::AppName;
use holdfast_core::observe::{AppObservation, Observed};
use holdfast_core::release::Release;
use serde_json::Value;

use super::KubernetesDriver;
use super::api::{ApiError, Apply, Refusal};
use super::discovery::{GroupKind, Kind};
use super::object::{Name, Wanted, comparable, stands_in};
use super::sets::is_made_by_us;
use super::watched_kind::{Confirmed, Place, Record, WatchedKind};
use crate::{DriverError, diff};

/// How many objects are asked for at once.
pub(super) const WIDTH: usize = 8;
/// From how many objects of a kind on all of them are listed, instead of one after the other.
const MANY: usize = 4;

/// An object of a release with what is there of it.
pub(super) struct Pair<'a> {
    pub(super) wanted: Wanted<'a>,
    pub(super) watched: Arc<WatchedKind>,
    pub(super) there: There,
}

/// What is at an object's place.
#[derive(Clone)]
pub(super) enum There {
    /// Nothing.
    Nothing,
    /// Something of ours, of this app.
    Ours(Arc<Record>, Option<Confirmed>),
    /// Nothing any more: a Job of ours that ended well, and that the cluster removed then.
    Ended,
    /// Something of ours, of another app.
    Another(AppName, Arc<Record>),
    /// Something else.
    Foreign(String),
}

impl KubernetesDriver {
    /// The objects of a release whose kinds the cluster serves; and the keys of the others.
    pub(super) async fn wanted<'a>(
        &self,
        release: &'a Release,
    ) -> Result<(Vec<Wanted<'a>>, Vec<&'a holdfast_core::name::ObjectKey>), DriverError> {
        let (mut all, mut unknown) = (Vec::new(), Vec::new());
        let id = Name::default();
        let key = self.prover.key().await?;
        for object in &release.objects {
            match self.kind_of(object).await? {
                Some((kind, watched)) => {
                    all.push(Wanted::new(release, &id, object, kind, watched, key.clone()))
                }
                None => unknown.push(&object.key),
            }
        }
        Ok((all, unknown))
    }

    /// What is there of each of them.
    pub(super) async fn pairs<'a>(
        &self,
        app: &AppName,
        wanted: Vec<Wanted<'a>>,
    ) -> Result<Vec<Pair<'a>>, DriverError> {
        let mut pairs = Vec::new();
        let mut ready = BTreeSet::new();
        for wanted in wanted {
            let watched = self.watched_kinds.of(&wanted.watched);
            if ready.insert(wanted.kind.group_kind()) {
                watched.ready().await?;
            }
            let there = match watched.get(&wanted.place()) {
                Some((record, confirmed)) => self.whose(app, &wanted.watched, record, confirmed),
                None => There::Nothing,
            };
            pairs.push(Pair { wanted, watched, there });
        }
        for pair in &mut pairs {
            if !matches!(pair.there, There::Foreign(_))
                && self.has_ended(app, &pair.wanted, &pair.watched).await?
            {
                pair.there = There::Ended;
            }
        }
        self.find_unmarked(app, &mut pairs).await?;
        Ok(pairs)
    }

    /// Whether this is a Job that has ended well as it is to be, and that is gone or on its way.
    pub(super) async fn has_ended(
        &self,
        app: &AppName,
        wanted: &Wanted<'_>,
        watched: &WatchedKind,
    ) -> Result<bool, DriverError> {
        let stays = || watched.get(&wanted.place()).is_some_and(|(record, _)| record.leaving.is_none());
        if !wanted.goes_when_ended() || stays() {
            return Ok(false);
        }
        if watched.ended(&wanted.place()) == Some(wanted.digest) {
            return Ok(true);
        }
        Ok(self.sets.of(app).await?.ended.get(&wanted.key().to_string()) == Some(&wanted.digest))
    }

    /// Writes down which Jobs have ended, before the cluster removes them: they are not to run again.
    pub(super) async fn note_ended(&self, app: &AppName, pairs: &[Pair<'_>]) -> Result<(), DriverError> {
        // Who only asks writes nothing.
        if !self.notifications.is_connected() {
            return Ok(());
        }
        let has_ended = |pair: &&Pair<'_>| match &pair.there {
            There::Ours(record, _) => record.ended && record.applied == Some(pair.wanted.digest),
            There::Ended => true,
            There::Nothing | There::Another(..) | There::Foreign(_) => false,
        };
        let ended: Vec<_> =
            pairs.iter().filter(|pair| pair.wanted.goes_when_ended()).filter(has_ended).collect();
        if ended.is_empty() || self.stands_by().is_err() {
            return Ok(());
        }
        let new = ended.iter().map(|pair| (pair.wanted.key().to_string(), pair.wanted.digest)).collect();
        self.as_leader(self.sets.note_ended(app, new)).await??;
        ended.iter().for_each(|pair| pair.watched.forget_ended(&pair.wanted.place()));
        Ok(())
    }

    fn whose(&self, app: &AppName, kind: &Kind, record: Arc<Record>, confirmed: Option<Confirmed>) -> There {
        match &record.app {
            Some(other) if other != app => match record.part_of.as_deref() {
                Some(set) if set == self.owner.set_of(other) && self.prover.is_ours(kind, &record, other) => {
                    There::Another(other.clone(), record)
                }
                _ => There::Foreign(format!("the app {other}")),
            },
            None => There::Foreign(format!(
                "nobody any more, because its label {} was removed",
                super::marks::APP
            )),
            Some(_) if record.part_of.as_deref() != Some(self.owner.set_of(app).as_str()) => {
                let label = super::marks::PART_OF;
                There::Foreign(match &record.part_of {
                    Some(other) => format!("the ApplySet {other}"),
                    None => format!("nobody any more, because its label {label} was removed"),
                })
            }
            Some(_) if !self.prover.is_ours(kind, &record, app) => There::Foreign(
                "somebody else: it has this agent's labels, but not the proof that only this agent can write"
                    .to_owned(),
            ),
            Some(_) => There::Ours(record, confirmed),
        }
    }

    /// What doesn't carry our label isn't watched: the server is asked for what seems not to be there.
    async fn find_unmarked(&self, app: &AppName, pairs: &mut [Pair<'_>]) -> Result<(), DriverError> {
        let mut missing: BTreeMap<(GroupKind, Option<String>), Vec<usize>> = BTreeMap::new();
        for (index, pair) in pairs.iter().enumerate() {
            if matches!(pair.there, There::Nothing) {
                let (namespace, _) = pair.wanted.place();
                missing.entry((pair.wanted.kind.group_kind(), namespace)).or_default().push(index);
            }
        }
        for ((_, namespace), indexes) in missing {
            let Some(first) = indexes.first().and_then(|index| pairs.get(*index)) else { continue };
            let kind = Arc::clone(&first.wanted.kind);
            let mut found: BTreeMap<Place, Value> = BTreeMap::new();
            if indexes.len() >= MANY {
                let names: BTreeSet<String> =
                    indexes.iter().map(|index| pairs[*index].wanted.place().1).collect();
                let mut pages = self.api.metadata_pages(&kind, namespace.as_deref());
                while let Some(page) = pages.next().await? {
                    for object in page {
                        let name = object
                            .pointer("/metadata/name")
                            .and_then(Value::as_str)
                            .unwrap_or_default()
                            .to_owned();
                        if names.contains(&name) {
                            found.insert((namespace.clone(), name), object);
                        }
                    }
                }
            } else {
                for index in &indexes {
                    let place = pairs[*index].wanted.place();
                    if let Some(object) = self.api.get_metadata(&kind, place.0.as_deref(), &place.1).await? {
                        found.insert(place, object);
                    }
                }
            }
            for index in indexes {
                let pair = &mut pairs[index];
                if let Some(object) = found.get(&pair.wanted.place()) {
                    pair.there = self.unmarked(app, &pair.wanted.watched, object)?;
                }
            }
        }
        Ok(())
    }

    /// What the watch hasn't told of: somebody else's, or something of ours that was made just now.
    pub(super) fn unmarked(&self, app: &AppName, kind: &Kind, object: &Value) -> Result<There, DriverError> {
        let label =
            |name: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(name)?.as_str());
        if label(super::marks::OWNER) == Some(self.owner.mark.as_str()) {
            return Ok(self.whose(app, kind, Arc::new(Record::of_value(object)?), None));
        }
        if is_made_by_us(object) {
            return Ok(There::Nothing);
        }
        let note =
            |name: &str| object.pointer("/metadata/annotations").and_then(|notes| notes.get(name)?.as_str());
        Ok(There::Foreign(match (label(super::marks::OWNER), note(super::marks::OBJECT)) {
            (Some(other), _) => format!("another agent, with the mark {other}"),
            (None, Some(_)) => {
                format!("nobody any more, because its label {} was removed", super::marks::OWNER)
            }
            (None, None) => match label("app.kubernetes.io/managed-by") {
                Some(manager) => manager.to_owned(),
                None => managers_of(object).unwrap_or_else(|| "somebody else".to_owned()),
            },
        }))
    }

    /// How each object is.
    pub(super) async fn compare(&self, pairs: &[Pair<'_>]) -> Result<AppObservation, DriverError> {
        self.read_unconfirmed(pairs).await?;
        let mut asked: Vec<BoxFuture<'_, Result<Observed, DriverError>>> = Vec::new();
        for pair in pairs {
            asked.push(Box::pin(self.compare_one(pair)));
        }
        let seen = side_by_side(asked).await;
        let keys = pairs.iter().map(|pair| pair.wanted.key().clone());
        keys.zip(seen).map(|(key, seen)| Ok((key, seen?))).collect()
    }

    async fn compare_one(&self, pair: &Pair<'_>) -> Result<Observed, DriverError> {
        let (record, _) = match &pair.there {
            There::Nothing => return Ok(Observed::Absent),
            There::Ended => return Ok(Observed::Same),
            There::Foreign(owner) => return Ok(Observed::Foreign { owner: owner.clone() }),
            There::Another(app, record) => {
                let immutable = match self.difference(&pair.wanted, record).await? {
                    Difference::Immutable(why) => Some(why),
                    Difference::None(_) | Difference::Some(_) => None,
                };
                return Ok(Observed::Another { app: app.clone(), immutable });
            }
            There::Ours(record, confirmed) => (record, confirmed),
        };
        if let Some(why) = &record.leaving {
            return Ok(Observed::Drift { difference: why.clone(), recreate: false });
        }
        if !self.prover.is_proved(record) {
            let difference = "its proof of ownership was made with a key that no longer exists".to_owned();
            return Ok(Observed::Drift { difference, recreate: false });
        }
        if pair.is_confirmed() {
            return Ok(Observed::Same);
        }
        match self.difference(&pair.wanted, record).await? {
            Difference::None(owned) => {
                pair.watched.confirm(
                    &record.place,
                    &record.uid,
                    Confirmed { wanted: pair.wanted.digest, owned },
                );
                Ok(Observed::Same)
            }
            Difference::Some(difference) => Ok(Observed::Drift { difference, recreate: false }),
            Difference::Immutable(difference) => Ok(Observed::Immutable { difference }),
        }
    }

    /// What was written and hasn't been looked at since the agent was started is read, a page at a time: what stands
    /// there as it was written needs no question.
    async fn read_unconfirmed(&self, pairs: &[Pair<'_>]) -> Result<(), DriverError> {
        let mut unread: BTreeMap<GroupKind, Vec<&Pair<'_>>> = BTreeMap::new();
        for pair in pairs {
            let There::Ours(record, None) = &pair.there else { continue };
            if record.applied == Some(pair.wanted.digest) && record.leaving.is_none() {
                unread.entry(pair.wanted.kind.group_kind()).or_default().push(pair);
            }
        }
        for pairs in unread.into_values() {
            let Some(first) = pairs.first() else { continue };
            let kind = Arc::clone(&first.wanted.kind);
            let by_place: BTreeMap<Place, &Pair<'_>> =
                pairs.iter().map(|pair| (pair.wanted.place(), *pair)).collect();
            if pairs.len() >= MANY {
                let selector =
                    format!("{}={}", super::marks::PART_OF, self.owner.set_of(&first.wanted.release.app));
                let mut pages = self.api.pages(&kind, None, &selector);
                while let Some(page) = pages.next().await? {
                    page.iter().for_each(|object| self.confirm_if_same(&by_place, object));
                }
            } else {
                for place in by_place.keys() {
                    if let Some(object) = self.api.get(&kind, place.0.as_deref(), &place.1).await? {
                        self.confirm_if_same(&by_place, &object);
                    }
                }
            }
        }
        Ok(())
    }

    fn confirm_if_same(&self, pairs: &BTreeMap<Place, &Pair<'_>>, object: &Value) {
        let Ok(record) = Record::of_value(object) else { return };
        let Some(pair) = pairs.get(&record.place) else { return };
        // A secret that can't be opened now is compared by the server, or not at all.
        let Ok(body) = pair.wanted.body(&self.owner, &*self.secrets) else {
            return;
        };
        if record.owned.is_some()
            && record.applied == Some(pair.wanted.digest)
            && stands_in(&comparable(&body), object)
        {
            let confirmed = Confirmed { wanted: pair.wanted.digest, owned: record.owned };
            pair.watched.confirm(&record.place, &record.uid, confirmed);
        }
    }

    /// What the server would make of an object that is there.
    async fn difference(&self, wanted: &Wanted<'_>, record: &Record) -> Result<Difference, DriverError> {
        // It was read a moment ago.
        let confirmed = self
            .watched_kinds
            .find(&wanted.kind.group_kind())
            .and_then(|watched| watched.get(&wanted.place()));
        if let Some((record, Some(confirmed))) = confirmed
            && confirmed == (Confirmed { wanted: wanted.digest, owned: record.owned })
        {
            return Ok(Difference::None(record.owned));
        }
        let (namespace, name) = (wanted.namespace(), &wanted.key().name);
        let body = wanted.body(&self.owner, &*self.secrets)?;
        let account = wanted.release.account.as_ref();
        let Some(live) = self.api.get(&wanted.kind, namespace, name).await? else {
            return Ok(Difference::Some("it was deleted just now".to_owned()));
        };
        let made = match self.api.apply(&wanted.kind, namespace, name, &body, Apply::Rehearse, account).await
        {
            Ok(made) => made,
            Err(error) => return refused(error, wanted.is_secret()),
        };
        let differs = diff::difference(&comparable(&live), &comparable(&made), !wanted.is_secret());
        let before = Record::of_value(&live)?;
        let Some(differs) = differs else {
            return Ok(match record.applied == Some(wanted.digest) {
                true if before.owned == Record::of_value(&made)?.owned => Difference::None(before.owned),
                true => Difference::Some(
                    "other field managers have taken over fields that the manifest sets, with the same values".to_owned(),
                ),
                false => Difference::Some("the manifest changed, with the same result".to_owned()),
            });
        };
        let by = match record.applied == Some(wanted.digest) {
            true => self.taken_by(wanted, &body).await,
            // The release is another one: that is why it differs.
            false => None,
        };
        Ok(Difference::Some(by.map_or(differs.clone(), |by| format!("{differs}, changed by {by}"))))
    }

    /// Who has changed what is ours.
    async fn taken_by(&self, wanted: &Wanted<'_>, body: &Value) -> Option<String> {
        let account = wanted.release.account.as_ref();
        let asked = self
            .api
            .apply(&wanted.kind, wanted.namespace(), &wanted.key().name, body, Apply::Ask, account)
            .await;
        let error = asked.err()?;
        let conflicts = error.refusal()?.causes.iter().filter(|cause| cause.reason == "FieldManagerConflict");
        // Such as: conflict with "kubectl-edit" using v1
        let names: BTreeSet<&str> = conflicts.filter_map(|cause| cause.message.split('"').nth(1)).collect();
        (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// The kind of an object, in the version that the object names and in the one that is watched.
    pub(super) async fn kind_of(
        &self,
        object: &holdfast_core::release::Object,
    ) -> Result<Option<(Arc<Kind>, Arc<Kind>)>, DriverError> {
        let (group, version, kind) = super::object::version_and_kind(object)?;
        let Some(watched) = self.kinds.get(&self.api, group, kind).await? else { return Ok(None) };
        if watched.resource.version == version {
            return Ok(Some((Arc::clone(&watched), watched)));
        }
        let is_served = watched.versions.iter().any(|served| served == version);
        Ok(is_served.then(|| (Arc::new(watched.at(version)), watched)))
    }
}

impl Pair<'_> {
    /// Whether nobody has changed it since it was last written, or looked at.
    pub(super) fn is_confirmed(&self) -> bool {
        let There::Ours(record, Some(confirmed)) = &self.there else { return false };
        *confirmed == Confirmed { wanted: self.wanted.digest, owned: record.owned }
            && record.leaving.is_none()
    }
}

/// Has a few of these be under way at a time; gives what comes of them in their order.
pub(super) async fn side_by_side<T>(calls: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    futures_util::stream::iter(calls).buffered(WIDTH).collect().await
}

/// What the server would change.
enum Difference {
    /// Nothing; these fields are ours.
    None(Option<holdfast_core::digest::Digest>),
    Some(String),
    Immutable(String),
}

/// What follows when the server would not take it.
fn refused(error: ApiError, secret: bool) -> Result<Difference, DriverError> {
    match error.refusal() {
        Some(refusal) if is_immutable(refusal) => Ok(Difference::Immutable(refusal.told(secret))),
        // Writing it gives the same error, which is then the step's.
        Some(refusal)
            if matches!(refusal.code, 400 | 403 | 404 | 422) || super::change::is_ill_typed(refusal) =>
        {
            Ok(Difference::Some(format!(
                "the manifest changed, and the API server refuses it: {}",
                refusal.told(secret)
            )))
        }
        _ => Err(error.into()),
    }
}

/// Whether a field can't be changed in place. The server says so in words only.
pub(super) fn is_immutable(refusal: &Refusal) -> bool {
    const WORDS: [&str; 8] = [
        "immutable",
        "updates to",
        "may not change fields other than",
        "may not change once set",
        "may not be changed",
        "cannot be changed",
        "cannot change roleRef",
        // A claim, which only grows.
        "can not be less than",
    ];
    let says = |text: &str| WORDS.iter().any(|words| text.contains(words));
    let causes = &refusal.causes;
    // All that is wrong must be of this sort: what is also wrong otherwise isn't mended by making it anew.
    refusal.code == 422
        && (!causes.is_empty() && causes.iter().all(|cause| says(&cause.message))
            || causes.is_empty() && says(&refusal.message))
}

/// Who last wrote an object, as far as it tells.
fn managers_of(object: &Value) -> Option<String> {
    let managed = object.pointer("/metadata/managedFields").and_then(Value::as_array)?;
    let names: BTreeSet<&str> = managed.iter().filter_map(|entry| entry.get("manager")?.as_str()).collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(", "))
}
