//! The marks by which ownership is proved when nothing else is left: labels on everything that the driver makes,
//! and the names that it gives.

use std::collections::BTreeMap;

use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::image::ImageReference;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::pod::{PinnedImage, Pod};

use crate::Owner;

/// The device that made it.
pub(super) const DEVICE: &str = "dev.holdfast.device";
/// The app that it is for.
pub(super) const APP: &str = "dev.holdfast.app";
/// The object that it is part of, such as `Pod/web`.
pub(super) const OBJECT: &str = "dev.holdfast.object";
/// The release that it was made for.
pub(super) const RELEASE: &str = "dev.holdfast.release";
/// The digest of the pod that it is part of: another pod, another digest.
pub(super) const POD: &str = "dev.holdfast.pod";
/// Its name in the pod.
pub(super) const CONTAINER: &str = "dev.holdfast.container";

/// The bridge that pods share.
pub(super) const NETWORK: &str = "holdfast";
/// Under which the images are kept that releases need. Nothing else is ever removed.
const IMAGES: &str = "localhost/holdfast/";

/// The name of one pod: it changes with whatever is in the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodId(pub(super) String);

impl PodId {
    /// The id of `pod` as the object `key` of `app`.
    pub(super) fn of(owner: &Owner, app: &AppName, key: &ObjectKey, pod: &Pod<PinnedImage>) -> Self {
        // A pod is strings, numbers and maps with string keys, and so always has a JSON form.
        let spec = serde_json::to_string(pod).unwrap_or_default();
        let whole = format!("{}\n{app}\n{key}\n{spec}", owner.device);
        PodId(Digest::of(whole.as_bytes()).to_hex()[..16].to_owned())
    }

    fn short(&self) -> &str {
        &self.0[..8]
    }
}

/// The name of a container, which people see in `podman ps`.
pub(super) fn container_name(app: &AppName, key: &ObjectKey, container: &str, id: &PodId) -> String {
    let mut parts: Vec<&str> = vec![app.as_str(), &key.name, container];
    parts.dedup();
    format!("{}-{}", parts.join("-"), id.short())
}

/// The name of a volume that goes with its pod.
pub(super) fn scratch_name(app: &AppName, key: &ObjectKey, volume: &str, id: &PodId) -> String {
    format!("{app}.{}.{volume}-{}", key.name, id.short())
}

/// The name of a claim's volume.
pub(super) fn claim_name(key: &ObjectKey) -> String {
    format!("{}.{}", key.namespace.as_deref().unwrap_or_default(), key.name)
}

/// The labels of a container or a volume.
pub(super) fn labels(
    owner: &Owner,
    app: &AppName,
    key: &ObjectKey,
    release: ReleaseId,
) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (DEVICE, owner.device.to_string()),
        (APP, app.to_string()),
        (OBJECT, key.to_string()),
        (RELEASE, release.to_string()),
    ])
}

/// What an image is called in podman's store as long as a release needs it.
pub(super) fn image_name(reference: &ImageReference, digest: &Digest) -> String {
    let registry = reference.registry.replace([':', '[', ']'], "-");
    format!("{IMAGES}{}/{}:{}", registry.trim_matches('-'), reference.repository, digest.to_hex())
}

/// The digest in the name of an image of ours.
pub(super) fn digest_of(image_name: &str) -> Option<Digest> {
    let (_, hex) = image_name.strip_prefix(IMAGES)?.rsplit_once(':')?;
    format!("sha256:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_people_look_for_and_none_is_made_twice() {
        let id = PodId("0123456789abcdef".to_owned());
        let name = |app: &str, pod: &str, container: &str| {
            container_name(&app.parse().unwrap(), &ObjectKey::new("Pod", pod), container, &id)
        };
        assert_eq!(name("pos", "pos", "pos"), "pos-01234567");
        assert_eq!(name("pos", "pos", "proxy"), "pos-proxy-01234567");
        assert_eq!(name("shop", "web", "web"), "shop-web-01234567");
    }

    #[test]
    fn an_images_name_tells_its_digest() {
        let digest = Digest::of(b"x");
        let name = image_name(&"registry.example:5000/a/pos:v1".parse().unwrap(), &digest);
        assert_eq!(name, format!("localhost/holdfast/registry.example-5000/a/pos:{}", digest.to_hex()));
        assert_eq!(digest_of(&name), Some(digest));
        assert_eq!(digest_of("localhost/other/pos:v1"), None);
    }
}
