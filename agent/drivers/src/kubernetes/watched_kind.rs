//! Our objects in the cluster: watched kind by kind, and reduced to what the driver needs as they arrive, so that
//! memory doesn't grow with their size.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::release::ServiceAccount;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, PartialObjectMeta, TypeMeta};
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::api::{Api, ApiError, PAGE, whole};
use super::discovery::{GroupKind, Kind, Kinds};
use super::marks::{self, NAMESPACE, OwnerMark};
use super::notifications::{BACK, Notifications};
use super::proof::{Proof, Prover, proof_in};
use super::status::{Status, has_ended, status};
use crate::DriverError;

/// How long the first look at a kind may take.
const FIRST_LOOK: Duration = Duration::from_secs(15);
/// The pauses between two tries to watch.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where an object is: its namespace and its name.
pub(super) type Place = (Option<String>, String);

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) uid: String,
    /// Its resource version. The server's are numbers that grow (KEP-5504).
    pub(super) version: u64,
    /// What it is called in its release.
    pub(super) key: Option<ObjectKey>,
    pub(super) app: Option<AppName>,
    pub(super) part_of: Option<String>,
    pub(super) release: Option<ReleaseId>,
    /// The digest of what was last written.
    pub(super) applied: Option<Digest>,
    pub(super) account: Option<ServiceAccount>,
    /// What proves that we wrote it.
    pub(super) proof: Option<Proof>,
    /// When it was made, as the server writes it.
    pub(super) created: Option<String>,
    /// Which fields are ours, as a digest: whoever changes one of them takes it from us.
    pub(super) owned: Option<Digest>,
    pub(super) status: Status,
    /// Why it isn't gone yet, if it was removed.
    pub(super) leaving: Option<String>,
    /// Others want to be asked before it is gone.
    pub(super) has_finalizers: bool,
    /// A controller made it, and keeps it.
    pub(super) controlled: bool,
    /// It is a Job that has ended well.
    pub(super) ended: bool,
}

impl Record {
    fn of(metadata: &ObjectMeta, status: Status, ended: bool) -> Self {
        let label =
            |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
        let note =
            |name: &str| metadata.annotations.as_ref().and_then(|notes| notes.get(name)).map(String::as_str);
        let managed = metadata.managed_fields.iter().flatten();
        let ours = managed.filter(|entry| {
            entry.manager.as_deref() == Some(marks::MANAGER)
                && entry.operation.as_deref() == Some("Apply")
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        });
        let fields =
            ours.filter_map(|entry| entry.fields_v1.as_ref()).map(|fields| fields.0.to_string()).next();
        let finalizers = || metadata.finalizers.clone().unwrap_or_default().join(", ");
        let leaving = metadata.deletion_timestamp.as_ref().map(|_| match finalizers().as_str() {
            "" => "it is being removed".to_owned(),
            finalizers => format!("it is being removed, and waits for {finalizers}"),
        });
        Record {
            place: (metadata.namespace.clone(), metadata.name.clone().unwrap_or_default()),
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata
                .resource_version
                .as_deref()
                .and_then(|version| version.parse().ok())
                .unwrap_or(0),
            key: note(marks::OBJECT).and_then(|key| key.parse().ok()),
            app: label(marks::APP).and_then(|app| app.parse().ok()),
            part_of: label(marks::PART_OF).map(str::to_owned),
            release: note(marks::RELEASE).and_then(|id| id.parse().ok()).map(ReleaseId),
            applied: note(marks::APPLIED).and_then(|digest| digest.parse().ok()),
            account: note(marks::ACCOUNT).and_then(account_in),
            proof: note(marks::PROOF).and_then(proof_in),
            created: metadata.creation_timestamp.as_ref().map(|made| made.0.to_string()),
            owned: fields.map(|fields| Digest::of(fields.as_bytes())),
            status,
            leaving,
            has_finalizers: metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty()),
            controlled: metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| owner.controller == Some(true)),
            ended,
        }
    }

    /// What is kept of an object that the server gave, whole or only its metadata.
    pub(super) fn of_value(object: &Value) -> Result<Self, ApiError> {
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        let metadata: ObjectMeta = serde_json::from_value(metadata).map_err(|error| {
            ApiError::Unreadable { doing: "read an object".to_owned(), cause: error.to_string() }
        })?;
        Ok(Record::of(&metadata, status(object), has_ended(object)))
    }

    /// Whether it is of this ApplySet, and we have written it: controllers copy labels onto what they make, and
    /// anybody may put some on.
    pub(super) fn is_member(&self, kind: &Kind, set: &str) -> bool {
        let is_itself = self.key.as_ref().is_some_and(|key| {
            key.kind == ObjectKey::kind_of(&kind.resource.api_version, &kind.resource.kind)
                && super::object::place_of(key, kind) == self.place
        });
        self.part_of.as_deref() == Some(set) && self.owned.is_some() && is_itself && !self.controlled
    }

    /// Whether `other` differs in nothing that anybody needs to hear of.
    fn is_like(&self, other: &Record) -> bool {
        Record { version: other.version, ..self.clone() } == *other
    }
}

