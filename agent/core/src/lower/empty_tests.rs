//! What is written and says nothing, as templates and Kubernetes' own tools leave it: `securityContext: {}`, `volumes: []`,
//! `hostname: ""`, `affinity:`. For Kubernetes it is the same as left out, so it must be for podman, field by field of the
//! whole table.

use super::support::*;
use super::tests::{IMAGE, lowered};
use crate::kubernetes::schema::Schema;
use crate::release::Strategy;

/// A record of the table: in which kind it is and where, and manifests with it, in which `FIELD` stands for one more field.
struct Place {
    table: &'static Table,
    kind: (&'static str, &'static str),
    path: &'static [&'static str],
    manifests: String,
    /// What Kubernetes doesn't take either when it is empty.
    not_empty: &'static [&'static str],
}

fn place(
    table: &'static Table,
    kind: (&'static str, &'static str),
    path: &'static [&'static str],
    manifests: &str,
    not_empty: &'static [&'static str],
) -> Place {
    let web = format!("name: web, image: \"{IMAGE}\"");
    let head = format!("{{ apiVersion: {}, kind: {}, metadata: {{ name: x }}", kind.0, kind.1);
    let manifests = manifests.replace("HEAD", &head).replace("WEB", &web);
    Place { table, kind, path, manifests, not_empty }
}

const POD_KIND: (&str, &str) = ("v1", "Pod");
const OF_CONTAINER: &[&str] = &["spec", "containers"];

/// A record within a container, where `CONTAINER` is what the container says.
fn in_container(
    table: &'static Table,
    path: &'static [&'static str],
    says: &str,
    not_empty: &'static [&'static str],
) -> Place {
    let pod = "HEAD, spec: { volumes: [ { name: v } ], containers: [ { WEB, SAYS } ] } }\n---\n{ apiVersion: v1, kind: ConfigMap, metadata: { name: c }, data: { k: w } }\n";
    place(table, POD_KIND, path, &pod.replace("SAYS", says), not_empty)
}

fn in_volume(
    table: &'static Table,
    path: &'static [&'static str],
    says: &str,
    not_empty: &'static [&'static str],
) -> Place {
    let pod = "HEAD, spec: { volumes: [ { name: v, SAYS } ], containers: [ { WEB } ] } }\n---\n{ apiVersion: v1, kind: ConfigMap, metadata: { name: c }, data: { k: w } }\n---\n{ apiVersion: v1, kind: Secret, metadata: { name: s }, stringData: { k: w } }\n---\n{ apiVersion: v1, kind: PersistentVolumeClaim, metadata: { name: p }, spec: {} }\n";
    place(table, POD_KIND, path, &pod.replace("SAYS", says), not_empty)
}

