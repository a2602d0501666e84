//! From the source to a resolved revision. These are jobs: they block, run on a thread of their own, and end
//! within the source's limits. The loop takes their results in, one stage after the other. Nobody but the source is asked
//! anything: what only a registry can tell is left open, and is another job's (`tags`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_core::digest::{Digest, ReleaseId, Revision};
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::held::Held;
use holdfast_core::image::ImageReference;
use holdfast_core::limit::FileKind;
use holdfast_core::name::{AppName, DeviceName};
use holdfast_core::render::{ArtifactRef, render};
use holdfast_core::resolve::{Answers, Needs, Resolved, Unresolved, needs, resolve};
use holdfast_core::runtime::Runtimes;
use holdfast_core::secret::SecretBytes;
use holdfast_core::select::{self, Refused};
use holdfast_core::verify::{Fetched, Verified};
use holdfast_store::content::{Content, SMALL};
use holdfast_store::{StoreError, encrypted, fault};
use jiff::Timestamp;

use super::gather;
use super::journal::{SharedStore, lock};
use super::tags::{Unknown, Wanted, WantedTags};
use crate::http::allowance::Allowance;
use crate::source::{FileClass, Source, SourceError, SourceTree};

/// So much must be free for a fetch, in bytes, beside the reserve: less takes no commit.
const FETCH_LEAST: u64 = 256 << 10;

/// The source, which one job at a time uses.
pub(super) type SharedSource = Arc<Mutex<Box<dyn Source>>>;

/// What a poll brought.
pub(super) enum PollResult {
    /// The tip is what was looked at before.
    Same,
    /// Another tip, and it is in the mirror.
    New(Box<Fetched>),
}

/// Fetched: asks for the tip, and fetches it if it isn't `known`. Where somebody `asked` for that, what couldn't be had
/// before is asked for again.
pub(super) fn fetch(
    source: &SharedSource,
    content: &Content,
    known: Option<&Revision>,
    accepted: Option<&Revision>,
    asked: bool,
) -> Result<PollResult, SourceError> {
    let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
    if asked {
        source.forget_failed_tip();
    }
    let tip = source.poll()?;
    if known == Some(&tip) {
        return Ok(PollResult::Same);
    }
    // How large it is nobody knows before; that nothing fits is known before the first byte.
    content
        .make_space(FETCH_LEAST)
        .map_err(|error| SourceError::Local { trouble: error.trouble(), cause: error.to_string() })?;
    give_room(&mut **source, content);
    let mut fetched = source.fetch(&tip, accepted);
    if matches!(fetched, Err(SourceError::OverBudget { .. })) {
        let keep: Vec<Revision> = accepted.into_iter().chain([&tip]).cloned().collect();
        if tidy(&mut **source, content, &keep) {
            fetched = source.fetch(&tip, accepted);
        }
    }
    let fetched = fetched?;
    fault::point("fetch.objects-stored");
    Ok(PollResult::New(Box::new(fetched)))
}

/// Tells the source what the disk budget leaves for the mirror. Something small always has room in it, as long as the
/// disk has: a commit may be what makes room.
fn give_room(source: &mut dyn Source, content: &Content) {
    source.set_room(content.left().max(SMALL));
}

/// Where there was no room: drops of the mirror what `keep` doesn't need, and gives whether that made some.
fn tidy(source: &mut dyn Source, content: &Content, keep: &[Revision]) -> bool {
    let before = content.left();
    if let Err(error) = source.collect(keep, true) {
        tracing::warn!(%error, "the mirror can't be garbage-collected, although the disk budget is used up");
    }
    give_room(source, content);
    content.left() > before
}

/// Why a revision can't become a resolved one.
#[derive(Debug)]
pub(super) enum NotRendered {
    /// Its Fleet, Site or Device document is at fault, or something that belongs to no single app.
    Documents(Refused),
    /// What it needs could not be fetched.
    Source(SourceError),
    /// The mirror can't be read.
    Mirror(String),
    /// The disk doesn't take its artifacts.
    Disk {
        /// What failed, and why.
        cause: String,
        /// What it said.
        trouble: Option<Trouble>,
    },
    /// The disk budget is used up.
    Budget(String),
    /// The job broke off, which it must not.
    Broken(String),
}