fn account_in(text: &str) -> Option<ServiceAccount> {
    let (namespace, name) = text.split_once('/')?;
    Some(ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// An object as the watch gives it.
trait Seen {
    /// What is kept of it; `kind` is what it is.
    fn record(self, kind: &Kind) -> Record;
}

impl Seen for PartialObjectMeta<DynamicObject> {
    fn record(self, _: &Kind) -> Record {
        // What has no status is as it should be once it is there.
        Record::of(&self.metadata, Status::Current, false)
    }
}

impl Seen for DynamicObject {
    fn record(mut self, kind: &Kind) -> Record {
        // Items of a list don't say what they are.
        let ApiResource { api_version, kind, .. } = kind.resource.clone();
        self.types = Some(TypeMeta { api_version, kind });
        match serde_json::to_value(&self) {
            Ok(object) => Record::of(&self.metadata, status(&object), has_ended(&object)),
            Err(_) => Record::of(&self.metadata, Status::Current, false),
        }
    }
}

/// That an object is as it was last written: nobody has changed a field of ours since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    /// What was written.
    pub(super) wanted: Digest,
    /// Which fields were ours then.
    pub(super) owned: Option<Digest>,
}

struct Slot {
    record: Arc<Record>,
    confirmed: Option<Confirmed>,
    /// When we wrote it ourselves.
    written: Option<Instant>,
}

/// How the watch is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Watch {
    Starting,
    Live,
    /// Why, and whether the server has said so: then it is the kind's trouble, and not the cluster's.
    Away(String, bool),
}

