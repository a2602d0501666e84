//! The tests' own control plane does what it promises: it is a real one, whose parts can be stopped and hung, and it
//! leaves nothing behind.

use std::io::Read as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::kubernetes::{BEHAVIOUR, ControlPlane, DELAY, EXEC, LOG, Options, has_condition};

/// A Deployment whose pods have these annotations.
fn deployment(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": 2, "progressDeadlineSeconds": 2, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name }, "annotations": annotations },
                "spec": { "containers": [{ "name": "web", "image": "registry.example/web:1" }] },
            },
        },
    })
}

fn deployments(namespace: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/deployments")
}

#[test]
fn the_test_control_plane_runs_a_deployment_to_available() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("available");
    plane.create(&deployments(&namespace), &deployment("web", &json!({})));
    let web = plane.until(&format!("{}/web", deployments(&namespace)), |web| has_condition(web, "Available"));
    assert_eq!(web["status"]["readyReplicas"], 2);
    let pods = plane.get(&format!("/api/v1/namespaces/{namespace}/pods"));
    for pod in pods["items"].as_array().unwrap() {
        let container = &pod["status"]["containerStatuses"][0];
        assert!(container["imageID"].as_str().unwrap().contains("@sha256:"), "{container}");
        assert_eq!((&container["restartCount"], &container["ready"]), (&json!(0), &json!(true)));
    }
    plane.delete(&format!("{}/web", deployments(&namespace)));
    plane.until(&format!("/api/v1/namespaces/{namespace}/pods"), |pods| pods["items"] == json!([]));
}

#[test]
fn programs_and_logs_go_through_the_kubelet() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("streams");
    let said = json!({ EXEC: "stdout {2*paper #, }none; stderr no paper; exit 7", LOG: "{900*line #\n}end" });
    plane.create(&deployments(&namespace), &deployment("web", &said));
    plane.until(&format!("{}/web", deployments(&namespace)), |web| has_condition(web, "Available"));
    let ask = |words: &[&str]| plane.kubectl_with(&[&["--namespace", &namespace], words].concat(), "");
    let ran = ask(&["exec", "deployment/web", "--", "/bin/ask", "--quick"]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!((ran.status.code(), text(&ran.stdout).as_str()), (Some(7), "paper 1, paper 2, none\n"));
    assert!(text(&ran.stderr).contains("no paper"), "{}", text(&ran.stderr));
    let log = ask(&["logs", "deployment/web", "--tail=2"]);
    assert_eq!(text(&log.stdout), "line 900\nend\n");
    let log = ask(&["logs", "deployment/web", "--previous"]);
    assert!(!log.status.success() && text(&log.stderr).contains("previous terminated container"), "{log:?}");
    let all = ask(&["exec", "deployment/web", "--container=absent", "--", "/bin/ask"]);
    assert!(!all.status.success() && text(&all.stderr).contains("absent"), "{all:?}");
}

#[test]
fn a_pod_fails_in_the_way_that_it_is_told() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("fails");
    let waits = |name: &str, reason: &str| {
        let pods = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{name}");
        plane.until(&pods, |pods| {
            let pods = pods["items"].as_array().unwrap();
            !pods.is_empty()
                && pods.iter().all(|pod| {
                    let status = &pod["status"]["containerStatuses"][0];
                    status["state"]["waiting"]["reason"] == reason
                })
        })
    };
    for (name, behaviour) in [("crash", "crash-loop"), ("image", "image-pull-error"), ("ill", "never-ready")]
    {
        plane.create(&deployments(&namespace), &deployment(name, &json!({ BEHAVIOUR: behaviour })));
    }
    let crashing = waits("crash", "CrashLoopBackOff");
    assert!(crashing["items"][0]["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap() >= 1);
    waits("image", "ImagePullBackOff");
    plane.until(&format!("{}/ill", deployments(&namespace)), |ill| {
        let conditions = ill["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["reason"] == "ProgressDeadlineExceeded")
    });
    // A pod may change its mind.
    plane.kubectl(&[
        "annotate",
        "pod",
        "-n",
        &namespace,
        "-l",
        "app=ill",
        "--overwrite",
        &format!("{BEHAVIOUR}=ready"),
    ]);
    plane.until(&format!("{}/ill", deployments(&namespace)), |ill| has_condition(ill, "Available"));
}

#[test]
fn a_script_tells_pods_by_their_image_how_to_be() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("script");
    let web = format!("{}/web", deployments(&namespace));
    plane.script(&namespace, &[("web", "never-ready")]);
    plane.create(&deployments(&namespace), &deployment("web", &json!({})));
    plane.until(&web, |web| web["status"]["unavailableReplicas"] == 2 && web["status"]["replicas"] == 2);
    plane.script(&namespace, &[("web", "ready")]);
    plane.until(&web, |web| has_condition(web, "Available"));
}

#[test]
fn a_job_completes_or_fails() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("jobs");
    let jobs = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
    let job = |name: &str, behaviour: &str| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "backoffLimit": 0, "template": {
                "metadata": { "annotations": { BEHAVIOUR: behaviour, DELAY: "1s" } },
                "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x" }] },
            } },
        })
    };
    plane.create(&jobs, &job("good", "exit-0"));
    plane.create(&jobs, &job("bad", "exit-1"));
    plane.until(&format!("{jobs}/good"), |job| has_condition(job, "Complete"));
    plane.until(&format!("{jobs}/bad"), |job| has_condition(job, "Failed"));
}

