//! The digests that image tags resolve to. Rendering asks no registry: an app of which a tag isn't known yet is held,
//! and the registries are asked beside everything else, each by a job of its own. With what one says the revision is
//! rendered again. So one that hangs holds up what names it, and neither the other apps nor polls nor an emergency
//! stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_core::clock::{Moment, Now};
use holdfast_core::digest::Digest;
use holdfast_core::image::ImageReference;
use holdfast_core::name::AppName;
use holdfast_core::resolve::Unresolved;
use holdfast_store::StoreError;
use holdfast_store::records;

use super::accept::{LEFT_ALONE, random};
use super::images::{BoxImages, unresolved};
use super::journal::lock;
use super::{Daemon, Event, FIRST_RETRY};
use crate::backoff::Backoff;
use crate::registry::RegistryError;

/// The longest pause before a registry is asked again what a tag means.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// The tags of one app whose meaning isn't known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedTags {
    /// What the app asks for, as one digest: the answer stays as long as that is the same.
    pub(super) asked: Digest,
    pub(super) images: BTreeSet<ImageReference>,
}

/// The same of all apps.
pub(super) type Wanted = BTreeMap<AppName, WantedTags>;

/// Why tags aren't known, as their registries have said.
pub(super) type Unknown = BTreeMap<ImageReference, Unresolved>;

/// What a registry was asked, and what it said.
pub(super) struct Said {
    registry: String,
    answers: BTreeMap<ImageReference, Result<Digest, Why>>,
}

/// Why there is no digest.
enum Why {
    Registry(RegistryError),
    /// It was to be asked, and that broke off.
    Broken(String),
}

/// What is wanted of registries, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Tags {
    wanted: Wanted,
    unknown: Unknown,
    registries: BTreeMap<String, Registry>,
}

/// A registry that is being asked, or hasn't said all that was asked.
#[derive(Debug)]
struct Registry {
    is_asked: bool,
    backoff: Backoff,
    /// When it is asked again.
    due: Option<Moment>,
}

impl Registry {
    fn new() -> Self {
        Registry { is_asked: false, backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY), due: None }
    }

    fn is_due(&self, now: &Now) -> bool {
        !self.is_asked && self.due.as_ref().is_some_and(|at| !now.moment.is_before(at))
    }
}

impl Tags {
    /// From here on this is wanted, and nothing else.
    pub(super) fn want(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        let wanted: BTreeSet<&ImageReference> = self.wanted.values().flat_map(|tags| &tags.images).collect();
        self.unknown.retain(|image, _| wanted.contains(image));
        self.settle();
    }

    /// Why tags aren't known.
    pub(super) fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    /// Whether an app waits for tags.
    pub(super) fn are_wanted_by(&self, app: &AppName) -> bool {
        self.wanted.contains_key(app)
    }

    /// Whether a tag of the app has had no answer at all.
    pub(super) fn are_unasked_for(&self, app: &AppName) -> bool {
        let has_answer = |image: &ImageReference| self.unknown.contains_key(image);
        self.wanted.get(app).is_some_and(|tags| !tags.images.iter().all(has_answer))
    }

    /// Whether a job asks a registry.
    pub(super) fn are_asked(&self) -> bool {
        self.registries.values().any(|registry| registry.is_asked)
    }

    /// Whoever failed to answer is asked at once.
    pub(super) fn ask_all_now(&mut self, now: &Now) {
        for registry in self.registries.values_mut() {
            registry.backoff.succeeded();
            registry.due = registry.due.is_some().then(|| now.moment.clone());
        }
    }

    /// When a registry is asked again next.
    pub(super) fn next(&self) -> Option<Moment> {
        let waiting = self.registries.values().filter(|registry| !registry.is_asked);
        waiting.filter_map(|registry| registry.due.clone()).min_by_key(|due| due.uptime)
    }

    /// Takes note of what is to be asked now, and gives it: for each registry that isn't being asked the tags that had no
    /// answer, and those that had one which may change, once its pause is over.
    fn begin(&mut self, now: &Now) -> BTreeMap<String, BTreeSet<ImageReference>> {
        let mut due: BTreeMap<String, BTreeSet<ImageReference>> = BTreeMap::new();
        for image in self.wanted.values().flat_map(|tags| &tags.images) {
            let registry = self.registries.entry(image.registry.clone()).or_insert_with(Registry::new);
            let asks = match self.unknown.get(image) {
                None | Some(Unresolved::Unasked) => !registry.is_asked,
                Some(Unresolved::Wrong(_)) => false,
                Some(_) => registry.is_due(now),
            };
            if asks {
                due.entry(image.registry.clone()).or_default().insert(image.clone());
            }
        }
        for name in due.keys() {
            if let Some(registry) = self.registries.get_mut(name) {
                registry.is_asked = true;
            }
        }
        due
    }