/// All objects of a kind that are ours.
pub(super) struct WatchedKind {
    pub(super) kind: Arc<Kind>,
    owner: OwnerMark,
    prover: Prover,
    slots: Mutex<BTreeMap<Place, Slot>>,
    /// The Jobs that were seen to end well, by what was written, until that is written down: they may be gone by then.
    ended: Mutex<BTreeMap<Place, Digest>>,
    watch: watch::Sender<Watch>,
    task: Mutex<Option<AbortHandle>>,
    users: Mutex<BTreeSet<AppName>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WatchedKind {
    fn new(kind: Arc<Kind>, owner: OwnerMark, prover: Prover) -> Self {
        WatchedKind {
            kind,
            owner,
            prover,
            slots: Mutex::default(),
            ended: Mutex::default(),
            watch: watch::Sender::new(Watch::Starting),
            task: Mutex::default(),
            users: Mutex::default(),
        }
    }

    /// Waits until the watched shows what is there.
    pub(super) async fn ready(&self) -> Result<(), DriverError> {
        let mut watch = self.watch.subscribe();
        let settled = watch.wait_for(|watch| *watch != Watch::Starting);
        match tokio::time::timeout(FIRST_LOOK, settled).await {
            Ok(Ok(watch)) => match &*watch {
                Watch::Away(why, true) => Err(DriverError::NotYet(why.clone())),
                Watch::Away(why, false) => Err(DriverError::Runtime(why.clone())),
                _ => Ok(()),
            },
            _ => Err(DriverError::Runtime(format!(
                "the API server did not list {} within {FIRST_LOOK:?}",
                self.kind.resource.plural
            ))),
        }
    }

    /// What is at a place, and what is known of it.
    pub(super) fn get(&self, place: &Place) -> Option<(Arc<Record>, Option<Confirmed>)> {
        locked(&self.slots).get(place).map(|slot| (Arc::clone(&slot.record), slot.confirmed.clone()))
    }

    /// All that is there of an app.
    pub(super) fn of_app(&self, app: &AppName) -> Vec<Arc<Record>> {
        let slots = locked(&self.slots);
        slots
            .values()
            .filter(|slot| slot.record.app.as_ref() == Some(app))
            .map(|slot| Arc::clone(&slot.record))
            .collect()
    }

    /// What was written of the Job at a place that was seen to end well.
    pub(super) fn ended(&self, place: &Place) -> Option<Digest> {
        locked(&self.ended).get(place).copied()
    }

    fn note_ended(&self, record: &Record) {
        if let Some(applied) = record.applied.filter(|_| record.ended) {
            locked(&self.ended).insert(record.place.clone(), applied);
        }
    }

    /// Forgets that the Job at a place ended: it is written down, or it is to run anew.
    pub(super) fn forget_ended(&self, place: &Place) {
        locked(&self.ended).remove(place);
    }

    /// Notes what we have just written, or found out.
    pub(super) fn put(&self, record: Record, wanted: Digest) {
        let (confirmed, written) = (Some(Confirmed { wanted, owned: record.owned }), Some(Instant::now()));
        // The watch may have told of its end, and of its removal, before the write was answered.
        if record.applied.is_some() && self.ended(&record.place) == record.applied {
            return;
        }
        let mut slots = locked(&self.slots);
        let newer = slots
            .get(&record.place)
            .filter(|slot| slot.record.uid == record.uid && slot.record.version > record.version);
        let record = newer.map_or_else(|| Arc::new(record), |slot| Arc::clone(&slot.record));
        slots.insert(record.place.clone(), Slot { record, confirmed, written });
    }

    /// Notes that what is at a place is as it should be.
    pub(super) fn confirm(&self, place: &Place, uid: &str, confirmed: Confirmed) {
        if let Some(slot) = locked(&self.slots).get_mut(place)
            && slot.record.uid == uid
        {
            slot.confirmed = Some(confirmed);
        }
    }

    /// Forgets what is gone.
    pub(super) fn forget(&self, place: &Place) {
        locked(&self.slots).remove(place);
        self.forget_ended(place);
    }

    /// Whether it may be ours, or is the parent of one of our ApplySets. What else carries our label, copied there or put
    /// there by anybody, is others': it is not kept, however much of it there is.
    fn keeps(&self, record: &Record) -> bool {
        let Some(app) = &record.app else { return false };
        let is_parent =
            record.place.0.as_deref() == Some(NAMESPACE) && record.place.1 == self.owner.parent_of(app);
        is_parent || self.prover.is_ours(&self.kind, record, app)
    }

    /// Takes in what the watch tells; gives what is to be told of it.
    fn take(&self, record: Record) -> Option<Told> {
        if !self.keeps(&record) {
            // It may have been ours until now.
            return self.take_away(&record);
        }
        let mut slots = locked(&self.slots);
        let place = record.place.clone();
        let known = slots.get(&place);
        let same = known.filter(|slot| slot.record.uid == record.uid);
        // What we wrote is newer than what the watch tells only now, maybe of one that was there before.
        if known.is_some_and(|slot| slot.record.version > record.version) {
            return None;
        }
        self.note_ended(&record);
        let quiet = same.is_some_and(|slot| slot.record.is_like(&record));
        let confirmed = same.and_then(|slot| slot.confirmed.clone());
        let was_current = same.is_none_or(|slot| slot.record.status == Status::Current);
        let told = (!quiet).then(|| Told {
            app: record.app.clone(),
            what: format!("{} has changed", called(&self.kind, &place)),
            back: !was_current && record.status == Status::Current,
        });
        slots.insert(place, Slot { record: Arc::new(record), confirmed, written: None });
        told
    }

    fn take_away(&self, record: &Record) -> Option<Told> {
        let mut slots = locked(&self.slots);
        if slots.get(&record.place).is_none_or(|slot| slot.record.uid != record.uid) {
            return None;
        }
        slots.remove(&record.place);
        self.note_ended(record);
        let what = format!("{} is gone", called(&self.kind, &record.place));
        Some(Told { app: record.app.clone(), what, back: true })
    }

    /// Takes away what a whole list did not have.
    fn keep_only(&self, listed: &BTreeSet<Place>, since: Instant) -> Vec<Told> {
        let mut slots = locked(&self.slots);
        let mut gone = Vec::new();
        slots.retain(|place, slot| {
            let kept = listed.contains(place) || slot.written.is_some_and(|written| written >= since);
            if !kept {
                let what = format!("{} is gone", called(&self.kind, place));
                gone.push(Told { app: slot.record.app.clone(), what, back: true });
            }
            kept
        });
        gone
    }
}

impl Drop for WatchedKind {
    fn drop(&mut self) {
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
    }
}

fn called(kind: &Kind, (namespace, name): &Place) -> String {
    match namespace {
        Some(namespace) => format!("{}/{namespace}/{name}", kind.resource.kind),
        None => format!("{}/{name}", kind.resource.kind),
    }
}

/// The watched_kinds, one for each kind in use.
pub(super) struct WatchedKinds {
    api: Api,
    owner: OwnerMark,
    prover: Prover,
    notifications: Notifications,
    kinds: Arc<Kinds>,
    watched_kinds: Mutex<BTreeMap<GroupKind, Arc<WatchedKind>>>,
}

impl WatchedKinds {
    pub(super) fn new(
        api: Api,
        owner: OwnerMark,
        prover: Prover,
        notifications: Notifications,
        kinds: Arc<Kinds>,
    ) -> Self {
        WatchedKinds { api, owner, prover, notifications, kinds, watched_kinds: Mutex::default() }
    }

