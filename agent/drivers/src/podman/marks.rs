//! The marks by which ownership is proved when nothing else is left: labels on everything that the driver makes,
//! and the names that it gives.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::digest::{Digest, ReleaseId};
use holdfast_core::image::ImageReference;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::pod::{PinnedImage, Pod};
use holdfast_core::release::Release;

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

/// The name of one pod: it changes with whatever is in the pod, and with whatever the pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodId(String);

/// How many hexadecimal digits an id has.
const ID_DIGITS: usize = 16;

impl PodId {
    /// The id of `pod` as the object `key` of `release`. Images, files and settings stand in the pod itself. A secret
    /// is only named there: the digest that the release has of it stands for its value. That digest is keyed by the
    /// box, so that an id, which anybody may see, tells nothing of a secret that could be guessed.
    pub(super) fn of(owner: &Owner, release: &Release, key: &ObjectKey, pod: &Pod<PinnedImage>) -> Self {
        // A pod is strings, numbers and maps with string keys, and so always has a JSON form.
        let spec = serde_json::to_string(pod).unwrap_or_default();
        let mut whole = format!("{}\n{}\n{key}\n{spec}", owner.device, release.app);
        let secrets: BTreeSet<String> = pod.secrets().map(ToString::to_string).collect();
        for secret in secrets {
            let digest = release.secrets.get(&secret).map(ToString::to_string).unwrap_or_default();
            whole.push_str(&format!("\n{secret} {digest}"));
        }
        PodId(Digest::of(whole.as_bytes()).to_hex()[..ID_DIGITS].to_owned())
    }

    /// An id that a label tells; none if it can't be one. Folders are called by ids, and a label may say anything.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == ID_DIGITS && text.bytes().all(is_digit)).then(|| PodId(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
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

/// What a container is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) app: AppName,
    pub(super) key: ObjectKey,
    pub(super) pod: PodId,
    /// Its name in the pod.
    pub(super) container: String,
}

/// What labels say that the container called `name` is part of; none if this agent didn't make it. Labels are claims:
/// an image brings labels of its own, and whoever runs it would have made a container of ours. Its name nobody gets by
/// accident, or from an image: it is the one that we give to what the labels tell.
pub(super) fn part(owner: &Owner, labels: &BTreeMap<String, String>, name: &str) -> Option<Part> {
    let label = |label: &str| labels.get(label).map(String::as_str);
    if label(DEVICE)? != owner.device.as_str() {
        return None;
    }
    let (app, key) = (label(APP)?.parse().ok()?, label(OBJECT)?.parse().ok()?);
    let (pod, container) = (PodId::parse(label(POD)?)?, label(CONTAINER)?.to_owned());
    let ours = container_name(&app, &key, &container, &pod) == name;
    ours.then_some(Part { app, key, pod, container })
}

/// Whether a volume of this name is one that goes with this pod, whatever its labels say.
pub(super) fn is_scratch(name: &str, app: &AppName, key: &ObjectKey, id: &PodId) -> bool {
    let inner = name.strip_prefix(&format!("{app}.{}.", key.name));
    inner.and_then(|inner| inner.strip_suffix(id.short())).is_some_and(|inner| inner.ends_with('-'))
}

