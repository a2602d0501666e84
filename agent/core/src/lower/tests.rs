use super::markdown::{TABLES, to_markdown};
use super::*;
use crate::yaml::{Dialect, MANIFEST_LIMIT, parse};

pub(super) const IMAGE: &str =
    "registry.example/web@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

pub(super) fn lowered(text: &str, strategy: Strategy) -> Result<Lowered, String> {
    let nodes = parse("m.yaml", text.as_bytes(), Dialect::Kubernetes, MANIFEST_LIMIT).unwrap();
    let text_of = |node: Option<&Node>| node.and_then(Node::as_str).unwrap_or_default().to_owned();
    let of_metadata = |node: &Node, key: &str| {
        node.get("metadata").and_then(|metadata| metadata.get(key)?.as_str().map(str::to_owned))
    };
    let key = |node: &Node| ObjectKey {
        kind: ObjectKey::kind_of(&text_of(node.get("apiVersion")), &text_of(node.get("kind"))),
        namespace: of_metadata(node, "namespace")
            .filter(|namespace| !namespace.is_empty())
            .or(Some("shop".to_owned())),
        name: of_metadata(node, "name").unwrap_or_default(),
    };
    let keys: Vec<ObjectKey> = nodes.iter().map(key).collect();
    let documents: Vec<_> =
        nodes.iter().zip(&keys).map(|(node, key)| Document { file: "m.yaml", key, node }).collect();
    let device = "emea/de/store-0042/till-1".parse().unwrap();
    lower(&documents, &device, strategy)
        .map_err(|errors| crate::diagnostic::to_text(&crate::diagnostic::sorted(errors)))
}

fn deployment(replicas: u32, labels: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  replicas: {replicas}\n  template:\n    metadata: {{ labels: {labels} }}\n    spec:\n      {more}\n      containers: [ {{ name: web, image: \"{IMAGE}\", ports: [ {{ containerPort: 8080 }} ] }} ]\n---\n"
    )
}

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: front }}\nspec: {spec}\n---\n")
}

fn network_of(lowered: &Lowered) -> &Network {
    &lowered.pods[0].1.network
}

#[test]
fn the_same_manifests_give_the_same_pods() {
    let text = deployment(2, "{ app: web }", "");
    assert_eq!(lowered(&text, Strategy::StopStart), lowered(&text, Strategy::StopStart));
}

#[test]
fn each_replica_is_a_pod_of_its_own_and_none_is_no_pod() {
    let names = |replicas| {
        let pods = lowered(&deployment(replicas, "{ app: web }", ""), Strategy::StopStart).unwrap().pods;
        pods.into_iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(3), ["Pod/web", "Pod/web-1", "Pod/web-2"]);
    assert!(names(0).is_empty());
}

#[test]
fn a_service_is_a_name_that_leads_to_the_pod_itself() {
    let pods = deployment(1, "{ app: web }", "");
    let named = lowered(
        &(pods.clone() + &service("{ selector: { app: web }, ports: [ { port: 8080 } ] }")),
        Strategy::StopStart,
    );
    let Network::Bridge { aliases, ports } = network_of(&named.unwrap()).clone() else { panic!() };
    assert_eq!(aliases, ["front", "front.shop", "front.shop.svc", "front.shop.svc.cluster.local"]);
    assert!(ports.is_empty());
    let other = lowered(
        &(pods + &service("{ selector: { app: web }, ports: [ { port: 80, targetPort: 8080 } ] }")),
        Strategy::StopStart,
    );
    let why = other.unwrap_err();
    assert!(
        why.contains("\"front\" leads to the pod itself, whose port is 8080, and nothing there"),
        "{why}"
    );
    assert!(why.contains("write port: 8080 and have clients use front:8080"), "{why}");
}

#[test]
fn a_load_balancer_is_a_port_of_the_box() {
    let text = deployment(1, "{ app: web }", "")
        + &service(
            "{ type: LoadBalancer, selector: { app: web }, ports: [ { port: 80, targetPort: 8080 } ] }",
        );
    let Network::Bridge { ports, .. } = network_of(&lowered(&text, Strategy::StopStart).unwrap()).clone()
    else {
        panic!()
    };
    assert_eq!((ports[0].host_port, ports[0].container_port), (80, 8080));
}