fn places() -> Vec<Place> {
    let workload = "selector: { matchLabels: { a: b } }, template: { metadata: { labels: { a: b } }, spec: { containers: [ { WEB } ] } }";
    let spec_of = |table, kind, more: &str| {
        let manifests = format!("HEAD, spec: {{ {more}, FIELD }} }}\n");
        place(table, kind, &["spec"], &manifests, &[])
    };
    let job = "template: { spec: { restartPolicy: Never, containers: [ { WEB } ] } }";
    let labelled = "{ apiVersion: v1, kind: Pod, metadata: { name: web, labels: { a: b } }, spec: { containers: [ { WEB } ] } }\n---\nHEAD, spec: { selector: { a: b }, SAYS } }\n";
    let service = ("v1", "Service");
    let probe: &[&str] = &["spec", "containers", "readinessProbe"];
    vec![
        place(
            &METADATA,
            POD_KIND,
            &["metadata"],
            "{ apiVersion: v1, kind: Pod, metadata: { name: x, FIELD }, spec: { containers: [ { WEB } ] } }\n",
            &[],
        ),
        place(&WORKLOAD, POD_KIND, &[], "HEAD, spec: { containers: [ { WEB } ] }, FIELD }\n", &[]),
        spec_of(&DEPLOYMENT, ("apps/v1", "Deployment"), workload),
        spec_of(&DAEMON_SET, ("apps/v1", "DaemonSet"), workload),
        spec_of(&STATEFUL_SET, ("apps/v1", "StatefulSet"), workload),
        spec_of(&JOB, ("batch/v1", "Job"), job),
        place(
            &TEMPLATE_METADATA,
            ("apps/v1", "DaemonSet"),
            &["spec", "template", "metadata"],
            "HEAD, spec: { template: { metadata: { FIELD }, spec: { containers: [ { WEB } ] } } } }\n",
            &[],
        ),
        place(&POD, POD_KIND, &["spec"], "HEAD, spec: { containers: [ { WEB } ], FIELD } }\n", &["os"]),
        place(
            &POD_SECURITY,
            POD_KIND,
            &["spec", "securityContext"],
            "HEAD, spec: { securityContext: { FIELD }, containers: [ { WEB } ] } }\n",
            &["seccompProfile", "appArmorProfile"],
        ),
        in_container(&CONTAINER, OF_CONTAINER, "FIELD", &["startupProbe", "livenessProbe", "readinessProbe"]),
        in_container(&RESOURCES, &["spec", "containers", "resources"], "resources: { FIELD }", &[]),
        in_container(
            &SECURITY,
            &["spec", "containers", "securityContext"],
            "securityContext: { FIELD }",
            &["seccompProfile", "appArmorProfile"],
        ),
        in_container(
            &CAPABILITIES,
            &["spec", "containers", "securityContext", "capabilities"],
            "securityContext: { capabilities: { FIELD } }",
            &[],
        ),
        in_container(&ENV, &["spec", "containers", "env"], "env: [ { name: A, FIELD } ]", &["valueFrom"]),
        in_container(
            &VALUE_FROM,
            &["spec", "containers", "env", "valueFrom"],
            "env: [ { name: A, valueFrom: { configMapKeyRef: { name: c, key: k }, FIELD } } ]",
            &["secretKeyRef", "fieldRef", "resourceFieldRef"],
        ),
        in_container(
            &FIELD_REF,
            &["spec", "containers", "env", "valueFrom", "fieldRef"],
            "env: [ { name: A, valueFrom: { fieldRef: { fieldPath: metadata.name, FIELD } } } ]",
            &[],
        ),
        in_container(
            &RESOURCE_REF,
            &["spec", "containers", "env", "valueFrom", "resourceFieldRef"],
            "resources: { limits: { cpu: 1 } }, env: [ { name: A, valueFrom: { resourceFieldRef: { resource: limits.cpu, FIELD } } } ]",
            &[],
        ),
        in_container(
            &ENV_FROM,
            &["spec", "containers", "envFrom"],
            "envFrom: [ { configMapRef: { name: c }, FIELD } ]",
            &["secretRef"],
        ),
        in_container(&PORT, &["spec", "containers", "ports"], "ports: [ { containerPort: 80, FIELD } ]", &[]),
        in_container(
            &MOUNT,
            &["spec", "containers", "volumeMounts"],
            "volumeMounts: [ { name: v, mountPath: /v, FIELD } ]",
            &[],
        ),
        in_container(
            &PROBE,
            probe,
            "readinessProbe: { tcpSocket: { port: 80 }, FIELD }",
            &["exec", "httpGet", "grpc"],
        ),
        in_container(
            &HTTP_GET,
            &["spec", "containers", "readinessProbe", "httpGet"],
            "readinessProbe: { httpGet: { port: 80, FIELD } }",
            &[],
        ),
        in_container(
            &HEADER,
            &["spec", "containers", "readinessProbe", "httpGet", "httpHeaders"],
            "readinessProbe: { httpGet: { port: 80, httpHeaders: [ { name: A, FIELD } ] } }",
            &[],
        ),
        in_container(
            &TCP_SOCKET,
            &["spec", "containers", "readinessProbe", "tcpSocket"],
            "readinessProbe: { tcpSocket: { port: 80, FIELD } }",
            &[],
        ),
        in_container(
            &GRPC,
            &["spec", "containers", "readinessProbe", "grpc"],
            "readinessProbe: { grpc: { port: 80, FIELD } }",
            &[],
        ),
        in_container(
            &LIFECYCLE,
            &["spec", "containers", "lifecycle"],
            "lifecycle: { FIELD }",
            &["postStart", "preStop"],
        ),
        in_container(
            &HOOK,
            &["spec", "containers", "lifecycle", "preStop"],
            "lifecycle: { preStop: { sleep: { seconds: 1 }, FIELD } }",
            &["exec", "httpGet"],
        ),
        in_volume(
            &VOLUME,
            &["spec", "volumes"],
            "FIELD",
            &[
                "persistentVolumeClaim",
                "hostPath",
                "configMap",
                "secret",
                "projected",
                "downwardAPI",
                "ephemeral",
                "image",
                "csi",
                "nfs",
                "iscsi",
                "fc",
            ],
        ),
        in_volume(
            &CLAIM_SOURCE,
            &["spec", "volumes", "persistentVolumeClaim"],
            "persistentVolumeClaim: { claimName: p, FIELD }",
            &[],
        ),
        in_volume(&EMPTY_DIR, &["spec", "volumes", "emptyDir"], "emptyDir: { FIELD }", &[]),
        in_volume(&HOST_PATH, &["spec", "volumes", "hostPath"], "hostPath: { path: /srv, FIELD }", &[]),
        in_volume(
            &CONFIG_MAP_SOURCE,
            &["spec", "volumes", "configMap"],
            "configMap: { name: c, FIELD }",
            &[],
        ),
        in_volume(&SECRET_SOURCE, &["spec", "volumes", "secret"], "secret: { secretName: s, FIELD }", &[]),
        in_volume(&PROJECTED, &["spec", "volumes", "projected"], "projected: { FIELD }", &[]),
        in_volume(
            &PROJECTED_SOURCE,
            &["spec", "volumes", "projected", "sources", "configMap"],
            "projected: { sources: [ { configMap: { name: c, FIELD } } ] }",
            &[],
        ),
        place(&CONFIG_MAP, ("v1", "ConfigMap"), &[], "HEAD, FIELD }\n", &[]),
        place(&SECRET, ("v1", "Secret"), &[], "HEAD, FIELD }\n", &[]),
        place(&CLAIM, ("v1", "PersistentVolumeClaim"), &["spec"], "HEAD, spec: { FIELD } }\n", &[]),
        place(&SERVICE, service, &["spec"], &labelled.replace("SAYS", "FIELD"), &[]),
        place(
            &SERVICE_PORT,
            service,
            &["spec", "ports"],
            &labelled.replace("SAYS", "ports: [ { port: 80, FIELD } ]"),
            &[],
        ),
    ]
}

