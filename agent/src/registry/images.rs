//! Images on the box's own disk, as drivers use them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_core::digest::Digest;
use holdfast_core::image::{ImageReference, Platform};
use holdfast_core::oci::{BadManifest, DOCUMENT_LIMIT, Descriptor, Document, Manifest};
use holdfast_store::StoreError;
use holdfast_store::content::{Content, Hold};

use super::error::RegistryError;
use super::pull::Pull;
use super::{Registries, manifest};

/// A download that nobody goes on with for so long is given up.
const PARTIAL_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The registries, and the content that images are kept in.
#[derive(Debug)]
pub struct Images {
    registries: Registries,
    content: Arc<Content>,
}

/// A whole image on disk. As long as this lives, nothing of it is removed.
#[derive(Debug)]
pub struct OnDisk {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// What the manifest is: OCI's or Docker's.
    pub media_type: String,
    /// The image's configuration.
    pub config: Blob,
    /// The layers from the lowest to the topmost; the same one may be there twice.
    pub layers: Vec<Blob>,
    _hold: Hold,
}

/// A file of an image, proved by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it is called.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What is in it.
    pub media_type: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Images {
    /// Images of `registries`, kept in `content` ([`holdfast_store::Store::shared_content`], so that a download
    /// holds nobody up).
    pub fn new(registries: Registries, content: Arc<Content>) -> Self {
        Images { registries, content }
    }

    /// What `image` is now, on `platform`. Its manifest is pinned, and the index that led to it; the layers
    /// aren't fetched yet. Nobody is asked for an image by digest whose documents are on disk.
    ///
    /// # Errors
    /// [`RegistryError`]; also for what is no image that a container runtime can run.
    pub fn resolve(&self, image: &ImageReference, platform: &Platform) -> Result<Digest, RegistryError> {
        let mut pull = self.registries.short_pull(image);
        let resolved = manifest::resolve(&mut pull, platform, Some(&self.content))?;
        check(image, &resolved.manifest)?;
        Ok(resolved.digest)
    }

    /// A manifest that is on disk.
    pub fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        let bytes = self.content.read(digest, DOCUMENT_LIMIT as u64).ok()??;
        match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => Some(manifest),
            _ => None,
        }
    }

    /// Whether the manifest and all that it names are on disk, by their names alone: cheap, and no proof.
    pub fn has_all(&self, digest: &Digest) -> bool {
        let manifest = self.manifest(digest);
        manifest.is_some_and(|manifest| manifest.blobs().iter().all(|blob| self.content.has(&blob.digest)))
    }

    /// What to keep so that an image stays whole: its manifest, its configuration, its layers. (The index that
    /// led to it goes by the digest in the image's reference.) Nothing for a manifest that isn't on disk.
    pub fn parts(&self, digest: &Digest) -> BTreeSet<Digest> {
        let Some(manifest) = self.manifest(digest) else { return BTreeSet::new() };
        let blobs = manifest.blobs().into_iter().map(|blob| blob.digest);
        blobs.chain([*digest]).collect()
    }

    /// The same for what a reference names: a manifest, or an index that leads to one for `platform`.
    pub fn all_parts(&self, digest: &Digest, platform: &Platform) -> BTreeSet<Digest> {
        let bytes = self.content.read(digest, DOCUMENT_LIMIT as u64).ok().flatten();
        match bytes.map(|bytes| Document::parse(&bytes, None)) {
            Some(Ok(Document::Index(index))) => {
                index.choose(platform).map(|chosen| self.parts(&chosen.digest)).unwrap_or_default()
            }
            Some(Ok(Document::Manifest(_))) => self.parts(digest),
            _ => BTreeSet::new(),
        }
    }

    /// Brings what is missing of the image whose manifest is called `manifest` (as [`Images::resolve`] gave
    /// it), and proves all of it. Nothing is downloaded that wouldn't fit, on the disk or into the byte budget. What came when it fails stays, and
    /// the next call goes on with it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn fetch_all(&self, image: &ImageReference, manifest: Digest) -> Result<OnDisk, RegistryError> {
        self.sweep();
        let mut pull = self.registries.pull(image, self.registries.limits, self.registries.limits.pull);
        let hold_manifest = self.content.hold([manifest]);
        let (bytes, parsed) = self.manifest_of(&mut pull, manifest)?;
        check(image, &parsed)?;
        let blobs = parsed.blobs();
        let hold = self.content.hold(blobs.iter().map(|blob| blob.digest).chain([manifest]));
        drop(hold_manifest);
        let missing = self.missing(&blobs);
        // Before what is here is proved again: whoever waits for the next period asks often.
        pull.check_budget(missing)?;
        self.make_room(missing, &blobs).map_err(RegistryError::disk(image))?;
        for blob in &blobs {
            pull.blob(blob, &self.content)?;
        }
        Ok(OnDisk {
            digest: manifest,
            manifest: bytes,
            media_type: parsed.media_type.clone(),
            config: self.on_disk(&parsed.config),
            layers: parsed.layers.iter().map(|layer| self.on_disk(layer)).collect(),
            _hold: hold,
        })
    }

    fn manifest_of(&self, pull: &mut Pull<'_>, digest: Digest) -> Result<(Vec<u8>, Manifest), RegistryError> {
        let image = pull.image;
        match manifest::by_digest(pull, digest, &self.content)? {
            (bytes, Document::Manifest(manifest)) => Ok((bytes, manifest)),
            (_, Document::Index(_)) => {
                let why = "it is an index of several images, of which one must be chosen first";
                Err(unusable(image, BadManifest::Malformed(why.to_owned())))
            }
        }
    }

    /// How many bytes are to be downloaded.
    fn missing(&self, blobs: &[&Descriptor]) -> u64 {
        let missing = blobs.iter().filter(|blob| !self.content.has(&blob.digest));
        missing.map(|blob| blob.size.saturating_sub(self.content.downloaded(&blob.digest))).sum()
    }

    fn make_room(&self, missing: u64, blobs: &[&Descriptor]) -> Result<(), StoreError> {
        self.content.make_room(missing, &blobs.iter().map(|blob| blob.digest).collect()).map(drop)
    }

    /// Gives up downloads that nobody goes on with.
    fn sweep(&self) {
        if let Some(since) = SystemTime::now().checked_sub(PARTIAL_KEPT) {
            self.content.sweep_partials(&BTreeSet::new(), since);
        }
    }

    fn on_disk(&self, blob: &Descriptor) -> Blob {
        Blob {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.clone(),
            path: self.content.path_of(&blob.digest),
        }
    }
}

fn check(image: &ImageReference, manifest: &Manifest) -> Result<(), RegistryError> {
    manifest.check_image().map_err(|cause| unusable(image, cause))
}

fn unusable(image: &ImageReference, cause: BadManifest) -> RegistryError {
    RegistryError::Unusable { image: Box::new(image.clone()), cause }
}
