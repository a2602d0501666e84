//! What podman can hold of Kubernetes' kinds: a table of kind and field. The readers in this folder go by it,
//! and a test holds them to it; docs/podman.md shows it.

mod pod;

pub use self::pod::*;

/// What becomes of a field on podman.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It is held.
    Supported,
    /// It is held as far as the text says.
    Partly(&'static str),
    /// It is taken, and changes nothing on a single box; the text says why.
    NoEffect(&'static str),
    /// It is refused; the text says why, and what to do.
    Refused(&'static str),
}

use Support::{NoEffect, Partly, Refused, Supported};

/// The fields of one record.
#[derive(Debug)]
pub struct Table {
    /// What messages call it.
    pub record: &'static str,
    /// Every field that Kubernetes knows here.
    pub fields: &'static [(&'static str, Support)],
}

impl Table {
    /// What becomes of a field; none if Kubernetes doesn't know it here.
    pub(super) fn support(&self, key: &str) -> Option<Support> {
        self.fields.iter().find(|(name, _)| *name == key).map(|(_, support)| *support)
    }

    /// The names of its fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|(name, _)| *name)
    }
}

/// What becomes of a kind on podman.
pub const KINDS: &[(&str, &str, Support)] = &[
    ("Pod", "v1", Supported),
    ("Deployment", "apps/v1", Supported),
    ("DaemonSet", "apps/v1", Supported),
    ("StatefulSet", "apps/v1", Partly("with one replica")),
    ("Job", "batch/v1", Partly("one pod that runs to its end")),
    ("ConfigMap", "v1", Supported),
    ("Secret", "v1", Supported),
    ("PersistentVolumeClaim", "v1", Supported),
    ("Service", "v1", Partly("by a port of the box, or by a name that pods find each other by")),
    ("Namespace", "v1", NoEffect("podman has no namespaces: names are kept apart by the app")),
    ("ServiceAccount", "v1", NoEffect("there is no API server to grant rights on")),
    ("Role", "rbac.authorization.k8s.io/v1", NoEffect("there is no API server to grant rights on")),
    ("RoleBinding", "rbac.authorization.k8s.io/v1", NoEffect("there is no API server to grant rights on")),
    ("ClusterRole", "rbac.authorization.k8s.io/v1", NoEffect("there is no API server to grant rights on")),
    (
        "ClusterRoleBinding",
        "rbac.authorization.k8s.io/v1",
        NoEffect("there is no API server to grant rights on"),
    ),
    (
        "CronJob",
        "batch/v1",
        Refused(
            "run it as a Deployment whose program keeps the schedule, such as crond -f or a loop that sleeps, or by a \
             timer of the box; a Job runs once per release",
        ),
    ),
    ("PodDisruptionBudget", "policy/v1", NoEffect("nobody drains a single box")),
];

/// Whether an object of this kind, as keys have it, changes anything on podman.
pub fn has_effect(kind: &str) -> bool {
    let known = KINDS.iter().find(|(name, ..)| *name == kind);
    known.is_none_or(|(.., support)| !matches!(support, NoEffect(_)))
}

const ONE_BOX: &str = "there is one box to run it on";
const META: Support = NoEffect("for people and for Kubernetes only");

/// `metadata` of every kind.
pub const METADATA: Table = Table {
    record: "metadata",
    fields: &[
        ("name", Supported),
        ("namespace", Supported),
        ("labels", Supported),
        ("annotations", Partly("by fieldRef")),
        ("creationTimestamp", META),
        ("generateName", Refused("the name must be known: write name")),
        ("finalizers", Refused("nothing would remove them")),
        ("ownerReferences", Refused("there is no garbage collector that acts on them: remove them")),
    ],
};

/// The pod template's `metadata`.
pub const TEMPLATE_METADATA: Table = Table {
    record: "the template's metadata",
    fields: &[
        ("name", META),
        ("namespace", META),
        ("labels", Supported),
        ("annotations", Partly("by fieldRef")),
        ("creationTimestamp", META),
    ],
};

/// A workload as a whole.
pub const WORKLOAD: Table = Table {
    record: "the workload",
    fields: &[
        ("apiVersion", Supported),
        ("kind", Supported),
        ("metadata", Supported),
        ("spec", Supported),
        ("status", NoEffect("the agent looks at what runs instead")),
    ],
};

/// `spec` of a Deployment.
pub const DEPLOYMENT: Table = Table {
    record: "the Deployment's spec",
    fields: &[
        ("replicas", Supported),
        ("selector", Partly("must match the template's labels")),
        ("template", Supported),
        ("strategy", NoEffect("`update.strategy` of app.yaml is used instead")),
        ("minReadySeconds", NoEffect("`health.soak` of app.yaml is used instead")),
        ("progressDeadlineSeconds", NoEffect("`health.deadline` of app.yaml is used instead")),
        ("revisionHistoryLimit", NoEffect("the present and the previous good release are kept")),
        ("paused", Refused("remove the app from the repository, or leave it as it is")),
    ],
};

/// `spec` of a DaemonSet.
pub const DAEMON_SET: Table = Table {
    record: "the DaemonSet's spec",
    fields: &[
        ("selector", Partly("must match the template's labels")),
        ("template", Supported),
        ("updateStrategy", NoEffect("`update.strategy` of app.yaml is used instead")),
        ("minReadySeconds", NoEffect("`health.soak` of app.yaml is used instead")),
        ("revisionHistoryLimit", NoEffect("the present and the previous good release are kept")),
    ],
};

