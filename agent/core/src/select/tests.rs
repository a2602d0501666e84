//! What runs on a box, and what an error in a document holds.

use super::*;

const HEAD: &str = "apiVersion: holdfast.dev/v1alpha1\n";

fn file(path: &str, text: &str) -> Option<File> {
    Some(File { path: path.to_owned(), bytes: format!("{HEAD}{text}").into_bytes() })
}

fn index(apps: &[(&str, &str)]) -> Index {
    let fleet = "kind: Fleet
metadata: {name: retail}
spec:
  values: {a: fleet, b: fleet, c: fleet, d: fleet, e: fleet, f: fleet, g: fleet}
  apps: {pos: {values: {b: fleet-app, c: fleet-app, d: fleet-app, e: fleet-app, f: fleet-app, g: fleet-app}}}
  groups:
    - name: high
      when: {matchLabels: {traffic-tier: high}}
      values: {c: group, d: group}
      apps: {pos: {values: {d: group-app, e: group-app, f: group-app, g: group-app}}}
    - name: low
      when: {matchLabels: {traffic-tier: low}}
      values: {a: never, z: never}
";
    let site = "kind: Site
metadata: {name: emea/s, labels: {region: emea, traffic-tier: high, tier: site}}
spec: {values: {f: site, g: site}, apps: {pos: {values: {g: site-app}}}}
";
    let device = "kind: Device
metadata: {name: emea/s/till-1, labels: {tier: retail}}
spec: {site: emea/s, values: {gone: null, own: 1}, apps: {other: {values: {own: 2}}}}
";
    // Those that the layers name must be somewhere.
    let elsewhere = ["pos", "other"].map(|name| {
        let text = app(name, "  placement: {matchLabels: {tier: lab}}\n");
        (name.to_owned(), Ok(file(&app_path(name), &text)))
    });
    let given = apps.iter().map(|(name, text)| ((*name).to_owned(), Ok(file(&app_path(name), text))));
    Index {
        fleet: file("holdfast.yaml", fleet),
        device: file("devices/emea/s/till-1.yaml", device),
        site: file("sites/emea/s.yaml", site),
        apps: elsewhere.into_iter().chain(given).collect(),
        ..Index::default()
    }
}

fn app(name: &str, rest: &str) -> String {
    format!("kind: App\nmetadata: {{name: {name}}}\nspec:\n  vm: {{}}\n{rest}")
}

fn run(index: &Index) -> Result<Selected<'static>, Vec<Diagnostic>> {
    let facts = [("hw.holdfast.dev/arch", "x86_64"), ("tier", "lie")];
    let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let device = "emea/s/till-1".parse().unwrap();
    refused_or_not(index, &device, &facts).map_err(|refused| refused.errors)
}

fn refused_or_not(index: &Index, device: &DeviceName, facts: &Labels) -> Result<Selected<'static>, Refused> {
    select_unproven(index, device, facts, &Version::new(0, 1, 0))
}

fn names<T>(map: &BTreeMap<AppName, T>) -> Vec<&str> {
    map.keys().map(AppName::as_str).collect()
}

fn faults(selected: &Selected<'_>, name: &str) -> String {
    crate::diagnostic::to_text(&selected.faulty[&name.parse::<AppName>().unwrap()])
}

#[test]
fn values_come_in_the_contracts_layers() {
    let text = app(
        "pos",
        "  placement: {}\n  values: {a: app, gone: x, h: app}\n  overrides:\n    - {when: {matchLabels: {region: emea}}, values: {e: override, f: override}}\n    - {when: {matchLabels: {region: apac}}, values: {a: never}}\n",
    );
    let selected = run(&index(&[("pos", &text)])).unwrap();
    let values = serde_json::Value::Object(selected.apps[&"pos".parse().unwrap()].values.clone());
    assert_eq!(
        values,
        serde_json::json!({"a": "fleet", "b": "fleet-app", "c": "group", "d": "group-app", "e": "override",
            "f": "site", "g": "site-app", "h": "app", "own": 1})
    );
}

#[test]
fn labels_are_the_sites_then_the_devices_then_the_hardwares() {
    let selected = run(&index(&[])).unwrap();
    let labels: Vec<(&str, &str)> = selected.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        labels,
        [
            ("hw.holdfast.dev/arch", "x86_64"),
            ("region", "emea"),
            ("tier", "retail"),
            ("traffic-tier", "high")
        ]
    );
}

