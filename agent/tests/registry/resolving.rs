//! From a name to a digest, and to a whole image on disk.

use holdfast_core::digest::Digest;
use serde_json::json;

use crate::bench::{Bench, amd64, assert_whole, reference};
use crate::support::faulty_proxy::{Fault, FaultyProxy};
use crate::support::image::{Image, OCI_MANIFEST, descriptor};
use crate::support::registry::Registry;

fn image() -> Image {
    Image::new()
        .layer(&[("etc/motd", 0o644, b"hello"), ("bin/sh", 0o777, b"-> busybox")])
        .noise(200_000, 1)
        .entrypoint(&["/bin/sh"])
}

#[test]
fn a_tag_is_resolved_to_its_digest_and_the_image_fetched_whole() {
    let registry = Registry::start();
    for (name, image) in [("team/pos", image()), ("docker", image().docker())] {
        let pushed = registry.push(name, "v1", &image);
        let bench = Bench::plain(registry.host());
        let tagged = format!("{}/{name}:v1", registry.host());
        let digest = bench.resolve(&tagged).unwrap();
        assert_eq!(digest, pushed);
        let on_disk = bench.fetch(&tagged, digest).unwrap();
        assert_whole(&on_disk, &image);
        assert_eq!(on_disk.media_type, image.media_type());
        let images = bench.images();
        assert!(images.has_all(&digest));
        assert_eq!(images.manifest(&digest).unwrap().layers.len(), 2);
        assert_eq!(images.parts(&digest).len(), 4);
    }
}

#[test]
fn what_is_on_disk_is_not_asked_for_again() {
    let registry = Registry::start();
    let image = image();
    let digest = registry.push("pos", "v1", &image);
    let proxy = FaultyProxy::start(registry.port(), |_| Fault::Pass);
    let bench = Bench::plain(proxy.host());
    let name = format!("{}/pos@{digest}", proxy.host());
    bench.fetch(&name, digest).unwrap();
    let asked = proxy.seen().len();
    assert_eq!(asked, 4, "a manifest, a configuration, two layers");
    assert_whole(&bench.fetch(&name, digest).unwrap(), &image);
    assert_eq!(proxy.seen().len(), asked);
}

#[test]
fn an_index_leads_to_the_image_for_the_boxs_platform() {
    let registry = Registry::start();
    let (here, there) = (image(), Image::new().noise(10, 2).architecture("arm64"));
    let index = registry.push_index("pos", "v1", &[("linux/arm64/v8", &there), ("linux/amd64", &here)]);
    let bench = Bench::plain(registry.host());
    for name in [format!("{}/pos:v1", registry.host()), format!("{}/pos@{index}", registry.host())] {
        assert_eq!(bench.resolve(&name).unwrap(), here.digest());
    }
}

#[test]
fn what_is_named_by_digest_and_on_disk_needs_no_network() {
    let registry = Registry::start();
    let image = image();
    let index = registry.push_index("pos", "v1", &[("linux/amd64", &image)]);
    let bench = Bench::plain(registry.host());
    let names = [index, image.digest()].map(|digest| format!("{}/pos@{digest}", registry.host()));
    for name in &names {
        bench.resolve(name).unwrap();
    }
    let whole = bench.fetch(&names[0], image.digest()).unwrap();
    drop(registry);
    for name in &names {
        assert_eq!(bench.resolve(name).unwrap(), image.digest());
        assert_whole(&bench.fetch(name, image.digest()).unwrap(), &image);
    }
    drop(whole);
}

#[test]
fn an_image_for_other_machines_is_refused_with_what_there_is() {
    let registry = Registry::start();
    let image = image();
    registry.push_index("pos", "v1", &[("linux/arm64/v8", &image), ("linux/s390x", &image)]);
    let error = Bench::plain(registry.host()).resolve(&format!("{}/pos:v1", registry.host())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("linux/amd64") && text.contains("linux/arm64/v8, linux/s390x"), "{text}");
    assert!(!error.is_transient());
}

#[test]
fn a_manifest_with_another_digest_is_refused() {
    let registry = Registry::start();
    let digest = registry.push("pos", "v1", &image());
    let proxy = FaultyProxy::start(registry.port(), |_| Fault::CorruptAt(20));
    let bench = Bench::plain(proxy.host());
    for name in [format!("{}/pos@{digest}", proxy.host()), format!("{}/pos:v1", proxy.host())] {
        let error = bench.resolve(&name).unwrap_err().to_string();
        assert!(error.contains(&digest.to_string()) && error.contains("damaged"), "{error}");
    }
    assert_eq!(bench.files(), 0);
}

#[test]
fn an_image_that_is_not_there_is_said_with_the_registry_that_was_asked() {
    let registry = Registry::start();
    registry.push("pos", "v1", &image());
    let bench = Bench::plain(registry.host());
    for name in ["pos:v2", "other:v1"] {
        let error = bench.resolve(&format!("{}/{name}", registry.host())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("registry {}: it has no such image", registry.host())), "{text}");
        assert!(!error.is_transient());
    }
    let missing = Digest::of(b"missing");
    assert!(bench.fetch(&format!("{}/pos@{missing}", registry.host()), missing).is_err());
}

#[test]
fn what_no_container_runtime_can_run_is_refused_by_name() {
    let registry = Registry::start();
    let config = registry.put_blob("odd", b"{}");
    let layer = registry.put_blob("odd", b"layer");
    for (kind, why) in [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign"),
        ("application/wasm", "not a container image layer"),
    ] {
        let manifest = json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
            "layers": [descriptor(kind, b"layer")],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = registry.put_manifest("odd", "v1", OCI_MANIFEST, &manifest);
        let bench = Bench::plain(registry.host());
        let name = format!("{}/odd@{digest}", registry.host());
        let error = bench.resolve(&name).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(bench.images().fetch_all(&reference(&name), digest).is_err());
        assert!(bench.images().resolve(&reference(&name), &amd64()).is_err());
    }
    assert_ne!(config, layer);
}

#[test]
fn dockers_first_format_is_refused_with_what_to_do() {
    let old = r#"{"schemaVersion":1,"name":"pos","tag":"v1","fsLayers":[]}"#;
    let kind =
        ("Content-Type".to_owned(), "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned());
    let proxy = FaultyProxy::start(1, move |_| Fault::Answer(200, vec![kind.clone()], old.to_owned()));
    let error = Bench::plain(proxy.host()).resolve(&format!("{}/pos:v1", proxy.host())).unwrap_err();
    assert!(error.to_string().contains("schema 1"), "{error}");
}
