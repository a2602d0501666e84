//! Downloads that break off and are resumed.

use std::sync::Arc;

use holdfast::registry::Reason;
use holdfast::registry::RegistryError;
use holdfast_core::digest::Digest;

use crate::bench::{Bench, assert_whole, reference};
use crate::support::faulty_proxy::{Fault, FaultyProxy, Seen};
use crate::support::image::Image;
use crate::support::registry::Registry;

const SIZE: usize = 300_000;

struct Stage {
    registry: Registry,
    image: Image,
    digest: Digest,
}

impl Stage {
    fn new() -> Self {
        let registry = Registry::start();
        let image = Image::new().noise(SIZE, 7);
        let digest = registry.push("pos", "v1", &image);
        Stage { registry, image, digest }
    }

    /// A proxy that does `choose` to the requests for the layer.
    fn proxy(&self, choose: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> FaultyProxy {
        let layer = self.layer();
        FaultyProxy::start(self.registry.port(), move |request| {
            if request.path.ends_with(&layer) { choose(request) } else { Fault::Pass }
        })
    }

    fn layer(&self) -> String {
        Digest::of(&self.image.layers()[0].bytes).to_string()
    }

    fn name(&self, proxy: &FaultyProxy) -> String {
        format!("{}/pos@{}", proxy.host(), self.digest)
    }

    /// The requests for the layer: what was asked for, and how many bytes went back.
    fn asked(&self, proxy: &FaultyProxy) -> Vec<(Option<String>, u64)> {
        let asked = proxy.seen().into_iter().filter(|seen| seen.path.ends_with(&self.layer()));
        asked.map(|seen| (seen.header("range").map(str::to_owned), seen.sent)).collect()
    }
}

#[test]
fn a_cut_in_the_middle_is_gone_on_with_and_only_the_rest_is_fetched() {
    let stage = Stage::new();
    let cut = |request: &Seen| if request.earlier == 0 { Fault::CutAfter(100_000) } else { Fault::Pass };
    let proxy = stage.proxy(cut);
    let bench = Bench::plain(proxy.host());
    let on_disk = bench.fetch(&stage.name(&proxy), stage.digest).unwrap();
    assert_whole(&on_disk, &stage.image);
    let expected = [(None, 100_000), (Some("bytes=100000-".to_owned()), SIZE as u64 - 100_000)];
    assert_eq!(stage.asked(&proxy), expected);
}

#[test]
fn what_a_call_left_is_gone_on_with_by_the_next_even_after_a_restart() {
    let stage = Stage::new();
    let failing = stage.proxy(|_| Fault::CutAfter(50_000));
    let mut bench = Bench::plain(failing.host());
    bench.limits.rounds = 2;
    let error = bench.fetch(&stage.name(&failing), stage.digest).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("cannot be reached"), "{error}");
    let content = bench.content();
    assert_eq!(content.downloaded(&stage.layer().parse().unwrap()), 100_000);
    assert!(content.used() > 100_000, "it counts");
    drop(content);

    let good = stage.proxy(|_| Fault::Pass);
    bench.section(good.host()).plain_http = true;
    assert_whole(&bench.fetch(&stage.name(&good), stage.digest).unwrap(), &stage.image);
    let rest = (Some("bytes=100000-".to_owned()), SIZE as u64 - 100_000);
    assert_eq!(stage.asked(&good), [rest]);
}

const CHILD: &str = "HOLDFAST_TEST_PULL";

/// The process that is killed while it waits for the rest. Without its environment this is not a test.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (host, digest, dir) = match arguments.split(' ').collect::<Vec<_>>()[..] {
        [host, digest, dir] => (host.to_owned(), digest.parse().unwrap(), dir.to_owned()),
        _ => panic!("{arguments}"),
    };
    let mut bench = Bench::plain(host.as_str());
    bench.limits.patience = std::time::Duration::from_secs(60);
    let content = Arc::new(holdfast_store::content::Content::open(dir.as_ref(), bench.budget).unwrap());
    let _ = bench.images_in(content).fetch_all(&reference(&format!("{host}/pos@{digest}")), digest);
    panic!("it was not killed");
}

#[test]
fn what_a_killed_process_left_is_gone_on_with() {
    let stage = Stage::new();
    let proxy =
        stage.proxy(|request| if request.earlier == 0 { Fault::HangAfter(120_000) } else { Fault::Pass });
    let bench = Bench::plain(proxy.host());
    drop(bench.content());
    let partial = bench.content_dir().join("partial").join(&stage.layer()["sha256:".len()..]);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["downloads::child", "--exact"])
        .env(CHILD, format!("{} {} {}", proxy.host(), stage.digest, bench.content_dir().display()))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while std::fs::metadata(&partial).map_or(0, |meta| meta.len()) < 120_000 {
        assert!(child.try_wait().unwrap().is_none(), "the child ends when it is killed and not before");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_whole(&bench.fetch(&stage.name(&proxy), stage.digest).unwrap(), &stage.image);
    let rest = (Some("bytes=120000-".to_owned()), SIZE as u64 - 120_000);
    assert_eq!(stage.asked(&proxy)[1], rest);
}