impl NotRendered {
    /// The same, as what holds the revision; `next` is when it is fetched again.
    pub(super) fn held(self, next: Option<Timestamp>) -> Held {
        match self {
            NotRendered::Documents(Refused { errors, .. }) => {
                let cause = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let unblock = "correct the documents in a new commit; `holdfast validate` shows every error";
                Held::until_changed(cause, unblock)
            }
            NotRendered::Source(SourceError::UsedUp { url, cause }) => {
                let what = format!(
                    "the files of the revision that this box needs could not be fetched from {url}: {cause}"
                );
                cause.held_revision(what)
            }
            NotRendered::Source(error @ SourceError::OverBudget { .. }) => {
                NotRendered::Budget(error.to_string()).held(next)
            }
            NotRendered::Source(error) => {
                let cause =
                    format!("the files of the revision that this box needs could not be fetched: {error}");
                Held {
                    cause,
                    next,
                    unblock: "nothing to do: the agent fetches them with the next poll".into(),
                }
            }
            NotRendered::Mirror(cause) => {
                Held { cause, next, unblock: "nothing to do: the revision is fetched again".into() }
            }
            NotRendered::Budget(cause) => Held {
                cause,
                next,
                unblock:
                    "make the files that this box needs smaller in a new commit, remove apps from this box, or \
                     raise state.disk_budget"
                        .into(),
            },
            NotRendered::Broken(cause) => {
                let cause =
                    format!("the revision could not be rendered because of a bug in the agent: {cause}");
                Held { cause, next, unblock: "report this bug; the agent retries automatically".into() }
            }
            NotRendered::Disk { cause, .. } => {
                Held { cause, next, unblock: "free space on the disk, or repair it".into() }
            }
        }
    }
}

impl From<StoreError> for NotRendered {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::OverBudget { .. } => NotRendered::Budget(error.to_string()),
            error => NotRendered::Disk { trouble: error.trouble(), cause: error.to_string() },
        }
    }
}

impl From<SourceError> for NotRendered {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Damaged(_) | SourceError::Incomplete { .. } => {
                NotRendered::Mirror(error.to_string())
            }
            error => NotRendered::Source(error),
        }
    }
}

/// What a box needs to render for itself.
pub(super) struct Renderer {
    pub(super) source: SharedSource,
    pub(super) store: SharedStore,
    pub(super) device: DeviceName,
    pub(super) runtimes: Runtimes,
    /// Why tags aren't known, where a registry has said so.
    pub(super) unknown: Unknown,
    /// The source is asked for what the mirror lacks, within this: what the revision says of it holds as soon as that was
    /// read, for the rest of the revision too. Without it the source isn't asked.
    pub(super) ask: Option<Allowance>,
}

/// A revision as this box would have it.
pub(super) struct Rendered {
    pub(super) resolved: Resolved,
    /// The tags of which it isn't known what they mean; their apps are held in it.
    pub(super) wanted: Wanted,
}

impl Renderer {
    /// Selected, Desired, Resolved: reads what this box needs of a revision that may be used, fetching what the mirror lacks of
    /// that and no more, renders it, and pins its artifacts. What the mirror has of other revisions goes where the
    /// disk budget has no room for that.
    pub(super) fn render(&self, verified: &Verified) -> Result<Rendered, NotRendered> {
        let content = lock(&self.store).shared_content();
        let lock_source = || self.source.lock().unwrap_or_else(PoisonError::into_inner);
        give_room(&mut **lock_source(), &content);
        match self.render_within(verified) {
            Err(NotRendered::Budget(_) | NotRendered::Source(SourceError::OverBudget { .. }))
                if self.ask.is_some()
                    // What goes must not be what the box would read again after a crash.
                    && lock(&self.store).commit().is_ok()
                    && tidy(&mut **lock_source(), &content, std::slice::from_ref(verified.revision())) =>
            {
                self.render_within(verified)
            }
            done => done,
        }
    }

    /// Pins the releases of what was rendered that aren't among `known`. Where many are new, that takes its time.
    pub(super) fn pin_releases(
        &self,
        resolved: &Resolved,
        known: &BTreeSet<ReleaseId>,
    ) -> Result<(), NotRendered> {
        let content = lock(&self.store).shared_content();
        let new = resolved.releases.iter().filter(|(id, _)| !known.contains(id));
        Ok(content.put_small_all(new.map(|(_, release)| release.to_bytes()))?)
    }

