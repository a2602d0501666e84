//! Names, validated once where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid name for {what}: {rule}")]
pub struct BadName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl BadName {
    pub(crate) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        BadName { what, text: text.chars().take(100).collect(), rule }
    }
}

const LABEL_RULE: &str = "use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
const PATH_RULE: &str = "use parts of 1 to 63 of a-z, 0-9 and '-', joined by '/', 253 characters in all; each part begins and ends with a letter or digit";

/// An RFC 1123 label, as Kubernetes uses it for names.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| inner(b) || b == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

/// An RFC 1123 subdomain: labels joined by dots.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_path(text: &str) -> bool {
    text.len() <= 253 && text.split('/').all(is_label)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $rule:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if $check(text) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(BadName::new($what, text, $rule))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    /// An app's name: an RFC 1123 label, the folder's name under `apps/`.
    AppName, "an app", is_label, LABEL_RULE
);
name!(
    /// A site's name: a path such as `emea/de/store-0042`.
    SiteName, "a site", is_path, PATH_RULE
);
name!(
    /// A device's name: a path such as `emea/de/store-0042/till-1`.
    DeviceName, "a device", is_path, PATH_RULE
);
name!(
    /// The name of a cluster that several nodes with an agent make up: a path such as `emea/de/store-0042`.
    ClusterName, "a cluster", is_path, PATH_RULE
);

/// One object that a driver keeps: its kind, its name, and where the runtime has namespaces, the namespace.
/// Written `Kind/name` or `Kind/namespace/name`. A kind of an API group that isn't one of Kubernetes' own is
/// `Kind.group`, as in `HelmChart.helm.cattle.io/kube-system/traefik`: two groups may have a kind of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey {
    /// Such as `Deployment`, `Wasm` or `HelmChart.helm.cattle.io`.
    pub kind: String,
    /// Where the runtime has namespaces and the object is in one.
    pub namespace: Option<String>,
    /// The object's own name.
    pub name: String,
}

/// A text that is no object key.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} does not name an object: write Kind/name or Kind/namespace/name")]
pub struct BadObjectKey(String);

impl ObjectKey {
    /// A key without a namespace.
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey { kind: kind.into(), namespace: None, name: name.into() }
    }

    /// How a key names `kind` of `api_version`: by itself if the group is one of Kubernetes' own, else with its
    /// group. Kubernetes' own are the one without a name (`v1`), those without a dot (`apps`, `batch`: the field's
    /// convention gives everybody else's a domain), and what ends with `.k8s.io`. The version doesn't count, so
    /// that an object stays the same when its API moves on.
    pub fn kind_of(api_version: &str, kind: &str) -> String {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if !group.contains('.') || group.ends_with(".k8s.io") {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        }
    }

    /// The API group, unless it is one of Kubernetes' own or no kind of Kubernetes at all; and the kind without it.
    pub fn group_and_kind(&self) -> (Option<&str>, &str) {
        // No kind has a dot in it.
        match self.kind.split_once('.') {
            Some((kind, group)) => (Some(group), kind),
            None => (None, &self.kind),
        }
    }

    /// Whether it holds data that must never be removed automatically (DESIGN: "Nothing is deleted by
    /// accident").
    pub fn holds_data(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "PersistentVolumeClaim"
                | "PersistentVolume"
                | "CustomResourceDefinition"
                | "Namespace"
                | "Volume"
                | "Disk"
        )
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

impl FromStr for ObjectKey {
    type Err = BadObjectKey;

    fn from_str(text: &str) -> Result<Self, BadObjectKey> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [kind, name] if !kind.is_empty() && !name.is_empty() => Ok(ObjectKey::new(*kind, *name)),
            [kind, namespace, name] if parts.iter().all(|part| !part.is_empty()) => Ok(ObjectKey {
                kind: (*kind).to_owned(),
                namespace: Some((*namespace).to_owned()),
                name: (*name).to_owned(),
            }),
            _ => Err(BadObjectKey(text.chars().take(200).collect())),
        }
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = BadObjectKey;

    fn try_from(text: String) -> Result<Self, BadObjectKey> {
        text.parse()
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_apps_are_labels() {
        assert!("pos".parse::<AppName>().is_ok());
        for text in ["", "Pos", "-pos", "pos-", "a/b", "a.b", &"x".repeat(64)] {
            assert!(text.parse::<AppName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_of_devices_are_paths_that_cannot_leave_their_tree() {
        assert!("emea/de/store-0042/till-1".parse::<DeviceName>().is_ok());
        for text in ["..", "a/../b", "/a", "a/", "a//b", "a/./b"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_object_key_reads_back_as_it_was_written() {
        for text in ["Wasm/hello", "Deployment/pos/pos", "HelmChart.helm.cattle.io/kube-system/traefik"] {
            assert_eq!(text.parse::<ObjectKey>().unwrap().to_string(), text);
        }
        assert!("Wasm".parse::<ObjectKey>().is_err());
    }

    #[test]
    fn a_kind_of_somebody_elses_group_carries_it_and_one_of_kubernetes_own_does_not() {
        for own in ["v1", "apps/v1", "batch/v1beta1", "networking.k8s.io/v1", "gateway.networking.k8s.io/v1"]
        {
            assert_eq!(ObjectKey::kind_of(own, "Thing"), "Thing", "{own}");
        }
        for (version, kind) in [
            ("serving.knative.dev/v1", "Thing.serving.knative.dev"),
            ("cluster.x-k8s.io/v1beta1", "Thing.cluster.x-k8s.io"),
        ] {
            assert_eq!(ObjectKey::kind_of(version, "Thing"), kind);
        }
    }

    #[test]
    fn a_key_tells_its_group_from_its_kind() {
        let chart: ObjectKey = "HelmChart.helm.cattle.io/kube-system/traefik".parse().unwrap();
        assert_eq!(chart.group_and_kind(), (Some("helm.cattle.io"), "HelmChart"));
        assert_eq!(ObjectKey::new("Deployment", "pos").group_and_kind(), (None, "Deployment"));
    }

    #[test]
    fn a_custom_resource_that_shares_its_kind_with_what_holds_data_does_not_hold_any() {
        assert!(ObjectKey::new("Namespace", "shop").holds_data());
        assert!(!ObjectKey::new("Namespace.example.com", "shop").holds_data());
    }
}