#[test]
fn only_placed_apps_are_selected_and_only_containers_have_folders_to_read() {
    let placed = app("here", "  placement: {matchLabels: {tier: retail}}\n");
    let elsewhere = app("there", "  placement: {matchLabels: {tier: lab}}\n");
    let containers = "kind: App\nmetadata: {name: box}\nspec: {placement: {}, container: {}}\n";
    let selected = run(&index(&[("here", &placed), ("there", &elsewhere), ("box", containers)])).unwrap();
    assert_eq!(names(&selected.apps), ["box", "here"]);
    assert_eq!(selected.folders().into_values().collect::<Vec<_>>(), ["apps/box/manifests"]);
}

#[test]
fn a_broken_app_holds_itself_alone() {
    let good = app("good", "  placement: {}\n");
    let broken = app("broken", "  placement: {}\n  onFailure: panic\n");
    let garbage = "kind: [\n";
    let selected = run(&index(&[("good", &good), ("broken", &broken), ("garbage", garbage)])).unwrap();
    assert_eq!(names(&selected.apps), ["good"]);
    assert_eq!(names(&selected.faulty), ["broken", "garbage"]);
    assert!(faults(&selected, "broken").starts_with("apps/broken/app.yaml:7:14: \"panic\" is not one of"));
}

#[test]
fn an_app_that_is_placed_elsewhere_holds_nothing_here_however_broken() {
    let broken = app("broken", "  placement: {matchLabels: {tier: lab}}\n  onFailure: panic\n");
    let selected = run(&index(&[("broken", &broken)])).unwrap();
    assert!(selected.faulty.is_empty());
    assert_eq!(selected.warnings.len(), 1);
}

#[test]
fn a_folder_without_a_document_or_of_another_name_is_not_an_app_that_was_removed() {
    let mut index = index(&[("pos", &app("sop", "  placement: {}\n"))]);
    index.apps.insert("empty".to_owned(), Ok(None));
    let selected = run(&index).unwrap();
    assert_eq!(names(&selected.faulty), ["empty", "pos"]);
    assert!(faults(&selected, "pos").contains("doesn't match the file's path"));
}

#[test]
fn a_fleet_site_or_device_document_that_is_missing_or_wrong_holds_the_revision() {
    let whole = index(&[]);
    for (index, part) in [
        (Index { fleet: None, ..whole.clone() }, "holdfast.yaml:1:1: the Fleet document is missing"),
        (Index { device: None, ..whole.clone() }, "this box's document is missing"),
        (
            Index { site: None, ..whole.clone() },
            "devices/emea/s/till-1.yaml:4:14: the site emea/s has no document",
        ),
        (
            Index {
                fleet: file("holdfast.yaml", "kind: Fleet\nmetadata: {name: f}\nspec: {value: {}}\n"),
                ..whole.clone()
            },
            "did you mean values?",
        ),
        (
            Index {
                site: file("sites/emea/s.yaml", "kind: Site\nmetadata: {name: emea/t}\n"),
                ..whole.clone()
            },
            "doesn't match",
        ),
    ] {
        let errors = crate::diagnostic::to_text(&run(&index).unwrap_err());
        assert!(errors.contains(part), "{part}\n{errors}");
    }
    let nothing = Index::default();
    assert_eq!(run(&nothing).unwrap_err().len(), 2, "every error at once");
}

#[test]
fn every_member_of_a_circle_is_held_and_told_its_way_round_and_no_one_else() {
    let app = |name: &str, needs: &str| app(name, &format!("  placement: {{}}\n  dependsOn: [{needs}]\n"));
    let (a, b, c, d) = (app("a", "b"), app("b", "c"), app("c", "a"), app("d", "a"));
    let own = app("own", "own");
    let selected = run(&index(&[("a", &a), ("b", &b), ("c", &c), ("d", &d), ("own", &own)])).unwrap();
    assert_eq!(names(&selected.faulty), ["a", "b", "c", "own"]);
    assert!(
        faults(&selected, "b")
            .contains("apps/b/app.yaml:7:15: the apps depend on each other in a cycle: b -> c -> a -> b")
    );
    assert!(faults(&selected, "own").contains("own -> own"));
    assert_eq!(names(&selected.apps), ["d"]);
}

