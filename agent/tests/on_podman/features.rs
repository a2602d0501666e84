//! What documents may ask of a pod: volumes, settings, secrets, init containers, jobs, several containers, names.

use crate::shop::{Shop, get, wait_for};
use crate::support::agent_box::app;
use crate::support::image::Image;
use crate::support::ports::free_port;

/// A workload of one pod on the bridge whose web server is published at `port`.
fn published(name: &str, image: &str, port: u16, pod: &str, container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name} }}\nspec:\n  selector: {{ matchLabels: {{ app: {name} }} }}\n  template:\n    metadata: {{ labels: {{ app: {name} }} }}\n    spec:\n      terminationGracePeriodSeconds: 5\n{pod}      containers:\n        - name: {name}\n          image: {image}\n          ports: [ {{ containerPort: 8080, hostPort: {port} }} ]\n          readinessProbe: {{ httpGet: {{ path: /healthz, port: 8080 }}, periodSeconds: 1 }}\n{container}---\n"
    )
}

#[test]
fn settings_and_secrets_reach_a_container_as_variables_and_as_files() {
    let mut shop = Shop::new();
    let (image, port) = (shop.push("1"), free_port());
    let address = format!("127.0.0.1:{port}");
    let container = "          env:\n            - { name: GREETING, valueFrom: { configMapKeyRef: { name: settings, key: greeting } } }\n            - { name: PASSWORD, valueFrom: { secretKeyRef: { name: keys, key: password } } }\n            - { name: BOX, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }\n          volumeMounts:\n            - { name: settings, mountPath: /settings }\n            - { name: keys, mountPath: /keys }\n            - { name: one, mountPath: /one/page, subPath: page }\n";
    let pod = "      volumes:\n        - { name: settings, configMap: { name: settings } }\n        - { name: keys, secret: { secretName: keys, defaultMode: 0400 } }\n        - { name: one, configMap: { name: settings } }\n";
    let manifests = |greeting: &str| {
        published("pos", &image, port, pod, container)
            + &format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: settings }}\ndata: {{ greeting: {greeting}, page: \"<p>hi\" }}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: keys }}\nstringData: {{ password: hunter2 }}\n"
            )
    };
    shop.write("pos", "", &manifests("hello"));
    shop.agent.start(&[]);
    shop.converge();
    assert_eq!(get(&address, "/env/GREETING").unwrap(), "hello");
    assert_eq!(get(&address, "/env/PASSWORD").unwrap(), "hunter2");
    assert_eq!(get(&address, "/env/BOX").unwrap(), "test/box-1");
    assert_eq!(get(&address, "/file?/settings/page").unwrap(), "<p>hi");
    assert_eq!(get(&address, "/file?/keys/password").unwrap(), "hunter2");
    assert_eq!(get(&address, "/file?/one/page").unwrap(), "<p>hi");

    shop.write("pos", "", &manifests("good-day"));
    shop.converge();
    assert_eq!(get(&address, "/env/GREETING").unwrap(), "good-day");

    // Nowhere in what the agent keeps or says stands the secret.
    let clear = |dir: &std::path::Path| {
        let found = std::process::Command::new("grep").args(["-rlaF", "hunter2"]).arg(dir).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    // The mirror has the repository as it was signed, packed.
    assert_eq!(clear(&shop.agent.state()), "");
    assert!(!shop.agent.log().contains("hunter2"));
    assert!(
        clear(&shop.agent.dir().join("podman")).contains("keys/password"),
        "it is in the folder in memory"
    );
}

