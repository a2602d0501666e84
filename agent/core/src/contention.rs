//! Whether what goes can stand beside what comes: then it stays until that is good. What both would need of the box at
//! the same time is freed before.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::name::ObjectKey;
use crate::pod::{HostPathKind, Network, PinnedImage, Pod, Protocol, Volume};
use crate::release::{Object, Release, Strategy};
use crate::runtime::Abilities;

/// Something that only one object can have at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scarce {
    /// A port of the box: protocol and number.
    Port(String, u64),
    /// The network of the box: a pod in it may take ports that no manifest names.
    Host,
    /// That nothing else of the app runs: whoever replaces all pods at once means that.
    Alone,
    /// A claim, by namespace and name: two programs on the same data would harm it.
    Claim(Option<String>, String),
    /// A file or folder of the box that is written to, or one below it, for the same reason.
    Path(String),
    /// An address of a Service.
    Address(String),
    /// What an Ingress answers for: host and path.
    Route(String, String),
}

/// Whether `old` may stay while the objects of `new` come, by what both are.
pub(crate) fn can_stand_beside(
    old: Option<&Object>,
    new: &Release,
    abilities: Option<&Abilities>,
    strategy: Strategy,
) -> bool {
    // A pod that takes the place of another one starts when that has stopped, unless the app wants it otherwise.
    let is_in_turn = |abilities: &Abilities| abilities.start_stop && strategy == Strategy::StopStart;
    // What isn't known any more may need anything.
    abilities.is_some_and(|abilities| abilities.takes_containers() && !is_in_turn(abilities))
        && old.is_some_and(|old| !contend(old, new))
}

/// Whether `old` needs what something of `new` needs as well, and only one of them can have.
pub(crate) fn contend(old: &Object, new: &Release) -> bool {
    let needed = scarce(old);
    new.objects.iter().any(|object| {
        let wanted = scarce(object);
        // It is enough that one of them can't stand another beside it.
        let is_alone = needed.contains(&Scarce::Alone) || wanted.contains(&Scarce::Alone);
        (is_alone && runs_pods(old) && runs_pods(object)) || exclude(&needed, &wanted)
    })
}

fn runs_pods(Object { spec, .. }: &Object) -> bool {
    spec.get("workload").is_some() || pods_of(spec).next().is_some()
}

/// The pods that an object of Kubernetes runs, as their templates say.
fn pods_of(spec: &Value) -> impl Iterator<Item = &Value> {
    let places = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    places.into_iter().filter_map(|place| spec.pointer(place)).filter(|pod| pod.get("containers").is_some())
}

