//! The table of what podman can hold, as docs/podman.md shows it.

use super::support::*;
use Support::{NoEffect, Partly, Refused, Supported};

/// Every table with the heading that docs/podman.md has it under.
pub const TABLES: &[(&str, &Table)] = &[
    ("every kind's `metadata`", &METADATA),
    ("Deployment `spec`", &DEPLOYMENT),
    ("DaemonSet `spec`", &DAEMON_SET),
    ("StatefulSet `spec`", &STATEFUL_SET),
    ("Job `spec`", &JOB),
    ("Pod `spec`, also in templates", &POD),
    ("Pod `spec.securityContext`", &POD_SECURITY),
    ("container", &CONTAINER),
    ("container `resources`", &RESOURCES),
    ("container `securityContext`", &SECURITY),
    ("container `env[].valueFrom`", &VALUE_FROM),
    ("container `envFrom[]`", &ENV_FROM),
    ("container `ports[]`", &PORT),
    ("container `volumeMounts[]`", &MOUNT),
    ("probes", &PROBE),
    ("probe and hook `httpGet`", &HTTP_GET),
    ("probe `grpc`", &GRPC),
    ("container `lifecycle`", &LIFECYCLE),
    ("container `lifecycle.postStart`, `lifecycle.preStop`", &HOOK),
    ("Pod `volumes[]`", &VOLUME),
    ("volume `emptyDir`", &EMPTY_DIR),
    ("volume `hostPath`", &HOST_PATH),
    ("volume `configMap`", &CONFIG_MAP_SOURCE),
    ("volume `secret`", &SECRET_SOURCE),
    ("volume `projected.sources[]`", &PROJECTION),
    ("ConfigMap", &CONFIG_MAP),
    ("Secret", &SECRET),
    ("PersistentVolumeClaim `spec`", &CLAIM),
    ("Service `spec`", &SERVICE),
    ("Service `spec.ports[]`", &SERVICE_PORT),
];

/// The table in Markdown, as docs/podman.md shows it.
pub fn to_markdown() -> String {
    let mut text = String::from("| kind | apiVersion | on podman |\n|---|---|---|\n");
    for (kind, version, support) in KINDS {
        text.push_str(&format!("| {kind} | {version} | {} |\n", words(*support)));
    }
    text.push_str("| every other | | refused: write `driver: kubernetes` in app.yaml |\n");
    for (heading, table) in TABLES {
        text.push_str(&format!("\n### {heading}\n\n| field | on podman |\n|---|---|\n"));
        for (field, support) in table.fields {
            text.push_str(&format!("| `{field}` | {} |\n", words(*support)));
        }
    }
    text
}

fn words(support: Support) -> String {
    match support {
        Supported => "supported".to_owned(),
        Partly(what) => format!("supported: {what}"),
        NoEffect(why) => format!("accepted, without effect: {why}"),
        Refused(why) => format!("refused: {why}"),
    }
}