#[test]
fn a_target_port_may_be_the_name_that_any_container_of_the_pod_gives_it() {
    let of = |containers: &str, service_spec: &str| {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web, labels: {{ app: web }} }}\nspec: {{ containers: [ {containers} ] }}\n---\n"
        );
        lowered(
            &(pod + &service(&format!("{{ selector: {{ app: web }}, {service_spec} }}"))),
            Strategy::StopStart,
        )
    };
    let both = format!(
        "{{ name: web, image: \"{IMAGE}\", ports: [ {{ name: http, containerPort: 8080 }} ] }}, {{ name: side, image: \"{IMAGE}\", ports: [ {{ name: metrics, containerPort: 9090 }} ] }}"
    );
    let published = "type: NodePort, ports: [ { name: a, port: 80, targetPort: http, nodePort: 30080 }, { name: b, port: 81, targetPort: metrics, nodePort: 30081 } ]";
    let Network::Bridge { ports, .. } = network_of(&of(&both, published).unwrap()).clone() else { panic!() };
    let ports: Vec<_> = ports.iter().map(|port| (port.host_port, port.container_port)).collect();
    assert_eq!(ports, [(30080, 8080), (30081, 9090)]);
    assert!(of(&both, "ports: [ { port: 8080, targetPort: http } ]").is_ok());
    // A headless Service leads to the pod itself on Kubernetes too, whatever its port says.
    assert!(of(&both, "clusterIP: None, ports: [ { port: 80, targetPort: http } ]").is_ok());
    let why = of(&both, "ports: [ { port: 80, targetPort: http } ]").unwrap_err();
    assert!(why.contains("write port: 8080"), "{why}");
    let why = of(&both, "ports: [ { port: 80, targetPort: grpc } ]").unwrap_err();
    assert!(
        why.contains("no port of the pod is called \"grpc\" (its ports are called http, metrics)"),
        "{why}"
    );
    let nameless = format!("{{ name: web, image: \"{IMAGE}\" }}");
    let why = of(&nameless, "ports: [ { port: 80, targetPort: http } ]").unwrap_err();
    assert!(why.contains("give it a name under ports of its container"), "{why}");
}

#[test]
fn a_service_of_another_namespace_than_its_pods_is_told_so() {
    let text = deployment(1, "{ app: web }", "")
        + "apiVersion: v1\nkind: Service\nmetadata: { name: front, namespace: other }\nspec: { selector: { app: web }, ports: [ { port: 8080 } ] }\n";
    let why = lowered(&text, Strategy::StopStart).unwrap_err();
    assert!(
        why.contains(
            "the Service is in the namespace \"other\", but the pod \"web\" with matching labels is in \"shop\""
        ),
        "{why}"
    );
    assert!(!why.contains("no pod of this app has the labels"), "{why}");
}

