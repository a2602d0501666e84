//! Metered links: a rate and a budget for all downloads.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use holdfast::clock::Clock;
use holdfast::http::allowance::{Allowance, Nowhere, Time as _};
use holdfast::registry::RegistryError;
use holdfast_core::digest::Digest;
use holdfast_store::{Options, Store};
use jiff::tz::TimeZone;

use crate::bench::{Bench, assert_whole, reference};
use crate::support::faulty_proxy::{Fault, FaultyProxy};
use crate::support::image::Image;
use crate::support::moved_clock::{MovedClock, limits};
use crate::support::registry::Registry;

const KIB: u64 = 1 << 10;
const SIZE: u64 = 600 * KIB;
/// More than heads and manifests need, and what is read at once.
const ASIDE: u64 = 80 * KIB;

/// An image of one layer, in a registry that can be watched.
struct Shop {
    registry: Registry,
    proxy: FaultyProxy,
    image: Image,
    digest: Digest,
    bench: Bench,
}

impl Shop {
    fn new(allowance: Allowance) -> Self {
        let registry = Registry::start();
        let image = Image::new().noise(SIZE as usize, 7);
        let digest = registry.push("pos", "v1", &image);
        let proxy = FaultyProxy::start(registry.port(), |_| Fault::Pass);
        let bench = Bench { allowance, ..Bench::plain(proxy.host()) };
        Shop { registry, proxy, image, digest, bench }
    }

    fn name(&self) -> String {
        format!("{}/pos@{}", self.proxy.host(), self.digest)
    }

    fn fetch(&self) -> Result<(), RegistryError> {
        let on_disk = self.bench.fetch(&self.name(), self.digest)?;
        assert_whole(&on_disk, &self.image);
        Ok(())
    }

    fn layer(&self) -> Digest {
        Digest::of(&self.image.layers()[0].bytes)
    }

    /// From where the layer was asked for, each time.
    fn asked(&self) -> Vec<Option<String>> {
        let layer = self.layer().to_string();
        let asked = self.proxy.seen().into_iter().filter(|seen| seen.path.ends_with(&layer));
        asked.map(|seen| seen.header("range").map(str::to_owned)).collect()
    }
}

#[test]
fn a_budget_that_ends_in_a_layer_keeps_the_part_and_goes_on_in_the_next_period() {
    let clock = MovedClock::new();
    let allowance = clock.allowance(None, Some(400 * KIB));
    let shop = Shop::new(allowance.clone());
    let stopped = shop.fetch().unwrap_err();
    assert!(matches!(stopped, RegistryError::UsedUp { .. }) && stopped.is_transient(), "{stopped}");
    let said = stopped.to_string();
    assert!(said.contains("of 400 KiB a month") && said.contains("2026-03-01T00:00:00Z"), "{said}");
    let used = allowance.used().unwrap();
    assert!((400 * KIB..400 * KIB + ASIDE).contains(&used), "{used}");
    let part = shop.bench.content().downloaded(&shop.layer());
    assert!(part > 400 * KIB - ASIDE && part < SIZE, "{part}");

    let seen = shop.proxy.seen().len();
    for _ in 0..3 {
        assert!(matches!(shop.fetch(), Err(RegistryError::UsedUp { .. })));
    }
    assert_eq!((shop.proxy.seen().len(), allowance.used()), (seen, Some(used)), "nobody is asked meanwhile");

    clock.set("2026-03-01T00:00:00Z");
    shop.fetch().unwrap();
    assert_eq!(shop.asked(), [None, Some(format!("bytes={part}-"))]);
    let rest = allowance.used().unwrap();
    assert!((SIZE - part..SIZE - part + ASIDE).contains(&rest), "{rest} for {}", SIZE - part);
}

