//! Images for a node that reaches no registry: the agent puts them where k3s imports them from, and a real
//! containerd imports them. No cluster is needed for that: images are staged while one is still starting.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper is a failing test")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use holdfast_core::digest::Digest;
use support::agent_box::{AgentBox, app};
use support::containerd::Containerd;
use support::image::Image;
use support::registry::Registry;
use support::tools::{printed, run};

/// More than any step takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

/// A box whose cluster isn't there yet, and a registry.
struct Bench {
    it: AgentBox,
    registry: Registry,
}

impl Bench {
    fn new() -> Self {
        let registry = Registry::start();
        let it = AgentBox::with(&format!(
            "[drivers.kubernetes]\nkubeconfig = \"{{dir}}/k3s.yaml\"\nimages_dir = \"{{dir}}/k3s/agent/images\"\n\
             [registries.\"{}\"]\nplain_http = true\n",
            registry.host()
        ));
        Bench { it, registry }
    }

    /// Where k3s would import images from.
    fn folder(&self) -> PathBuf {
        self.it.dir().join("k3s/agent/images")
    }

    /// Gives the box a disk budget.
    fn budget(&self, budget: &str) {
        let path = self.it.dir().join("agent.toml");
        let text = fs::read_to_string(&path).unwrap();
        let with = text.replacen("[state]\n", &format!("[state]\ndisk_budget = \"{budget}\"\n"), 1);
        assert_ne!(text, with);
        fs::write(path, with).unwrap();
    }

    /// Commits the app `pos` with these images, and starts the agent.
    fn run(&mut self, images: &[String]) {
        let containers: String = images
            .iter()
            .enumerate()
            .map(|(n, image)| format!("    - {{ name: c{n}, image: \"{image}\" }}\n"))
            .collect();
        let document = "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: { name: pos }\nspec:\n  placement: {}\n  container: { driver: kubernetes }\n";
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: pos }}\nspec:\n  containers:\n{containers}"
        );
        self.it.repo.write(&[("apps/pos/app.yaml", document), ("apps/pos/manifests/pod.yaml", &pod)]);
        self.it.commit();
        self.it.start(&[]);
    }

    /// What is in the folder.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Waits for so many archives, and gives them.
    fn archives(&self, count: usize) -> Vec<PathBuf> {
        wait_for("all archives are there", || {
            let tars: Vec<String> = self.files().into_iter().filter(|name| name.ends_with(".tar")).collect();
            (tars.len() == count).then(|| tars.iter().map(|name| self.folder().join(name)).collect())
        })
    }

    /// Waits until the app is held for something that says this.
    fn wait_held(&mut self, words: &str) {
        self.it.wait_until(words, |_, status| {
            let held = app(status, "pos").and_then(|app| app.held.as_ref());
            held.is_some_and(|held| held.cause.contains(words))
        });
    }
}