/// `spec` of a StatefulSet.
pub const STATEFUL_SET: Table = Table {
    record: "the StatefulSet's spec",
    fields: &[
        ("replicas", Partly("1 or 0")),
        ("serviceName", Supported),
        ("selector", Partly("must match the template's labels")),
        ("template", Supported),
        ("volumeClaimTemplates", Supported),
        ("podManagementPolicy", NoEffect("there is one pod")),
        ("updateStrategy", NoEffect("`update.strategy` of app.yaml is used instead")),
        ("minReadySeconds", NoEffect("`health.soak` of app.yaml is used instead")),
        ("revisionHistoryLimit", NoEffect("the present and the previous good release are kept")),
        ("persistentVolumeClaimRetentionPolicy", NoEffect("claims are never removed automatically")),
        ("ordinals", Refused("there is one pod, with the ordinal 0")),
    ],
};

/// `spec` of a Job.
pub const JOB: Table = Table {
    record: "the Job's spec",
    fields: &[
        ("template", Supported),
        ("backoffLimit", Supported),
        ("activeDeadlineSeconds", Supported),
        ("completions", Partly("1")),
        ("parallelism", Partly("1")),
        ("completionMode", Partly("NonIndexed")),
        ("selector", NoEffect("there is one pod")),
        ("manualSelector", NoEffect("there is one pod")),
        ("ttlSecondsAfterFinished", NoEffect("the finished pod stays as proof that the job ran")),
        ("suspend", Refused("remove the Job from the repository")),
        ("backoffLimitPerIndex", Refused("there is one pod")),
        ("maxFailedIndexes", Refused("there is one pod")),
        ("podFailurePolicy", Refused("use backoffLimit")),
        ("podReplacementPolicy", NoEffect("a pod is replaced once it has ended")),
        ("successPolicy", Refused("there is one pod")),
        ("managedBy", Refused("only the agent runs it")),
    ],
};

/// The template of a workload.
pub const TEMPLATE: Table =
    Table { record: "the pod template", fields: &[("metadata", Supported), ("spec", Supported)] };

/// A ConfigMap.
pub const CONFIG_MAP: Table = Table {
    record: "the ConfigMap",
    fields: &[
        ("apiVersion", Supported),
        ("kind", Supported),
        ("metadata", Supported),
        ("data", Supported),
        ("binaryData", Supported),
        ("immutable", NoEffect("a changed ConfigMap recreates the pod")),
    ],
};

/// A Secret.
pub const SECRET: Table = Table {
    record: "the Secret",
    fields: &[
        ("apiVersion", Supported),
        ("kind", Supported),
        ("metadata", Supported),
        ("data", Supported),
        ("stringData", Supported),
        ("type", NoEffect("the workload that uses it knows the type")),
        ("immutable", NoEffect("a changed Secret recreates the pod")),
    ],
};

/// `spec` of a PersistentVolumeClaim.
pub const CLAIM: Table = Table {
    record: "the claim's spec",
    fields: &[
        ("accessModes", NoEffect("a volume of podman is the box's own")),
        ("resources", NoEffect("a volume of podman has no size of its own")),
        ("storageClassName", NoEffect("volumes are podman's own")),
        ("volumeMode", Partly("Filesystem")),
        ("volumeAttributesClassName", NoEffect("volumes are podman's own")),
        ("selector", Refused("there are no PersistentVolumes to choose from")),
        ("volumeName", Refused("there are no PersistentVolumes to choose from")),
        ("dataSource", Refused("fill the volume in an init container")),
        ("dataSourceRef", Refused("fill the volume in an init container")),
    ],
};

/// `spec` of a Service.
pub const SERVICE: Table = Table {
    record: "the Service's spec",
    fields: &[
        ("selector", Supported),
        ("ports", Supported),
        ("type", Partly("ClusterIP, NodePort, LoadBalancer")),
        ("clusterIP", Partly("None, or left out")),
        ("clusterIPs", Partly("None, or left out")),
        ("externalIPs", Refused("use hostPort with hostIP")),
        ("externalName", Refused("write the name where it is used")),
        ("externalTrafficPolicy", NoEffect(ONE_BOX)),
        ("internalTrafficPolicy", NoEffect(ONE_BOX)),
        ("trafficDistribution", NoEffect(ONE_BOX)),
        ("ipFamilies", NoEffect("the box's network decides")),
        ("ipFamilyPolicy", NoEffect("the box's network decides")),
        ("sessionAffinity", Partly("None")),
        ("sessionAffinityConfig", Refused("sessionAffinity is not supported")),
        ("publishNotReadyAddresses", NoEffect("pods are found by name from their start")),
        ("allocateLoadBalancerNodePorts", NoEffect("no ports are allocated")),
        ("healthCheckNodePort", Refused("ask the workload itself")),
        ("loadBalancerClass", NoEffect("the box is its own load balancer")),
        ("loadBalancerIP", Refused("use hostPort with hostIP")),
        ("loadBalancerSourceRanges", Refused("use a firewall on the box")),
    ],
};

/// One of the `ports` of a Service.
pub const SERVICE_PORT: Table = Table {
    record: "the Service's port",
    fields: &[
        ("name", META),
        ("port", Supported),
        ("targetPort", Supported),
        ("nodePort", Supported),
        ("protocol", Supported),
        ("appProtocol", META),
    ],
};
