//! What container drivers need from the rest of the agent: images from registries, and secrets from the store.

use std::collections::BTreeSet;
#[cfg(feature = "kubernetes")]
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_core::digest::Digest;
use holdfast_core::image::{ImageReference, Platform};
use holdfast_core::resolve::Unresolved;
use holdfast_store::content::{Beside, Content};
use jiff::Timestamp;

use crate::config::Config;
use crate::http::allowance::Allowance;
use crate::registry::{Images, Registries, RegistryError};

/// Where image archives are put for Kubernetes, if they are.
#[cfg(feature = "kubernetes")]
fn images_dir(config: &Config) -> Option<&PathBuf> {
    config.drivers.kubernetes.as_ref()?.images_dir.as_ref()
}

/// What counts to the disk budget outside of the state folder.
#[cfg(feature = "kubernetes")]
pub(super) fn beside(config: &Config) -> Vec<Beside> {
    let of = |dir: &PathBuf| Beside {
        folder: dir.clone(),
        counts: Some(holdfast_drivers::kubernetes::archives::is_ours),
    };
    images_dir(config).map(of).into_iter().collect()
}

/// What counts to the disk budget outside of the state folder.
#[cfg(not(feature = "kubernetes"))]
pub(super) fn beside(_: &Config) -> Vec<Beside> {
    Vec::new()
}

/// The archives that are put where Kubernetes' node imports images from, if they are.
#[cfg(feature = "kubernetes")]
pub(super) fn archives(
    config: &Config,
    content: &Arc<Content>,
    allowance: &Allowance,
) -> Option<holdfast_drivers::kubernetes::archives::Archives> {
    let source = BoxImages::new(config, Arc::clone(content), allowance);
    let room = sources::BoxSpace(Arc::clone(content));
    let dir = images_dir(config)?.clone();
    Some(holdfast_drivers::kubernetes::archives::Archives::new(dir, Arc::new(source), Arc::new(room)))
}

/// The box's images: found by their names, fetched into the pinned content.
#[derive(Clone, Debug)]
pub(super) struct BoxImages {
    images: Arc<Images>,
    platform: Platform,
}

impl BoxImages {
    /// Images of the registries that agent.toml names, kept in `content`, downloaded within `allowance`.
    pub(super) fn new(config: &Config, content: Arc<Content>, allowance: &Allowance) -> Self {
        let registries = Registries::new(&config.registries).within(allowance.clone());
        let images = Images::new(registries, content);
        BoxImages { images: Arc::new(images), platform: Platform::of_this_program() }
    }

    /// What a tag means now. Blocks.
    pub(super) fn resolve(&self, image: &ImageReference) -> Result<Digest, RegistryError> {
        self.images.resolve(image, &self.platform)
    }

    /// All that images need which are called by `named`, those digests among them.
    pub(super) fn with_parts(&self, named: BTreeSet<Digest>) -> BTreeSet<Digest> {
        let parts: Vec<Digest> =
            named.iter().flat_map(|digest| self.images.all_parts(digest, &self.platform)).collect();
        named.into_iter().chain(parts).collect()
    }
}

/// What follows from a tag's image not being known; `next` is when its registry is asked again.
pub(super) fn unresolved(error: &RegistryError, next: Timestamp) -> Unresolved {
    let (cause, next) = (error.to_string(), Some(next));
    match error {
        error if for_good(error) => Unresolved::Wrong(cause),
        error if error.is_transient() => Unresolved::Unreachable { cause, next },
        _ => Unresolved::Missing { cause, next },
    }
}

/// Whether asking again would give the same answer. An image that isn't there may be pushed yet.
fn for_good(error: &RegistryError) -> bool {
    matches!(error, RegistryError::NoPlatform { .. } | RegistryError::Unusable { .. })
}

#[cfg(any(feature = "podman", feature = "kubernetes"))]
mod sources {
    use std::path::Path;
    use std::sync::Arc;

    use async_trait::async_trait;
    use holdfast_core::pod::PinnedImage;
    use holdfast_core::secret::SecretBytes;
    use holdfast_drivers::image::{
        ImageBlob, ImageError, ImageOnDisk, ImageSource, SpaceAllocation, SpaceAllocator,
    };
    use holdfast_drivers::secret::SecretSource;
    use holdfast_store::content::{Allocation, Content};
    use holdfast_store::encrypted;

    use super::super::journal::{SharedStore, lock};
    use super::{BoxImages, Digest, for_good};
    use crate::registry::RegistryError;

    /// More than any secret of Kubernetes has, in bytes.
    const SECRET_LIMIT: u64 = 4 << 20;

    #[async_trait]
    impl ImageSource for BoxImages {
        async fn fetch(&self, image: &PinnedImage) -> Result<ImageOnDisk, ImageError> {
            let (source, image) = (self.clone(), image.clone());
            match tokio::task::spawn_blocking(move || source.fetch_now(&image)).await {
                Ok(Ok(image)) => Ok(image),
                Ok(Err(error)) if for_good(&error) => Err(ImageError::Wrong(error.to_string())),
                Ok(Err(error)) => Err(match error.trouble() {
                    Some(trouble) => ImageError::Disk { cause: error.to_string(), trouble },
                    None => ImageError::Unreachable(error.to_string()),
                }),
                Err(error) => Err(ImageError::Unreachable(format!("the download was interrupted: {error}"))),
            }
        }
    }

    impl BoxImages {
        fn fetch_now(&self, image: &PinnedImage) -> Result<ImageOnDisk, RegistryError> {
            let reference = image.reference.pinned(image.digest);
            let manifest = self.images.resolve(&reference, &self.platform)?;
            let disk = self.images.fetch_all(&reference, manifest)?;
            let blobs = std::iter::once(&disk.config).chain(&disk.layers);
            let blobs =
                blobs.map(|blob| ImageBlob { digest: blob.digest, size: blob.size, path: blob.path.clone() });
            Ok(ImageOnDisk {
                manifest: disk.manifest.clone(),
                media_type: disk.media_type.clone(),
                config: disk.config.digest,
                blobs: blobs.collect(),
                hold: Box::new(disk),
            })
        }
    }

    /// Room beside the pinned content, within the disk budget.
    pub(in crate::daemon) struct BoxSpace(pub(in crate::daemon) Arc<Content>);

    impl SpaceAllocator for BoxSpace {
        fn take(&self, folder: &Path, bytes: u64) -> Result<Box<dyn SpaceAllocation>, String> {
            let taken = self.0.allocate_beside(folder, bytes).map_err(|error| error.to_string())?;
            Ok(Box::new(BoxSpaceAllocation(taken)))
        }
    }

    struct BoxSpaceAllocation(Allocation);

    impl SpaceAllocation for BoxSpaceAllocation {
        fn used(&mut self, bytes: u64) {
            self.0.written(bytes);
        }
    }

    /// Secrets that were encrypted in the pinned content.
    pub(in crate::daemon) struct EncryptedSecrets(pub(in crate::daemon) SharedStore);

    impl SecretSource for EncryptedSecrets {
        fn open(&self, digest: &Digest) -> Result<SecretBytes, String> {
            let store = lock(&self.0);
            let encrypted = store.content().read(digest, SECRET_LIMIT).map_err(|error| error.to_string())?;
            let encrypted = encrypted.ok_or("it is no longer on disk: the next fetch downloads it")?;
            encrypted::decrypt(store.keys(), &encrypted).map_err(|error| error.to_string())
        }
    }
}

#[cfg(any(feature = "podman", feature = "kubernetes"))]
pub(super) use sources::EncryptedSecrets;
