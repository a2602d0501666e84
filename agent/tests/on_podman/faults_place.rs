//! What an app can't have on this box: a port, space on the disk, a disk that accepts writes.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::meddler::HostApp;
use crate::shop::{Shop, get, wait_for};
use crate::support::podman::Setup;
use crate::support::ports::free_port;
use crate::support::tools::run;

/// Writes the app `pos` on the bridge, with its port as this port of the box.
fn write_bridged(shop: &Shop, image: &str, port: u16) {
    let container = format!("          ports: [ {{ containerPort: 8080, hostPort: {port} }} ]\n");
    shop.write_app("pos", image, "", "", &container);
}

#[test]
fn a_port_that_another_program_has_is_named_and_nobody_is_harmed() {
    let mut shop = Shop::new();
    let (port, other_port) = (free_port(), free_port());
    let (one, two) = (shop.push("1"), shop.push("2"));
    let owner = TcpListener::bind(("127.0.0.1", port)).unwrap();
    write_bridged(&shop, &one, port);
    shop.agent.start(&[]);
    shop.commit();
    shop.wait_said("pos", &format!("port {port} of this box is in use"));
    drop(owner);
    let head = shop.agent.repo.head();
    shop.agent.wait_converged(&head);
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "1");

    // What runs goes on while its successor can't have another port.
    let owner = TcpListener::bind(("127.0.0.1", other_port)).unwrap();
    write_bridged(&shop, &two, other_port);
    let commit = shop.commit();
    shop.wait_said("pos", &format!("port {other_port} of this box is in use"));
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), "1");
    drop(owner);
    shop.agent.wait_converged(&commit);
    assert_eq!(get(&format!("127.0.0.1:{other_port}"), "/").unwrap(), "2");

    // Its own port is no reason to wait.
    write_bridged(&shop, &one, other_port);
    shop.converge();
    assert_eq!(get(&format!("127.0.0.1:{other_port}"), "/").unwrap(), "1");
}

/// A file system of its own, for podman's store.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hf-podman-store-").tempdir().unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(dir.path()));
        SmallDisk(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all that is left of it.
    fn fill(&self) -> PathBuf {
        let file = self.path().join("filler");
        let mut filler = fs::File::create(&file).unwrap();
        for size in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", "-R"]).arg(self.0.path()).output();
    }
}

#[test]
fn a_full_store_costs_no_running_app_and_the_new_version_comes_when_there_is_room() {
    let disk = SmallDisk::new();
    let store = Some(disk.path().join("root"));
    let mut shop = Shop::with(&Setup { store, ..Setup::default() });
    let pos = HostApp::new("pos");
    let (one, two) = (shop.push("1"), shop.push("2"));
    pos.write(&shop, &one, "");
    shop.agent.start(&[]);
    shop.converge();

    let filler = disk.fill();
    pos.write(&shop, &two, "");
    let commit = shop.commit();
    shop.wait_said("pos", "no space left on device");
    assert_eq!(pos.answer().unwrap(), "1");
    fs::remove_file(filler).unwrap();
    shop.agent.wait_converged(&commit);
    assert_eq!(pos.answer().unwrap(), "2");
    drop(shop);
}

#[test]
fn a_store_that_takes_no_writes_costs_no_running_app_and_is_said() {
    let disk = SmallDisk::new();
    let store = Some(disk.path().join("root"));
    let mut shop = Shop::with(&Setup { store, ..Setup::default() });
    let pos = HostApp::new("pos");
    let (one, two) = (shop.push("1"), shop.push("2"));
    pos.write(&shop, &one, "");
    shop.agent.start(&[]);
    shop.converge();

    // The same files once more, over themselves, for reading only: what is open stays as it is.
    let root = disk.path().join("root");
    let mount = |options: &[&str]| run(Command::new("mount").args(options).arg(&root).arg(&root));
    mount(&["--rbind"]);
    mount(&["-o", "remount,bind,ro"]);
    pos.write(&shop, &two, "");
    let commit = shop.commit();
    shop.wait_said("pos", "read-only file system");
    assert_eq!(pos.answer().unwrap(), "1");
    mount(&["-o", "remount,bind,rw"]);
    // podman 4.3 panics with a lock in its hand, and answers nothing more.
    shop.podman.restart_service();
    shop.agent.wait_converged(&commit);
    assert_eq!(pos.answer().unwrap(), "2");
    drop(shop);
}

#[test]
fn an_app_that_goes_takes_all_with_it_but_what_holds_data() {
    let mut shop = Shop::new();
    let image = shop.push("1");
    let manifests = format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{ name: ledger }}\nspec: {{ accessModes: [ReadWriteOnce], resources: {{ requests: {{ storage: 1Mi }} }} }}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{ name: keys }}\nstringData: {{ password: hush }}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: settings }}\ndata: {{ color: blue }}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: pos }}\nspec:\n  selector: {{ matchLabels: {{ app: pos }} }}\n  template:\n    metadata: {{ labels: {{ app: pos }} }}\n    spec:\n      hostNetwork: true\n      \
         volumes:\n        - {{ name: data, persistentVolumeClaim: {{ claimName: ledger }} }}\n        - {{ name: scratch, emptyDir: {{}} }}\n        - {{ name: settings, configMap: {{ name: settings }} }}\n      \
         containers:\n        - name: pos\n          image: {image}\n          args: [sleep]\n          \
         env: [ {{ name: PASSWORD, valueFrom: {{ secretKeyRef: {{ name: keys, key: password }} }} }} ]\n          \
         volumeMounts: [ {{ name: data, mountPath: /data }}, {{ name: scratch, mountPath: /scratch }}, {{ name: settings, mountPath: /settings }} ]\n"
    );
    shop.write("pos", "", &manifests);
    shop.agent.start(&[]);
    shop.converge();
    let names = |shop: &Shop, path: &str, field: &str| -> Vec<String> {
        let (_, list) = shop.podman.api("GET", path, None);
        let names = list.as_array().into_iter().flatten().filter_map(|it| it.pointer(field)?.as_str());
        names.map(str::to_owned).collect()
    };
    let volumes = |shop: &Shop| names(shop, "/volumes/json", "/Name");
    let secrets = |shop: &Shop| names(shop, "/secrets/json", "/Spec/Name");
    let files = shop.agent.dir().join("podman/files");
    let folders = || fs::read_dir(&files).map_or(0, Iterator::count);
    assert_eq!((volumes(&shop).len(), secrets(&shop).len(), folders()), (2, 1, 1));

    shop.agent.repo.git(&["rm", "-rq", "apps/pos"]);
    shop.converge();
    wait_for("the app is gone", || shop.containers_of("pos").is_empty().then_some(()));
    assert_eq!(volumes(&shop), ["pos.ledger"]);
    assert_eq!((secrets(&shop).len(), folders()), (0, 0));
    let said = shop.events("app.orphaned", "pos");
    assert!(said.len() == 1 && said[0].contains("ledger"), "{said:?}");
    shop.assert_no_strays();
}
