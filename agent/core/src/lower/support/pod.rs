//! What podman can hold of a pod, of its containers and of its volumes: the fields of each record.

use super::Support::{NoEffect, Partly, Refused, Supported};
use super::{ONE_BOX, Table};

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
        ("dnsPolicy", NoEffect("names resolve as on the box, and among the pods")),
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
        ("requests", Partly("cpu, as its share under contention")),
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
        ("recursiveReadOnly", NoEffect("submounts are mounted the same way")),
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
        ("grpc", Supported),
        ("initialDelaySeconds", Supported),
        ("periodSeconds", Supported),
        ("timeoutSeconds", Supported),
        ("successThreshold", Supported),
        ("failureThreshold", Supported),
        ("terminationGracePeriodSeconds", NoEffect("that of the pod applies")),
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

/// `grpc` of a probe.
pub const GRPC: Table = Table { record: "grpc", fields: &[("port", Supported), ("service", Supported)] };

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