#[test]
fn every_kind_that_has_a_health_gets_one() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("kinds");
    let documents = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: store }
spec:
  serviceName: store
  selector: { matchLabels: { app: store } }
  template:
    metadata: { labels: { app: store } }
    spec: { terminationGracePeriodSeconds: 1, containers: [{ name: c, image: x, volumeMounts: [{ name: data, mountPath: /data }] }] }
  volumeClaimTemplates:
  - metadata: { name: data }
    spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }
---
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: every }
spec:
  selector: { matchLabels: { app: every } }
  template:
    metadata: { labels: { app: every } }
    spec: { terminationGracePeriodSeconds: 1, containers: [{ name: c, image: x }] }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: lonely }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: LoadBalancer, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: waiting, annotations: { test.holdfast.dev/behaviour: pending } }
spec: { type: LoadBalancer, ports: [{ port: 80 }] }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: web }
spec: { defaultBackend: { service: { name: web, port: { number: 80 } } } }
"#;
    plane.apply(&namespace, documents);
    let at = |rest: &str| rest.replace("{ns}", &format!("namespaces/{namespace}"));
    plane.until(&at("/apis/apps/v1/{ns}/statefulsets/store"), |set| set["status"]["readyReplicas"] == 1);
    plane.until(&at("/apis/apps/v1/{ns}/daemonsets/every"), |set| set["status"]["numberReady"] == 1);
    plane.until(&at("/api/v1/{ns}/persistentvolumeclaims/data-store-0"), |it| {
        it["status"]["phase"] == "Bound"
    });
    // Nobody mounts it: k3s's storage makes no volume then.
    assert_eq!(plane.get(&at("/api/v1/{ns}/persistentvolumeclaims/lonely"))["status"]["phase"], "Pending");
    let address = |it: &Value| !it["status"]["loadBalancer"]["ingress"][0]["ip"].is_null();
    plane.until(&at("/api/v1/{ns}/services/web"), address);
    plane.until(&at("/apis/networking.k8s.io/v1/{ns}/ingresses/web"), address);
    assert!(!address(&plane.get(&at("/api/v1/{ns}/services/waiting"))));
    // With all that holds something back from being deleted, as a claim's finalizer. A namespace is looked at again
    // after half of its pods' grace, whence the short one.
    plane.delete(&at("/api/v1/{ns}"));
    plane.until_gone(&at("/api/v1/{ns}"));
}

#[test]
fn a_restarted_api_server_is_the_same_cluster() {
    let Some(plane) = ControlPlane::alone() else { return };
    let namespace = plane.namespace("restart");
    let uid = |path: &str| plane.get(path)["metadata"]["uid"].clone();
    let path = format!("/api/v1/namespaces/{namespace}");
    let before = (uid("/api/v1/namespaces/kube-system"), uid(&path));
    plane.restart_api();
    assert_eq!((uid("/api/v1/namespaces/kube-system"), uid(&path)), before);
    plane.kill_api();
    assert!(TcpStream::connect(("127.0.0.1", plane.port())).is_err());
    plane.start_api();
    assert_eq!((uid("/api/v1/namespaces/kube-system"), uid(&path)), before);
    // The other parts went on.
    plane.create(&deployments(&namespace), &deployment("web", &json!({})));
    plane.until(&format!("{}/web", deployments(&namespace)), |web| has_condition(web, "Available"));
}

#[test]
fn a_hung_api_server_takes_connections_and_answers_none() {
    let Some(plane) = ControlPlane::alone() else { return };
    plane.hang_api();
    let mut connection = TcpStream::connect(("127.0.0.1", plane.port())).unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    std::io::Write::write_all(&mut connection, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(connection.read(&mut [0; 1]).is_err(), "it answered");
    plane.resume_api();
    plane.get("/api/v1/namespaces/default");
}

#[test]
fn a_user_may_do_what_a_role_says() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("users");
    let may = |kubeconfig: &Path, verb: &str| {
        let file = kubeconfig.to_str().unwrap();
        let arguments = ["--kubeconfig", file, "auth", "can-i", verb, "configmaps", "-n", &namespace];
        plane.kubectl_with(&arguments, "").status.success()
    };
    plane.kubectl(&["create", "serviceaccount", "edge", "-n", &namespace]);
    let (user, account) =
        (plane.kubeconfig_for("alice", &["editors"]), plane.kubeconfig_of_account(&namespace, "edge"));
    assert!(!may(&user, "create") && !may(&account, "get"));
    let account_name = format!("--serviceaccount={namespace}:edge");
    plane.kubectl(&["create", "rolebinding", "e", "-n", &namespace, "--clusterrole=edit", "--group=editors"]);
    plane.kubectl(&["create", "rolebinding", "v", "-n", &namespace, "--clusterrole=view", &account_name]);
    assert!(may(&user, "create") && may(&account, "get") && !may(&account, "create"));
}

