//! A box that pulls images: its content, its `[registries]`, and short limits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast::config;
use holdfast::http::allowance::Allowance;
use holdfast::registry::{Images, Limits, OnDisk, Registries, RegistryError};
use holdfast_core::digest::Digest;
use holdfast_core::image::{ImageReference, Platform};
use holdfast_store::content::Content;
use tempfile::TempDir;

use crate::support::image::Image;

/// The box. Its registries speak plain HTTP unless it is said otherwise.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) sections: BTreeMap<String, config::Registry>,
    pub(crate) limits: Limits,
    pub(crate) budget: u64,
    /// What its downloads may use.
    pub(crate) allowance: Allowance,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let limits = Limits {
            patience: Duration::from_secs(5),
            slowest: 1,
            resolve: Duration::from_secs(20),
            pull: Duration::from_secs(30),
            rounds: 3,
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(50),
            retry_after: Duration::from_secs(3),
        };
        Bench {
            dir: tempfile::tempdir().unwrap(),
            sections: BTreeMap::new(),
            limits,
            budget: 64 << 20,
            allowance: Allowance::unlimited(),
        }
    }

    /// With a registry that speaks plain HTTP.
    pub(crate) fn plain(host: impl Into<String>) -> Self {
        let mut bench = Bench::new();
        bench.section(host).plain_http = true;
        bench
    }

    pub(crate) fn section(&mut self, host: impl Into<String>) -> &mut config::Registry {
        self.sections.entry(host.into()).or_insert(config::Registry {
            auth_file: None,
            ca_file: None,
            mirrors: Vec::new(),
            plain_http: false,
        })
    }

    /// Writes a file as Docker's config.json.
    pub(crate) fn auth_file(&self, host: &str, entry: &str) -> PathBuf {
        let path = self.dir.path().join("auth.json");
        std::fs::write(&path, format!("{{\"auths\":{{\"{host}\":{entry}}}}}")).unwrap();
        path
    }

    pub(crate) fn content_dir(&self) -> PathBuf {
        self.dir.path().join("content")
    }

    pub(crate) fn content(&self) -> Arc<Content> {
        Arc::new(Content::open(&self.content_dir(), self.budget).unwrap())
    }

    pub(crate) fn images(&self) -> Images {
        self.images_in(self.content())
    }

    pub(crate) fn images_in(&self, content: Arc<Content>) -> Images {
        let registries = Registries::with_limits(&self.sections, self.limits);
        Images::new(registries.within(self.allowance.clone()), content)
    }

    pub(crate) fn resolve(&self, image: &str) -> Result<Digest, RegistryError> {
        self.images().resolve(&reference(image), &amd64())
    }

    /// Brings the image to the disk, by a process of its own as it were.
    pub(crate) fn fetch(&self, image: &str, manifest: Digest) -> Result<OnDisk, RegistryError> {
        self.images().fetch_all(&reference(image), manifest)
    }

    /// How many files there are of content.
    pub(crate) fn files(&self) -> usize {
        ["sha256", "partial", "tmp"].iter().map(|name| entries(&self.content_dir().join(name))).sum()
    }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

pub(crate) fn reference(text: &str) -> ImageReference {
    text.parse().unwrap()
}

pub(crate) fn amd64() -> Platform {
    Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None }
}

/// That what is on disk is the image, byte for byte.
pub(crate) fn assert_whole(on_disk: &OnDisk, image: &Image) {
    assert_eq!(on_disk.manifest, image.manifest());
    assert_eq!(std::fs::read(&on_disk.config.path).unwrap(), image.config());
    let layers: Vec<Vec<u8>> =
        on_disk.layers.iter().map(|layer| std::fs::read(&layer.path).unwrap()).collect();
    let expected: Vec<Vec<u8>> = image.layers().iter().map(|layer| layer.bytes.clone()).collect();
    assert!(layers == expected, "the layers are others");
}