#[test]
fn what_says_nothing_is_the_same_as_left_out_in_every_field_of_the_table() {
    let schema = Schema::new();
    let mut wrong = Vec::new();
    let mut asked = 0;
    for Place { table, kind, path, manifests, not_empty } in places() {
        let without = lowered(&manifests.replace("FIELD", ""), Strategy::StopStart);
        if let Err(why) = &without {
            panic!("{}: {why}", table.record);
        }
        let empties = schema.empties(kind.0, kind.1, path);
        for (field, _) in table.fields {
            // It says something there.
            if manifests.contains(&format!("{field}: ")) {
                continue;
            }
            let empty = empties.iter().find(|(name, _)| name == field).map(|(_, empty)| *empty);
            let empty = empty.filter(|_| !not_empty.contains(field));
            for says in std::iter::once("null").chain(empty) {
                asked += 1;
                let text = manifests.replace("FIELD", &format!("{field}: {says}"));
                let with = lowered(&text, Strategy::StopStart);
                if with != without {
                    wrong.push(format!(
                        "{field}: {says} of {}: {}",
                        table.record,
                        with.err().unwrap_or_default()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked > 300, "only {asked} were looked at");
}

#[test]
fn what_is_switched_off_asks_for_nothing_and_no_number_does() {
    let job = |says: &str| {
        lowered(
            &format!(
                "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: j }}\nspec: {{ template: {{ spec: {{ restartPolicy: Never, containers: [ {{ name: web, image: \"{IMAGE}\" }} ] }} }}, {says} }}\n"
            ),
            Strategy::StopStart,
        )
    };
    assert_eq!(job("suspend: false"), job(""));
    assert!(job("suspend: true").unwrap_err().contains("does not support suspend"));
    assert!(job("backoffLimitPerIndex: 0").unwrap_err().contains("does not support backoffLimitPerIndex"));
}