    fn render_within(&self, verified: &Verified) -> Result<Rendered, NotRendered> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gathering = source.gather(verified, self.ask.is_some())?;
        let index = gathering.read(|files| gather::index(files, &self.device))??;
        // Hardware facts come with the hardware profiles.
        let facts = BTreeMap::new();
        let selected = select::select(verified, &index, &self.device, &facts, &crate::version())
            .map_err(NotRendered::Documents)?;
        if let Some(allowance) = &self.ask {
            let policy = &selected.policy;
            let zone = policy.zone.time_zone().clone();
            allowance.set(policy.downloads, policy.urgent.is_some(), zone);
        }
        // From here on what waits for the byte budget holds its own app: a Stop, another budget and what is removed
        // must not wait for the files of an app.
        let mut waiting = BTreeMap::new();
        let (contents, waits) =
            gathering.read_as_far(FileClass::Documents, |files| gather::manifests(files, &selected))?;
        if let Some(waits) = waits {
            let late = contents.iter().filter(|(_, part)| part.is_late);
            waiting.extend(late.map(|(app, _)| (app.clone(), waits.held_files())));
        }
        let damaged = contents.iter().filter_map(|(app, part)| {
            let unblock = "nothing to do: it is fetched again with the next revision";
            Some((app.clone(), Held::until_changed(part.damage.clone()?, unblock)))
        });
        let damaged: BTreeMap<_, _> = damaged.collect();
        let desired = render(selected, &contents);
        let needs = needs(&desired, &self.runtimes);
        let named: Vec<_> = needs.values().flat_map(|needs| needs.artifacts.keys().copied()).collect();
        let ((), waits) =
            gathering.read_as_far(FileClass::Files, |files| gather::artifacts(files, &named))?;
        let files = gathering.finish()?;
        if let Some(waits) = waits {
            let late = needs.iter().filter(|(_, needs)| gather::lacks(&*files, &needs.artifacts));
            waiting.extend(late.map(|(app, _)| ((*app).clone(), waits.held_files())));
        }
        drop(source);
        let (answers, wanted) = self.answers(&*files, needs)?;
        let mut resolved = resolve(desired, &answers, &self.runtimes);
        for (app, held) in waiting {
            // What is removed must not wait for it.
            resolved.unread.remove(&app);
            resolved.hold(app, held);
        }
        for (app, held) in damaged {
            resolved.unread.insert(app.clone());
            resolved.hold(app, held);
        }
        Ok(Rendered { resolved, wanted })
    }

    /// Finds out what must be known of each app before it can be resolved, and which tags nobody has explained yet.
    fn answers(
        &self,
        files: &dyn SourceTree,
        needs: BTreeMap<&AppName, Needs<'_>>,
    ) -> Result<(Answers, Wanted), NotRendered> {
        let mut answers = Answers::default();
        let mut wanted = Wanted::new();
        for (app, needs) in needs {
            for (artifact, kind) in needs.artifacts {
                let digest = self.pin(files, artifact, kind)?;
                answers.artifacts.insert(artifact.clone(), digest);
            }
            for (secret, bytes) in needs.secrets {
                let digest = self.keep_secret(bytes)?;
                answers.secrets.insert((app.clone(), secret.clone()), digest);
            }
            if let Some(asked) = needs.asked.filter(|_| !needs.images.is_empty()) {
                let found = self.tags(app, asked, &needs.images)?;
                let open = found.iter().filter(|(_, digest)| digest.is_err()).map(|(image, _)| image.clone());
                let open: BTreeSet<ImageReference> = open.collect();
                if !open.is_empty() {
                    wanted.insert(app.clone(), WantedTags { asked, images: open });
                }
                answers
                    .images
                    .extend(found.into_iter().map(|(image, digest)| ((app.clone(), image), digest)));
            }
        }
        Ok((answers, wanted))
    }

    /// What an app's tags mean, as far as a registry has said so. That is asked once: as long as the app asks for the
    /// same, the answer stays.
    fn tags(
        &self,
        app: &AppName,
        asked: Digest,
        images: &BTreeSet<&ImageReference>,
    ) -> Result<BTreeMap<ImageReference, Result<Digest, Unresolved>>, NotRendered> {
        let known = lock(&self.store).tags().get(app)?.filter(|tags| tags.asked == Some(asked));
        let known = known.unwrap_or_default().images;
        let digest = |image: &ImageReference| match known.get(image) {
            Some(digest) => Ok(*digest),
            None => Err(self.unknown.get(image).cloned().unwrap_or(Unresolved::Unasked)),
        };
        Ok(images.iter().map(|image| ((*image).clone(), digest(image))).collect())
    }

    /// Encrypts a secret into the pinned content.
    fn keep_secret(&self, secret: &SecretBytes) -> Result<Digest, NotRendered> {
        let store = lock(&self.store);
        let encrypted = encrypted::encrypt(store.keys(), secret);
        Ok(store.content().put_small(&encrypted)?)
    }

    /// The digest of an artifact, which is pinned. The inner error is that of the apps that name it. It is streamed from
    /// the source to the disk, and neither the store nor anybody who asks the agent waits for that.
    fn pin(
        &self,
        files: &dyn SourceTree,
        artifact: &ArtifactRef,
        kind: FileKind,
    ) -> Result<Result<Digest, String>, NotRendered> {
        let path = match artifact {
            ArtifactRef::File(path) => path,
            ArtifactRef::Oci(reference) => {
                return Ok(Err(format!(
                    "oci://{reference}: this agent has no OCI source yet; commit the file"
                )));
            }
        };
        let content = lock(&self.store).shared_content();
        let pinned = content.put_stream(|| match files.open(path, kind.limit()) {
            Ok(Some(stream)) => Ok((stream.size, stream.bytes)),
            Ok(None) => Err(format!("{path} is not in the repository")),
            Err(error) => Err(error.to_string()),
        });
        match pinned {
            Ok(pinned) => Ok(pinned),
            Err(StoreError::Source(error)) => Ok(Err(format!("{path}: {error}"))),
            Err(error) => Err(error.into()),
        }
    }
}
