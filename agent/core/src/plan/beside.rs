//! Whether what goes can stand beside what comes: then it stays until that is good. What both would need of the box at
//! the same time is freed before.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::name::ObjectKey;
use crate::pod::{Network, PinnedImage, Pod, Protocol, Volume};
use crate::release::{DriverKind, Object, Release, Strategy};

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
    /// An address of a Service.
    Address(String),
    /// What an Ingress answers for: host and path.
    Route(String, String),
}

/// Whether `old` may stay while the objects of `new` come, by what both are.
pub(super) fn can_stand_beside(old: Option<&Object>, new: &Release, strategy: Strategy) -> bool {
    match new.driver {
        // A pod that takes the place of another one starts when that has stopped, unless the app wants it otherwise.
        DriverKind::Podman if strategy == Strategy::StopStart => return false,
        DriverKind::Podman | DriverKind::Kubernetes | DriverKind::Simulated => {}
        _ => return false,
    }
    let Some(old) = old else { return true };
    !contend(old, new)
}

/// Whether `old` needs what something of `new` needs as well, and only one of them can have.
pub(crate) fn contend(old: &Object, new: &Release) -> bool {
    let needed = scarce(old);
    !needed.is_empty() && new.objects.iter().any(|object| exclude(&needed, &scarce(object)))
}

fn exclude(one: &BTreeSet<Scarce>, other: &BTreeSet<Scarce>) -> bool {
    let is_port = |scarce: &Scarce| matches!(scarce, Scarce::Port(..));
    let on_host = |one: &BTreeSet<Scarce>, other: &BTreeSet<Scarce>| {
        one.contains(&Scarce::Host) && other.iter().any(is_port)
    };
    !one.is_disjoint(other) || on_host(one, other) || on_host(other, one)
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
    for path in ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"] {
        if let Some(pod) = spec.pointer(path).filter(|pod| pod.get("containers").is_some()) {
            of_pod(key, pod, &mut found);
        }
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
    let claims = pod.volumes.into_values().filter_map(|volume| match volume {
        Volume::Claim(claim) => Some(Scarce::Claim(claim.namespace, claim.name)),
        _ => None,
    });
    found.extend(claims);
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
    for volume in list(pod, "volumes") {
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

    fn object(key: &str, spec: Value) -> Object {
        Object { key: key.parse().unwrap(), spec: json!({ "spec": spec }) }
    }

    fn beside(driver: DriverKind, strategy: Strategy, old: &Object, new: Object) -> bool {
        let release = Release {
            app: "a".parse().unwrap(),
            driver,
            objects: vec![new],
            artifacts: BTreeSet::new(),
            secrets: BTreeMap::new(),
            account: None,
        };
        can_stand_beside(Some(old), &release, strategy)
    }

    fn on_kubernetes(old: &Object, new: Object) -> bool {
        beside(DriverKind::Kubernetes, Strategy::StopStart, old, new)
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
    fn on_podman_only_an_app_that_starts_before_it_stops_has_both_at_once() {
        let pod = |name: &str| object(&format!("Pod/{name}"), json!({}));
        assert!(!beside(DriverKind::Podman, Strategy::StopStart, &pod("old"), pod("new")));
        assert!(beside(DriverKind::Podman, Strategy::StartStop, &pod("old"), pod("new")));
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
        let both = |old: Object, new| beside(DriverKind::Podman, Strategy::StartStop, &old, new);
        let none = || json!({});
        assert!(both(pod("old", on(80), none()), pod("new", on(81), none())));
        assert!(!both(pod("old", on(80), none()), pod("new", on(80), none())));
        assert!(!both(pod("old", json!("host"), none()), pod("new", on(80), none())));
        assert!(!both(pod("old", on(80), claim()), pod("new", on(81), claim())));
    }
}
