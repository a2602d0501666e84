//! What registries may say, and what is made of it.

use proptest::prelude::*;

use super::*;

fn descriptor(media_type: &str, content: &str, size: u64) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{size}}}"#, Digest::of(content.as_bytes()))
}

fn with_layers(layers: &[String]) -> String {
    let config = descriptor("application/vnd.oci.image.config.v1+json", "config", 10);
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","))
}

fn layer(kind: &str) -> String {
    descriptor(kind, "layer", 100)
}

fn index(platforms: &[(&str, &str, Option<&str>)]) -> Index {
    let entry = |(os, architecture, variant): &(&str, &str, Option<&str>)| {
        let variant = variant.map_or(String::new(), |variant| format!(r#","variant":"{variant}""#));
        let name = format!("{os}/{architecture}{variant}");
        let descriptor = descriptor(OCI_MANIFEST, &name, 1);
        let platform = format!(r#"{{"os":"{os}","architecture":"{architecture}"{variant}}}"#);
        format!(r#"{},"platform":{platform}}}"#, descriptor.trim_end_matches('}'))
    };
    let entries: Vec<String> = platforms.iter().map(entry).collect();
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    match Document::parse(text.as_bytes(), None).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("a manifest"),
    }
}

fn platform(text: &str) -> Platform {
    let mut parts = text.split('/').map(str::to_owned);
    Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap(), variant: parts.next() }
}

/// The place in the list that is chosen for a platform.
fn chosen(there: &[(&str, &str, Option<&str>)], wanted: &str) -> Option<usize> {
    let index = index(there);
    let descriptor = index.choose(&platform(wanted)).ok()?.clone();
    index.entries.iter().position(|entry| entry.descriptor == descriptor)
}

#[test]
fn a_manifest_gives_its_configuration_and_its_layers_in_their_order() {
    let text = with_layers(&[
        layer("application/vnd.oci.image.layer.v1.tar+gzip"),
        descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", "other", 7),
        layer("application/vnd.oci.image.layer.v1.tar+gzip"),
    ]);
    let Document::Manifest(manifest) = Document::parse(text.as_bytes(), Some(OCI_MANIFEST)).unwrap() else {
        panic!("an index")
    };
    manifest.check_image().unwrap();
    assert_eq!(manifest.layers.iter().map(|layer| layer.size).collect::<Vec<_>>(), [100, 7, 100]);
    assert_eq!(manifest.blobs().len(), 3, "the same layer twice is one blob");
}

#[test]
fn dockers_first_format_is_refused_with_what_to_do() {
    let schema1 = br#"{"schemaVersion":1,"name":"x","fsLayers":[{"blobSum":"x"}]}"#;
    for said in [None, Some("application/vnd.docker.distribution.manifest.v1+prettyjws")] {
        assert_eq!(Document::parse(schema1, said), Err(BadManifest::Schema1));
    }
    assert!(BadManifest::Schema1.to_string().contains("push the image again"));
}

#[test]
fn layers_that_are_elsewhere_or_no_layers_are_refused() {
    for (kind, foreign) in [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", true),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", false),
    ] {
        let text = with_layers(&[layer(kind)]);
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else { panic!() };
        let error = manifest.check_image().unwrap_err();
        assert_eq!(matches!(error, BadManifest::ForeignLayer(_)), foreign, "{error}");
    }
}

#[test]
fn a_text_that_reads_as_two_things_is_refused() {
    let both = with_layers(&[]).replace(r#""layers""#, r#""manifests":[],"layers""#);
    assert!(Document::parse(both.as_bytes(), None).is_err());
    let manifest = with_layers(&[]);
    assert!(Document::parse(manifest.as_bytes(), Some(OCI_INDEX)).is_err());
    let named = manifest.replacen('{', &format!(r#"{{"mediaType":"{DOCKER_MANIFEST}","#), 1);
    assert!(Document::parse(named.as_bytes(), Some(OCI_MANIFEST)).is_err());
    assert!(Document::parse(named.as_bytes(), Some(DOCKER_MANIFEST)).is_ok());
    assert!(Document::parse(named.as_bytes(), Some("application/json")).is_ok());
}

#[test]
fn what_is_beyond_every_bound_is_refused() {
    let one = layer("application/vnd.oci.image.layer.v1.tar");
    for text in [
        with_layers(&vec![one.clone(); 257]),
        with_layers(&[one.replace("100", "18446744073709551615")]),
        with_layers(&[one.replace("100", "-1")]),
        with_layers(&[one.replace("sha256:", "sha512:")]),
        with_layers(&[]).replace("10}", "5000000}"),
        " ".repeat(DOCUMENT_LIMIT + 1),
        "[".repeat(100_000),
    ] {
        assert!(Document::parse(text.as_bytes(), None).is_err(), "{}", &text[..60.min(text.len())]);
    }
}

#[test]
fn the_exact_platform_is_chosen_before_what_the_machine_also_runs() {
    let all = [
        ("windows", "amd64", None),
        ("linux", "386", None),
        ("linux", "amd64", None),
        ("linux", "arm", Some("v6")),
        ("linux", "arm", Some("v7")),
        ("linux", "arm64", Some("v8")),
        ("unknown", "unknown", None),
    ];
    for (wanted, place) in [
        ("linux/amd64", 2),
        ("linux/x86_64", 2),
        ("linux/amd64/v3", 2),
        ("linux/arm64", 5),
        ("linux/arm64/v8", 5),
        ("linux/arm", 4),
        ("linux/arm/v7", 4),
        ("linux/arm/v6", 3),
        ("linux/386", 1),
    ] {
        assert_eq!(chosen(&all, wanted), Some(place), "{wanted}");
    }
    assert_eq!(chosen(&all[..2], "linux/amd64"), Some(1), "such a machine runs 32 bits too");
    assert_eq!(chosen(&all[3..5], "linux/arm64/v8"), Some(1), "the newest variant that runs");
    assert_eq!(chosen(&[("linux", "arm", None)], "linux/arm/v7"), Some(0));
    assert_eq!(chosen(&[("linux", "arm", Some("v7"))], "linux/arm/v6"), None);
}

#[test]
fn an_image_for_other_machines_says_for_which() {
    let index =
        index(&[("linux", "amd64", None), ("linux", "arm", Some("v7")), ("unknown", "unknown", None)]);
    let error = index.choose(&platform("linux/riscv64")).unwrap_err();
    assert_eq!(error.to_string(), "it is not built for linux/riscv64, only for linux/amd64, linux/arm/v7");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, said in proptest::option::of("[a-z/.+0-9]{0,60}")) {
        let _ = Document::parse(&bytes, said.as_deref());
    }
}