#[test]
fn a_path_that_no_runtime_takes_is_refused_with_what_is_wrong_with_it() {
    let refused = |host: &str, mounts: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web }}\nspec:\n  volumes: [ {{ name: v, hostPath: {{ path: \"{host}\" }} }} ]\n  containers: [ {{ name: web, image: \"{IMAGE}\", volumeMounts: [ {mounts} ] }} ]\n"
        );
        lowered(&text, Strategy::StopStart).unwrap_err()
    };
    let why = refused("/srv", "{ name: v, mountPath: \"/a:b\" }");
    assert!(why.contains("the mountPath \"/a:b\" contains a colon"), "{why}");
    let why = refused("/srv:x", "{ name: v, mountPath: /a }");
    assert!(why.contains("the hostPath \"/srv:x\" contains a colon"), "{why}");
    let why = refused("/srv/../etc", "{ name: v, mountPath: /a }");
    assert!(why.contains("contains .."), "{why}");
    let why = refused("/srv", "{ name: v, mountPath: a }");
    assert!(why.contains("the mountPath \"a\" is not an absolute path"), "{why}");
    let why = refused("/srv", "{ name: v, mountPath: /a }, { name: v, mountPath: /a/, subPath: b }");
    assert!(why.contains("mounts two volumes at \"/a/\""), "{why}");
}

#[test]
fn a_service_that_selects_nothing_is_an_error() {
    let text =
        deployment(1, "{ app: web }", "") + &service("{ selector: { app: wbe }, ports: [ { port: 8080 } ] }");
    assert!(lowered(&text, Strategy::StopStart).unwrap_err().contains("no pod of this app has the labels"));
}

#[test]
fn two_pods_cant_have_one_port_of_the_box() {
    let text = deployment(1, "{ app: web }", "")
        + &service(
            "{ type: LoadBalancer, selector: { app: web }, ports: [ { port: 80, targetPort: 8080 } ] }",
        );
    let twice =
        text.clone() + &text.replace("name: web }", "name: other }").replace("name: front", "name: back");
    assert!(
        lowered(&twice, Strategy::StopStart).unwrap_err().contains("two pods use the port 80 of the box")
    );
    let replicas = deployment(2, "{ app: web }", "hostNetwork: true");
    assert!(lowered(&replicas, Strategy::StopStart).unwrap_err().contains("2 pods can't share a host port"));
}

#[test]
fn start_stop_needs_a_pod_that_can_be_there_twice() {
    let text = deployment(1, "{ app: web }", "");
    assert!(lowered(&text, Strategy::StartStop).is_ok());
    let port = text.clone()
        + &service(
            "{ type: LoadBalancer, selector: { app: web }, ports: [ { port: 80, targetPort: 8080 } ] }",
        );
    assert!(
        lowered(&port, Strategy::StartStop)
            .unwrap_err()
            .contains("the port 80 of the box can't lead to two pods")
    );
    assert!(lowered(&deployment(1, "{ app: web }", "hostNetwork: true"), Strategy::StartStop).is_ok());
}

#[test]
fn secrets_are_named_in_a_pod_and_never_in_it() {
    let text = include_str!("../../tests/golden/podman/everything.yaml");
    let lowered = lowered(text, Strategy::StopStart).unwrap();
    let json = serde_json::to_string(&lowered).unwrap();
    assert!(json.contains(r#"{"secretRef":{"name":"shop/keys","key":"password"}}"#));
    assert!(!json.contains("hunter2") && !json.contains("aHVudGVyMg"));
    assert_eq!(lowered.pods[0].1.secrets().count(), 4);
}

#[test]
fn no_field_is_in_a_table_twice() {
    for (heading, table) in TABLES {
        let names: Vec<_> = table.names().collect();
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len(), "{heading}");
    }
}

#[test]
fn the_table_says_of_every_kind_what_becomes_of_it() {
    let text = to_markdown();
    for (kind, ..) in KINDS {
        assert!(text.contains(&format!("| {kind} |")));
    }
}

#[test]
fn a_kind_of_another_group_is_told_from_kubernetes_own_of_the_same_name() {
    let refused = |version: &str, kind: &str| {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{ name: x }}\n");
        lowered(&text, Strategy::StopStart).unwrap_err()
    };
    assert!(
        refused("serving.knative.dev/v1", "Service")
            .contains("podman does not support the kind Service of serving.knative.dev")
    );
    assert!(
        refused("iam.example.com/v1", "Role")
            .contains("podman does not support the kind Role of iam.example.com")
    );
    let chart = refused("helm.cattle.io/v1", "HelmChart");
    assert!(
        chart.contains("podman does not support the kind HelmChart (")
            && chart.contains("driver: kubernetes"),
        "{chart}"
    );
    assert!(refused("apps/v1beta1", "Deployment").contains("write apiVersion: apps/v1"));
}

/// A pod whose container and spec say `container` and `spec` as well.
fn pod(container: &str, spec: &str) -> Result<Lowered, String> {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web }}\nspec:\n  {spec}\n  containers: [ {{ name: web, image: \"{IMAGE}\", {container} }} ]\n"
    );
    lowered(&text, Strategy::StopStart)
}

#[test]
fn rights_in_a_cluster_are_taken_without_effect_for_a_namespace_and_for_all() {
    let role = |kind: &str| {
        format!(
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: r }}\nrules: []\n"
        )
    };
    let roles = ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"].map(role).concat();
    let lowered = lowered(&(deployment(1, "{ app: web }", "") + &roles), Strategy::StopStart).unwrap();
    assert_eq!(lowered.pods.len(), 1);
}

#[test]
fn what_is_empty_asks_for_nothing_even_where_it_could_not_be_held() {
    assert!(pod("lifecycle: {}, volumeDevices: []", "dnsConfig: {}").is_ok());
    assert!(pod("lifecycle: { preStop: {} }", "").is_err());
}

#[test]
fn a_volume_of_which_nothing_is_said_is_an_empty_folder() {
    for volume in ["{ name: v }", "{ name: v, emptyDir: }", "{ name: v, emptyDir: {} }"] {
        let lowered = pod("", &format!("volumes: [ {volume} ]")).unwrap();
        assert_eq!(lowered.pods[0].1.volumes["v"], Volume::Empty { memory: false, size: None }, "{volume}");
    }
}

