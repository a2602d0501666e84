//! The disk budget, a full disk, and what is removed when.

use std::collections::BTreeSet;

use holdfast::registry::RegistryError;
use holdfast_core::digest::Digest;
use holdfast_store::StoreError;

use crate::bench::{Bench, assert_whole, reference};
use crate::support::faulty_proxy::{Fault, FaultyProxy};
use crate::support::image::Image;
use crate::support::registry::Registry;

#[test]
fn an_image_beyond_the_budget_is_refused_before_it_is_fetched_and_leaves_nothing() {
    let registry = Registry::start();
    let image = Image::new().noise(60_000, 1).noise(60_000, 2);
    let digest = registry.push("pos", "v1", &image);
    let proxy = FaultyProxy::start(registry.port(), |_| Fault::Pass);
    let mut bench = Bench::plain(proxy.host());
    bench.budget = 100_000;
    let error = bench.fetch(&format!("{}/pos:v1", proxy.host()), digest).unwrap_err();
    assert!(matches!(&error, RegistryError::Disk { cause: StoreError::OverBudget { .. }, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("pos") && text.contains("raise state.disk_budget"), "{text}");
    assert_eq!(proxy.blobs().len(), 0);
    assert_eq!(bench.files(), 1, "the manifest alone");
    assert!(!error.is_transient());
}

#[test]
fn what_cannot_be_finished_any_more_makes_room() {
    let registry = Registry::start();
    let (half, whole) = (Image::new().noise(60_000, 1), Image::new().noise(70_000, 2));
    let first = registry.push("half", "v1", &half);
    let second = registry.push("whole", "v1", &whole);
    let proxy = FaultyProxy::start(registry.port(), |request| {
        if request.is_blob() && request.path.contains("half") { Fault::CutAfter(50_000) } else { Fault::Pass }
    });
    let mut bench = Bench::plain(proxy.host());
    (bench.budget, bench.limits.rounds) = (100_000, 1);
    bench.fetch(&format!("{}/half:v1", proxy.host()), first).unwrap_err();
    assert!(bench.content().used() > 50_000);
    assert_whole(&bench.fetch(&format!("{}/whole:v1", proxy.host()), second).unwrap(), &whole);
    let layer = Digest::of(&half.layers()[0].bytes);
    assert_eq!(bench.content().downloaded(&layer), 0);
}

#[test]
fn an_image_that_is_used_outlives_a_collection_with_what_it_shares_and_goes_with_a_later_one() {
    let registry = Registry::start();
    let shared = Image::new().noise(30_000, 1);
    let (one, other) = (shared.clone().noise(20_000, 2), shared.noise(10_000, 3));
    let (first, second) = (registry.push("one", "v1", &one), registry.push("other", "v1", &other));
    let bench = Bench::plain(registry.host());
    let content = bench.content();
    let images = bench.images_in(content.clone());
    let name = |name: &str| reference(&format!("{}/{name}:v1", registry.host()));
    let one_on_disk = images.fetch_all(&name("one"), first).unwrap();
    let other_on_disk = images.fetch_all(&name("other"), second).unwrap();
    content.collect(&BTreeSet::new()).unwrap();
    assert_whole(&one_on_disk, &one);
    drop(one_on_disk);
    content.collect(&BTreeSet::new()).unwrap();
    assert_whole(&other_on_disk, &other);
    assert!(!images.has_all(&first) && images.has_all(&second));
    drop(other_on_disk);
    content.collect(&images.parts(&second)).unwrap();
    assert!(images.has_all(&second), "it is wanted");
    content.collect(&BTreeSet::new()).unwrap();
    assert_eq!(content.used(), 0);
}

#[test]
fn content_that_was_damaged_on_disk_is_fetched_again() {
    let registry = Registry::start();
    let image = Image::new().noise(30_000, 1);
    let digest = registry.push("pos", "v1", &image);
    let bench = Bench::plain(registry.host());
    let name = format!("{}/pos:v1", registry.host());
    let layer = bench.fetch(&name, digest).unwrap().layers[0].path.clone();
    let mut bytes = std::fs::read(&layer).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&layer, bytes).unwrap();
    assert_whole(&bench.fetch(&name, digest).unwrap(), &image);
}

/// A small file system for content, gone when it is dropped. Needs root; without it the test fails.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn under(bench: &Bench) -> Self {
        std::fs::create_dir(bench.content_dir()).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m", "holdfast-test"]).arg(bench.content_dir());
        assert!(mount.status().unwrap().success(), "this test mounts a tmpfs, for which it must be root");
        SmallDisk(bench.content_dir())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn an_image_that_the_disk_cannot_hold_is_refused_before_its_first_layer_comes() {
    let registry = Registry::start();
    let image = Image::new().noise(3 << 20, 1).noise(3 << 20, 2);
    let digest = registry.push("pos", "v1", &image);
    let proxy = FaultyProxy::start(registry.port(), |_| Fault::Pass);
    let bench = Bench::plain(proxy.host());
    let _disk = SmallDisk::under(&bench);
    let error = bench.fetch(&format!("{}/pos:v1", proxy.host()), digest).unwrap_err();
    assert!(matches!(&error, RegistryError::Disk { cause: StoreError::NoSpace { .. }, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("are free on the file system of") && text.contains("free some space"), "{text}");
    assert_eq!(proxy.blobs().len(), 0);
}

#[test]
fn layers_that_no_release_needs_make_room_and_those_that_one_needs_stay() {
    let registry = Registry::start();
    let image = |seed| Image::new().noise(1 << 20, seed);
    let pushed = [("good", 1), ("failed", 3), ("next", 5)].map(|(name, seed)| {
        let image = image(seed);
        (format!("{}/{name}:v1", registry.host()), registry.push(name, "v1", &image), image)
    });
    let [(good_name, good, good_image), (failed_name, failed, _), (next_name, next, next_image)] = pushed;
    let bench = Bench::plain(registry.host());
    let _disk = SmallDisk::under(&bench);
    let content = bench.content();
    let images = bench.images_in(content.clone());
    drop(images.fetch_all(&reference(&good_name), good).unwrap());
    drop(images.fetch_all(&reference(&failed_name), failed).unwrap());
    // Something else has grown meanwhile: without the failed one's layer there is room for the next.
    std::fs::write(bench.content_dir().join("other"), vec![7; 3 << 19]).unwrap();
    let pins = |digest: &Digest| images.parts(digest);
    content.set_pins(pins(&good).union(&pins(&failed)).copied().collect());
    let error = images.fetch_all(&reference(&next_name), next).unwrap_err();
    assert!(matches!(&error, RegistryError::Disk { cause: StoreError::NoSpace { .. }, .. }), "{error}");
    assert!(
        images.has_all(&good) && images.has_all(&failed),
        "what is needed is worth more than what is new"
    );
    content.set_pins(pins(&good));
    assert_whole(&images.fetch_all(&reference(&next_name), next).unwrap(), &next_image);
    assert!(!images.has_all(&failed));
    assert_whole(&images.fetch_all(&reference(&good_name), good).unwrap(), &good_image);
}
