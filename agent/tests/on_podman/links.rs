//! What a workload leaves in a folder that it can write, for the agent or podman to walk into; and what labels claim.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::meddler::{HostApp, murder};
use crate::shop::{Shop, get, wait_for};

/// The app `pos`, which mounts its claim whole at /data and in part at /part.
fn write(shop: &Shop, pos: &HostApp, image: &str) {
    let manifest = format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{ name: data }}\nspec: {{ accessModes: [ReadWriteOnce], resources: {{ requests: {{ storage: 1Gi }} }} }}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: pos }}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  volumes: [ {{ name: data, persistentVolumeClaim: {{ claimName: data }} }} ]\n  containers:\n    - name: pos\n      image: {image}\n      env: [ {{ name: PORT, value: \"{}\" }} ]\n      volumeMounts:\n        - {{ name: data, mountPath: /data }}\n        - {{ name: data, mountPath: /part, subPath: a/part }}\n",
        pos.port
    );
    shop.write("pos", "", &manifest);
}

fn mountpoint(shop: &Shop) -> PathBuf {
    let found = shop.podman.cli(&["volume", "inspect", "--format", "{{.Mountpoint}}", "pos.data"]).stdout;
    PathBuf::from(String::from_utf8(found).unwrap().trim())
}

fn read(pos: &HostApp, path: &str) -> Result<String, String> {
    get(&format!("127.0.0.1:{}", pos.port), &format!("/file?{path}"))
}

#[test]
fn a_part_of_a_volume_that_its_container_exchanged_for_a_link_to_the_hosts_root_is_never_mounted() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    write(&shop, &pos, &shop.push("1"));
    shop.agent.start(&[]);
    shop.converge();
    let volume = mountpoint(&shop);
    // It is made as the volume is, not by the agent's umask.
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&volume.join("a/part")), mode(&volume));
    fs::write(volume.join("a/part/note"), "kept").unwrap();
    assert_eq!(read(&pos, "/part/note").unwrap(), "kept");
    assert_eq!(read(&pos, "/data/a/part/note").unwrap(), "kept");

    // The container has /data, so this is what it can do.
    let secret = shop.podman.dir().join("of-the-host");
    fs::write(&secret, "the host's").unwrap();
    let inside = format!("/part{}", secret.display());
    fs::rename(volume.join("a/part"), volume.join("moved")).unwrap();
    symlink("/", volume.join("a/part")).unwrap();
    murder(pos.container(&shop).pid);
    let said = shop.wait_said("pos", "symbolic link");
    assert!(said.contains("a/part"), "{said}");
    assert!(pos.answer().is_err(), "{:?}", read(&pos, &inside));

    // Nor through a link on the way, nor is anything made there.
    fs::remove_file(volume.join("a/part")).unwrap();
    fs::remove_dir(volume.join("a")).unwrap();
    symlink(shop.podman.dir(), volume.join("a")).unwrap();
    shop.agent.stop();
    shop.agent.start(&[]);
    shop.wait_said("pos", "symbolic link");
    assert!(!shop.podman.dir().join("part").exists());

    // Once the link is gone the app is back by itself.
    fs::remove_file(volume.join("a")).unwrap();
    fs::create_dir(volume.join("a")).unwrap();
    fs::rename(volume.join("moved"), volume.join("a/part")).unwrap();
    wait_for("it is back", || read(&pos, "/part/note").ok().filter(|note| note == "kept"));
}

