//! What podman can hold of Kubernetes' kinds: a table of kind and field. The readers in this folder go by it,
//! and a test holds them to it; docs/podman.md shows it.

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
            "let the program sleep between its runs, or start it by a timer of the box; a Job runs once per release",
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
        ("ttlSecondsAfterFinished", NoEffect("the ended pod stays as the proof that the job ran")),
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

/// `spec` of a pod.
pub const POD: Table = Table {
    record: "the pod's spec",
    fields: &[
        ("containers", Supported),
        ("initContainers", Partly("without restartPolicy")),
        ("volumes", Supported),
        ("restartPolicy", Supported),
        ("terminationGracePeriodSeconds", Supported),
        ("hostNetwork", Supported),
        ("hostPID", Supported),
        ("hostIPC", Supported),
        ("hostname", Supported),
        ("hostAliases", Supported),
        ("securityContext", Supported),
        ("dnsPolicy", NoEffect("names are looked up as the box does, and among the pods")),
        ("shareProcessNamespace", Partly("false")),
        ("activeDeadlineSeconds", Partly("of a Job's pod")),
        ("os", Partly("linux")),
        ("automountServiceAccountToken", NoEffect("there is no API server to talk to")),
        ("serviceAccountName", NoEffect("there is no API server to grant rights on")),
        ("serviceAccount", NoEffect("there is no API server to grant rights on")),
        ("enableServiceLinks", NoEffect("no such variables are set")),
        ("imagePullSecrets", NoEffect("`[registries]` of agent.toml says how registries are asked")),
        ("affinity", NoEffect(ONE_BOX)),
        ("nodeName", NoEffect(ONE_BOX)),
        ("nodeSelector", NoEffect("`placement` of app.yaml says which boxes it runs on")),
        ("tolerations", NoEffect(ONE_BOX)),
        ("topologySpreadConstraints", NoEffect(ONE_BOX)),
        ("schedulerName", NoEffect(ONE_BOX)),
        ("priority", NoEffect(ONE_BOX)),
        ("priorityClassName", NoEffect(ONE_BOX)),
        ("preemptionPolicy", NoEffect(ONE_BOX)),
        ("setHostnameAsFQDN", Partly("false")),
        ("subdomain", NoEffect("names are those of Services")),
        ("dnsConfig", Refused("the box's DNS configuration is used: configure DNS there")),
        ("ephemeralContainers", Refused("they are only for running pods")),
        ("hostUsers", Partly("true")),
        ("overhead", Refused("it belongs to a runtimeClassName")),
        ("readinessGates", Refused("nothing would set them to true")),
        ("resourceClaims", Refused("there is no device manager")),
        ("resources", Refused("limit each container")),
        ("runtimeClassName", Refused("podman runs every container by its own runtime")),
        ("schedulingGates", Refused("nothing would set them to true")),
    ],
};

/// A container.
pub const CONTAINER: Table = Table {
    record: "the container",
    fields: &[
        ("name", Supported),
        ("image", Supported),
        ("command", Supported),
        ("args", Supported),
        ("workingDir", Supported),
        ("env", Supported),
        ("envFrom", Supported),
        ("ports", Supported),
        ("volumeMounts", Supported),
        ("resources", Supported),
        ("securityContext", Supported),
        ("startupProbe", Supported),
        ("livenessProbe", Supported),
        ("readinessProbe", Supported),
        ("imagePullPolicy", NoEffect("images are fetched once, by their digest")),
        ("terminationMessagePath", NoEffect("the log says why a container ended")),
        ("terminationMessagePolicy", NoEffect("the log says why a container ended")),
        ("stdin", Partly("false")),
        ("stdinOnce", Partly("false")),
        ("tty", Partly("false")),
        ("lifecycle", Partly("not of initContainers, as with Kubernetes")),
        ("restartPolicy", Refused("write it on the pod; sidecars are ordinary containers here")),
        ("resizePolicy", NoEffect("a change recreates the pod")),
        ("volumeDevices", Refused("block devices are given by a hostPath volume")),
    ],
};

/// `resources` of a container.
pub const RESOURCES: Table = Table {
    record: "resources",
    fields: &[
        ("limits", Partly("memory and cpu")),
        ("requests", Partly("cpu, as its share when processors are short")),
        ("claims", Refused("there is no device manager")),
    ],
};

