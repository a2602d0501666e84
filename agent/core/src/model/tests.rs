//! What documents say, and what is wrong with them.

use super::document::read;
use super::*;
use crate::diagnostic::to_text;
use crate::http_check::HttpCheck;
use crate::metrics::{Share, TimeUnit};
use crate::release::{Check, Immutable};

pub(crate) const APP: &str = r#"
apiVersion: holdfast.dev/v1alpha1
kind: App
metadata: { name: pos }
spec:
  placement: { matchLabels: { tier: retail } }
  requires: { agent: ">=0.1" }
  dependsOn: [db]
  values: { image: registry.example/pos, replicas: 1 }
  overrides: [ { when: { matchLabels: { region: emea } }, values: { tax: vat } } ]
  container: { namespace: pos, driver: any }
  health:
    startup: 60s
    deadline: 5m
    soak: 30s
    checks:
      - http: { target: Deployment/pos, port: 8080, path: /healthz }
      - http: { url: "http://127.0.0.1:8080/healthz" }
      - tcp: { address: "127.0.0.1:5432" }
  onFailure: rollback
  update: { strategy: stop-start, irreversible: false }
"#;

fn app(text: &str) -> Result<App, String> {
    read("apps/pos/app.yaml", text.as_bytes(), Some("pos")).map_err(|errors| to_text(&errors))
}

fn wasm(body: &str) -> Result<App, String> {
    app(&format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: App\nmetadata: {{name: pos}}\nspec:\n  placement: {{}}\n  wasm:\n{body}"
    ))
}

#[test]
fn the_contracts_app_is_read_as_it_stands() {
    let app = app(APP).unwrap();
    assert_eq!(app.spec.policy.health.checks.len(), 3);
    assert!(matches!(
        &app.spec.policy.health.checks[0],
        Check::Http(HttpCheck::Target { port: 8080, path, .. }) if path == "/healthz"
    ));
    assert_eq!(app.spec.policy.depends_on.len(), 1);
    assert!(matches!(app.spec.workload, Body::Container(_)));
}

#[test]
fn every_error_is_told_at_once_with_line_column_and_the_nearest_name() {
    let text = APP
        .replace("  dependsOn:", "  dependOn:")
        .replace("startup: 60s", "startup: soon")
        .replace("port: 8080", "port: 99999")
        .replace("kind: App", "kind: App\nextra: 1");
    let errors = app(&text).unwrap_err();
    assert_eq!(
        errors,
        "apps/pos/app.yaml:4:1: unknown field \"extra\" in the document (allowed here: apiVersion, kind, metadata, spec)\n\
         apps/pos/app.yaml:9:3: unknown field \"dependOn\" in spec (did you mean dependsOn?)\n\
         apps/pos/app.yaml:14:14: \"soon\" is not a duration; write 60s, 5m, 1h30m or 500ms\n\
         apps/pos/app.yaml:18:47: expected a whole number from 1 to 65535"
    );
}

#[test]
fn an_app_is_exactly_one_thing() {
    let errors = app(&APP.replace("  container: { namespace: pos, driver: any }\n", "")).unwrap_err();
    assert!(errors.contains("give exactly one of container, wasm, vm, plugin"), "{errors}");
    let both = APP.replace("  onFailure", "  vm: {image: files/x.qcow2}\n  onFailure");
    assert!(app(&both).unwrap_err().contains("more than one workload type is given: container and vm"));
    assert!(app(&APP.replace("{ namespace: pos, driver: any }", "{}")).is_ok());
}

#[test]
fn only_what_may_be_on_kubernetes_has_a_service_account() {
    let with = |account: &str, driver: &str| {
        let text = APP.replace("driver: any }", &format!("driver: {driver} }}\n  serviceAccount: {account}"));
        app(&text).map(|app| app.spec.service_account.unwrap().as_str().to_owned())
    };
    assert_eq!(with("pos.deployer-1", "any").unwrap(), "pos.deployer-1");
    assert!(with("deployer", "kubernetes").is_ok());
    let error = with("deployer", "podman").unwrap_err();
    assert!(error.starts_with("apps/pos/app.yaml:12:19: serviceAccount needs Kubernetes"), "{error}");
    for name in ["Deployer", "a/b", "a..b", "-a"] {
        assert!(with(name, "any").unwrap_err().contains("12:19"), "{name}");
    }
    let error = wasm("    component: files/a.wasm\n  serviceAccount: deployer\n").unwrap_err();
    assert!(error.contains("8:19: only containers on Kubernetes have a service account"), "{error}");
}