#[test]
fn a_container_is_told_the_address_of_its_box_when_it_is_made() {
    // Nothing is sent: the kernel says from where it would be.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine has no default route");
    let own = socket.local_addr().unwrap().ip().to_string();
    let mut shop = Shop::new();
    let image = shop.push("1");
    let field = |name: &str, path: &str| {
        format!("            - {{ name: {name}, valueFrom: {{ fieldRef: {{ fieldPath: {path} }} }} }}\n")
    };
    let bridged = free_port();
    let env = field("HOST_IP", "status.hostIP")
        + "            - { name: COLLECTOR, value: \"http://$(HOST_IP):4317\" }\n";
    let container = format!("          env:\n{env}");
    shop.write("pos", "", &published("pos", &image, bridged, "", &container));
    let port = free_port();
    let env =
        field("POD_IP", "status.podIP") + &format!("            - {{ name: PORT, value: \"{port}\" }}\n");
    let container = format!("          args: [serve]\n          env:\n{env}");
    shop.write_app("host", &image, "", "      hostNetwork: true\n", &container);
    shop.agent.start(&[]);
    shop.converge();
    let bridged = format!("127.0.0.1:{bridged}");
    assert_eq!(get(&bridged, "/env/HOST_IP").unwrap(), own);
    assert_eq!(get(&bridged, "/env/COLLECTOR").unwrap(), format!("http://{own}:4317"));
    let told = wait_for("it listens", || get(&format!("127.0.0.1:{port}"), "/env/POD_IP").ok());
    assert_eq!(told, own);
}

#[test]
fn a_claim_outlives_its_pods_and_is_left_when_the_app_goes() {
    let mut shop = Shop::new();
    let (image, port) = (shop.push("1"), free_port());
    let pod = "      volumes: [ { name: data, persistentVolumeClaim: { claimName: data } }, { name: scratch, emptyDir: {} } ]\n      initContainers:\n        - { name: fill, image: IMAGE, command: [/webapp, write, /data/note, kept], volumeMounts: [ { name: data, mountPath: /data } ] }\n".replace("IMAGE", &image);
    let container = "          volumeMounts: [ { name: data, mountPath: /data }, { name: scratch, mountPath: /scratch } ]\n";
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }\n";
    shop.write("pos", "", &(published("pos", &image, port, &pod, container) + claim));
    shop.agent.start(&[]);
    shop.converge();
    let address = format!("127.0.0.1:{port}");
    assert_eq!(get(&address, "/file?/data/note").unwrap(), "kept");
    assert_eq!(shop.containers_of("pos").len(), 1, "the init container is gone once it has done its work");

    let without_init = pod.split("      initContainers").next().unwrap();
    shop.write("pos", "", &(published("pos", &image, port, without_init, container) + claim));
    shop.converge();
    assert_eq!(get(&address, "/file?/data/note").unwrap(), "kept");
    let volumes = |shop: &Shop| String::from_utf8(shop.podman.cli(&["volume", "ls", "-q"]).stdout).unwrap();
    assert_eq!(volumes(&shop).lines().count(), 2, "{}", volumes(&shop));

    shop.agent.repo.git(&["rm", "-rq", "apps/pos"]);
    shop.converge();
    assert_eq!(volumes(&shop).trim(), "pos.data");
    assert!(shop.agent.log().contains("PersistentVolumeClaim/pos/data"));

    // It goes by a Purge document, and nothing else does.
    let theirs = shop.podman.cli(&["volume", "create", "somebodys"]);
    assert!(theirs.status.success());
    let head = "apiVersion: holdfast.dev/v1alpha1\n";
    let fleet = "kind: Fleet\nmetadata: { name: test }\nspec: { policy: { prune: { grace: 0s } } }\n";
    let purge = "kind: Purge\nmetadata: { name: old }\nspec:\n  placement: {}\n  reason: moved\n  objects: [ { app: pos, object: PersistentVolumeClaim/pos/data }, { app: pos, object: PersistentVolumeClaim/somebodys } ]\n";
    shop.agent.repo.write(&[
        ("holdfast.yaml", &format!("{head}{fleet}")),
        ("purges/old.yaml", &format!("{head}{purge}")),
    ]);
    shop.converge();
    wait_for("the volume is gone", || (volumes(&shop).trim() == "somebodys").then_some(()));
    assert!(shop.agent.status().unwrap().orphans.is_empty());
}

