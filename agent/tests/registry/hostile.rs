//! Servers that hang, drip, never end, or ask for patience.

use std::time::{Duration, Instant};

use holdfast::registry::{Reason, RegistryError};
use holdfast_core::digest::Digest;

use crate::bench::{Bench, assert_whole};
use crate::support::faulty_proxy::{Fault, FaultyProxy};
use crate::support::hostile::Hostile;
use crate::support::image::Image;
use crate::support::registry::Registry;

fn pushed() -> (Registry, Image, Digest) {
    let registry = Registry::start();
    let image = Image::new().noise(100_000, 9);
    let digest = registry.push("pos", "v1", &image);
    (registry, image, digest)
}

fn hasty(host: String) -> Bench {
    let mut bench = Bench::plain(host);
    bench.limits.patience = Duration::from_millis(200);
    bench.limits.rounds = 2;
    bench
}

fn reason(error: &RegistryError) -> &Reason {
    match error {
        RegistryError::Failed { tried, .. } => &tried[0].reason,
        other => panic!("{other}"),
    }
}

#[test]
fn a_registry_that_says_nothing_is_given_up() {
    let silent = Hostile::start(|mut peer| peer.hang());
    let host = format!("127.0.0.1:{}", silent.port());
    let error = hasty(host.clone()).resolve(&format!("{host}/pos:v1")).unwrap_err();
    assert!(matches!(reason(&error), Reason::TimedOut { .. }), "{error}");
    let mut with_tls = hasty(host.clone());
    with_tls.section(host.clone()).plain_http = false;
    // Without a handshake it was never asked.
    let error = with_tls.resolve(&format!("{host}/pos:v1")).unwrap_err();
    assert!(matches!(reason(&error), Reason::Unreachable { .. }) && error.is_transient(), "{error}");
}

#[test]
fn a_blob_that_stops_in_the_middle_is_given_up_and_what_came_is_kept() {
    let (registry, image, digest) = pushed();
    let layer = Digest::of(&image.layers()[0].bytes);
    let proxy = FaultyProxy::start(registry.port(), |request| {
        if request.is_blob() { Fault::HangAfter(30_000) } else { Fault::Pass }
    });
    let bench = hasty(proxy.host());
    let error = bench.fetch(&format!("{}/pos:v1", proxy.host()), digest).unwrap_err();
    assert!(matches!(reason(&error), Reason::TimedOut { .. }) && error.is_transient(), "{error}");
    assert_eq!(bench.content().downloaded(&layer), 60_000, "30,000 in each of two rounds");
}

#[test]
fn a_registry_that_drips_is_given_up() {
    let (registry, _, digest) = pushed();
    let proxy = FaultyProxy::start(registry.port(), |request| {
        if request.is_blob() { Fault::Drip(Duration::from_millis(20)) } else { Fault::Pass }
    });
    let mut bench = hasty(proxy.host());
    bench.limits.patience = Duration::from_secs(1);
    bench.limits.slowest = 10_000;
    let error = bench.fetch(&format!("{}/pos:v1", proxy.host()), digest).unwrap_err();
    assert!(error.to_string().contains("slower than the minimum of 10000 bytes a second"), "{error}");
}

#[test]
fn the_whole_has_an_end_whatever_the_server_does() {
    let (registry, _, digest) = pushed();
    let proxy = FaultyProxy::start(registry.port(), |request| {
        if request.is_blob() { Fault::Drip(Duration::from_millis(20)) } else { Fault::Pass }
    });
    let mut bench = Bench::plain(proxy.host());
    bench.limits.pull = Duration::from_millis(500);
    let error = bench.fetch(&format!("{}/pos:v1", proxy.host()), digest).unwrap_err();
    assert!(error.to_string().contains("longer than 500ms in all"), "{error}");
}