#[test]
fn what_cannot_be_changed_in_place_holds_the_app_unless_it_says_otherwise() {
    assert_eq!(app(APP).unwrap().spec.policy.immutable, Immutable::Hold);
    let recreate = APP.replace("irreversible: false", "immutable: recreate");
    assert_eq!(app(&recreate).unwrap().spec.policy.immutable, Immutable::Recreate);
    let error = wasm("    component: files/a.wasm\n  update: {immutable: recreate}\n").unwrap_err();
    assert!(error.contains("8:23: immutable: recreate is only for containers"), "{error}");
    assert!(
        app(&APP.replace("irreversible: false", "immutable: remake")).unwrap_err().contains("hold, recreate")
    );
}

#[test]
fn a_document_of_another_kind_version_or_name_is_refused() {
    assert!(
        app(&APP.replace("kind: App", "kind: Deployment"))
            .unwrap_err()
            .contains("3:7: kind is \"Deployment\"")
    );
    assert!(app(&APP.replace("v1alpha1", "v9")).unwrap_err().contains("apiVersion is"));
    assert!(
        app(&APP.replace("name: pos }", "name: bar }"))
            .unwrap_err()
            .contains("doesn't match the file's path")
    );
    assert!(app("[]").unwrap_err().contains("expected a document, found a list"));
    assert!(app("").unwrap_err().contains("the file is empty"));
    assert!(app(&format!("{APP}---\nkind: App\n")).unwrap_err().contains("a second document"));
}

#[test]
fn a_wasm_app_is_checked_before_its_templates_are_rendered() {
    assert!(wasm("    component: files/a.wasm\n    http: {listen: '127.0.0.1:{{ values.port }}'}\n").is_ok());
    let errors = wasm(
        "    component: ../a.wasm\n    env: {A: 1, B: {secretRef: {name: x}}}\n    limit: {}\n    restart: often\n    dirs: [{guest: data, volume: d}]\n",
    )
    .unwrap_err();
    for part in [
        "7:16: \"../a.wasm\" is not a file in the app's folder",
        "8:14: expected a string or {secretRef: {name, key}}, found a number (quote it)",
        "secretRef has no key",
        "did you mean limits?",
        "\"often\" is not one of always, on-failure, never",
        "\"data\" is not a path in the guest",
    ] {
        assert!(errors.contains(part), "{part}\n{errors}");
    }
}

#[test]
fn files_of_an_app_stay_in_its_folder() {
    for path in ["/etc/passwd", "files/../../x", "files//x", "./files/x", "files/.", "x.wasm", "files\\x", ""]
    {
        assert!(path.parse::<ArtifactRef>().is_err(), "{path}");
    }
    assert!("http://x/y".parse::<ArtifactRef>().unwrap_err().contains("use a file or oci://"));
    assert!("oci://registry.example/hello@sha256:ab".parse::<ArtifactRef>().is_ok());
    assert!("oci://hello".parse::<ArtifactRef>().is_err());
}

#[test]
fn a_soak_that_outlasts_the_deadline_is_refused() {
    assert!(app(&APP.replace("soak: 30s", "soak: 10m")).unwrap_err().contains("shorter than the soak"));
}

/// The errors of the contract's app with this check in place of one of its own.
fn with_check(check: &str) -> Result<Check<ArtifactRef>, String> {
    let found = app(&APP.replace("tcp: { address: \"127.0.0.1:5432\" }", check))?;
    Ok(found.spec.policy.health.checks[2].clone())
}