#[test]
fn a_server_that_knows_no_ranges_begins_anew() {
    let stage = Stage::new();
    let whole = stage.image.layers()[0].bytes.len();
    for second in [
        Fault::status(416, &[]),
        Fault::Answer(
            206,
            vec![("Content-Range".to_owned(), "bytes 0-9/10".to_owned())],
            "0123456789".to_owned(),
        ),
        Fault::Answer(206, vec![], "0123456789".to_owned()),
    ] {
        let proxy = stage.proxy(move |request| match request.earlier {
            0 => Fault::CutAfter(100_000),
            1 => second.clone(),
            _ => Fault::Pass,
        });
        let bench = Bench::plain(proxy.host());
        let on_disk = bench.fetch(&stage.name(&proxy), stage.digest).unwrap();
        assert_whole(&on_disk, &stage.image);
        assert_eq!(stage.asked(&proxy).last().unwrap(), &(None, whole as u64));
    }
}

#[test]
fn an_answer_with_the_whole_to_a_request_for_the_rest_is_taken_from_the_beginning() {
    let stage = Stage::new();
    let first = stage.proxy(|_| Fault::CutAfter(100_000));
    let mut bench = Bench::plain(first.host());
    bench.limits.rounds = 1;
    bench.fetch(&stage.name(&first), stage.digest).unwrap_err();

    // A registry of one blob, which answers 200 to everything.
    let layer = String::from_utf8_lossy(&vec![b'x'; SIZE]).into_owned();
    let digest = Digest::of(layer.as_bytes());
    let whole = FaultyProxy::start(1, move |_| Fault::Answer(200, vec![], layer.clone()));
    bench.section(whole.host()).plain_http = true;
    let content = bench.content();
    content
        .partial(digest, SIZE as u64, std::time::Duration::ZERO)
        .unwrap()
        .append(b"something else")
        .unwrap();
    let registries = holdfast::registry::Registries::with_limits(&bench.sections, bench.limits);
    let wanted = holdfast_core::oci::Descriptor { media_type: String::new(), digest, size: SIZE as u64 };
    registries.fetch(&reference(&format!("{}/pos:v1", whole.host())), &wanted, &content).unwrap();
    assert!(content.verify(&digest).unwrap());
    assert_eq!(whole.seen()[0].header("range"), Some("bytes=14-"));
}

#[test]
fn a_leftover_that_is_damaged_is_found_out_and_fetched_again() {
    let stage = Stage::new();
    let proxy = stage.proxy(|_| Fault::Pass);
    let bench = Bench::plain(proxy.host());
    drop(bench.content());
    let leftover = bench.content_dir().join("partial").join(&stage.layer()["sha256:".len()..]);
    std::fs::write(&leftover, vec![0; 1000]).unwrap();
    assert_whole(&bench.fetch(&stage.name(&proxy), stage.digest).unwrap(), &stage.image);
    let expected = [(Some("bytes=1000-".to_owned()), SIZE as u64 - 1000), (None, SIZE as u64)];
    assert_eq!(stage.asked(&proxy), expected);
}

#[test]
fn a_damaged_blob_is_thrown_away_and_said() {
    let stage = Stage::new();
    let proxy = stage.proxy(|_| Fault::CorruptAt(150_000));
    let bench = Bench::plain(proxy.host());
    let error = bench.fetch(&stage.name(&proxy), stage.digest).unwrap_err();
    let RegistryError::Failed { tried, .. } = &error else { panic!("{error}") };
    assert!(matches!(&tried[..], [tried] if matches!(tried.reason, Reason::WrongDigest { .. })), "{error}");
    assert_eq!(stage.asked(&proxy).len(), 1, "the same damage isn't fetched again and again");
    let content = bench.content();
    let layer = stage.layer().parse().unwrap();
    assert_eq!((content.has(&layer), content.downloaded(&layer)), (false, 0));
}

#[test]
fn two_that_want_the_same_image_fetch_it_once() {
    let stage = Stage::new();
    let proxy = stage.proxy(|_| Fault::Pass);
    let bench = Bench::plain(proxy.host());
    let images = Arc::new(bench.images());
    let name = stage.name(&proxy);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_whole(&images.fetch_all(&reference(&name), stage.digest).unwrap(), &stage.image)
            });
        }
    });
    assert_eq!(stage.asked(&proxy).len(), 1);
}
