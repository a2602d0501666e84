//! Whole repositories: the example that platform teams start from, and one with everything wrong in it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{file, golden, read, source};
use holdfast_core::diagnostic::to_text;
use holdfast_core::model::document::read as read_document;
use holdfast_core::model::{App, Fleet, Purge, Stop};
use holdfast_core::name::DeviceName;
use holdfast_core::repository::{Checked, Files, check, render_for, validate};
use semver::Version;

const VERSION: Version = Version::new(0, 1, 0);
const HEAD: &str = "apiVersion: holdfast.dev/v1alpha1\n";

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

fn rendered(files: &Files, name: &str) -> String {
    let desired = render_for(files, &device(name), &VERSION).unwrap();
    serde_json::to_string_pretty(&serde_json::to_value(&desired).unwrap()).unwrap() + "\n"
}

#[test]
fn the_example_repository_is_whole() {
    let files = read(&source("examples/retail"));
    assert_eq!(to_text(&validate(&files, None, &VERSION)), "");
    for name in ["emea/de/store-0042/till-1", "emea/de/store-0042/till-2", "apac/kiosk"] {
        assert_eq!(to_text(&validate(&files, Some(&device(name)), &VERSION)), "", "{name}");
    }
}

#[test]
fn a_stop_that_stands_where_nobody_reads_it_is_a_warning_and_where_somebody_may_have_meant_it_an_error() {
    let mut files = read(&source("examples/retail"));
    let stop =
        format!("{HEAD}kind: Stop\nmetadata: {{ name: x }}\nspec: {{ placement: {{}}, reason: wait }}\n");
    files.insert("ops/x.yaml".into(), stop.clone().into_bytes());
    let found = check(&files, None, &VERSION);
    assert_eq!(to_text(&found.errors), "");
    let text = to_text(&found.warnings);
    assert!(text.contains("ops/x.yaml:1:1: a Stop in ops/x.yaml has no effect"), "{text}");
    files.remove("ops/x.yaml");
    // A box holds everything for this one.
    files.insert("stop/x.yaml".into(), stop.clone().into_bytes());
    let text = to_text(&validate(&files, None, &VERSION));
    assert!(text.contains("stop is not read; it was probably meant to be stops/"), "{text}");
    files.remove("stop/x.yaml");
    files.insert("stops/x.yaml".into(), stop.into_bytes());
    assert_eq!(to_text(&validate(&files, None, &VERSION)), "");
}

/// The blocks of a document that stand by themselves: from a `kind:` at their beginning on.
fn documents_of(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = vec![String::new()];
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(line) => blocks.last_mut().unwrap().push_str(&format!("{line}\n")),
            None if line.is_empty() => {}
            None => blocks.push(String::new()),
        }
    }
    let bodies = blocks.into_iter().map(|block| block.strip_prefix(HEAD).unwrap_or(&block).to_owned());
    bodies.filter(|body| body.starts_with("kind: ") && !body.contains('…')).collect()
}