#[test]
fn an_exec_check_names_a_program_in_a_container() {
    let check = with_check("exec: { target: Deployment/pos, command: [/bin/ask, till] }").unwrap();
    let Check::Exec(exec) = check else { panic!("{check:?}") };
    assert_eq!((exec.container, exec.timeout.as_secs()), (None, 5));
    assert_eq!(exec.command, ["/bin/ask", "till"]);
    for (check, error) in [
        ("exec: { target: Deployment/pos, command: [] }", "19:50: the command is empty"),
        ("exec: { target: Deployment/pos, command: [''] }", "19:50: the command is empty"),
        ("exec: { target: Deployment/pos, command: [a], timeout: 2m }", "19:64: the timeout of a program"),
        ("exec: { target: Deployment/pos, command: [a], timeout: 0s }", "19:64: the timeout of a program"),
        ("exec: { target: Deployment/pos, command: a }", "19:50: expected a list"),
        ("exec: { command: [a] }", "19:15: exec has no target"),
        ("exec: { target: Deployment/pos, command: [a], shell: true }", "unknown field \"shell\" in exec"),
    ] {
        let errors = with_check(check).unwrap_err();
        assert!(errors.contains(error), "{check}: {errors}");
    }
    assert!(with_check("{}").unwrap_err().contains("exactly one of"));
}

#[test]
fn a_wasm_app_cannot_be_asked_by_a_program_in_it() {
    let health = "    component: files/a.wasm\n  health:\n    checks:\n      - exec: { target: Wasm/pos, command: [a] }\n";
    let errors = wasm(health).unwrap_err();
    assert!(errors.contains("10:15: a wasm app can't have an exec check"), "{errors}");
}

#[test]
fn a_probe_names_a_component_and_has_the_usual_limits_unless_it_says_others() {
    let Check::Wasm(probe) = with_check("wasm: { component: files/ask.wasm }").unwrap() else { panic!() };
    assert_eq!(probe.component, ArtifactRef::File("files/ask.wasm".into()));
    assert_eq!((probe.timeout.as_secs(), probe.memory, probe.target), (5, 32 << 20, None));
    let all = "wasm: { component: 'oci://registry.example/ask@sha256:ab', args: [--quick], env: { TILL: '1' }, target: Deployment/pos, port: 8080, timeout: 1m, memory: 64Ki }";
    let Check::Wasm(probe) = with_check(all).unwrap() else { panic!() };
    assert_eq!(
        (probe.name.as_str(), probe.args.as_slice()),
        ("oci://registry.example/ask@sha256:ab", &["--quick".to_owned()][..])
    );
    assert_eq!(
        probe.target.map(|target| (target.object.to_string(), target.port)),
        Some(("Deployment/pos".into(), 8080))
    );
    assert_eq!((probe.timeout.as_secs(), probe.memory, probe.env["TILL"].as_str()), (60, 64 << 10, "1"));
}

#[test]
fn a_probe_that_could_never_run_is_refused_with_its_place() {
    for (fields, error) in [
        ("component: ../ask.wasm", "19:28: \"../ask.wasm\" is not a file in the app's folder"),
        ("args: [a]", "19:15: wasm has no component"),
        ("component: files/a.wat, timeout: 2m", "19:50: the timeout of a probe"),
        ("component: files/a.wat, timeout: 0s", "19:50: the timeout of a probe"),
        ("component: files/a.wat, memory: 63Ki", "19:49: the memory of a probe"),
        ("component: files/a.wat, memory: 2Gi", "19:49: the memory of a probe"),
        (
            "component: files/a.wat, target: Pod/a",
            "19:15: a wasm check needs both target and port, or neither",
        ),
        ("component: files/a.wat, port: 80", "19:15: a wasm check needs both target and port, or neither"),
        ("component: files/a.wat, env: { HOLDFAST_APP: x }", "19:46: \"HOLDFAST_APP\" is reserved"),
        ("component: files/a.wat, env: { 'A=B': x }", "19:46: \"A=B\" is not a valid variable name"),
        ("component: files/a.wat, args: [\"a\\0\"]", "the text contains a NUL character"),
        ("component: files/a.wat, dirs: []", "unknown field \"dirs\" in wasm"),
    ] {
        let errors = with_check(&format!("wasm: {{ {fields} }}")).unwrap_err();
        assert!(errors.contains(error), "{fields}: {errors}");
    }
}