    /// Takes in what a registry said; gives the digests that are known now.
    fn take(&mut self, said: Said, random: u64, now: &Now) -> BTreeMap<ImageReference, Digest> {
        let mut registry = self.registries.remove(&said.registry).unwrap_or_else(Registry::new);
        registry.is_asked = false;
        let wish = said.answers.values().filter_map(|answer| match answer {
            Err(Why::Registry(error)) => error.retry_after(),
            _ => None,
        });
        let wish = wish.max().unwrap_or_default().min(LEFT_ALONE);
        let failed = said.answers.values().any(Result::is_err);
        let wait = if failed { registry.backoff.failed(random).max(wish) } else { Duration::ZERO };
        let next = now.wall_in(wait);
        let mut digests = BTreeMap::new();
        for (image, answer) in said.answers {
            let why = match answer {
                Ok(digest) => {
                    self.unknown.remove(&image);
                    digests.insert(image, digest);
                    continue;
                }
                Err(Why::Registry(error)) => unresolved(&error, next),
                Err(Why::Broken(cause)) => Unresolved::Unreachable { cause, next: Some(next) },
            };
            self.unknown.insert(image, why);
        }
        if failed {
            registry.due = Some(now.moment_in(wait.max(Duration::from_secs(1))));
        }
        self.registries.insert(said.registry, registry);
        digests
    }

    /// Forgets the pauses of registries that have said all.
    fn settle(&mut self) {
        let unknown = &self.unknown;
        self.registries.retain(|name, registry| registry.is_asked || owes_an_answer(name, unknown));
    }

    /// What was found out can't be written down: it is asked for again.
    fn give_back(&mut self, digests: BTreeMap<ImageReference, Digest>, error: &StoreError, now: &Now) {
        let mut wait = Duration::ZERO;
        for image in digests.into_keys() {
            let registry = self.registries.entry(image.registry.clone()).or_insert_with(Registry::new);
            wait = wait.max(registry.backoff.failed(u64::MAX));
            registry.due = Some(now.moment_in(wait));
            let cause = format!("the digest of the image {image} can't be saved: {error}");
            self.unknown.insert(image, Unresolved::Unreachable { cause, next: Some(now.wall_in(wait)) });
        }
    }
}

/// Whether a registry may say something else than before if it is asked again.
fn owes_an_answer(registry: &str, unknown: &Unknown) -> bool {
    unknown.iter().any(|(image, why)| image.registry == registry && !matches!(why, Unresolved::Wrong(_)))
}

impl Daemon {
    /// Has the registries asked that have something to say and aren't in a pause.
    pub(super) fn ask_registries(&mut self, now: &Now) {
        for (registry, names) in self.follow.tags.begin(now) {
            let (images, asked, name) = (self.images.clone(), names.clone(), registry.clone());
            let job = move || Event::Tags(ask(&images, name, asked));
            self.await_job(tokio::task::spawn_blocking(job), move |why| {
                let answers = names.into_iter().map(|image| (image, Err(Why::Broken(why.clone())))).collect();
                Event::Tags(Said { registry, answers })
            });
        }
    }

    /// Takes in what a registry said: the revision is rendered again with that.
    pub(super) fn tags_said(&mut self, said: Said, now: &Now) {
        self.untrimmed = true;
        let digests = self.follow.tags.take(said, random(), now);
        match self.keep_tags(&digests) {
            Ok(()) => self.follow.tags.settle(),
            Err(error) => {
                self.note_disk(&error.to_string(), error.trouble(), now);
                self.follow.tags.give_back(digests, &error, now);
            }
        }
        self.follow.progress.unread = true;
    }

    /// Writes down what tags mean for the apps that want to know.
    fn keep_tags(&self, digests: &BTreeMap<ImageReference, Digest>) -> Result<(), StoreError> {
        let mut store = lock(&self.store);
        let table = store.tags();
        for (app, WantedTags { asked, images }) in &self.follow.tags.wanted {
            let found = images.iter().filter_map(|image| Some((image.clone(), *digests.get(image)?)));
            let found: BTreeMap<ImageReference, Digest> = found.collect();
            if found.is_empty() {
                continue;
            }
            let known = table.get(app)?.filter(|tags| tags.asked == Some(*asked)).unwrap_or_default();
            let images = known.images.into_iter().chain(found).collect();
            table.put(app, &records::Tags { asked: Some(*asked), images })?;
        }
        store.flush().map(drop)
    }
}

/// Asks one registry. Blocks. Where it doesn't answer, it isn't asked for the rest: one that hangs must not keep an app
/// waiting for each of its images.
fn ask(images: &BoxImages, registry: String, names: BTreeSet<ImageReference>) -> Said {
    let mut silent: Option<RegistryError> = None;
    let mut answers = BTreeMap::new();
    for image in names {
        let instead = silent.as_ref().and_then(|error| error.instead_for(format!("the manifest of {image}")));
        let answer = match instead {
            Some(error) => Err(error),
            None => images.resolve(&image),
        };
        if let Err(error) = answer.as_ref()
            && error.is_transient()
        {
            silent = error.instead_for(format!("the manifest of {image}"));
        }
        answers.insert(image, answer.map_err(Why::Registry));
    }
    Said { registry, answers }
}

