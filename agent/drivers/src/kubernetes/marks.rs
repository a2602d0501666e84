//! The marks by which ownership is proved when nothing else is left: labels and annotations on every object that the
//! driver makes, and the ids of ApplySets.
//!
//! ApplySets are kubectl's format for what was applied together (KEP-3659, and "Labels, Annotations and Taints" of the
//! Kubernetes documentation): a parent object with an id, and members that carry the id as a label.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_core::name::AppName;
use sha2::{Digest as _, Sha256};

/// Under which name we own fields.
pub(super) const MANAGER: &str = "holdfast";
/// Where the parents of ApplySets are, and the Lease of the leader.
pub(super) const NAMESPACE: &str = "holdfast-system";

/// A label: who keeps it. One box, or one cluster.
pub(super) const OWNER: &str = "holdfast.dev/owner";
/// A label: the app that it is for.
pub(super) const APP: &str = "holdfast.dev/app";
/// A label: the ApplySet that it is a member of.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// A label of parents: the ApplySet that it is the parent of.
pub(super) const ID: &str = "applyset.kubernetes.io/id";
/// An annotation of parents: what keeps the ApplySet. kubectl touches only its own.
pub(super) const TOOLING: &str = "applyset.kubernetes.io/tooling";
/// An annotation of parents: the kinds of its members.
pub(super) const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// An annotation of parents: the namespaces of its members, but for its own.
pub(super) const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// An annotation: what the object is called in its release.
pub(super) const OBJECT: &str = "holdfast.dev/object";
/// An annotation: the release that it was last written for.
pub(super) const RELEASE: &str = "holdfast.dev/release";
/// An annotation: the digest of what was last written.
pub(super) const APPLIED: &str = "holdfast.dev/applied";
/// An annotation: the keyed digest that only we can write.
pub(super) const PROOF: &str = "holdfast.dev/proof";
/// An annotation: the account that it was written as, if it was not our own.
pub(super) const ACCOUNT: &str = "holdfast.dev/account";
/// An annotation of parents: the Jobs that ended well and that the cluster may remove then, with the digests of what was
/// written.
pub(super) const ENDED: &str = "holdfast.dev/ended-jobs";
/// An annotation of parents: the owner's whole name.
pub(super) const OWNER_NAME: &str = "holdfast.dev/owner-name";

/// Who keeps objects, as it stands in their label: names of devices are no labels' values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnerMark {
    /// The whole name, of a device or of a cluster.
    pub(super) name: String,
    /// What stands in the label.
    pub(super) mark: String,
}

impl OwnerMark {
    /// The mark of the owner that is called `name`.
    pub(super) fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        OwnerMark { name: name.to_owned(), mark: hex(&digest[..8]) }
    }

    /// The label selector that finds all that is this owner's.
    pub(super) fn selector(&self) -> String {
        format!("{OWNER}={}", self.mark)
    }

    /// The name of the parent of an app's ApplySet.
    pub(super) fn parent_of(&self, app: &AppName) -> String {
        format!("holdfast-{}-{app}", &self.mark[..8])
    }

    /// The id of an app's ApplySet: its parent's name, namespace, kind and group, as one digest.
    pub(super) fn set_of(&self, app: &AppName) -> String {
        // The group of ConfigMaps is empty, and its dot stays.
        let parent = format!("{}.{NAMESPACE}.ConfigMap.", self.parent_of(app));
        format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(Sha256::digest(parent.as_bytes())))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owners_mark_is_a_labels_value_whatever_its_name() {
        let mark = OwnerMark::of("emea/de/store-0042/till-1");
        assert_eq!(mark.mark.len(), 16);
        assert_ne!(mark.mark, OwnerMark::of("emea/de/store-0042/till-2").mark);
    }

    #[test]
    fn the_id_of_an_applyset_is_a_labels_value() {
        let id = OwnerMark::of("till-1").set_of(&"pos".parse().unwrap());
        assert!(id.starts_with("applyset-") && id.ends_with("-v1") && id.len() <= 63, "{id}");
    }
}