#[test]
fn containers_of_a_pod_share_its_network_and_others_find_it_by_its_services_name() {
    let mut shop = Shop::new();
    let (image, port) = (shop.push("1"), free_port());
    let sidecar = format!(
        "        - name: side\n          image: {image}\n          env: [ {{ name: PORT, value: \"8081\" }}, {{ name: SIDE, value: here }} ]\n          livenessProbe: {{ tcpSocket: {{ port: 8081 }}, periodSeconds: 1 }}\n"
    );
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: pos }\nspec: { selector: { app: pos }, ports: [ { port: 8080 } ] }\n";
    shop.write("pos", "", &(published("pos", &image, port, "", &sidecar) + service));
    shop.agent.start(&[]);
    shop.converge();
    let containers = shop.containers_of("pos");
    assert_eq!(containers.len(), 2);
    let main = containers.iter().find(|one| !one.name.contains("side")).unwrap();
    let address = shop.podman.inspect(&main.name).unwrap();
    let address =
        address["NetworkSettings"]["Networks"]["holdfast"]["IPAddress"].as_str().unwrap().to_owned();
    assert_eq!(
        get(&format!("{address}:8081"), "/env/SIDE").unwrap(),
        "here",
        "on the main container's address"
    );
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "1");

    // The main container is killed: whoever shares its network is made anew with it.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(main.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let back = || {
        let main = shop.containers_of("pos").into_iter().find(|one| !one.name.contains("side"))?;
        let address = shop.podman.inspect(&main.name)?;
        let address = address["NetworkSettings"]["Networks"]["holdfast"]["IPAddress"].as_str()?.to_owned();
        get(&format!("{address}:8081"), "/env/SIDE")
            .ok()
            .filter(|_| get(&format!("{address}:8080"), "/").is_ok())
    };
    assert_eq!(wait_for("both are back", back), "here");
}

#[test]
fn a_job_runs_once_to_its_end_and_is_good_then() {
    let mut shop = Shop::new();
    let image = shop.push("1");
    let job = |command: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: import }}\nspec:\n  backoffLimit: 1\n  template:\n    spec:\n      restartPolicy: Never\n      containers: [ {{ name: import, image: {image}, command: [{command}] }} ]\n"
        )
    };
    shop.write("import", "", &job("/webapp, exit, \"0\""));
    shop.agent.start(&[]);
    shop.converge();
    let made = shop.containers_of("import");
    assert_eq!((made.len(), made[0].state.as_str()), (1, "exited"));

    // One that fails is taken back.
    shop.write("import", "", &job("/webapp, exit, \"3\""));
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        app(status, "import").is_some_and(|app| app.phase == "RolledBack")
    });
    assert!(shop.agent.log().contains("import exited with code 3"), "{}", shop.agent.log_tail());
}

#[test]
fn a_tag_is_asked_once_for_a_release_and_again_for_another() {
    let mut shop = Shop::new();
    let port = free_port();
    shop.push("1");
    let tagged = format!("{}/pos:stable", shop.registry.host());
    let tag =
        |shop: &Shop, version: &str| shop.registry.push("pos", "stable", &crate::shop::web_server(version));
    tag(&shop, "1");
    let write = |shop: &Shop, more: &str| shop.write("pos", "", &published("pos", &tagged, port, "", more));
    write(&shop, "");
    shop.agent.start(&[]);
    shop.converge();
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "1");

    // The tag moves, and a commit about something else leaves the app as it is.
    tag(&shop, "2");
    shop.agent.repo.write(&[("README.md", "x")]);
    shop.converge();
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "1");
    write(&shop, "          env: [ { name: X, value: 'y' } ]\n");
    shop.converge();
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "2");
}

