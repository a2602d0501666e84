//! The podman driver against what every driver must do, on a real podman.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use holdfast_core::digest::Digest;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::pod::{Container, Lifecycle, Limits, Network, PinnedImage, Pod, Security};
use holdfast_core::release::{EnvValue, Object, Release, Restart};
use holdfast_core::runtime::DriverName;
use holdfast_core::secret::SecretBytes;
use holdfast_drivers::conformance::Runtime;
use holdfast_drivers::image::{ImageError, ImageOnDisk, ImageSource};
use holdfast_drivers::podman::{PodmanConfig, PodmanDriver};
use holdfast_drivers::secret::SecretSource;
use holdfast_drivers::{Driver, Owner};
use tempfile::TempDir;

use crate::support::podman::Podman;
use crate::support::podman_image::Image;

/// A podman that has one image.
struct Bench {
    podman: Podman,
    image: PinnedImage,
    run: TempDir,
}

/// Nobody is asked for what is there already.
struct Nothing;

#[async_trait]
impl ImageSource for Nothing {
    async fn fetch(&self, image: &PinnedImage) -> Result<ImageOnDisk, ImageError> {
        Err(ImageError::Unreachable(format!("{} was not loaded", image.reference)))
    }
}

impl SecretSource for Nothing {
    fn open(&self, digest: &Digest) -> Result<SecretBytes, String> {
        Err(format!("there is no secret {digest}"))
    }
}

impl Bench {
    fn new() -> Self {
        let (podman, image) = (Podman::start(), Image::webapp("1"));
        let digest: Digest = image.digest().parse().unwrap();
        podman.load(&image, &format!("localhost/holdfast/registry.example/web:{}", digest.to_hex()));
        let reference = format!("registry.example/web@{digest}").parse().unwrap();
        Bench { podman, image: PinnedImage { reference, digest }, run: tempfile::tempdir().unwrap() }
    }

    fn container(&self) -> String {
        let ours = self.podman.containers("dev.holdfast.app=conformance");
        ours.first().unwrap().name.clone()
    }
}

#[async_trait]
impl Runtime for Bench {
    async fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(PodmanDriver::new(PodmanConfig {
            socket: self.podman.socket(),
            run_dir: self.run.path().to_owned(),
            owner: Owner { device: "test/box-1".parse().unwrap() },
            images: Arc::new(Nothing),
            secrets: Arc::new(Nothing),
        }))
    }

    fn release(&self, app: &AppName, version: u32) -> Release {
        let container = Container {
            name: "web".to_owned(),
            image: self.image.clone(),
            command: Some(vec!["/webapp".to_owned(), "sleep".to_owned()]),
            args: None,
            working_dir: None,
            env: BTreeMap::from([("VERSION".to_owned(), EnvValue::Plain(version.to_string()))]),
            mounts: Vec::new(),
            limits: Limits::default(),
            security: Security::default(),
            startup: None,
            liveness: None,
            readiness: None,
            lifecycle: Lifecycle::default(),
        };
        let pod = Pod {
            workload: ObjectKey::new("Deployment", "web"),
            hostname: "web".to_owned(),
            network: Network::Host,
            hosts: Vec::new(),
            init: Vec::new(),
            containers: vec![container],
            volumes: BTreeMap::new(),
            restart: Restart::Always,
            job: None,
            grace_seconds: 1,
            host_pid: false,
            host_ipc: false,
        };
        let object = Object { key: ObjectKey::new("Pod", "web"), spec: serde_json::to_value(pod).unwrap() };
        Release {
            app: app.clone(),
            driver: DriverName::PODMAN,
            objects: vec![object],
            artifacts: BTreeSet::from([self.image.digest]),
            secrets: BTreeMap::new(),
            account: None,
        }
    }

    /// What two devices make has two names.
    async fn plant(&self, _key: &ObjectKey) -> bool {
        false
    }

    async fn take_away(&self, _key: &ObjectKey) {
        let removed = self.podman.cli(&["rm", "--force", "--time", "0", &self.container()]);
        assert!(removed.status.success(), "{removed:?}");
    }

    async fn tamper(&self, _key: &ObjectKey) -> bool {
        let (status, said) =
            self.podman.api("POST", &format!("/containers/{}/pause", self.container()), None);
        assert_eq!(status, 204, "{said}");
        true
    }
}

holdfast_drivers::conformance_tests!(Bench::new());