#[test]
fn what_a_user_asked_is_in_the_audit_log_and_what_the_test_asked_is_not() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("audit");
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one" } }).to_string();
    let masters = ["system:masters"];
    assert_eq!(
        plane.ask_as("audited", &masters, "POST", &format!("{maps}?dryRun=All"), map.as_bytes()).status,
        201
    );
    assert_eq!(plane.ask_as("audited", &masters, "POST", &maps, map.as_bytes()).status, 201);
    assert_eq!(plane.ask_as("audited", &masters, "GET", &format!("{maps}/two"), &[]).status, 404);
    plane.get(&format!("{maps}/one"));
    let requests = plane.requests_of("audited");
    let found: Vec<_> = requests.iter().map(|it| (it.verb.as_str(), it.code, it.writes())).collect();
    assert_eq!(found, [("create", 201, false), ("create", 201, true), ("get", 404, false)]);
    assert!(requests[1].uri.starts_with(&maps) && requests[1].acting_as.is_none());
    assert_eq!(plane.requests_of("tester").len(), 0);
}

#[test]
fn kubectl_prunes_what_left_its_apply_set() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("applyset");
    let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\n---\n");
    let apply = |documents: &str| {
        let arguments = ["apply", "-n", &namespace, "--prune", "--applyset=secrets/set", "-f", "-"];
        let output = plane.kubectl_with(&arguments, documents);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    apply(&(map("one") + &map("two")));
    apply(&map("two"));
    let labelled =
        plane.kubectl(&["get", "cm", "-n", &namespace, "-l", "applyset.kubernetes.io/part-of", "-o", "name"]);
    assert_eq!(labelled.trim_end(), "configmap/two");
}

#[test]
fn a_watch_from_before_a_restart_has_expired() {
    let Some(plane) = ControlPlane::alone() else { return };
    let namespace = plane.namespace("expired");
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let version = plane.get(&maps)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch =
        || plane.ask("GET", &format!("{maps}?watch=1&timeoutSeconds=1&resourceVersion={version}"), "", &[]);
    assert_eq!(watch().status, 200);
    // Whatever is written counts, not only this kind.
    plane.namespace("later");
    plane.restart_api();
    let expired = watch();
    assert!(expired.status == 410 || expired.body["object"]["code"] == 410, "{expired:?}");
}

#[test]
fn an_api_server_that_is_too_busy_says_when_to_try_again() {
    let options = Options { api_only: true, ..Options::one_change_at_a_time() };
    let Some(plane) = ControlPlane::own(&options) else { return };
    let create = || {
        let map =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one" } }).to_string();
        plane.ask_as("agent", &["edge"], "POST", "/api/v1/namespaces/default/configmaps", map.as_bytes())
    };
    // The server's own writes take the only place as well, for moments.
    let until = |status: u16| {
        let began = Instant::now();
        loop {
            let answer = create();
            if answer.status == status {
                return;
            }
            assert!(matches!(answer.status, 403 | 429), "{}", answer.body);
            assert!(began.elapsed() < Duration::from_secs(60), "still too busy");
        }
    };
    until(403);
    plane.kubectl(&["create", "clusterrolebinding", "edge", "--clusterrole=cluster-admin", "--group=edge"]);
    let occupied = plane.occupy();
    let refused = create();
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.headers["retry-after"], "1");
    drop(occupied);
    until(201);
}

/// What the test below runs in another process: a control plane that is never dropped.
#[test]
fn a_control_plane_waits_to_be_killed() {
    let Some(file) = std::env::var_os("HOLDFAST_TEST_PLANE_DIR") else { return };
    let Some(plane) = ControlPlane::shared() else { return };
    plane.hang_api();
    std::fs::write(&file, plane.dir().to_str().unwrap()).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn nothing_of_a_control_plane_is_left_when_its_test_program_is_killed() {
    // It says that it is skipped, if it is.
    let Some(alone) = ControlPlane::alone() else { return };
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("dir");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plane::a_control_plane_waits_to_be_killed"])
        .env("HOLDFAST_TEST_PLANE_DIR", &note)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let late = || assert!(began.elapsed() < Duration::from_secs(240), "too late");
    let dir = loop {
        match std::fs::read_to_string(&note) {
            Ok(dir) if !dir.is_empty() => break PathBuf::from(dir),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        late();
    };
    assert!(dir.exists() && !processes_on(&dir).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    while dir.exists() || !processes_on(&dir).is_empty() {
        std::thread::sleep(Duration::from_millis(50));
        late();
    }
    drop(alone);
}

/// The processes that have a folder's name among their arguments.
fn processes_on(dir: &Path) -> Vec<PathBuf> {
    let name = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let on = |process: &PathBuf| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(name)
    };
    processes.filter(on).collect()
}