#[cfg(test)]
mod tests {
    use holdfast_core::clock::BootId;
    use holdfast_core::oci::BadManifest;
    use jiff::Timestamp;

    use super::*;

    fn at(seconds: u64) -> Now {
        let uptime = Duration::from_secs(seconds);
        Now::certain(Timestamp::UNIX_EPOCH, Moment { boot: BootId("b".into()), uptime })
    }

    fn image(name: &str) -> ImageReference {
        name.parse().unwrap()
    }

    fn wanted(names: &[&str]) -> Wanted {
        let images = names.iter().map(|name| image(name)).collect();
        Wanted::from([("pos".parse().unwrap(), WantedTags { asked: Digest::of(b"pos"), images })])
    }

    fn said(registry: &str, answers: &[(&str, bool)]) -> Said {
        let answer = |good: bool| if good { Ok(Digest::of(b"1")) } else { Err(Why::Broken("away".into())) };
        let answers = answers.iter().map(|(name, good)| (image(name), answer(*good))).collect();
        Said { registry: registry.into(), answers }
    }

    #[test]
    fn each_registry_is_asked_beside_the_others_and_one_that_failed_after_a_growing_pause() {
        let mut tags = Tags::default();
        tags.want(wanted(&["a.example/x:1", "a.example/y:1", "b.example/x:1"]));
        let first = tags.begin(&at(0));
        assert_eq!(first.keys().collect::<Vec<_>>(), ["a.example", "b.example"]);
        assert_eq!(first["a.example"].len(), 2);
        assert!(tags.begin(&at(1)).is_empty(), "they are being asked");

        assert_eq!(tags.take(said("b.example", &[("b.example/x:1", true)]), 0, &at(2)).len(), 1);
        assert!(tags.are_asked() && tags.next().is_none());
        let partly = said("a.example", &[("a.example/x:1", false), ("a.example/y:1", true)]);
        assert_eq!(tags.take(partly, u64::MAX, &at(10)).len(), 1);
        assert!(!tags.are_asked());
        tags.want(wanted(&["a.example/x:1"]));
        assert!(tags.begin(&at(14)).is_empty());
        assert_eq!(tags.next(), Some(at(15).moment));
        assert_eq!(tags.begin(&at(15))["a.example"].len(), 1);
        tags.take(said("a.example", &[("a.example/x:1", false)]), u64::MAX, &at(15));
        assert_eq!(tags.next(), Some(at(25).moment));

        // One that is asked for the first time needn't wait for that, and changes nothing about the pause of the other.
        tags.want(wanted(&["a.example/x:1", "a.example/z:1"]));
        assert_eq!(tags.begin(&at(16))["a.example"], BTreeSet::from([image("a.example/z:1")]));
        tags.take(said("a.example", &[("a.example/z:1", true)]), 0, &at(17));
        tags.want(wanted(&["a.example/x:1"]));
        assert_eq!(tags.next(), Some(at(25).moment));
        tags.ask_all_now(&at(18));
        assert_eq!(tags.begin(&at(18)).len(), 1);
    }

    #[test]
    fn what_can_never_run_here_is_asked_for_once() {
        let mut tags = Tags::default();
        tags.want(wanted(&["a.example/x:1", "a.example/y:1"]));
        tags.begin(&at(0));
        let mut both = said("a.example", &[("a.example/x:1", false)]);
        let unusable = RegistryError::Unusable {
            image: Box::new(image("a.example/y:1")),
            cause: BadManifest::Malformed("it is empty".into()),
        };
        both.answers.insert(image("a.example/y:1"), Err(Why::Registry(unusable)));
        tags.take(both, u64::MAX, &at(0));
        assert!(!tags.are_unasked_for(&"pos".parse().unwrap()));
        assert_eq!(tags.begin(&at(5))["a.example"], BTreeSet::from([image("a.example/x:1")]));
        tags.take(said("a.example", &[("a.example/x:1", false)]), u64::MAX, &at(5));
        // Nothing is due for ever because of it.
        tags.want(wanted(&["a.example/y:1"]));
        assert!(tags.next().is_none(), "{tags:?}");
        assert!(tags.begin(&at(1000)).is_empty(), "{tags:?}");
    }

    #[test]
    fn what_no_app_wants_any_more_is_forgotten() {
        let mut tags = Tags::default();
        tags.want(wanted(&["a.example/x:1"]));
        tags.begin(&at(0));
        tags.want(Wanted::new());
        assert!(tags.are_asked(), "its job runs on");
        tags.take(said("a.example", &[("a.example/x:1", false)]), 0, &at(1));
        tags.want(Wanted::new());
        assert!(tags.next().is_none() && tags.unknown().is_empty() && tags.registries.is_empty());
    }
}