    /// The watched of a kind, which is watched from here on.
    pub(super) fn of(&self, kind: &Arc<Kind>) -> Arc<WatchedKind> {
        let mut watched_kinds = locked(&self.watched_kinds);
        let known = watched_kinds.get(&kind.group_kind());
        // A definition may have come to serve another version, or none that was.
        if let Some(watched) = known.filter(|watched| watched.kind.resource == kind.resource) {
            return Arc::clone(watched);
        }
        let watched = Arc::new(WatchedKind::new(Arc::clone(kind), self.owner.clone(), self.prover.clone()));
        let follower = Follower {
            // The watched ends its watch when it goes, so the watch mustn't keep it.
            watched: Arc::downgrade(&watched),
            kind: Arc::clone(kind),
            api: self.api.clone(),
            selector: self.owner.selector(),
            notifications: self.notifications.clone(),
            kinds: Arc::clone(&self.kinds),
        };
        let task = match kind.has_status {
            true => tokio::spawn(follower.follow::<DynamicObject>()),
            false => tokio::spawn(follower.follow::<PartialObjectMeta<DynamicObject>>()),
        };
        *locked(&watched.task) = Some(task.abort_handle());
        watched_kinds.insert(kind.group_kind(), Arc::clone(&watched));
        watched
    }

    /// The watched of a kind, if it is in use.
    pub(super) fn find(&self, group_kind: &GroupKind) -> Option<Arc<WatchedKind>> {
        locked(&self.watched_kinds).get(group_kind).cloned()
    }