#[test]
fn every_document_in_the_documentation_can_be_read() {
    let text = file("docs/repository.md");
    let documents = documents_of(&text);
    let errors = |body: &str| {
        let text = format!("{HEAD}{body}");
        let bytes = text.as_bytes();
        let kind = body["kind: ".len()..].split_whitespace().next().unwrap();
        match kind {
            "App" => read_document::<App>("x", bytes, None).err(),
            "Stop" => read_document::<Stop>("x", bytes, None).err(),
            "Purge" => read_document::<Purge>("x", bytes, None).err(),
            other => panic!("{other} is no kind that is shown whole"),
        }
    };
    for body in &documents {
        assert_eq!(to_text(&errors(body).unwrap_or_default()), "", "{body}");
    }
    assert!(documents.len() >= 6, "{documents:#?}");
    let policy = text.split("    policy:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let fleet = format!("{HEAD}kind: Fleet\nmetadata: {{ name: f }}\nspec:\n    policy:\n{policy}\n");
    let fleet =
        read_document::<Fleet>("x", fleet.as_bytes(), None).map_err(|errors| to_text(&errors)).unwrap();
    assert_eq!(fleet.spec.policy.gates.unwrap().len(), 3);
}

#[test]
fn the_example_renders_as_it_did() {
    let files = read(&source("examples/retail"));
    golden("retail-till-1.json", &rendered(&files, "emea/de/store-0042/till-1"));
    golden("retail-kiosk.json", &rendered(&files, "apac/kiosk"));
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    let files = read(&source("examples/retail"));
    let bytes = || {
        let desired = render_for(&files, &device("emea/de/store-0042/till-2"), &VERSION).unwrap();
        serde_json::to_vec(&desired).unwrap()
    };
    assert_eq!(bytes(), bytes());
}

fn with(changes: &[(&str, &str)]) -> Files {
    let mut files = read(&source("examples/retail"));
    for (path, text) in changes {
        let text = if path.contains("manifests/") { (*text).to_owned() } else { format!("{HEAD}{text}") };
        files.insert((*path).to_owned(), text.into_bytes());
    }
    files
}

#[test]
fn every_error_in_a_repository_is_told_at_once() {
    let files = with(&[
        ("holdfast.yaml", "kind: Fleet\nmetadata: {name: retail}\nspec:\n  apps: {poss: {}}\n  groops: []\n"),
        ("sites/apac/store-7.yaml", "kind: Site\nmetadata: {name: apac/store-8}\nspec: {apps: {helo: {}}}\n"),
        (
            "devices/apac/kiosk.yaml",
            "kind: Device\nmetadata: {name: apac/kiosk}\nspec: {site: apac/store-77}\n",
        ),
        ("devices/apac/kiosk.yml", "kind: Device\n"),
        (
            "apps/a/app.yaml",
            "kind: App\nmetadata: {name: a}\nspec: {placement: {}, vm: {}, dependsOn: [b]}\n",
        ),
        (
            "apps/b/app.yaml",
            "kind: App\nmetadata: {name: b}\nspec: {placement: {}, vm: {}, dependsOn: [a, dbb]}\n",
        ),
        ("apps/empty/app.yaml", "kind: App\nmetadata: {name: empty}\nspec: {placement: {}, container: {}}\n"),
        ("apps/Bad/app.yaml", "kind: App\nmetadata: {name: Bad}\nspec: {placement: {}, vm: {}}\n"),
        ("apps/lost/files/x", ""),
        ("apps/pos/manifests/broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: [x]}\n"),
        ("apps/pos/manifests/loop.yaml.j2", "{% include 'x' %}"),
        ("apps/db/manifests/Chart.yaml", "name: x\n"),
    ]);
    golden("everything-wrong.txt", &(to_text(&validate(&files, None, &VERSION)) + "\n"));
}

#[test]
fn every_warning_of_a_repository_is_told_at_once() {
    let made_by_a_server = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, uid: x}\nstatus: {}\n---\n";
    let set = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: b}\nspec:\n  serviceName: b\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: c}]}\n  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}\n";
    let files = with(&[("apps/db/manifests/more.yaml", &format!("{made_by_a_server}{set}"))]);
    let Checked { errors, warnings } = check(&files, None, &VERSION);
    assert_eq!(to_text(&errors), "");
    golden("warnings.txt", &(to_text(&warnings) + "\n"));
}

#[test]
fn an_object_that_no_cluster_takes_is_told_with_its_place() {
    let object = |head: &str, bytes: usize| {
        format!("---\n{head}\nmetadata: {{name: x}}\ndata: {{a: {}}}\n", "x".repeat(bytes))
    };
    let map = object("apiVersion: v1\nkind: ConfigMap", (1 << 20) + 1);
    let rocket = object("apiVersion: x.example/v1\nkind: Rocket", 3 << 19);
    let app = |driver: &str| {
        format!(
            "kind: App\nmetadata: {{name: big}}\nspec: {{placement: {{}}, container: {{driver: {driver}}}}}\n"
        )
    };
    let errors = |driver: &str, manifests: &str| {
        let files = with(&[("apps/big/app.yaml", &app(driver)), ("apps/big/manifests/a.yaml", manifests)]);
        let mut text = to_text(&validate(&files, None, &VERSION));
        text.push_str(&to_text(&validate(&files, Some(&device("apac/kiosk")), &VERSION)));
        text
    };
    for driver in ["any", "kubernetes", "podman", "simulated"] {
        let told = errors(driver, &map);
        assert!(
            told.contains("apps/big/manifests/a.yaml:2:1: ConfigMap/big/x is too large: it holds 1048577"),
            "{told}"
        );
    }
    for driver in ["any", "kubernetes"] {
        let told = errors(driver, &rocket);
        assert!(told.contains("a.yaml:2:1: Rocket.x.example/big/x is too large"), "{told}");
    }
    assert_eq!(errors("simulated", &rocket), "", "it is on no cluster");
    assert_eq!(errors("kubernetes", &object("apiVersion: v1\nkind: ConfigMap", 1 << 20)), "");
}

