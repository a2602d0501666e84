//! The container images that an app's objects name.
//!
//! Where a pod's template is in each kind: the API reference of Kubernetes 1.36, "Workload Resources". Ephemeral
//! containers are nobody's manifest: the API server takes them by a subresource alone.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::image::ImageReference;
use crate::pod::PinnedImage;
use crate::release::Object;

/// The images that objects name. A text that names no image is in none of them: the cluster says so itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedImages {
    /// Those that a digest names: they stay what they are.
    pub pinned: BTreeSet<PinnedImage>,
    /// Those that a tag alone names: what they are is decided by the node, when it pulls them.
    pub by_tag: BTreeSet<ImageReference>,
}

/// The images that `objects`, which are manifests as JSON, name.
pub fn named_images(objects: &[Object]) -> NamedImages {
    let mut images = NamedImages::default();
    for text in objects.iter().flat_map(images_of) {
        let Ok(reference) = text.parse::<ImageReference>() else { continue };
        match reference.digest {
            Some(digest) => {
                images.pinned.insert(PinnedImage { reference, digest });
            }
            None => {
                images.by_tag.insert(reference);
            }
        }
    }
    images
}

/// The images that `objects` name by digest.
pub fn pinned_images(objects: &[Object]) -> BTreeSet<PinnedImage> {
    named_images(objects).pinned
}

/// What one object calls its images.
fn images_of(object: &Object) -> Vec<&str> {
    let Some(pod) = pod_path(&object.key.kind).and_then(|path| object.spec.pointer(path)) else {
        return Vec::new();
    };
    let list = |name: &str| pod.get(name).and_then(Value::as_array).into_iter().flatten();
    let containers = list("initContainers").chain(list("containers")).map(|container| container.get("image"));
    let volumes = list("volumes").map(|volume| volume.pointer("/image/reference"));
    containers.chain(volumes).flatten().filter_map(Value::as_str).collect()
}

/// Where the spec of a pod is in an object of this kind (a JSON pointer); none for what makes no pods. Kinds of
/// other groups carry their group in their name, and so are none of these.
fn pod_path(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some("/spec"),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            Some("/spec/template/spec")
        }
        "CronJob" => Some("/spec/jobTemplate/spec/template/spec"),
        "PodTemplate" => Some("/template/spec"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::Digest;
    use crate::name::ObjectKey;

    fn object(kind: &str, spec: Value) -> Object {
        Object { key: ObjectKey::new(kind, "x"), spec }
    }

    fn pinned(name: &str) -> String {
        format!("registry.example/{name}@{}", Digest::of(name.as_bytes()))
    }

    fn names(images: &BTreeSet<PinnedImage>) -> Vec<&str> {
        images.iter().map(|image| image.reference.repository.as_str()).collect()
    }

    #[test]
    fn every_kind_that_makes_pods_names_its_images() {
        for kind in [
            "Pod",
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
            "DaemonSet",
            "Job",
            "CronJob",
            "ReplicationController",
            "PodTemplate",
        ] {
            let pod = json!({ "containers": [{ "name": "c", "image": pinned("pos") }] });
            let spec = match kind {
                "Pod" => json!({ "spec": pod }),
                "PodTemplate" => json!({ "template": { "spec": pod } }),
                "CronJob" => {
                    json!({ "spec": { "jobTemplate": { "spec": { "template": { "spec": pod } } } } })
                }
                _ => json!({ "spec": { "template": { "spec": pod } } }),
            };
            assert_eq!(names(&pinned_images(&[object(kind, spec)])), ["pos"], "{kind}");
        }
    }

    #[test]
    fn images_of_init_containers_and_volumes_count_and_those_by_tag_are_told_apart() {
        let digest = Digest::of(b"model");
        let pod = json!({ "spec": {
            "initContainers": [{ "image": pinned("init") }],
            "containers": [{ "image": "registry.example/pos:v1" }, { "image": pinned("proxy") }],
            "volumes": [
                { "image": { "reference": format!("registry.example/model:v2@{digest}") } },
                { "emptyDir": {} },
            ],
        }});
        let images = named_images(&[object("Pod", pod.clone()), object("Pod", pod)]);
        assert_eq!(names(&images.pinned), ["init", "model", "proxy"]);
        let by_tag: Vec<String> = images.by_tag.iter().map(ToString::to_string).collect();
        assert_eq!(by_tag, ["registry.example/pos:v1"]);
        let model = images.pinned.iter().find(|image| image.digest == digest).unwrap();
        assert_eq!(model.reference.tag.as_deref(), Some("v2"));
    }

    #[test]
    fn what_has_another_shape_or_is_of_another_group_names_none() {
        let template =
            json!({ "spec": { "template": { "spec": { "containers": [{ "image": pinned("x") }] } } } });
        for (kind, spec) in [
            ("Deployment.example.com", template.clone()),
            ("ConfigMap", template.clone()),
            ("Pod", template),
            ("Pod", json!({ "spec": { "containers": "many", "volumes": [1, null] } })),
            ("Pod", json!({ "spec": { "containers": [{ "image": 7 }, { "image": "Not An Image" }, {}] } })),
            ("Deployment", json!(null)),
        ] {
            let images = named_images(&[object(kind, spec.clone())]);
            assert_eq!(images, NamedImages::default(), "{kind} {spec}");
        }
    }
}
