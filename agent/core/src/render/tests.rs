//! What a box is to hold.

use super::*;
use crate::select::{Index, select_unproven};

pub(crate) const HEAD: &str = "apiVersion: holdfast.dev/v1alpha1\n";

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), bytes: text.as_bytes().to_vec() }
}

/// One box with one app, whose spec follows `placement`.
fn selected(spec: &str) -> Selected<'static> {
    let app = format!("{HEAD}kind: App\nmetadata: {{name: pos}}\nspec:\n  placement: {{}}\n{spec}");
    let index = Index {
        fleet: Some(file("holdfast.yaml", &format!("{HEAD}kind: Fleet\nmetadata: {{name: f}}\n"))),
        device: Some(file("devices/d.yaml", &format!("{HEAD}kind: Device\nmetadata: {{name: d}}\n"))),
        apps: [("pos".to_owned(), Ok(Some(file("apps/pos/app.yaml", &app))))].into(),
        ..Index::default()
    };
    let version = semver::Version::new(0, 1, 0);
    select_unproven(&index, &"d".parse().unwrap(), &Default::default(), &version).unwrap()
}

fn rendered(spec: &str, files: &[(&str, &str)]) -> Desired {
    let files = files.iter().map(|(name, text)| file(&format!("apps/pos/manifests/{name}"), text)).collect();
    let part = Part { files, ..Part::default() };
    render(selected(spec), &[("pos".parse().unwrap(), part)].into())
}

fn objects(files: &[(&str, &str)]) -> Result<Vec<Object>, String> {
    let mut desired = rendered("  values: {n: 3, names: [b, a]}\n  container: {namespace: shop}\n", files);
    match desired.apps.remove(&"pos".parse().unwrap()) {
        Some(DesiredApp { workload: Workload::Container { objects, .. }, .. }) => Ok(objects),
        _ => Err(crate::diagnostic::to_text(&desired.faulty[&"pos".parse().unwrap()])),
    }
}

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {t: '{{ not.ours }}'}\n";
const DEPLOYMENT: &str =
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: pos}\nspec: {replicas: {{ values.n }}}\n";

#[test]
fn objects_come_in_the_order_of_their_making_with_their_namespace() {
    let files = [
        ("b.yaml.j2", DEPLOYMENT),
        ("a.yaml", CONFIG),
        ("c.yaml", "kind: Namespace\napiVersion: v1\nmetadata: {name: shop}\n---\n"),
    ];
    let objects = objects(&files).unwrap();
    let keys: Vec<String> = objects.iter().map(|object| object.key.to_string()).collect();
    assert_eq!(keys, ["Namespace/shop", "ConfigMap/shop/c", "Deployment/shop/pos"]);
    assert_eq!(objects[1].spec["data"]["t"], "{{ not.ours }}", "verbatim files are no templates");
    assert_eq!(objects[2].spec["spec"]["replicas"], 3);
}

#[test]
fn the_same_input_gives_the_same_bytes_in_whatever_order_it_comes() {
    let files = [("b.yaml.j2", DEPLOYMENT), ("a.yaml", CONFIG), (".gitkeep", ""), ("README.md", "hello")];
    let mut reversed = files;
    reversed.reverse();
    let bytes = |files: &[(&str, &str)]| {
        serde_json::to_vec(&rendered("  values: {n: 3}\n  container: {}\n", files)).unwrap()
    };
    assert_eq!(bytes(&files), bytes(&reversed));
    assert_eq!(bytes(&files), bytes(&files));
}

#[test]
fn the_same_object_twice_is_an_error_that_names_both_places() {
    let error = objects(&[("a.yaml", CONFIG), ("b.yaml", CONFIG)]).unwrap_err();
    assert_eq!(
        error,
        "apps/pos/manifests/b.yaml:1:1: the object ConfigMap/shop/c is defined twice (it is also defined at apps/pos/manifests/a.yaml:1)"
    );
}