/// The claim that a volume called `name` is for, by its labels; none if this agent didn't make it.
pub(super) fn claim(labels: &BTreeMap<String, String>, name: &str) -> Option<ObjectKey> {
    let key: ObjectKey = labels.get(OBJECT)?.parse().ok()?;
    (claim_name(&key) == name).then_some(key)
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
    use holdfast_core::runtime::DriverName;

    use super::*;

    fn owner() -> Owner {
        Owner { device: "emea/till-1".parse().unwrap() }
    }

    /// A pod with one secret as a variable and one as a file, and one that only another pod uses.
    fn release(secrets: [&str; 3]) -> (Release, ObjectKey, Pod<PinnedImage>) {
        let digest = Digest::of(b"image");
        let pod = serde_json::json!({
            "workload": "Pod/shop/web", "hostname": "web", "network": "host", "restart": "always",
            "graceSeconds": 5,
            "containers": [{
                "name": "web", "image": { "reference": "r.example/web:1", "digest": digest },
                "env": { "PASSWORD": { "secretRef": { "name": "shop/keys", "key": "password" } } },
            }],
            "volumes": { "keys": { "files": {
                "key": { "mode": 256, "content": { "secret": { "name": "shop/keys", "key": "key" } } },
            } } },
        });
        let names = ["shop/keys/password", "shop/keys/key", "shop/keys/other"];
        let secrets = names
            .into_iter()
            .zip(secrets)
            .map(|(name, value)| (name.to_owned(), Digest::of(value.as_bytes())));
        let release = Release {
            app: "shop".parse().unwrap(),
            driver: DriverName::PODMAN,
            objects: Vec::new(),
            artifacts: BTreeSet::new(),
            secrets: secrets.collect(),
            account: None,
        };
        (release, ObjectKey::new("Pod", "web"), serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn another_value_of_a_secret_is_another_pod_and_the_old_value_is_the_old_pod() {
        let id = |secrets| {
            let (release, key, pod) = release(secrets);
            PodId::of(&owner(), &release, &key, &pod)
        };
        let first = id(["a", "b", "c"]);
        assert_ne!(id(["A", "b", "c"]), first, "as a variable");
        assert_ne!(id(["a", "B", "c"]), first, "as a file");
        assert_eq!(id(["a", "b", "C"]), first, "one that only another pod uses");
        assert_eq!(id(["a", "b", "c"]), first);
    }

    #[test]
    fn labels_are_believed_only_where_the_name_is_the_one_that_we_give() {
        let (release, key, pod) = release(["a", "b", "c"]);
        let id = PodId::of(&owner(), &release, &key, &pod);
        let mut labels: BTreeMap<String, String> = labels(&owner(), &release.app, &key, release.id())
            .into_iter()
            .map(|(label, value)| (label.to_owned(), value))
            .collect();
        labels.insert(POD.to_owned(), id.as_str().to_owned());
        labels.insert(CONTAINER.to_owned(), "web".to_owned());
        let name = container_name(&release.app, &key, "web", &id);
        let found = part(&owner(), &labels, &name).unwrap();
        assert_eq!((found.app, found.key, found.pod), (release.app.clone(), key.clone(), id.clone()));
        // An image brings these labels, and somebody runs it.
        assert_eq!(part(&owner(), &labels, "nervous_hopper"), None);
        let other = Owner { device: "emea/till-2".parse().unwrap() };
        assert_eq!(part(&other, &labels, &name), None);
        for forged in ["../../../../etc", "", "0123456789ABCDEF", "0123456789abcdef0", "/var/lib/holdfst"] {
            labels.insert(POD.to_owned(), forged.to_owned());
            assert_eq!(part(&owner(), &labels, &name), None, "{forged}");
        }
    }

    #[test]
    fn a_volume_is_ours_by_its_name_and_not_by_its_labels() {
        let (release, key, pod) = release(["a", "b", "c"]);
        let id = PodId::of(&owner(), &release, &key, &pod);
        let scratch = scratch_name(&release.app, &key, "tmp", &id);
        assert!(is_scratch(&scratch, &release.app, &key, &id), "{scratch}");
        assert!(!is_scratch("customers", &release.app, &key, &id));
        let data = ObjectKey { namespace: Some("shop".into()), ..ObjectKey::new(CLAIM_KIND, "data") };
        let labels = BTreeMap::from([(OBJECT.to_owned(), data.to_string())]);
        assert_eq!(claim(&labels, "shop.data"), Some(data));
        assert_eq!(claim(&labels, "customers"), None);
    }

    const CLAIM_KIND: &str = "PersistentVolumeClaim";

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
