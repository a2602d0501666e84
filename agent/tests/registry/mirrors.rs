//! Who is asked, and in which order.

use holdfast::registry::RegistryError;
use holdfast_core::digest::Digest;

use crate::bench::{Bench, assert_whole};
use crate::support::faulty_proxy::{Fault, FaultyProxy, Seen};
use crate::support::image::Image;
use crate::support::ports::free_port;
use crate::support::registry::Registry;

struct Stage {
    registry: Registry,
    image: Image,
    digest: Digest,
}

impl Stage {
    fn new() -> Self {
        let registry = Registry::start();
        let image = Image::new().noise(100_000, 3).noise(50_000, 4);
        let digest = registry.push("pos", "v1", &image);
        Stage { registry, image, digest }
    }

    fn proxy(&self, choose: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> FaultyProxy {
        FaultyProxy::start(self.registry.port(), choose)
    }

    fn name(&self) -> String {
        format!("{}/pos:v1", self.registry.host())
    }

    /// A box with these mirrors of the registry.
    fn bench(&self, mirrors: &[&str]) -> Bench {
        let mut bench = Bench::plain(self.registry.host());
        for mirror in mirrors {
            bench.section(*mirror).plain_http = true;
        }
        let mirrors = mirrors.iter().map(|mirror| (*mirror).to_owned()).collect();
        bench.section(self.registry.host()).mirrors = mirrors;
        bench
    }
}

#[test]
fn the_first_mirror_gives_all_and_nobody_else_is_asked() {
    let stage = Stage::new();
    let (first, second) = (stage.proxy(|_| Fault::Pass), stage.proxy(|_| Fault::Pass));
    let bench = stage.bench(&[&first.host(), &second.host()]);
    let digest = bench.resolve(&stage.name()).unwrap();
    assert_whole(&bench.fetch(&stage.name(), digest).unwrap(), &stage.image);
    assert_eq!((first.seen().len(), second.seen().len()), (4, 0));
}

#[test]
fn what_the_first_mirror_lacks_comes_from_the_second() {
    let stage = Stage::new();
    let first = stage.proxy(|request| if request.is_blob() { Fault::status(404, &[]) } else { Fault::Pass });
    let second = stage.proxy(|_| Fault::Pass);
    let bench = stage.bench(&[&first.host(), &second.host()]);
    let digest = bench.resolve(&stage.name()).unwrap();
    assert_whole(&bench.fetch(&stage.name(), digest).unwrap(), &stage.image);
    assert_eq!((first.blobs().len(), second.blobs().len()), (3, 3), "in order, for each blob");
}

#[test]
fn a_mirror_that_is_down_is_passed_by_and_asked_last_from_then_on() {
    let stage = Stage::new();
    let down = format!("127.0.0.1:{}", free_port());
    let bench = stage.bench(&[&down]);
    let digest = bench.resolve(&stage.name()).unwrap();
    assert_eq!(digest, stage.digest);
    assert_whole(&bench.fetch(&stage.name(), digest).unwrap(), &stage.image);
}

#[test]
fn a_damaged_byte_of_a_mirror_is_made_good_by_the_next() {
    let stage = Stage::new();
    let bad = stage.proxy(|request| if request.is_blob() { Fault::CorruptAt(10) } else { Fault::Pass });
    let good = stage.proxy(|_| Fault::Pass);
    let bench = stage.bench(&[&bad.host(), &good.host()]);
    let digest = bench.resolve(&stage.name()).unwrap();
    assert_whole(&bench.fetch(&stage.name(), digest).unwrap(), &stage.image);
    assert_eq!((bad.blobs().len(), good.blobs().len()), (3, 3));
}

#[test]
fn what_a_mirror_began_the_registry_goes_on_with() {
    let stage = Stage::new();
    let cutting =
        stage.proxy(|request| if request.is_blob() { Fault::CutAfter(40_000) } else { Fault::Pass });
    let good = stage.proxy(|_| Fault::Pass);
    let bench = stage.bench(&[&cutting.host(), &good.host()]);
    assert_whole(&bench.fetch(&stage.name(), stage.digest).unwrap(), &stage.image);
    let layers: u64 = good.blobs().iter().map(|seen| seen.sent).sum();
    assert_eq!(layers, 60_000 + 50_000, "of the second layer nothing: a mirror that fails goes last");
}

#[test]
fn every_mirror_that_was_tried_is_named_with_its_reason() {
    let stage = Stage::new();
    let (busy, lacking) =
        (stage.proxy(|_| Fault::status(503, &[])), stage.proxy(|_| Fault::status(404, &[])));
    let down = format!("127.0.0.1:{}", free_port());
    let mut bench = stage.bench(&[&busy.host(), &down]);
    bench.section(lacking.host()).plain_http = true;
    let mirrors = bench.section(stage.registry.host()).mirrors.clone();
    bench.section(lacking.host()).mirrors = mirrors;
    let error = bench.resolve(&format!("{}/pos:v1", lacking.host())).unwrap_err();
    assert!(error.is_transient());
    let RegistryError::Failed { tried, .. } = &error else { panic!("{error}") };
    let order: Vec<(&str, bool)> = tried.iter().map(|it| (it.server.as_str(), it.is_mirror)).collect();
    let expected = [(busy.host(), true), (down.clone(), true), (lacking.host(), false)];
    assert!(order.iter().zip(&expected).all(|(it, wanted)| it.0 == wanted.0 && it.1 == wanted.1), "{error}");
    let text = error.to_string();
    for part in [
        format!("mirror {}: it cannot answer now (HTTP status 503", busy.host()),
        format!("mirror {down}: it cannot be reached"),
        format!("registry {}: it has no such image", lacking.host()),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
}
