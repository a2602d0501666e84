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