#[test]
fn a_container_can_be_told_what_it_may_use() {
    let told = |resource: &str| {
        let more = format!(
            "resources: {{ limits: {{ cpu: 1500m, memory: 64Mi }} }}, env: [ {{ name: A, valueFrom: {{ resourceFieldRef: {{ {resource} }} }} }} ]"
        );
        let lowered = pod(&more, "")?;
        Ok::<_, String>(lowered.pods[0].1.containers[0].env["A"].clone())
    };
    for (resource, value) in [
        ("resource: limits.cpu", "2"),
        ("resource: limits.cpu, divisor: 1m", "1500"),
        ("resource: requests.cpu, divisor: '0'", "2"),
        ("resource: limits.cpu, divisor: 0", "2"),
        ("resource: limits.memory", "67108864"),
        ("resource: limits.memory, divisor: 1Mi, containerName: web", "64"),
    ] {
        assert_eq!(told(resource), Ok(crate::release::EnvValue::Plain(value.to_owned())), "{resource}");
    }
    assert!(told("resource: limits.ephemeral-storage").unwrap_err().contains("available here: limits.cpu"));
    assert!(told("resource: limits.cpu, containerName: other").unwrap_err().contains("another container"));
}

#[test]
fn what_cannot_be_held_is_refused_with_what_to_do_instead() {
    let by_field = |path: &str| {
        pod(&format!("env: [ {{ name: A, valueFrom: {{ fieldRef: {{ fieldPath: {path} }} }} }} ]"), "")
            .unwrap_err()
    };
    for path in ["status.podIP", "status.podIPs"] {
        let why = by_field(path);
        assert!(why.contains("only with hostNetwork") && why.contains("known only once it runs"), "{why}");
        assert!(why.contains("listen on 0.0.0.0") && why.contains("name of a Service"), "{why}");
    }
    let gopher = pod("readinessProbe: { httpGet: { port: 70, scheme: gopher } }", "").unwrap_err();
    assert!(gopher.contains("must be HTTP or HTTPS"), "{gopher}");
    for nothing in ["periodSeconds: 3", "grpc: { port: 70 }, exec: { command: [a] }"] {
        let refused = pod(&format!("livenessProbe: {{ {nothing} }}"), "").unwrap_err();
        assert!(refused.contains("must have one of exec, httpGet, tcpSocket, grpc"), "{nothing}: {refused}");
    }
    let long = "s".repeat(crate::grpc::SERVICE_LIMIT + 1);
    for (grpc, said) in [
        ("{}", "grpc has no port"),
        ("{ port: http }", "the port of a grpc probe must be a number, not the name \"http\" (write its"),
        ("{ port: 0 }", "65535"),
        ("{ port: 70, host: elsewhere }", "unknown field \"host\" in grpc"),
        (&format!("{{ port: 70, service: {long} }}"), "is longer than 1024 bytes"),
    ] {
        let refused = pod(&format!("readinessProbe: {{ grpc: {grpc} }}"), "").unwrap_err();
        assert!(refused.contains(said) && refused.lines().count() == 1, "{grpc}: {refused}");
    }
    let missing = pod("envFrom: [ { configMapRef: { name: site } } ]", "").unwrap_err();
    assert!(
        missing.contains("as a template (.yaml.j2) where a site or a device gives its values"),
        "{missing}"
    );
    let cron = "apiVersion: batch/v1\nkind: CronJob\nmetadata: { name: c }\nspec: {}\n";
    assert!(
        lowered(cron, Strategy::StopStart)
            .unwrap_err()
            .contains("a Deployment whose program keeps the schedule")
    );
}

