//! Certificates, users, tokens.

use holdfast::registry::{Reason, RegistryError};

use crate::bench::{Bench, assert_whole};
use crate::support::faulty_proxy::{Fault, FaultyProxy};
use crate::support::image::Image;
use crate::support::registry::{Options, Registry, base64};
use crate::support::token_gate::Gate;

fn image() -> Image {
    Image::new().noise(20_000, 5).noise(10_000, 6)
}

fn user(password: &str) -> Option<(String, String)> {
    Some(("edge".to_owned(), password.to_owned()))
}

fn auth(login: &str) -> String {
    format!("{{\"auth\":\"{}\"}}", base64(login))
}

/// The one reason of a failure.
fn reason(error: &RegistryError) -> &Reason {
    match error {
        RegistryError::Failed { tried, .. } => &tried[0].reason,
        other => panic!("{other}"),
    }
}

#[test]
fn a_registry_with_tls_and_users_gives_its_images_to_whom_it_knows() {
    let registry = Registry::with(Options { tls: true, auth: user("s3cret:x") });
    let image = image();
    registry.push("pos", "v1", &image);
    let mut bench = Bench::new();
    let file = bench.auth_file(&registry.host(), &auth("edge:s3cret:x"));
    let section = bench.section(registry.host());
    (section.ca_file, section.auth_file) = (Some(registry.ca_file()), Some(file));
    let name = format!("{}/pos:v1", registry.host());
    let digest = bench.resolve(&name).unwrap();
    assert_whole(&bench.fetch(&name, digest).unwrap(), &image);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do() {
    let registry = Registry::with(Options { tls: true, auth: None });
    registry.push("pos", "v1", &image());
    let error = Bench::new().resolve(&format!("{}/pos:v1", registry.host())).unwrap_err();
    assert!(matches!(reason(&error), Reason::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("ca_file") && !error.is_transient(), "{error}");
}

#[test]
fn plain_http_is_never_tried_unless_it_is_written_down() {
    let registry = Registry::start();
    registry.push("pos", "v1", &image());
    let error = Bench::new().resolve(&format!("{}/pos:v1", registry.host())).unwrap_err();
    assert!(matches!(reason(&error), Reason::Protocol { .. } | Reason::Unreachable { .. }), "{error}");
}

#[test]
fn a_wrong_password_is_said_and_not_repeated() {
    let registry = Registry::with(Options { tls: true, auth: user("right") });
    let mut bench = Bench::new();
    let name = format!("{}/pos:v1", registry.host());
    bench.section(registry.host()).ca_file = Some(registry.ca_file());
    let file = bench.auth_file(&registry.host(), &auth("edge:hunter2"));
    let anonymous = bench.resolve(&name).unwrap_err().to_string();
    assert!(anonymous.contains("asked without a user; name a file in auth_file"), "{anonymous}");
    bench.section(registry.host()).auth_file = Some(file);
    let error = bench.resolve(&name).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(matches!(reason(&error), Reason::Refused { .. }) && !error.is_transient(), "{text}");
    assert!(text.contains("auth_file of [registries.") && !text.contains("hunter2"), "{text}");
    assert!(!text.contains(&base64("edge:hunter2")), "{text}");
    let other = bench.auth_file("other.example", &auth("edge:right"));
    let error = bench.resolve(&name).unwrap_err().to_string();
    let expected = format!("{} has no entry for {}", other.display(), registry.host());
    assert!(error.contains(&expected), "{error}");
    std::fs::write(&other, "{").unwrap();
    assert!(bench.resolve(&name).unwrap_err().to_string().contains("not JSON"));
}

#[test]
fn a_rotated_password_is_used_at_once() {
    let registry = Registry::with(Options { tls: false, auth: user("new") });
    registry.push("pos", "v1", &image());
    let mut bench = Bench::plain(registry.host());
    let file = bench.auth_file(&registry.host(), &auth("edge:old"));
    bench.section(registry.host()).auth_file = Some(file);
    let (images, name) = (bench.images(), format!("{}/pos:v1", registry.host()).parse().unwrap());
    images.resolve(&name, &crate::bench::amd64()).unwrap_err();
    bench.auth_file(&registry.host(), &auth("edge:new"));
    images.resolve(&name, &crate::bench::amd64()).unwrap();
}

#[test]
fn tokens_are_fetched_once_for_a_repository_and_kept() {
    let registry = Registry::start();
    let image = image();
    registry.push("team/pos", "v1", &image);
    for field in ["token", "access_token"] {
        let gate = Gate { field, ..Gate::open() }.before(registry.port());
        let bench = Bench::plain(gate.host());
        let images = bench.images();
        let name = format!("{}/team/pos:v1", gate.host()).parse().unwrap();
        let digest = images.resolve(&name, &crate::bench::amd64()).unwrap();
        assert_whole(&images.fetch_all(&name, digest).unwrap(), &image);
        let asked: Vec<String> = gate.seen().into_iter().map(|seen| seen.path).collect();
        assert_eq!(asked.iter().filter(|path| path.starts_with("/token")).count(), 1, "{asked:?}");
        assert!(asked[1].contains("service=gate&scope=repository%3Ateam%2Fpos%3Apull"), "{asked:?}");
        // The manifest twice: before the token and with it.
        assert_eq!(asked.len(), 6, "{asked:?}");
    }
}

#[test]
fn a_token_that_runs_out_in_the_middle_is_renewed() {
    let registry = Registry::start();
    let image = image();
    let digest = registry.push("pos", "v1", &image);
    let gate = Gate { uses: 2, ..Gate::open() }.before(registry.port());
    let bench = Bench::plain(gate.host());
    assert_whole(&bench.fetch(&format!("{}/pos:v1", gate.host()), digest).unwrap(), &image);
}

#[test]
fn tokens_are_given_to_whom_the_token_server_knows() {
    let registry = Registry::start();
    registry.push("pos", "v1", &image());
    let gate = Gate { login: user("right"), ..Gate::open() }.before(registry.port());
    let mut bench = Bench::plain(gate.host());
    let name = format!("{}/pos:v1", gate.host());
    assert!(bench.resolve(&name).unwrap_err().to_string().contains("asked without a user"));
    let file = bench.auth_file(&gate.host(), "{\"username\":\"edge\",\"password\":\"hunter2\"}");
    bench.section(gate.host()).auth_file = Some(file);
    let error = bench.resolve(&name).unwrap_err();
    assert!(matches!(reason(&error), Reason::Refused { .. }), "{error}");
    assert!(!format!("{error}{error:?}").contains("hunter2"));
    bench.auth_file(&gate.host(), "{\"username\":\"edge\",\"password\":\"right\"}");
    bench.resolve(&name).unwrap();
}

#[test]
fn a_blob_store_elsewhere_is_told_nothing_of_the_user() {
    let registry = Registry::with(Options { tls: false, auth: user("right") });
    let image = image();
    let digest = registry.push("pos", "v1", &image);
    let open = Registry::start();
    open.push("pos", "v1", &image);
    let store = FaultyProxy::start(open.port(), |_| Fault::Pass);
    let to = store.host();
    let front = FaultyProxy::start(registry.port(), move |request| {
        let location = format!("http://{to}{}?signature=hunter2", request.path);
        if request.is_blob() { Fault::status(307, &[("Location", &location)]) } else { Fault::Pass }
    });
    let mut bench = Bench::plain(front.host());
    let file = bench.auth_file(&front.host(), &auth("edge:right"));
    bench.section(front.host()).auth_file = Some(file);
    assert_whole(&bench.fetch(&format!("{}/pos:v1", front.host()), digest).unwrap(), &image);
    assert_eq!(store.seen().len(), 3);
    assert!(store.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(front.blobs().iter().all(|seen| seen.header("authorization").is_some()));
}

#[test]
fn a_blob_store_that_fails_is_named_without_its_signature() {
    let registry = Registry::start();
    let digest = registry.push("pos", "v1", &image());
    let store = FaultyProxy::start(1, |_| Fault::status(403, &[]));
    let (to, host) = (store.host(), store.host());
    let front = FaultyProxy::start(registry.port(), move |request| {
        let location = format!("http://{to}/blob?signature=hunter2");
        if request.is_blob() { Fault::status(302, &[("Location", &location)]) } else { Fault::Pass }
    });
    let bench = Bench::plain(front.host());
    let error = bench.fetch(&format!("{}/pos:v1", front.host()), digest).unwrap_err().to_string();
    assert!(error.contains(&host) && error.contains("403") && !error.contains("hunter2"), "{error}");
}