#[test]
fn what_is_no_object_is_an_error_with_its_place() {
    for (text, part) in [
        ("a: 1\n", "the object has no apiVersion"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x}\n", "the object has no name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 1}\n", ":3:18: the object's name must be a string"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}\n", "can't be the object's name"),
        ("apiVersion: v1\nkind: ../x\nmetadata: {name: a}\n", "can't be the object's kind"),
        ("apiVersion: a/b/c\nkind: Pod\nmetadata: {name: a}\n", "can't be the object's apiVersion"),
        ("apiVersion: x..y/v1\nkind: Pod\nmetadata: {name: a}\n", "can't be the object's apiVersion"),
        ("- a\n", "expected an object, found a list"),
        ("a: [\n", "not YAML"),
        ("apiVersion: v1\nkind: List\n", "the List has no items"),
    ] {
        let error = objects(&[("a.yaml", text)]).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn lists_of_objects_are_taken_apart() {
    let text = format!("apiVersion: v1\nkind: List\nitems:\n- {}", CONFIG.replace('\n', "\n  "));
    assert_eq!(objects(&[("a.yaml", &text)]).unwrap()[0].key.to_string(), "ConfigMap/shop/c");
}

#[test]
fn kinds_that_the_app_defines_without_a_namespace_have_none() {
    let crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: rockets.x.y}\nspec: {group: x.y, scope: Cluster, names: {kind: Rocket}}\n---\napiVersion: x.y/v1\nkind: Rocket\nmetadata: {name: r}\n";
    let keys: Vec<String> =
        objects(&[("a.yaml", crd)]).unwrap().iter().map(|object| object.key.to_string()).collect();
    assert_eq!(keys, ["CustomResourceDefinition/rockets.x.y", "Rocket.x.y/r"]);
    let other = crd.replace("apiVersion: x.y/v1", "apiVersion: another.example/v1");
    assert_eq!(objects(&[("a.yaml", &other)]).unwrap()[1].key.to_string(), "Rocket.another.example/shop/r");
}

#[test]
fn what_must_be_rendered_before_is_refused_with_a_word_on_how() {
    assert!(objects(&[("kustomization.yaml", "")]).unwrap_err().contains("kustomize build"));
    assert!(objects(&[("Chart.yaml", "")]).unwrap_err().contains("helm template"));
    assert!(objects(&[("a.json", CONFIG)]).unwrap_err().contains("*.yaml"));
    assert_eq!(objects(&[("a.yml", CONFIG)]).unwrap().len(), 1);
    assert!(objects(&[]).unwrap_err().contains("the app has no objects"));
}

#[test]
fn an_error_in_a_template_holds_its_app_with_file_and_line() {
    let error = objects(&[("a.yaml.j2", "a: 1\nb: {{ values.missing }}\n")]).unwrap_err();
    assert!(error.starts_with("apps/pos/manifests/a.yaml.j2:2:"), "{error}");
    let error = objects(&[("a.yaml.j2", "a: 1\nb: {{ values.names | join(': ') }}\n")]).unwrap_err();
    assert!(error.contains("in the output of the template") && error.contains("b: b: a"), "{error}");
}

