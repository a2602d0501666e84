//! Names that were checked once, where they came in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a name of {what}: {rule}")]
pub struct BadName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

const LABEL_RULE: &str = "use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
const PATH_RULE: &str = "use parts of 1 to 63 of a-z, 0-9 and '-', joined by '/', 253 characters in all; each part begins and ends with a letter or digit";

/// An RFC 1123 label, as Kubernetes uses it for names.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| inner(b) || b == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
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
                    Err(BadName { what: $what, text: text.chars().take(100).collect(), rule: $rule })
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

/// One object that a driver keeps: its kind, its name, and where the runtime has namespaces, the namespace.
/// Written `Kind/name` or `Kind/namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey {
    /// Such as `Deployment` or `Wasm`.
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
        for text in ["Wasm/hello", "Deployment/pos/pos"] {
            assert_eq!(text.parse::<ObjectKey>().unwrap().to_string(), text);
        }
        assert!("Wasm".parse::<ObjectKey>().is_err());
    }
}