#[test]
fn a_layer_that_does_not_fit_any_more_is_not_begun() {
    let clock = MovedClock::new();
    let shop = Shop::new(clock.allowance(None, Some(SIZE + SIZE / 2)));
    let other = Image::new().noise(SIZE as usize, 8);
    let digest = shop.registry.push("other", "v1", &other);
    shop.fetch().unwrap();
    let name = format!("{}/other@{digest}", shop.proxy.host());
    let said = shop.bench.fetch(&name, digest).unwrap_err().to_string();
    assert!(
        said.contains("it needs 600.")
            && said.contains("of the byte budget (900 KiB a month) are already used"),
        "{said}"
    );
    let content = shop.bench.content();
    assert_eq!(content.downloaded(&Digest::of(&other.layers()[0].bytes)), 0);
    drop(content);
    clock.set("2026-03-02T00:00:00Z");
    assert_whole(&shop.bench.fetch(&name, digest).unwrap(), &other);
}

#[test]
fn what_a_tag_is_can_be_found_out_when_nothing_is_left() {
    let clock = MovedClock::new();
    let allowance = clock.allowance(None, Some(1));
    let shop = Shop::new(allowance.clone());
    let tag = format!("{}/pos:v1", shop.proxy.host());
    let images = shop.bench.images();
    let amd64 = crate::bench::amd64();
    assert_eq!(images.resolve(&reference(&tag), &amd64).unwrap(), shop.digest);
    assert_eq!(allowance.left(), Some(0));
    assert_eq!(images.resolve(&reference(&tag), &amd64).unwrap(), shop.digest);
    assert!(matches!(shop.fetch(), Err(RegistryError::UsedUp { .. })));
}

#[test]
fn an_urgent_revision_is_fetched_when_nothing_is_left() {
    let clock = MovedClock::new();
    let allowance = clock.allowance(Some(1), Some(1));
    let shop = Shop::new(allowance.clone());
    allowance.set(limits(Some(1), Some(1)), true, TimeZone::UTC);
    shop.fetch().unwrap();
    assert!(allowance.used().unwrap() > SIZE);
}

#[test]
fn two_downloads_share_a_rate() {
    const RATE: u64 = 50 * KIB;
    let clock = MovedClock::new();
    let allowance = clock.allowance(Some(RATE), Some(u64::MAX));
    let shops = [Shop::new(allowance.clone()), Shop::new(allowance.clone())];
    let began = clock.uptime();
    thread::scope(|scope| {
        for shop in &shops {
            scope.spawn(|| shop.fetch().unwrap());
        }
    });
    // What was read last is paid for by whoever comes next.
    let (used, took) = (allowance.used().unwrap(), clock.uptime() - began);
    assert!(used > 2 * SIZE, "{used}");
    let granted = (took.as_secs_f64() + 1.0) * RATE as f64;
    assert!(used as f64 <= granted + 2.0 * ASIDE as f64, "{used} bytes in {took:?}");
}

#[test]
fn the_time_that_the_box_waits_to_keep_to_its_rate_is_not_the_servers_slowness() {
    let allowance = Allowance::open(Nowhere, Clock::new());
    allowance.set(limits(Some(100 * KIB), None), false, TimeZone::UTC);
    let mut shop = Shop::new(allowance);
    // The rate alone makes it more than 5 s.
    shop.bench.limits.pull = Duration::from_secs(3);
    shop.bench.limits.patience = Duration::from_secs(3);
    shop.bench.limits.rounds = 1;
    shop.fetch().unwrap();
}

#[test]
fn what_was_used_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = MovedClock::new();
    let open = || {
        let options = Options::new("till-1".parse().unwrap(), clock.wall());
        let (store, _) = Store::open(dir.path(), &options).unwrap();
        Allowance::open(Arc::new(Mutex::new(store)), clock.clone())
    };
    let allowance = open();
    allowance.set(limits(None, Some(400 * KIB)), false, TimeZone::UTC);
    let mut shop = Shop::new(allowance.clone());
    assert!(shop.fetch().is_err());
    let used = allowance.used();
    shop.bench.allowance = Allowance::unlimited();
    drop(allowance);

    let again = open();
    assert_eq!(again.used(), used);
    shop.bench.allowance = again;
    let seen = shop.proxy.seen().len();
    assert!(matches!(shop.fetch(), Err(RegistryError::UsedUp { .. })));
    assert_eq!(shop.proxy.seen().len(), seen);
}