#[test]
fn a_metrics_check_has_the_usual_limits_unless_it_says_others() {
    let check = with_check(
        "metrics: { target: Deployment/pos, port: 9090, successRate: { total: r, errors: 'r{code=~\"5..\"}' }, errorRate: { total: r, errors: e }, latency: { histogram: t } }",
    );
    let Check::Metrics(check) = check.unwrap() else { panic!() };
    assert!(matches!(&check.page, HttpCheck::Target { path, .. } if path == "/metrics"));
    assert_eq!((check.window.as_secs(), check.interval.as_secs(), check.min_requests), (60, 5, 10));
    assert_eq!(check.success_rate.unwrap().at_least, Share(99_000));
    assert_eq!(check.error_rate.unwrap().at_most, Share(1_000));
    let latency = check.latency.unwrap();
    assert_eq!((latency.quantile, latency.at_most.as_millis(), latency.unit), (990, 500, TimeUnit::Seconds));

    let check = with_check(
        "metrics: { url: 'http://127.0.0.1:9/m', window: 2m, interval: 10s, minRequests: 1, successRate: { total: r, successes: s, atLeast: 99.95% }, latency: { histogram: t, quantile: 0.5, atMost: 2s, unit: milliseconds } }",
    );
    let Check::Metrics(check) = check.unwrap() else { panic!() };
    assert_eq!(check.success_rate.unwrap().at_least, Share(99_950));
    assert_eq!(check.latency.unwrap().quantile, 500);
}

#[test]
fn a_metrics_check_that_can_tell_nothing_is_refused_with_its_place() {
    let page = "url: 'http://127.0.0.1:9/m'";
    for (fields, error) in [
        (page.to_owned(), "19:18: the metrics check has no condition"),
        ("latency: { histogram: t }".to_owned(), "19:18: a metrics check needs either a url"),
        (format!("{page}, latency: {{ histogram: t_bucket }}"), "leave _bucket out"),
        (format!("{page}, latency: {{ histogram: 't{{' }}"), "is not a series selector"),
        (format!("{page}, latency: {{ histogram: t, quantile: 1 }}"), "\"1\" is not a quantile"),
        (format!("{page}, successRate: {{ total: r }}"), "needs either errors or successes"),
        (format!("{page}, errorRate: {{ total: r, errors: e, atMost: 101% }}"), "is not a percentage"),
        (
            format!("{page}, errorRate: {{ total: 'rate(r[5m])', errors: e }}"),
            "functions and ranges are not supported",
        ),
        (format!("{page}, window: 1s, latency: {{ histogram: t }}"), "window must be from 2s to 1h"),
        (format!("{page}, interval: 40s, latency: {{ histogram: t }}"), "at most half the window"),
        (format!("{page}, window: 1h, interval: 1s, latency: {{ histogram: t }}"), "at most 720 scrapes"),
        (
            format!("{page}, interval: 20s, latency: {{ histogram: t }}"),
            "13:5: the soak is shorter than two scrape intervals",
        ),
        (format!("{page}, p99: 1, latency: {{ histogram: t }}"), "unknown field \"p99\" in metrics"),
    ] {
        let errors = with_check(&format!("metrics: {{ {fields} }}")).unwrap_err();
        assert!(errors.contains(error), "{fields}: {errors}");
    }
}