#[test]
fn a_folder_that_is_exchanged_again_and_again_while_it_is_mounted_never_shows_the_host() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    write(&shop, &pos, &shop.push("1"));
    shop.agent.start(&[]);
    shop.converge();
    let volume = mountpoint(&shop);
    let secret = shop.podman.dir().join("of-the-host");
    fs::write(&secret, "the host's").unwrap();
    let inside = format!("/part{}", secret.display());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (part, aside, link) = (volume.join("a/part"), volume.join("aside"), volume.join("link"));
            symlink("/", &link).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(&part, &aside).and_then(|()| fs::rename(&link, &part));
                std::thread::sleep(std::time::Duration::from_millis(3));
                let _ = fs::rename(&part, &link).and_then(|()| fs::rename(&aside, &part));
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        for round in 0..8 {
            // Another pod each time, which is made and started anew at once.
            let manifest = shop.agent.repo.path().join("apps/pos/manifests/all.yaml");
            let text = fs::read_to_string(&manifest).unwrap();
            let marked = text.lines().map(|line| {
                if line.contains("terminationGracePeriodSeconds") {
                    format!("  terminationGracePeriodSeconds: {}", round % 2 + 1)
                } else {
                    line.to_owned()
                }
            });
            fs::write(&manifest, marked.collect::<Vec<_>>().join("\n")).unwrap();
            shop.commit();
            let began = std::time::Instant::now();
            while began.elapsed() < std::time::Duration::from_secs(2) {
                if let Ok(found) = read(&pos, &inside) {
                    stop.store(true, Ordering::Relaxed);
                    panic!("the container read the host's file: {found}");
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// An app of one pod that mounts this folder of the box at /data.
fn write_with_folder(shop: &Shop, app: &HostApp, image: &str, folder: &Path) {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  volumes: [ {{ name: data, hostPath: {{ path: {folder}, type: DirectoryOrCreate }} }} ]\n  containers:\n    - name: {name}\n      image: {image}\n      env: [ {{ name: PORT, value: \"{port}\" }} ]\n      volumeMounts: [ {{ name: data, mountPath: /data }} ]\n",
        name = app.name,
        port = app.port,
        folder = folder.display(),
    );
    shop.write(app.name, "", &manifest);
}

#[test]
fn a_folder_of_the_box_below_one_that_another_app_writes_is_never_mounted_through_its_link() {
    let mut shop = Shop::new();
    let (writer, pos) = (HostApp::new("writer"), HostApp::new("pos"));
    let image = shop.push("1");
    let shared = shop.podman.dir().join("shared");
    write_with_folder(&shop, &writer, &image, &shared);
    shop.agent.start(&[]);
    shop.converge();

    // The writer has the folder, so this is what it can do before the other app comes.
    let secrets = shop.podman.dir().join("of-the-host");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("note"), "the host's").unwrap();
    symlink(&secrets, shared.join("part")).unwrap();
    write_with_folder(&shop, &pos, &image, &shared.join("part"));
    shop.commit();
    let said = shop.wait_said("pos", "symbolic link");
    assert!(said.contains("shared/part"), "{said}");
    assert!(read(&pos, "/data/note").is_err());

    fs::remove_file(shared.join("part")).unwrap();
    fs::create_dir(shared.join("part")).unwrap();
    fs::write(shared.join("part/note"), "the box's").unwrap();
    wait_for("it runs", || read(&pos, "/data/note").ok().filter(|note| note == "the box's"));
    assert_eq!(read(&writer, "/data/part/note").unwrap(), "the box's");
}

#[test]
fn labels_that_an_image_brings_make_nothing_ours_and_lead_nowhere() {
    let mut shop = Shop::new();
    let pos = HostApp::new("pos");
    let image = shop.push("1");
    pos.write(&shop, &image, "");
    shop.agent.start(&[]);
    shop.converge();
    let victim = shop.agent.dir().join("podman/victim");
    fs::create_dir_all(&victim).unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o755)).unwrap();
    let id = pos.container(&shop).image_id;
    let labels = [
        "dev.holdfast.device=test/box-1",
        "dev.holdfast.app=pos",
        "dev.holdfast.object=Pod/other",
        "dev.holdfast.pod=../victim",
        "dev.holdfast.container=other",
    ];
    let mut run = vec!["run", "-d", "--network", "host", "--name", "theirs", "--env", "PORT=0"];
    run.extend(labels.iter().flat_map(|label| ["--label", label]));
    run.push(&id);
    let started = shop.podman.cli(&run);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));

    // A pass that would take in, and then remove, what is ours and not wanted.
    pos.write(&shop, &image, "          args: [serve]\n");
    shop.converge();
    shop.agent.repo.git(&["rm", "-rq", "apps/pos"]);
    shop.converge();
    assert!(victim.exists());
    let theirs = shop.podman.inspect("theirs").expect("their container was removed");
    assert_eq!(theirs["State"]["Status"], "running");
}