#[test]
fn a_group_that_waits_for_what_waits_for_it_is_a_circle() {
    let app = |name: &str, needs: &str, more: &str| {
        app(name, &format!("  placement: {{}}\n  dependsOn: [{needs}]\n{more}"))
    };
    let group = "  update: {group: till}\n";
    let (pos, menu) = (app("pos", "", group), app("menu", "x, pos", group));
    let (x, free) = (app("x", "pos", ""), app("x", "", ""));
    let selected = run(&index(&[("pos", &pos), ("menu", &menu), ("x", &x)])).unwrap();
    assert_eq!(names(&selected.faulty), ["pos", "x"]);
    assert!(faults(&selected, "x").contains("in a cycle: x -> pos -> x"), "{}", faults(&selected, "x"));
    let selected = run(&index(&[("pos", &pos), ("menu", &menu), ("x", &free)])).unwrap();
    assert!(selected.faulty.is_empty(), "{:?}", selected.faulty);
}

#[test]
fn a_dependency_that_is_missing_or_elsewhere_holds_the_app_that_names_it() {
    let pos = app("pos", "  placement: {}\n  dependsOn: [bd, far]\n");
    let db = app("db", "  placement: {}\n");
    let far = app("far", "  placement: {matchLabels: {tier: lab}}\n");
    let selected = run(&index(&[("pos", &pos), ("db", &db), ("far", &far)])).unwrap();
    let text = faults(&selected, "pos");
    assert!(text.contains("depends on bd, but there is no such app (did you mean db?)"), "{text}");
    assert!(text.contains("depends on far, which isn't placed on this box"), "{text}");
    assert_eq!(names(&selected.apps), ["db"]);
}

#[test]
fn an_app_that_requires_another_agent_is_faulty_with_that_cause() {
    let old = app("old", "  placement: {}\n  requires: {agent: '>=0.1'}\n");
    let new = app("new", "  placement: {}\n  requires: {agent: '>=0.2'}\n");
    let selected = run(&index(&[("old", &old), ("new", &new)])).unwrap();
    assert_eq!(names(&selected.apps), ["old"]);
    assert!(
        faults(&selected, "new").contains("the app requires agent >=0.2, but this agent has version 0.1.0")
    );
}

#[test]
fn the_site_to_read_is_known_from_the_device_alone() {
    let index = index(&[]);
    assert_eq!(site_of(index.device.as_ref().unwrap()).unwrap().unwrap().as_str(), "emea/s");
    assert!(site_of(&File { path: "devices/x.yaml".into(), bytes: b"{".to_vec() }).is_err());
}

/// The same box, of which fleet, group, site and device say these policies.
fn with_policies(fleet: &str, group: &str, site: &str, device: &str) -> Index {
    let fleet = format!(
        "kind: Fleet\nmetadata: {{name: f}}\nspec:\n  policy: {{{fleet}}}\n  groups:\n    \
         - {{name: high, when: {{matchLabels: {{traffic-tier: high}}}}, policy: {{{group}}}}}\n    \
         - {{name: low, when: {{matchLabels: {{traffic-tier: low}}}}, policy: {{urgent: never}}}}\n"
    );
    let site = format!(
        "kind: Site\nmetadata: {{name: emea/s, labels: {{traffic-tier: high}}}}\nspec: {{policy: {{{site}}}}}\n"
    );
    let device = format!(
        "kind: Device\nmetadata: {{name: emea/s/till-1}}\nspec: {{site: emea/s, policy: {{{device}}}}}\n"
    );
    Index {
        fleet: file("holdfast.yaml", &fleet),
        site: file("sites/emea/s.yaml", &site),
        device: file("devices/emea/s/till-1.yaml", &device),
        ..index(&[])
    }
}

#[test]
fn a_policy_is_taken_field_by_field_from_the_last_that_gives_it() {
    let gate = |name: &str| format!("gates: [{{name: {name}, file: {{path: /x}}}}]");
    let policy = run(&with_policies(
        "prune: {maxApps: 3}, windows: {apply: [{from: '01:00', to: '02:00'}]}",
        &gate("group"),
        "windows: {timezone: Europe/Berlin, download: [{from: '03:00', to: '04:00'}]}",
        "prune: {maxApps: 5, grace: 1d}",
    ))
    .unwrap()
    .policy;
    assert_eq!((policy.prune.max_apps, policy.prune.max_share_percent), (5, 25));
    assert_eq!(policy.grace.as_secs(), 86_400);
    assert_eq!(policy.gates[0].name, "group");
    assert_eq!(
        (policy.apply.to_string(), policy.download.to_string()),
        ("at any time".to_owned(), "03:00-04:00 Europe/Berlin".to_owned())
    );
    assert_eq!(policy.urgent, None);
    let none = run(&with_policies("", &gate("group"), "", "gates: []")).unwrap().policy;
    assert!(none.gates.is_empty());
}