#[test]
fn the_boxs_address_is_left_to_the_box_and_to_the_moment() {
    use crate::pod::{HOST_IP, HOST_IPS};
    use crate::release::EnvValue;
    let env = |path: &str, name: &str| {
        format!("{{ name: {name}, valueFrom: {{ fieldRef: {{ fieldPath: {path} }} }} }}")
    };
    let more = format!(
        "args: [\"--at=$(A):80\"], env: [ {}, {}, {{ name: C, value: \"$(A) and $(B)\" }} ]",
        env("status.hostIP", "A"),
        env("status.podIPs", "B")
    );
    let lowered = pod(&more, "hostNetwork: true").unwrap();
    let container = &lowered.pods[0].1.containers[0];
    assert!(container.wants_address());
    assert_eq!(container.env["A"], EnvValue::Plain(HOST_IP.to_owned()));
    assert_eq!(container.env["B"], EnvValue::Plain(HOST_IPS.to_owned()));
    let addresses = ["198.51.100.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    let made = container.at(addresses[0], &addresses);
    assert!(!made.wants_address());
    let is = |name: &str, value: &str| assert_eq!(made.env[name], EnvValue::Plain(value.to_owned()));
    is("A", "198.51.100.7");
    is("B", "198.51.100.7,2001:db8::7");
    is("C", "198.51.100.7 and 198.51.100.7,2001:db8::7");
    assert_eq!(made.args, Some(vec!["--at=198.51.100.7:80".to_owned()]));

    let forged = pod("env: [ { name: A, value: \"\\0status.hostIP\\0\" } ]", "").unwrap_err();
    assert!(forged.contains("NUL character"), "{forged}");
}

#[test]
fn hooks_are_part_of_their_container_and_a_pod_without_any_is_what_it_was() {
    use crate::pod::{Hook, HttpGet, Lifecycle};
    let hooks = |lifecycle: &str| {
        let more = format!("ports: [ {{ name: admin, containerPort: 9000 }} ], lifecycle: {lifecycle}");
        Ok::<_, String>(pod(&more, "")?.pods[0].1.containers[0].lifecycle.clone())
    };
    let exec = Some(Hook::Exec(vec!["/bin/drain".to_owned()]));
    let get = HttpGet {
        tls: false,
        host: None,
        port: 9000,
        path: "/warm".to_owned(),
        headers: vec![("X-Hook".to_owned(), "1".to_owned())],
    };
    assert_eq!(
        hooks(
            "{ postStart: { httpGet: { port: admin, path: warm, httpHeaders: [ { name: X-Hook, value: '1' } ] } }, \
             preStop: { exec: { command: [/bin/drain] } } }"
        ),
        Ok(Lifecycle { post_start: Some(Hook::Http(get)), pre_stop: exec })
    );
    let sleep = Lifecycle { pre_stop: Some(Hook::Sleep(30)), ..Lifecycle::default() };
    assert_eq!(hooks("{ preStop: { sleep: { seconds: 30 } } }"), Ok(sleep));

    // What runs must not be another pod for it.
    let json = serde_json::to_string(&pod("", "").unwrap()).unwrap();
    assert!(!json.contains("lifecycle"), "{json}");
}

#[test]
fn a_hook_that_kubernetes_would_not_take_is_refused() {
    let refused = |lifecycle: &str| pod(&format!("lifecycle: {lifecycle}"), "").unwrap_err();
    let why = refused("{ preStop: { tcpSocket: { port: 1 } } }");
    assert!(
        why.contains("podman does not support tcpSocket of the hook (Kubernetes has deprecated it"),
        "{why}"
    );
    assert_eq!(why.lines().count(), 1, "{why}");
    let why = refused("{ preStop: { exec: { command: [x] }, sleep: { seconds: 1 } } }");
    assert!(why.contains("must have one of exec, httpGet, sleep"), "{why}");
    let why = refused("{ preStop: { sleep: { seconds: 31 } } }");
    assert!(
        why.contains("sleeps for 31 s, longer than the pod's terminationGracePeriodSeconds of 30"),
        "{why}"
    );
    assert!(refused("{ preStop: { sleep: {} } }").contains("has no seconds"));
    assert!(refused("{ preStop: { exec: {} } }").contains("has no command"));
    assert!(refused("{ stopSignal: SIGUSR1 }").contains("set STOPSIGNAL in the image"));
    let init = |lifecycle: &str| {
        pod("", &format!("initContainers: [ {{ name: i, image: \"{IMAGE}\", lifecycle: {lifecycle} }} ]"))
    };
    let why = init("{ preStop: { sleep: { seconds: 1 } } }").unwrap_err();
    assert!(why.contains("does not support lifecycle of an init container"), "{why}");
    assert!(init("{}").is_ok());
}

#[test]
fn an_empty_text_is_none_where_text_is_meant_and_an_error_anywhere_else() {
    assert!(pod("workingDir: ''", "hostname: ''").is_ok());
    for field in
        ["securityContext: { runAsNonRoot: '' }", "securityContext: ''", "resources: ''", "livenessProbe: ''"]
    {
        assert!(pod(field, "").is_err(), "{field}");
    }
}