/// `securityContext` of a container.
pub const SECURITY: Table = Table {
    record: "the container's securityContext",
    fields: &[
        ("runAsUser", Supported),
        ("runAsGroup", Supported),
        ("runAsNonRoot", Supported),
        ("privileged", Supported),
        ("readOnlyRootFilesystem", Supported),
        ("allowPrivilegeEscalation", Supported),
        ("capabilities", Supported),
        ("seccompProfile", Partly("RuntimeDefault")),
        ("appArmorProfile", Partly("RuntimeDefault")),
        ("procMount", Partly("Default")),
        ("seLinuxOptions", Refused("podman gives each container its own label")),
        ("windowsOptions", Refused("boxes run Linux")),
    ],
};

/// `capabilities` of a securityContext.
pub const CAPABILITIES: Table =
    Table { record: "capabilities", fields: &[("add", Supported), ("drop", Supported)] };

/// `securityContext` of a pod.
pub const POD_SECURITY: Table = Table {
    record: "the pod's securityContext",
    fields: &[
        ("runAsUser", Supported),
        ("runAsGroup", Supported),
        ("runAsNonRoot", Supported),
        ("supplementalGroups", Supported),
        ("fsGroup", Partly("as one more group of every container; volumes keep their owners")),
        ("fsGroupChangePolicy", NoEffect("volumes keep their owners")),
        ("seccompProfile", Partly("RuntimeDefault")),
        ("appArmorProfile", Partly("RuntimeDefault")),
        ("supplementalGroupsPolicy", Partly("Merge")),
        ("sysctls", Refused("set them on the box")),
        ("seLinuxOptions", Refused("podman gives each container its own label")),
        ("seLinuxChangePolicy", Refused("podman gives each container its own label")),
        ("windowsOptions", Refused("boxes run Linux")),
    ],
};

/// One of `env`.
pub const ENV: Table = Table {
    record: "the variable",
    fields: &[("name", Supported), ("value", Supported), ("valueFrom", Supported)],
};

/// `valueFrom` of a variable.
pub const VALUE_FROM: Table = Table {
    record: "valueFrom",
    fields: &[
        ("configMapKeyRef", Supported),
        ("secretKeyRef", Supported),
        (
            "fieldRef",
            Partly(
                "metadata.name, .namespace, .labels['…'], .annotations['…'], spec.nodeName, status.hostIP, \
                 .hostIPs; with hostNetwork status.podIP, .podIPs",
            ),
        ),
        ("resourceFieldRef", Partly("limits.cpu, limits.memory, requests.cpu of the container itself")),
        ("fileKeyRef", Refused("use a ConfigMap")),
    ],
};

/// A key of a ConfigMap or Secret.
pub const KEY_REF: Table = Table {
    record: "the reference",
    fields: &[("name", Supported), ("key", Supported), ("optional", Supported)],
};

/// `fieldRef` of a variable.
pub const FIELD_REF: Table = Table {
    record: "fieldRef",
    fields: &[("fieldPath", Supported), ("apiVersion", NoEffect("there is one"))],
};

/// `resourceFieldRef` of a variable.
pub const RESOURCE_REF: Table = Table {
    record: "resourceFieldRef",
    fields: &[
        ("containerName", Partly("the container itself")),
        ("resource", Supported),
        ("divisor", Supported),
    ],
};

/// One of `envFrom`.
pub const ENV_FROM: Table = Table {
    record: "envFrom",
    fields: &[("prefix", Supported), ("configMapRef", Supported), ("secretRef", Supported)],
};

/// A whole ConfigMap or Secret.
pub const SOURCE_REF: Table =
    Table { record: "the reference", fields: &[("name", Supported), ("optional", Supported)] };

/// One of `ports`.
pub const PORT: Table = Table {
    record: "the port",
    fields: &[
        ("name", Supported),
        ("containerPort", Supported),
        ("hostPort", Supported),
        ("hostIP", Supported),
        ("protocol", Supported),
    ],
};

/// One of `volumeMounts`.
pub const MOUNT: Table = Table {
    record: "the volumeMount",
    fields: &[
        ("name", Supported),
        ("mountPath", Supported),
        ("subPath", Supported),
        ("readOnly", Supported),
        ("mountPropagation", Supported),
        ("recursiveReadOnly", NoEffect("what is below is mounted the same way")),
        ("subPathExpr", Refused("write subPath")),
    ],
};

/// A probe.
pub const PROBE: Table = Table {
    record: "the probe",
    fields: &[
        ("exec", Supported),
        ("httpGet", Supported),
        ("tcpSocket", Supported),
        ("initialDelaySeconds", Supported),
        ("periodSeconds", Supported),
        ("timeoutSeconds", Supported),
        ("successThreshold", Supported),
        ("failureThreshold", Supported),
        ("terminationGracePeriodSeconds", NoEffect("that of the pod applies")),
        ("grpc", Refused("use exec, httpGet or tcpSocket")),
    ],
};