#[test]
fn with_a_device_what_only_rendering_shows_is_told_as_well() {
    let files = with(&[
        (
            "apps/pos/manifests/more.yaml.j2",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: {{ values.nmae }}}\n",
        ),
        (
            "apps/hello/app.yaml",
            "kind: App\nmetadata: {name: hello}\nspec: {placement: {}, wasm: {component: files/helo.wat}}\n",
        ),
    ]);
    assert_eq!(to_text(&validate(&files, None, &VERSION)), "");
    let errors = to_text(&validate(&files, Some(&device("emea/de/store-0042/till-1")), &VERSION));
    assert!(errors.contains("apps/pos/manifests/more.yaml.j2:3:"), "{errors}");
    assert!(errors.contains("the component apps/hello/files/helo.wat isn't in the repository"), "{errors}");
    let probe = "kind: App\nmetadata: {name: hello}\nspec: {placement: {}, wasm: {component: files/hello.wat}, health: {checks: [{wasm: {component: files/ask.wat}}]}}\n";
    let files = with(&[("apps/hello/app.yaml", probe)]);
    let errors = to_text(&validate(&files, Some(&device("emea/de/store-0042/till-1")), &VERSION));
    assert!(
        errors.contains("the probe component apps/hello/files/ask.wat isn't in the repository"),
        "{errors}"
    );
    let unknown = to_text(&validate(&files, Some(&device("nowhere")), &VERSION));
    assert!(unknown.contains("devices/nowhere.yaml:1:1: this box's document is missing"), "{unknown}");
}

#[test]
fn an_error_in_one_app_leaves_the_others_as_they_are() {
    let files = with(&[(
        "apps/pos/app.yaml",
        "kind: App\nmetadata: {name: pos}\nspec: {placement: {}, onFailure: x}\n",
    )]);
    let desired = render_for(&files, &device("emea/de/store-0042/till-1"), &VERSION).unwrap();
    let names =
        |map: Vec<&holdfast_core::name::AppName>| map.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(desired.apps.keys().collect()), ["db", "hello"]);
    assert_eq!(names(desired.faulty.keys().collect()), ["pos"]);
}

#[test]
fn a_hundred_megabytes_are_refused_as_a_document_and_as_a_manifest() {
    let huge = vec![b'a'; 100_000_000];
    let mut files = read(&source("examples/retail"));
    files.insert("apps/pos/manifests/huge.yaml".to_owned(), huge.clone());
    files.insert("apps/pos/manifests/huge.yaml.j2".to_owned(), huge.clone());
    files.insert("holdfast.yaml".to_owned(), huge);
    let errors = validate(&files, None, &VERSION);
    assert_eq!(errors.len(), 3, "{}", to_text(&errors));
    assert!(errors.iter().all(|error| error.message.contains("100000000 bytes")));
}