    /// Notes which kinds an app uses. A kind that no app uses is no longer watched.
    pub(super) fn used(&self, app: &AppName, kinds: &BTreeSet<GroupKind>) {
        locked(&self.watched_kinds).retain(|group_kind, watched| {
            let mut users = locked(&watched.users);
            match kinds.contains(group_kind) {
                true => users.insert(app.clone()),
                false => users.remove(app),
            };
            !users.is_empty() || !locked(&watched.slots).is_empty()
        });
    }
}

/// Watches a kind for as long as its watched is there.
struct Follower {
    watched: Weak<WatchedKind>,
    kind: Arc<Kind>,
    api: Api,
    selector: String,
    notifications: Notifications,
    kinds: Arc<Kinds>,
}

impl Follower {
    async fn follow<K>(self)
    where
        K: Seen
            + kube::Resource<DynamicType = kube::api::ApiResource>
            + Clone
            + std::fmt::Debug
            + Send
            + serde::de::DeserializeOwned
            + 'static,
    {
        let mut pause = FIRST_PAUSE;
        let mut generations = self.api.connection.generations();
        loop {
            let (why, answered) = match self.api.connection.client().await {
                Err(error) => (error.to_string(), false),
                Ok(client) => {
                    generations.mark_unchanged();
                    let objects = kube::Api::<K>::all_with(client, &self.kind.resource);
                    let config = watcher::Config::default().labels(&self.selector).page_size(PAGE);
                    let events = pin!(watcher::watcher(objects, config));
                    let ended = tokio::select! {
                        ended = self.listen(events, &mut pause) => ended,
                        // Another cluster, maybe.
                        _ = generations.changed() => {
                            let Some(watched) = self.watched.upgrade() else { return };
                            locked(&watched.ended).clear();
                            continue;
                        }
                    };
                    let Some(error) = ended else { return };
                    if is_no_kind(&error) {
                        // The definition is gone, and all objects with it; or it is served in other versions.
                        self.kinds.forget();
                        let Some(watched) = self.watched.upgrade() else { return };
                        self.tell(watched.keep_only(&BTreeSet::new(), Instant::now()));
                        locked(&watched.ended).clear();
                        watched.watch.send_replace(Watch::Live);
                        pause = LONGEST_PAUSE;
                        drop(watched);
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    let (plural, server) = (&self.kind.resource.plural, self.api.connection.server());
                    (format!("{plural} can't be watched at {server}: {}", whole(&error)), is_answer(&error))
                }
            };
            let Some(watched) = self.watched.upgrade() else { return };
            tracing::debug!(why, "a watch broke off");
            watched.watch.send_replace(Watch::Away(why, answered));
            drop(watched);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes in what a watch tells, until it breaks off or nobody wants to know.
    async fn listen<K: Seen>(
        &self,
        mut events: Pin<&mut (impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send)>,
        pause: &mut Duration,
    ) -> Option<watcher::Error> {
        let (mut listed, mut since) = (BTreeSet::new(), Instant::now());
        while let Some(event) = events.next().await {
            let watched = self.watched.upgrade()?;
            match event {
                Ok(watcher::Event::Init) => (listed, since) = (BTreeSet::new(), Instant::now()),
                Ok(watcher::Event::InitApply(object)) => {
                    let record = object.record(&self.kind);
                    if watched.keeps(&record) {
                        listed.insert(record.place.clone());
                    }
                    self.tell(watched.take(record));
                }
                Ok(watcher::Event::InitDone) => {
                    self.tell(watched.keep_only(&std::mem::take(&mut listed), since));
                    *pause = FIRST_PAUSE;
                    let before = watched.watch.send_replace(Watch::Live);
                    if matches!(before, Watch::Away(..)) {
                        self.notifications.notify(None, BACK.to_owned(), true);
                    }
                }
                Ok(watcher::Event::Apply(object)) => self.tell(watched.take(object.record(&self.kind))),
                Ok(watcher::Event::Delete(object)) => {
                    self.tell(watched.take_away(&object.record(&self.kind)))
                }
                Err(error) => return Some(error),
            }
        }
        None
    }

    fn tell(&self, told: impl IntoIterator<Item = Told>) {
        for Told { app, what, back } in told {
            self.notifications.notify(app, what, back);
        }
    }
}

fn is_no_kind(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the server has answered, and with an error that is the kind's own.
fn is_answer(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if !matches!(status.code, 401 | 429 | 502..=504))
}

/// What the loop is told of an object.
struct Told {
    app: Option<AppName>,
    what: String,
    /// It may have been waited for.
    back: bool,
}

#[cfg(test)]
#[path = "watched_kind_tests.rs"]
mod tests;