#[test]
fn a_body_that_never_ends_is_cut_off_at_what_is_due() {
    let (registry, image, digest) = pushed();
    let layer = Digest::of(&image.layers()[0].bytes);
    let proxy = FaultyProxy::start(registry.port(), |_| Fault::Endless);
    let bench = Bench::plain(proxy.host());
    let name = format!("{}/pos:v1", proxy.host());
    let error = bench.resolve(&name).unwrap_err();
    assert!(matches!(reason(&error), Reason::WrongSize { .. }), "{error}");
    assert!(proxy.seen()[0].sent < 64 << 20);

    let proxy =
        FaultyProxy::start(
            registry.port(),
            |request| {
                if request.is_blob() { Fault::Endless } else { Fault::Pass }
            },
        );
    let bench = Bench::plain(proxy.host());
    let error = bench.fetch(&format!("{}/pos:v1", proxy.host()), digest).unwrap_err();
    assert!(matches!(reason(&error), Reason::WrongSize { .. }), "{error}");
    let content = bench.content();
    assert_eq!((content.downloaded(&layer), content.has(&layer)), (0, false));
}

#[test]
fn a_blob_of_another_size_is_not_listened_to() {
    let (registry, ..) = pushed();
    let other = Image::new().noise(50_000, 1);
    let digest = registry.push("other", "v1", &other);
    let proxy = FaultyProxy::start(registry.port(), |request| match request.is_blob() {
        true => Fault::Answer(200, vec![], "short".to_owned()),
        false => Fault::Pass,
    });
    let bench = Bench::plain(proxy.host());
    let error = bench.fetch(&format!("{}/other:v1", proxy.host()), digest).unwrap_err().to_string();
    assert!(error.contains("5 bytes, but"), "{error}");
}

#[test]
fn a_server_that_asks_for_patience_gets_it_within_bounds() {
    let (registry, image, digest) = pushed();
    let proxy = FaultyProxy::start(registry.port(), |request| {
        if request.is_blob() && request.earlier == 0 {
            Fault::status(429, &[("Retry-After", "1")])
        } else {
            Fault::Pass
        }
    });
    let bench = Bench::plain(proxy.host());
    let began = Instant::now();
    assert_whole(&bench.fetch(&format!("{}/pos:v1", proxy.host()), digest).unwrap(), &image);
    // A lower bound: no machine is too slow for it.
    assert!(began.elapsed() >= Duration::from_secs(1));

    let proxy = FaultyProxy::start(registry.port(), |_| Fault::status(429, &[("Retry-After", "86400")]));
    let bench = Bench::plain(proxy.host());
    let error = bench.resolve(&format!("{}/pos:v1", proxy.host())).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(86400)));
    assert_eq!(proxy.seen().len(), 1, "it isn't asked again before that");
    assert!(error.is_transient() && error.to_string().contains("429"), "{error}");
}

#[test]
fn a_server_in_trouble_is_asked_a_few_times_and_no_more() {
    let (registry, image, digest) = pushed();
    let healing = FaultyProxy::start(registry.port(), |request| {
        if request.earlier == 0 { Fault::status(503, &[]) } else { Fault::Pass }
    });
    let bench = Bench::plain(healing.host());
    assert_whole(&bench.fetch(&format!("{}/pos:v1", healing.host()), digest).unwrap(), &image);

    let broken = FaultyProxy::start(registry.port(), |_| Fault::status(500, &[]));
    let bench = Bench::plain(broken.host());
    let error = bench.fetch(&format!("{}/pos:v1", broken.host()), digest).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("500"), "{error}");
    assert_eq!(broken.seen().len(), 3);
}

#[test]
fn redirects_without_end_or_out_of_the_web_are_refused() {
    for location in ["/v2/again", "file:///etc/passwd", "ftp://x/y", "http://u:p@127.0.0.1/x"] {
        let proxy = FaultyProxy::start(1, move |_| Fault::status(302, &[("Location", location)]));
        let error = Bench::plain(proxy.host()).resolve(&format!("{}/pos:v1", proxy.host())).unwrap_err();
        assert!(matches!(reason(&error), Reason::Protocol { .. }), "{location}: {error}");
        assert!(proxy.seen().len() <= 6);
    }
}

#[test]
fn a_page_that_is_no_registrys_is_said_to_be_none() {
    let page = ("Content-Type".to_owned(), "text/html".to_owned());
    let proxy = FaultyProxy::start(1, move |_| {
        Fault::Answer(200, vec![page.clone()], "<html>log in</html>".to_owned())
    });
    let error = Bench::plain(proxy.host()).resolve(&format!("{}/pos:v1", proxy.host())).unwrap_err();
    assert!(error.to_string().contains("it is not an image manifest"), "{error}");
}