/// `lifecycle` of a container.
pub const LIFECYCLE: Table = Table {
    record: "lifecycle",
    fields: &[
        ("postStart", Supported),
        ("preStop", Supported),
        ("stopSignal", Refused("set STOPSIGNAL in the image")),
    ],
};

/// A hook of `lifecycle`.
pub const HOOK: Table = Table {
    record: "the hook",
    fields: &[
        ("exec", Supported),
        ("httpGet", Supported),
        ("sleep", Supported),
        ("tcpSocket", Refused("Kubernetes has deprecated it: use exec or httpGet")),
    ],
};

/// `sleep` of a hook.
pub const SLEEP: Table = Table { record: "sleep", fields: &[("seconds", Supported)] };

/// `exec` of a probe.
pub const EXEC: Table = Table { record: "exec", fields: &[("command", Supported)] };

/// `httpGet` of a probe.
pub const HTTP_GET: Table = Table {
    record: "httpGet",
    fields: &[
        ("host", Supported),
        ("path", Supported),
        ("port", Supported),
        ("httpHeaders", Supported),
        ("scheme", Supported),
    ],
};

/// One of `httpHeaders`.
pub const HEADER: Table =
    Table { record: "the header", fields: &[("name", Supported), ("value", Supported)] };

/// `tcpSocket` of a probe.
pub const TCP_SOCKET: Table =
    Table { record: "tcpSocket", fields: &[("host", Supported), ("port", Supported)] };

/// One of `hostAliases`.
pub const HOST_ALIAS: Table =
    Table { record: "the host alias", fields: &[("ip", Supported), ("hostnames", Supported)] };

/// One of `volumes`.
pub const VOLUME: Table = Table {
    record: "the volume",
    fields: &[
        ("name", Supported),
        ("persistentVolumeClaim", Supported),
        ("emptyDir", Supported),
        ("hostPath", Supported),
        ("configMap", Supported),
        ("secret", Supported),
        ("projected", Partly("ConfigMaps and Secrets")),
        ("downwardAPI", Refused("use fieldRef in env")),
        ("ephemeral", Refused("use emptyDir, or a PersistentVolumeClaim")),
        ("image", Refused("copy the files in an init container")),
        ("csi", Refused("there are no CSI drivers; mount it on the box, and use hostPath")),
        ("nfs", Refused("mount it on the box, and use hostPath")),
        ("iscsi", Refused("mount it on the box, and use hostPath")),
        ("fc", Refused("mount it on the box, and use hostPath")),
    ],
};

/// `persistentVolumeClaim` of a volume.
pub const CLAIM_SOURCE: Table =
    Table { record: "persistentVolumeClaim", fields: &[("claimName", Supported), ("readOnly", Supported)] };

/// `emptyDir` of a volume.
pub const EMPTY_DIR: Table = Table {
    record: "emptyDir",
    fields: &[("medium", Partly("Memory, or empty")), ("sizeLimit", Partly("held in memory, not on disk"))],
};

/// `hostPath` of a volume.
pub const HOST_PATH: Table =
    Table { record: "hostPath", fields: &[("path", Supported), ("type", Supported)] };

/// `configMap` of a volume.
pub const CONFIG_MAP_SOURCE: Table = Table {
    record: "configMap",
    fields: &[("name", Supported), ("items", Supported), ("defaultMode", Supported), ("optional", Supported)],
};

/// `secret` of a volume.
pub const SECRET_SOURCE: Table = Table {
    record: "secret",
    fields: &[
        ("secretName", Supported),
        ("items", Supported),
        ("defaultMode", Supported),
        ("optional", Supported),
    ],
};

/// `projected` of a volume.
pub const PROJECTED: Table =
    Table { record: "projected", fields: &[("sources", Supported), ("defaultMode", Supported)] };

/// One of the `sources` of a projected volume.
pub const PROJECTION: Table = Table {
    record: "the projection",
    fields: &[
        ("configMap", Supported),
        ("secret", Supported),
        ("downwardAPI", Refused("use fieldRef in env")),
        ("serviceAccountToken", Refused("there is no API server to talk to")),
        ("clusterTrustBundle", Refused("there is no API server to talk to")),
        ("podCertificate", Refused("there is no API server to talk to")),
    ],
};

/// `configMap` or `secret` of a projection.
pub const PROJECTED_SOURCE: Table = Table {
    record: "the source",
    fields: &[("name", Supported), ("items", Supported), ("optional", Supported)],
};

/// One of `items` of a configMap or secret volume.
pub const ITEM: Table =
    Table { record: "the item", fields: &[("key", Supported), ("path", Supported), ("mode", Supported)] };

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
        ("type", NoEffect("what uses it knows")),
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