#[test]
fn a_stop_and_a_purge_count_for_the_boxes_that_they_are_for() {
    let stop = |tier: &str| {
        file(
            &format!("stops/{tier}.yaml"),
            &format!("kind: Stop\nmetadata: {{name: {tier}}}\nspec: {{placement: {{matchLabels: {{tier: {tier}}}}}, reason: no changes}}\n"),
        )
        .unwrap()
    };
    let purge = "kind: Purge
metadata: {name: old-db}
spec:
  placement: {}
  reason: moved away
  objects: [{app: db, object: PersistentVolumeClaim/db/data}]
";
    let purges = vec![file("purges/old-db.yaml", purge).unwrap()];
    let index = Index { stops: vec![stop("lab"), stop("retail")], purges, ..index(&[]) };
    let policy = run(&index).unwrap().policy;
    assert_eq!(policy.stop.unwrap().name, "retail");
    assert_eq!(policy.purges[0].object.to_string(), "PersistentVolumeClaim/db/data");
    let elsewhere = Index { stops: vec![stop("lab")], ..index.clone() };
    assert_eq!(run(&elsewhere).unwrap().policy.stop, None);
    let misnamed = File { path: "stops/other.yaml".into(), ..stop("lab") };
    let errors = run(&Index { stops: vec![misnamed], ..index }).unwrap_err();
    assert!(crate::diagnostic::to_text(&errors).contains("the path requires the name other"));
}

#[test]
fn an_app_whose_folder_has_no_apps_name_holds_the_revision_unless_it_is_surely_elsewhere() {
    let here = index(&[("Till", &app("Till", "  placement: {}\n"))]);
    let errors = crate::diagnostic::to_text(&run(&here).unwrap_err());
    assert!(
        errors.starts_with("apps/Till/app.yaml:1:1: \"Till\" is not a valid name for an app"),
        "{errors}"
    );
    let elsewhere = index(&[("Till", &app("Till", "  placement: {matchLabels: {tier: lab}}\n"))]);
    assert_eq!(run(&elsewhere).unwrap().warnings.len(), 1);
    let mut unread = index(&[]);
    unread.apps.insert("Till".to_owned(), Err(vec![Diagnostic::of_file("apps/Till/app.yaml", "a link")]));
    assert!(run(&unread).is_err());
}

#[test]
fn a_layer_for_an_app_that_there_is_none_of_holds_the_revision() {
    let device = "kind: Device\nmetadata: {name: emea/s/till-1}\nspec: {site: emea/s, apps: {poss: {}}}\n";
    let index = Index { device: file("devices/emea/s/till-1.yaml", device), ..index(&[]) };
    let errors = crate::diagnostic::to_text(&run(&index).unwrap_err());
    assert!(errors.ends_with("there is no app poss (did you mean pos?)"), "{errors}");
}

#[test]
fn a_revision_that_may_hold_a_stop_and_cannot_be_read_is_told_from_others() {
    let stop = |placement: &str| {
        let text =
            format!("kind: Stop\nmetadata: {{name: s}}\nspec: {{placement: {placement}, reason: x}}\n");
        vec![file("stops/s.yaml", &text).unwrap()]
    };
    let broken_fleet = Index { fleet: file("holdfast.yaml", "kind: [\n"), ..index(&[]) };
    let broken_purge = Index { purges: vec![file("purges/x.yaml", "kind: [\n").unwrap()], ..index(&[]) };
    let stops = |index: &Index| {
        let device = "emea/s/till-1".parse().unwrap();
        refused_or_not(index, &device, &Labels::new()).unwrap_err().stops
    };
    assert!(!stops(&broken_fleet) && !stops(&broken_purge));
    assert!(
        stops(&Index { stops: stop("{matchLabels: {tier: lab}}"), ..broken_fleet }),
        "whose nobody knows"
    );
    assert!(stops(&Index { stops: stop("{}"), ..broken_purge.clone() }));
    assert!(!stops(&Index { stops: stop("{matchLabels: {tier: lab}}"), ..broken_purge.clone() }));
    assert!(stops(&Index { stops: vec![file("stops/s.yaml", "kind: [").unwrap()], ..index(&[]) }));
    assert!(stops(&Index { is_stop_unread: true, ..broken_purge }));
}