fn exclude(one: &BTreeSet<Scarce>, other: &BTreeSet<Scarce>) -> bool {
    let is_port = |scarce: &Scarce| matches!(scarce, Scarce::Port(..));
    let on_host = |one: &BTreeSet<Scarce>, other: &BTreeSet<Scarce>| {
        one.contains(&Scarce::Host) && other.iter().any(is_port)
    };
    let is_in = |path: &str, folder: &str| {
        path.strip_prefix(folder.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let share = paths(one).any(|own| paths(other).any(|path| is_in(own, path) || is_in(path, own)));
    !one.is_disjoint(other) || share || on_host(one, other) || on_host(other, one)
}

fn paths(all: &BTreeSet<Scarce>) -> impl Iterator<Item = &str> {
    all.iter().filter_map(|scarce| match scarce {
        Scarce::Path(path) => Some(path.as_str()),
        _ => None,
    })
}

fn scarce(Object { key, spec }: &Object) -> BTreeSet<Scarce> {
    let mut found = BTreeSet::new();
    // As podman has it.
    if spec.get("workload").is_some()
        && let Ok(pod) = Pod::<PinnedImage>::deserialize(spec)
    {
        of_lowered(pod, &mut found);
        return found;
    }
    match key.kind.as_str() {
        "Service" => of_service(spec, &mut found),
        "Ingress" => of_ingress(spec, &mut found),
        _ => {}
    }
    if spec.pointer("/spec/strategy/type").and_then(Value::as_str) == Some("Recreate") {
        found.insert(Scarce::Alone);
    }
    for pod in pods_of(spec) {
        of_pod(key, pod, &mut found);
    }
    found
}

fn of_lowered(pod: Pod<PinnedImage>, found: &mut BTreeSet<Scarce>) {
    match pod.network {
        Network::Host => {
            found.insert(Scarce::Host);
        }
        Network::Bridge { ports, .. } => found.extend(ports.into_iter().map(|port| {
            let protocol = match port.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            Scarce::Port(protocol.to_owned(), port.host_port.into())
        })),
    }
    let mounts = pod.init.iter().chain(&pod.containers).flat_map(|container| &container.mounts);
    let written: BTreeSet<&str> =
        mounts.filter(|mount| !mount.read_only).map(|mount| mount.volume.as_str()).collect();
    for (name, volume) in &pod.volumes {
        match volume {
            Volume::Claim(claim) => {
                found.insert(Scarce::Claim(claim.namespace.clone(), claim.name.clone()));
            }
            Volume::Host { path, kind } if written.contains(name.as_str()) && !is_device(*kind) => {
                found.insert(Scarce::Path(path.clone()));
            }
            Volume::Host { .. } | Volume::Empty { .. } | Volume::Files(_) => {}
        }
    }
}

/// Whether it is no data: whoever uses it shares it.
fn is_device(kind: HostPathKind) -> bool {
    matches!(kind, HostPathKind::Socket | HostPathKind::CharDevice | HostPathKind::BlockDevice)
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned)
}

fn protocol(port: &Value) -> String {
    text(port, "protocol").unwrap_or_else(|| "TCP".to_owned())
}

fn of_pod(key: &ObjectKey, pod: &Value, found: &mut BTreeSet<Scarce>) {
    let on_host = pod.get("hostNetwork").and_then(Value::as_bool).unwrap_or_default();
    if on_host {
        found.insert(Scarce::Host);
    }
    for port in list(pod, "containers").flat_map(|container| list(container, "ports")) {
        let own = port.get("hostPort").and_then(Value::as_u64);
        let number = own.or_else(|| port.get("containerPort").and_then(Value::as_u64).filter(|_| on_host));
        found.extend(number.map(|number| Scarce::Port(protocol(port), number)));
    }
    let containers = ["containers", "initContainers"].into_iter().flat_map(|field| list(pod, field));
    let mounts = containers.flat_map(|container| list(container, "volumeMounts"));
    let is_read_only = |mount: &Value| mount.get("readOnly").and_then(Value::as_bool).unwrap_or_default();
    let written: BTreeSet<String> =
        mounts.filter(|mount| !is_read_only(mount)).filter_map(|mount| text(mount, "name")).collect();
    for volume in list(pod, "volumes") {
        let path = volume
            .get("hostPath")
            .filter(|_| text(volume, "name").is_some_and(|name| written.contains(&name)));
        let is_data = |path: &&Value| {
            !matches!(text(path, "type").as_deref(), Some("Socket" | "CharDevice" | "BlockDevice"))
        };
        found.extend(path.filter(is_data).and_then(|path| text(path, "path")).map(Scarce::Path));
        let claim = volume.get("persistentVolumeClaim").and_then(|claim| text(claim, "claimName"));
        found.extend(claim.map(|claim| Scarce::Claim(key.namespace.clone(), claim)));
    }
}

fn of_service(service: &Value, found: &mut BTreeSet<Scarce>) {
    let Some(spec) = service.get("spec") else { return };
    let balanced = text(spec, "type").as_deref() == Some("LoadBalancer");
    for port in list(spec, "ports") {
        found.extend(
            port.get("nodePort").and_then(Value::as_u64).map(|node| Scarce::Port(protocol(port), node)),
        );
        // On a single node the balancer takes the port of the box.
        let own = port.get("port").and_then(Value::as_u64).filter(|_| balanced);
        found.extend(own.map(|port_number| Scarce::Port(protocol(port), port_number)));
    }
    for field in ["clusterIP", "loadBalancerIP"] {
        let address = text(spec, field).filter(|address| !address.is_empty() && address != "None");
        found.extend(address.map(Scarce::Address));
    }
    found
        .extend(list(spec, "externalIPs").filter_map(Value::as_str).map(|ip| Scarce::Address(ip.to_owned())));
}

fn of_ingress(ingress: &Value, found: &mut BTreeSet<Scarce>) {
    let Some(spec) = ingress.get("spec") else { return };
    for rule in list(spec, "rules") {
        let host = text(rule, "host").unwrap_or_default();
        for path in rule.get("http").into_iter().flat_map(|http| list(http, "paths")) {
            found.insert(Scarce::Route(host.clone(), text(path, "path").unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::runtime::DriverName;
    use crate::testing::abilities;

    fn object(key: &str, spec: Value) -> Object {
        Object { key: key.parse().unwrap(), spec: json!({ "spec": spec }) }
    }

    fn beside(driver: DriverName, strategy: Strategy, old: &Object, new: Object) -> bool {
        let release = Release {
            app: "a".parse().unwrap(),
            driver,
            objects: vec![new],
            artifacts: BTreeSet::new(),
            secrets: BTreeMap::new(),
            account: None,
        };
        can_stand_beside(Some(old), &release, Some(&abilities(driver)), strategy)
    }

    fn on_kubernetes(old: &Object, new: Object) -> bool {
        beside(DriverName::KUBERNETES, Strategy::StopStart, old, new)
    }

    fn deployment(name: &str, pod: Value) -> Object {
        object(&format!("Deployment/shop/{name}"), json!({ "template": { "spec": pod } }))
    }

    #[test]
    fn what_needs_nothing_that_the_other_needs_stands_beside_it() {
        let pod = || json!({ "containers": [{ "ports": [{ "containerPort": 80 }] }] });
        assert!(on_kubernetes(&deployment("old", pod()), deployment("new", pod())));
        let map = object("ConfigMap/shop/a", json!({}));
        assert!(on_kubernetes(&map, object("ConfigMap/shop/b", json!({}))));
    }

    #[test]
    fn what_needs_the_same_port_claim_address_or_route_goes_before() {
        let port = |field: &str| json!({ "containers": [{ "ports": [{ field: 80 }] }] });
        let on_host = json!({ "containers": [], "hostNetwork": true });
        assert!(!on_kubernetes(&deployment("old", port("hostPort")), deployment("new", on_host.clone())));
        assert!(!on_kubernetes(&deployment("old", on_host.clone()), deployment("new", on_host)));
        let recreated = |name: &str| {
            let spec =
                json!({ "strategy": { "type": "Recreate" }, "template": { "spec": { "containers": [] } } });
            object(&format!("Deployment/shop/{name}"), spec)
        };
        assert!(!on_kubernetes(&recreated("old"), recreated("new")));
        let claim =
            || json!({ "containers": [], "volumes": [{ "persistentVolumeClaim": { "claimName": "data" } }] });
        assert!(!on_kubernetes(&deployment("old", claim()), deployment("new", claim())));
        let service = |name: &str, kind: &str| {
            object(
                &format!("Service/shop/{name}"),
                json!({ "type": kind, "ports": [{ "port": 80, "nodePort": 30080 }] }),
            )
        };
        assert!(!on_kubernetes(&service("old", "NodePort"), service("new", "NodePort")));
        let ingress = |name: &str| {
            let rule = json!({ "host": "shop.example", "http": { "paths": [{ "path": "/" }] } });
            object(&format!("Ingress/shop/{name}"), json!({ "rules": [rule] }))
        };
        assert!(!on_kubernetes(&ingress("old"), ingress("new")));
    }

    #[test]
    fn what_writes_to_the_same_files_of_the_box_goes_before_and_what_only_reads_them_does_not() {
        let pod = |path: &str, kind: &str, read_only: bool| {
            json!({
                "containers": [{ "volumeMounts": [{ "name": "v", "mountPath": "/v", "readOnly": read_only }] }],
                "volumes": [{ "name": "v", "hostPath": { "path": path, "type": kind } }],
            })
        };
        let beside =
            |one: Value, other: Value| on_kubernetes(&deployment("old", one), deployment("new", other));
        assert!(!beside(pod("/srv/db", "", false), pod("/srv/db", "", false)));
        assert!(!beside(pod("/srv/db/", "", false), pod("/srv", "Directory", false)));
        assert!(beside(pod("/srv/db", "", false), pod("/srv/db2", "", false)));
        assert!(beside(pod("/srv/db", "", true), pod("/srv/db", "", true)));
        assert!(beside(pod("/dev/tty0", "CharDevice", false), pod("/dev/tty0", "CharDevice", false)));
    }

    #[test]
    fn a_deployment_that_is_recreated_stands_beside_no_other_workload_and_what_is_not_known_beside_nothing() {
        let plain = |name: &str| deployment(name, json!({ "containers": [] }));
        let mut alone = plain("old");
        alone.spec["spec"]["strategy"] = json!({ "type": "Recreate" });
        assert!(!on_kubernetes(&alone, plain("new")));
        assert!(!on_kubernetes(&plain("old"), Object { key: plain("new").key, spec: alone.spec.clone() }));
        assert!(on_kubernetes(&alone, object("ConfigMap/shop/b", json!({}))));
        let release = Release {
            app: "a".parse().unwrap(),
            driver: DriverName::KUBERNETES,
            objects: vec![plain("new")],
            artifacts: BTreeSet::new(),
            secrets: BTreeMap::new(),
            account: None,
        };
        let abilities = abilities(release.driver);
        assert!(!can_stand_beside(None, &release, Some(&abilities), Strategy::StartStop));
    }

    #[test]
    fn on_podman_only_an_app_that_starts_before_it_stops_has_both_at_once() {
        let pod = |name: &str| object(&format!("Pod/{name}"), json!({}));
        assert!(!beside(DriverName::PODMAN, Strategy::StopStart, &pod("old"), pod("new")));
        assert!(beside(DriverName::PODMAN, Strategy::StartStop, &pod("old"), pod("new")));
    }

    #[test]
    fn on_podman_pods_with_the_same_port_or_claim_or_the_box_s_network_exclude_each_other() {
        let pod = |name: &str, network: Value, volumes: Value| Object {
            key: format!("Pod/{name}").parse().unwrap(),
            spec: json!({
                "workload": format!("Pod/shop/{name}"), "hostname": name, "network": network, "volumes": volumes,
                "restart": "always", "graceSeconds": 5, "containers": [],
            }),
        };
        let on = |port: u16| {
            let port = json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" });
            json!({ "bridge": { "ports": [port] } })
        };
        let claim = || json!({ "data": { "claim": "PersistentVolumeClaim/shop/data" } });
        let both = |old: Object, new| beside(DriverName::PODMAN, Strategy::StartStop, &old, new);
        let none = || json!({});
        assert!(both(pod("old", on(80), none()), pod("new", on(81), none())));
        assert!(!both(pod("old", on(80), none()), pod("new", on(80), none())));
        assert!(!both(pod("old", json!("host"), none()), pod("new", on(80), none())));
        assert!(!both(pod("old", on(80), claim()), pod("new", on(81), claim())));
    }
}