#[test]
fn a_registry_that_was_away_is_asked_again_by_itself_and_each_app_says_what_it_lacks_itself() {
    let mut shop = Shop::new();
    for name in ["alpha", "beta"] {
        shop.registry.push(name, "stable", &crate::shop::web_server("1"));
        let tagged = format!("{}/{name}:stable", shop.registry.host());
        shop.write(name, "", &published(name, &tagged, free_port(), "", ""));
    }
    shop.registry.go_away();
    let commit = shop.agent.commit();
    shop.agent.start(&[]);
    let cause = |status: &holdfast_core::report::Status, name: &str| {
        app(status, name).and_then(|app| app.held.as_ref()).map(|held| held.cause.clone())
    };
    shop.agent.wait_until("held", |_, status| {
        ["alpha", "beta"]
            .iter()
            .all(|name| cause(status, name).is_some_and(|cause| cause.contains(&format!("/{name}:stable"))))
    });
    // Nobody polls: the source is asked every five minutes.
    shop.registry.come_back();
    shop.agent.wait_converged(&commit);
}

/// Lets the kernel hand what waits at a listener over to another one of the same port when it is closed, as
/// docs/podman.md advises for boxes; without it, a connection that comes between the last accept and the close is reset.
struct HandedOver(String);

const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

impl HandedOver {
    fn on() -> Self {
        let before = std::fs::read_to_string(MIGRATE).unwrap();
        std::fs::write(MIGRATE, "1").unwrap();
        HandedOver(before)
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        let _ = std::fs::write(MIGRATE, &self.0);
    }
}

#[test]
fn the_new_version_starts_beside_the_old_one_and_takes_its_port_over() {
    let _handed_over = HandedOver::on();
    let mut shop = Shop::new();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let update = "  update: { strategy: start-stop }\n";
    let container = format!(
        "          env: [ {{ name: PORT, value: \"{port}\" }}, {{ name: DRAIN_MS, value: \"200\" }} ]\n          readinessProbe: {{ httpGet: {{ path: /healthz, port: {port} }}, periodSeconds: 1 }}\n"
    );
    let write = |shop: &Shop, version: &str, more: &str| {
        let image = shop.push(version);
        shop.write_app("pos", &image, update, "      hostNetwork: true\n", &(container.clone() + more));
    };
    write(&shop, "1", "");
    shop.agent.start(&[]);
    shop.converge();
    let asked = std::sync::atomic::AtomicBool::new(true);
    let lost = std::thread::scope(|scope| {
        let customer = scope.spawn(|| {
            let mut lost = Vec::new();
            while asked.load(std::sync::atomic::Ordering::Relaxed) {
                lost.extend(get(&address, "/").err());
            }
            lost
        });
        for version in ["2", "3", "4"] {
            write(&shop, version, "");
            shop.converge();
            assert_eq!(get(&address, "/").unwrap(), version);
        }
        asked.store(false, std::sync::atomic::Ordering::Relaxed);
        customer.join().unwrap()
    });
    assert_eq!(lost, Vec::<String>::new());
    assert_eq!(shop.containers_of("pos").len(), 1);

    // One that never gets ready doesn't cost the old one its place.
    write(&shop, "5", "          command: [/webapp, exit, \"1\"]\n");
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        app(status, "pos").is_some_and(|app| app.phase == "RolledBack")
    });
    assert_eq!(get(&address, "/").unwrap(), "4");
    assert_eq!(shop.containers_of("pos").len(), 1);
}

#[test]
fn a_check_finds_the_pod_that_a_deployment_became_and_a_release_that_fails_it_is_taken_back() {
    let mut shop = Shop::new();
    let (first, second, port) = (shop.push("1"), shop.push("2"), free_port());
    let health = |path: &str| {
        format!(
            "  health:\n    startup: 1s\n    deadline: 10s\n    soak: 300ms\n    checks: [ {{ http: {{ target: Deployment/pos, port: 8080, path: {path} }} }} ]\n"
        )
    };
    shop.write("pos", &health("/healthz"), &published("pos", &first, port, "", ""));
    shop.agent.start(&[]);
    shop.converge();
    let ill = published("pos", &second, port, "", "          env: [ { name: HEALTH, value: \"500\" } ]\n")
        .replace("/healthz", "/");
    shop.write("pos", &health("/healthz"), &ill);
    shop.commit();
    shop.agent.wait_until("taken back", |_, status| {
        app(status, "pos").is_some_and(|app| app.phase == "RolledBack")
    });
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "1");
    let status = shop.agent.status().unwrap();
    let held = app(&status, "pos").unwrap().held.clone().unwrap();
    assert!(held.cause.contains("/healthz: answered 500"), "{held:?}");

    // Fail forward: the next commit is tried at once.
    shop.write("pos", &health("/healthz"), &published("pos", &second, port, "", ""));
    shop.converge();
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "2");
}