#[test]
fn a_fleet_of_five_thousand_devices_is_validated() {
    let mut files = read(&source("examples/retail"));
    for number in 0..5000 {
        let name = format!("emea/de/store-{}/till-{}", number / 10, number % 10);
        let text = format!(
            "{HEAD}kind: Device\nmetadata: {{name: {name}, labels: {{tier: retail}}}}\nspec: {{site: emea/de/store-{}}}\n",
            number / 10
        );
        files.insert(format!("devices/{name}.yaml"), text.into_bytes());
        let site = format!("emea/de/store-{}", number / 10);
        files.insert(
            format!("sites/{site}.yaml"),
            format!("{HEAD}kind: Site\nmetadata: {{name: {site}}}\n").into_bytes(),
        );
    }
    // The only thing wrong: these sites give no `store`, which a template of the example needs.
    let errors = to_text(&validate(&files, Some(&device("emea/de/store-7/till-1")), &VERSION));
    assert!(errors.starts_with("apps/pos/manifests/config.yaml.j2:6:"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn two_apps_that_name_the_same_object_on_one_box_are_refused_with_both_files() {
    let app = |name: &str, driver: &str, tier: &str| {
        format!(
            "kind: App\nmetadata: {{name: {name}}}\nspec: {{placement: {{matchLabels: {{tier: {tier}}}}}, container: {{namespace: shop, driver: {driver}}}}}\n"
        )
    };
    let object = |kind: &str| format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: x}}\n");
    let told = |drivers: [&str; 2], tier: &str, kind: &str| {
        let files = with(&[
            ("apps/one/app.yaml", &app("one", drivers[0], "retail")),
            ("apps/one/manifests/a.yaml", &object(kind)),
            ("apps/two/app.yaml", &app("two", drivers[1], tier)),
            ("apps/two/manifests/b.yml", &object(kind)),
        ]);
        let device = device("emea/de/store-0042/till-1");
        (to_text(&validate(&files, None, &VERSION)), render_for(&files, &device, &VERSION).unwrap())
    };
    for drivers in [["kubernetes", "kubernetes"], ["podman", "podman"], ["any", "any"], ["podman", "any"]] {
        let (text, desired) = told(drivers, "retail", "ConfigMap");
        assert!(
            text.contains("apps/one/manifests/a.yaml:1:1: ConfigMap/shop/x is also defined by the app two: apps/two/manifests/b.yml:1"),
            "{text}"
        );
        assert!(
            text.contains("apps/two/manifests/b.yml:1:1: ConfigMap/shop/x is also defined by the app one")
        );
        assert_eq!(desired.faulty.len(), 2, "{:?}", desired.faulty);
    }
    for (drivers, tier, kind) in [
        (["kubernetes", "podman"], "retail", "ConfigMap"),
        (["kubernetes", "kubernetes"], "lab", "ConfigMap"),
        (["podman", "podman"], "retail", "Namespace"),
    ] {
        let (text, desired) = told(drivers, tier, kind);
        assert!(!text.contains("is also defined by the app"), "{text}");
        assert!(desired.faulty.values().flatten().all(|error| !error.message.contains("is also defined by")));
    }
}

#[test]
fn what_podman_cannot_hold_of_an_app_for_any_runtime_is_a_warning_and_of_one_for_podman_an_error() {
    let mut files = read(&source("examples/retail"));
    let app = |driver: &str| {
        format!(
            "{HEAD}kind: App\nmetadata: {{ name: web }}\nspec:\n  placement: {{}}\n  container: {{ driver: {driver} }}\n"
        )
    };
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: { name: web }\nspec: { defaultBackend: { service: { name: web, port: { number: 80 } } } }\n";
    files.insert("apps/web/manifests/all.yaml".into(), ingress.into());
    let mut told = |driver: &str| {
        files.insert("apps/web/app.yaml".into(), app(driver).into_bytes());
        let found = check(&files, None, &VERSION);
        (to_text(&found.errors), to_text(&found.warnings))
    };
    let (errors, warnings) = told("any");
    assert_eq!(errors, "");
    assert!(
        warnings.contains("apps/web/manifests/all.yaml:2:7: on boxes with podman the app is held:"),
        "{warnings}"
    );
    let (errors, warnings) = told("podman");
    assert!(
        errors.contains("apps/web/manifests/all.yaml:2:7:") && !warnings.contains("web"),
        "{errors}{warnings}"
    );
    assert_eq!(told("kubernetes"), (String::new(), String::new()));
}

#[test]
fn what_no_kubernetes_takes_of_a_template_is_told_for_the_device_that_it_is_rendered_for() {
    let mut files = read(&source("examples/retail"));
    let app = format!(
        "{HEAD}kind: App\nmetadata: {{ name: web }}\nspec:\n  placement: {{}}\n  container: {{ driver: kubernetes }}\n"
    );
    files.insert("apps/web/app.yaml".into(), app.into_bytes());
    let set = "# {{ device.name }}\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: { name: web }\nspec:\n  replica: 1\n  selector: { matchLabels: { a: b } }\n  template: { metadata: { labels: { a: b } }, spec: { containers: [ { name: c, image: i } ] } }\n";
    files.insert("apps/web/manifests/all.yaml.j2".into(), set.into());
    assert_eq!(to_text(&check(&files, None, &VERSION).errors), "");
    let errors = to_text(&check(&files, Some(&device("apac/kiosk")), &VERSION).errors);
    assert!(errors.contains("apps/web/manifests/all.yaml.j2:") && errors.contains("replica"), "{errors}");
}