#[test]
fn fleet_site_and_device_read_as_in_the_contract() {
    let head = |kind: &str, rest: &str| format!("apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\n{rest}");
    let fleet: Fleet = read(
        "holdfast.yaml",
        head("Fleet", "metadata: {name: retail}\nspec:\n  values: {currency: EUR}\n  apps: {pos: {values: {log: info}}}\n  groups:\n    - name: high\n      when: {matchLabels: {traffic-tier: high}}\n      apps: {pos: {values: {replicas: 3}}}\n  policy: {prune: {maxApps: 1, maxShare: 25%}}\n").as_bytes(),
        None,
    )
    .unwrap();
    assert_eq!(fleet.spec.policy.prune.unwrap().max_share.0, 25);
    let site: Site = read(
        "sites/emea/de/store-0042.yaml",
        head("Site", "metadata: {name: emea/de/store-0042, labels: {region: emea}}\nspec: {values: {store: '0042'}, apps: {}}\n").as_bytes(),
        Some("emea/de/store-0042"),
    )
    .unwrap();
    assert_eq!(site.spec.values["store"], "0042");
    let device: Device =
        read("devices/d.yaml", head("Device", "metadata: {name: d}\n").as_bytes(), Some("d")).unwrap();
    assert!(device.spec.site.is_none());
}

#[test]
fn a_policy_is_read_strictly() {
    let read = |policy: &str| {
        let text = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Site\nmetadata: {{name: s}}\nspec: {{policy: {{{policy}}}}}\n"
        );
        read::<Site>("sites/s.yaml", text.as_bytes(), None)
            .map(|site| site.spec.policy)
            .map_err(|errors| crate::diagnostic::to_text(&errors))
    };
    let policy = read(
        "windows: {timezone: Europe/Berlin, apply: [{days: [mon], from: '22:00', to: '04:00'}]}, \
         gates: [{name: sale, file: {path: /run/sale}, maxHold: 2h}, {name: idle, http: {url: 'http://127.0.0.1:1/idle'}}]",
    )
    .unwrap();
    assert_eq!(policy.windows.unwrap().apply.len(), 1);
    assert_eq!(policy.gates.unwrap()[0].max_hold.as_secs(), 7200);
    for (policy, error) in [
        ("windows: {timezone: Europe/Atlantis}", "is not a time zone"),
        ("windows: {apply: [{from: '24:00', to: '04:00'}]}", "is not a time of day"),
        ("windows: {apply: [{from: '20:00', to: '04:00', days: [monday]}]}", "is not one of mon, tue"),
        ("windows: {appyl: []}", "did you mean apply?"),
        ("gates: [{name: x}]", "exactly one of file, command and http"),
        (
            "gates: [{name: x, file: {path: /a}, http: {url: 'http://a'}}]",
            "exactly one of file, command and http",
        ),
        ("gates: [{name: x, file: {path: run/a}}]", "absolute path"),
        ("gates: [{name: x, command: {run: [true]}}]", "expected a string"),
        ("gates: [{name: x, command: {run: []}}]", "absolute path"),
        ("gates: [{name: x, command: {run: [/bin/true], timeout: 2m}}]", "from 1ms to 1m"),
        ("downloads: {rate: 100}", "at least 1024 bytes"),
        ("downloads: {budget: {bytes: 5Mi, per: year}}", "is not one of day, week, month"),
        ("urgent: ''", "state a reason"),
        ("gate: []", "did you mean gates?"),
    ] {
        let errors = read(policy).unwrap_err();
        assert!(errors.contains(error), "{policy}: {errors}");
    }
}

#[test]
fn hardware_labels_are_only_found_never_given() {
    let text = "apiVersion: holdfast.dev/v1alpha1\nkind: Device\nmetadata: {name: d, labels: {hw.holdfast.dev/gpu: x}}\n";
    let error = read::<Device>("devices/d.yaml", text.as_bytes(), None).unwrap_err();
    assert!(error[0].message.contains("are reserved"));
}

#[test]
fn every_kind_has_a_schema_with_descriptions_and_no_unknown_fields() {
    for kind in KINDS {
        let schema = schema(kind).unwrap();
        assert_eq!(schema["properties"]["kind"]["const"], kind);
        assert_eq!(schema["properties"]["spec"]["additionalProperties"], false);
        assert!(schema["properties"]["spec"]["description"].as_str().is_some_and(|text| !text.is_empty()));
    }
    assert!(schema("fleet").is_some());
    assert!(schema("Deployment").is_none());
}