#[test]
fn init_containers_run_for_a_new_pod_and_not_when_its_container_is_only_started_again() {
    let mut shop = Shop::new();
    let (image, port) = (shop.push("1"), free_port());
    let pod = "      volumes: [ { name: data, persistentVolumeClaim: { claimName: data } } ]\n      initContainers:\n        - { name: fill, image: IMAGE, command: [/webapp, write, /data/note, made], volumeMounts: [ { name: data, mountPath: /data } ] }\n".replace("IMAGE", &image);
    let container =
        |more: &str| format!("          volumeMounts: [ {{ name: data, mountPath: /data }} ]\n{more}");
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: data }\nspec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }\n";
    shop.write("pos", "", &(published("pos", &image, port, &pod, &container("")) + claim));
    shop.agent.start(&[]);
    shop.converge();
    let address = format!("127.0.0.1:{port}");
    assert_eq!(get(&address, "/file?/data/note").unwrap(), "made");
    let mountpoint =
        shop.podman.cli(&["volume", "inspect", "--format", "{{.Mountpoint}}", "pos.data"]).stdout;
    let note = std::path::Path::new(String::from_utf8(mountpoint).unwrap().trim()).join("note");
    std::fs::remove_file(&note).unwrap();

    let killed = shop.containers_of("pos")[0].pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("it is back", || {
        let now = shop.containers_of("pos").first().map(|one| one.pid);
        now.filter(|pid| *pid > 0 && *pid != killed).and_then(|_| get(&address, "/").ok())
    });
    assert!(!note.exists(), "the init container was run again");

    let more = container("          env: [ { name: X, value: 'y' } ]\n");
    shop.write("pos", "", &(published("pos", &image, port, &pod, &more) + claim));
    shop.converge();
    assert!(note.exists(), "another pod begins with its init containers");
}

#[test]
fn a_pod_that_is_removed_has_all_of_its_grace_to_end_itself() {
    let mut shop = Shop::new();
    let shell = std::fs::read("/bin/busybox").expect("/bin/busybox is missing: run scripts/setup-tests.sh");
    let image = Image::new().layer(&[("bin/busybox", 0o755, &shell), ("bin/sh", 0o755, &shell)]);
    let digest = shop.registry.push("slow", "1", &image);
    let dir = tempfile::tempdir().unwrap();
    // Longer than any limit of a call that heeds no grace.
    let script = "trap 'i=0; while [ $i -lt 35 ]; do i=$((i+1)); /bin/busybox sleep 1; done; echo by itself > /end/how; exit 0' \
                  TERM; while true; do /bin/busybox sleep 0.2; done";
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: slow }}\nspec:\n  terminationGracePeriodSeconds: 240\n  volumes: [ {{ \
         name: end, hostPath: {{ path: {} }} }} ]\n  containers:\n    - name: slow\n      image: {}/slow@{digest}\n      command: \
         [/bin/sh, -c, \"{script}\"]\n      volumeMounts: [ {{ name: end, mountPath: /end }} ]\n",
        dir.path().display(),
        shop.registry.host()
    );
    shop.write("slow", "", &manifest);
    shop.agent.start(&[]);
    shop.converge();
    shop.agent.repo.git(&["rm", "-rq", "apps/slow"]);
    shop.converge();
    assert_eq!(std::fs::read_to_string(dir.path().join("how")).unwrap_or_default(), "by itself\n");
    assert!(shop.containers_of("slow").is_empty());
}