fn wait_for<T>(what: &str, wanted: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn image(seed: u64, size: usize) -> Image {
    Image::new().layer(&[("hello", 0o644, b"hello")]).noise(size, seed)
}

#[test]
fn containerd_has_an_image_under_the_name_that_the_kubelet_asks_for() {
    let mut bench = Bench::new();
    let host = bench.registry.host();
    let (one, two) = (image(1, 3000), image(2, 3000).docker());
    let plain = bench.registry.push("pos", "v1", &one);
    let tagged = bench.registry.push("shop/web", "v2", &two);
    bench.run(&[format!("{host}/pos@{plain}"), format!("{host}/shop/web:v2@{tagged}")]);

    let containerd = Containerd::start();
    for archive in bench.archives(2) {
        containerd.import(&archive);
    }
    let names = [format!("{host}/pos@{plain}"), format!("{host}/shop/web@{tagged}")];
    assert_eq!(containerd.images(), names);
    for name in &names {
        assert!(containerd.is_complete(name), "{name}");
    }
}

#[test]
fn an_image_for_several_platforms_is_called_by_the_digest_of_all_and_has_this_one() {
    let mut bench = Bench::new();
    let (own, other) = (image(1, 3000), image(2, 3000).architecture("riscv64"));
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let index = bench.registry.push_index("pos", "v1", &[("linux/riscv64", &other), (&platform, &own)]);
    let name = format!("{}/pos@{index}", bench.registry.host());
    bench.run(std::slice::from_ref(&name));

    let containerd = Containerd::start();
    containerd.import(&bench.archives(1)[0]);
    assert_eq!(containerd.images(), std::slice::from_ref(&name));
    assert!(containerd.is_complete(&name));
    let manifest = containerd.content(&own.digest().to_string());
    assert_eq!(manifest["config"]["digest"], Digest::of(&own.config()).to_string());
}

#[test]
fn other_tools_read_an_archive() {
    let mut bench = Bench::new();
    let pushed = image(1, 3000);
    let digest = bench.registry.push("pos", "v1", &pushed);
    bench.run(&[format!("{}/pos@{digest}", bench.registry.host())]);
    let archive = bench.archives(1).remove(0);
    let source = format!("oci-archive:{}", archive.display());
    let manifest = printed(Command::new("skopeo").args(["inspect", "--raw", &source]));
    assert_eq!(Digest::of(manifest.as_bytes()), digest);
    let copy = format!("dir:{}", bench.it.dir().join("copy").display());
    run(Command::new("skopeo").args(["--insecure-policy", "copy", &source, &copy]));
}

#[test]
fn an_archive_that_was_damaged_is_made_anew_for_the_next_release() {
    let mut bench = Bench::new();
    let host = bench.registry.host();
    let digest = bench.registry.push("pos", "v1", &image(1, 3000));
    bench.run(&[format!("{host}/pos@{digest}")]);
    let archive = bench.archives(1).remove(0);
    let whole = fs::read(&archive).unwrap();
    bench.it.kill();
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    let more = bench.registry.push("pos", "v2", &image(2, 3000));
    bench.run(&[format!("{host}/pos@{digest}"), format!("{host}/pos@{more}")]);
    bench.archives(2);
    let containerd = Containerd::start();
    containerd.import(&archive);
    assert!(containerd.is_complete(&format!("{host}/pos@{digest}")));
}

#[test]
fn archives_count_to_the_disk_budget() {
    let mut bench = Bench::new();
    bench.budget("16MiB");
    let digest = bench.registry.push("pos", "v1", &image(1, 9 * MIB));
    bench.run(&[format!("{}/pos@{digest}", bench.registry.host())]);
    bench.wait_held("raise state.disk_budget");
    assert_eq!(bench.files(), Vec::<String>::new());
}

/// A file system of its own. Dropped, it is gone.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", size, "holdfast-test"]).arg(at));
        Disk(at.to_owned())
    }

    fn resize(&self, size: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{size}")]).arg(&self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_node_without_room_gets_nothing_half_made_and_all_of_it_when_there_is_room() {
    let mut bench = Bench::new();
    let disk = Disk::mount(&bench.folder(), "size=1m");
    let digest = bench.registry.push("pos", "v1", &image(1, 2 * MIB));
    bench.run(&[format!("{}/pos@{digest}", bench.registry.host())]);
    bench.wait_held("are free on the file system of");
    assert_eq!(bench.files(), Vec::<String>::new());
    disk.resize("size=8m");
    bench.archives(1);
}

/// There was room when it was asked for, and somebody else takes it: here inodes, of which nobody asked.
#[test]
fn a_write_that_fails_leaves_nothing_and_is_tried_again() {
    let mut bench = Bench::new();
    let disk = Disk::mount(&bench.folder(), "size=8m,nr_inodes=1");
    let digest = bench.registry.push("pos", "v1", &image(1, 3000));
    bench.run(&[format!("{}/pos@{digest}", bench.registry.host())]);
    bench.wait_held("No space left on device");
    assert_eq!(bench.files(), Vec::<String>::new());
    disk.resize("nr_inodes=100");
    bench.archives(1);
}
