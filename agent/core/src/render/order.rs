//! The order in which objects are created: what others need comes first. And which kinds have no namespace. Kinds
//! are named here as keys name them, so that none of these is somebody else's of the same name.

/// Kinds in the order of their making; what isn't here comes between the two lists.
const FIRST: [&str; 24] = [
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "RuntimeClass",
    "StorageClass",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
    "ServiceAccount",
    "ClusterRole",
    "Role",
    "ClusterRoleBinding",
    "RoleBinding",
    "Secret",
    "ConfigMap",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Service",
    "PodDisruptionBudget",
    "DaemonSet",
    "Pod",
    "ReplicaSet",
    "Deployment",
    "StatefulSet",
];
const LAST: [&str; 7] = [
    "Job",
    "CronJob",
    "HorizontalPodAutoscaler",
    "Ingress",
    "APIService",
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
];

/// Kinds without a namespace.
const CLUSTER: [&str; 24] = [
    "APIService",
    "CSIDriver",
    "CSINode",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "CustomResourceDefinition",
    "FlowSchema",
    "IngressClass",
    "MutatingAdmissionPolicy",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeAttachment",
    "VolumeAttributesClass",
];

/// Where a kind stands in the order; lower ones are made first.
pub(super) fn rank(kind: &str) -> usize {
    let first = FIRST.iter().position(|known| *known == kind);
    let last = || LAST.iter().position(|known| *known == kind).map(|index| FIRST.len() + 1 + index);
    first.or_else(last).unwrap_or(FIRST.len())
}

/// Whether objects of a built-in kind stand in no namespace.
pub(super) fn is_cluster_wide(kind: &str) -> bool {
    CLUSTER.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first_and_unknown_kinds_come_after_their_definitions() {
        let order =
            ["Namespace", "CustomResourceDefinition", "ConfigMap", "Service", "Deployment", "Rocket", "Job"];
        assert!(order.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
    }

    #[test]
    fn a_kind_of_somebody_elses_group_is_none_of_kubernetes_own() {
        assert_eq!(rank("Namespace.example.com"), rank("Rocket.example.com"));
        assert!(is_cluster_wide("ClusterRole") && !is_cluster_wide("ClusterRole.example.com"));
    }
}