#[test]
fn strings_of_a_wasm_app_are_templates_and_stay_strings() {
    let spec = "  values: {port: 8080, greeting: hi}\n  wasm:\n    component: files/{{ app.name }}.wasm\n    env: {GREETING: '{{ values.greeting }}', TOKEN: {secretRef: {name: s, key: k}}}\n    http: {listen: '127.0.0.1:{{ values.port }}'}\n    limits: {memory: 64Mi, cpu: 500m}\n";
    let desired = rendered(spec, &[]);
    let Workload::Wasm(wasm) = &desired.apps[&"pos".parse().unwrap()].workload else { panic!("{desired:?}") };
    assert_eq!(wasm.component, ArtifactRef::File("apps/pos/files/pos.wasm".into()));
    assert_eq!(wasm.http.as_ref().unwrap().listen.port(), 8080);
    assert_eq!((wasm.limits.memory, wasm.limits.cpu_millis), (64 << 20, Some(500)));
    let text = serde_json::to_string(&desired).unwrap();
    assert!(text.contains(r#""TOKEN":{"secretRef":{"name":"s","key":"k"}}"#), "{text}");
}

#[test]
fn what_a_template_makes_of_a_wasm_app_is_checked_again() {
    let spec = "  values: {path: ../../x, port: lots}\n  wasm:\n    component: files/{{ values.path }}\n    http: {listen: '127.0.0.1:{{ values.port }}'}\n";
    let desired = rendered(spec, &[]);
    let errors = crate::diagnostic::to_text(&desired.faulty[&"pos".parse().unwrap()]);
    assert!(
        errors.contains("is not a file in the app's folder") && errors.contains("is not a listen address"),
        "{errors}"
    );
}

#[test]
fn vm_and_plugin_bodies_are_kept_with_their_strings_rendered() {
    let desired = rendered(
        "  values: {n: 3}\n  vm: {disk: 'd{{ values.n }}', cpus: 2, nested: [{a: '{{ device.name }}'}]}\n",
        &[],
    );
    let Workload::Vm(body) = &desired.apps[&"pos".parse().unwrap()].workload else { panic!() };
    assert_eq!(*body, serde_json::json!({"disk": "d3", "cpus": 2, "nested": [{"a": "d"}]}));
}

#[test]
fn a_check_of_an_object_that_the_app_does_not_have_is_an_error() {
    let spec = |target: &str| {
        format!(
            "  container: {{}}\n  health: {{ checks: [ {{ http: {{ target: {target}, port: 8080, path: / }} }} ] }}\n"
        )
    };
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: { name: pos }\nspec: { containers: [ { name: pos, image: \"registry.example/pos:1\" } ] }\n";
    let files = [("a.yaml", manifest)];
    assert!(rendered(&spec("Pod/pos"), &files).faulty.is_empty());
    assert!(rendered(&spec("Pod/pos/pos"), &files).faulty.is_empty(), "with its namespace");
    let faulty = rendered(&spec("Deployment/pos"), &files).faulty;
    let error = faulty.values().flatten().next().unwrap().to_string();
    assert!(
        error.contains("health.checks targets Deployment/pos") && error.contains("the app has Pod/pos/pos"),
        "{error}"
    );
}

#[test]
fn objects_of_two_groups_may_share_kind_and_name() {
    let files = [
        ("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"),
        ("b.yaml", "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n"),
        ("c.yaml", "apiVersion: example.com/v1\nkind: List\nmetadata: {name: l}\nitems: 3\n"),
    ];
    let keys: Vec<String> = objects(&files).unwrap().iter().map(|object| object.key.to_string()).collect();
    assert_eq!(keys, ["Service/shop/web", "List.example.com/shop/l", "Service.serving.knative.dev/shop/web"]);
}

#[test]
fn a_check_asks_a_custom_resource_by_its_kind_and_group() {
    let spec = |target: &str| {
        format!(
            "  container: {{}}\n  health: {{ checks: [ {{ http: {{ target: {target}, port: 8080, path: / }} }} ] }}\n"
        )
    };
    let files = [("b.yaml", "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n")];
    assert!(rendered(&spec("Service.serving.knative.dev/web"), &files).faulty.is_empty());
    assert!(!rendered(&spec("Service/web"), &files).faulty.is_empty(), "that is another one");
}

#[test]
fn the_account_of_an_app_is_in_its_namespace() {
    let account = |spec: &str| {
        let desired = rendered(spec, &[("a.yaml", CONFIG)]);
        let Workload::Container { account, .. } = &desired.apps[&"pos".parse().unwrap()].workload else {
            panic!()
        };
        account.as_ref().map(ToString::to_string)
    };
    assert_eq!(account("  container: {}\n  serviceAccount: deployer\n").as_deref(), Some("pos/deployer"));
    let named = "  container: {namespace: shop, driver: kubernetes}\n  serviceAccount: de.ployer\n";
    assert_eq!(account(named).as_deref(), Some("shop/de.ployer"));
    assert_eq!(account("  container: {}\n"), None);
}
