//! The simulated driver through the conformance suite, and its own faults.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use holdfast_core::observe::Observed;
use holdfast_core::release::Object;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::log::{creates_without_absence, parse};
use super::script::PREFIX;
use super::*;
use crate::conformance::Runtime;

struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        Fixture(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Arc<SimulatedDriver> {
        let owner = Owner { device: "emea/till-1".parse().unwrap() };
        let driver = SimulatedDriver::open(self.0.path(), &owner).unwrap();
        Arc::new(driver.with_limit(Duration::from_millis(50)))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("objects").join(format!("{name}.json"))
    }

    fn script(&self, script: Value) {
        fs::write(self.0.path().join("script.json"), script.to_string()).unwrap();
    }

    fn log(&self) -> Vec<Line<'static>> {
        parse(&fs::read_to_string(self.0.path().join("log.jsonl")).unwrap()).unwrap()
    }

    /// Rewrites an object's file as an editor does.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object: Value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        change(&mut object);
        fs::write(self.file(name), object.to_string()).unwrap();
    }
}

#[async_trait]
impl Runtime for Fixture {
    async fn driver(&self) -> Arc<dyn Driver> {
        self.open()
    }

    fn shares_names(&self) -> bool {
        true
    }

    fn release(&self, app: &AppName, version: u32) -> Release {
        let mut release = release(app.as_str(), &[]);
        for object in &mut release.objects {
            object.spec["spec"] = json!({ "version": version });
        }
        release
    }

    async fn plant(&self, key: &ObjectKey) -> bool {
        let other = Fixture::new();
        let driver =
            SimulatedDriver::open(other.0.path(), &Owner { device: "emea/till-2".parse().unwrap() }).unwrap();
        let mut release = release("conformance", &[]);
        release.objects[0].key = key.clone();
        create(&driver, &release).await.unwrap();
        let name = folder::file_name(key);
        fs::copy(other.0.path().join("objects").join(&name), self.0.path().join("objects").join(&name))
            .unwrap();
        true
    }

    async fn take_away(&self, key: &ObjectKey) {
        fs::remove_file(self.0.path().join("objects").join(folder::file_name(key))).unwrap();
    }

    async fn tamper(&self, key: &ObjectKey) -> bool {
        let name = folder::file_name(key);
        self.edit(name.strip_suffix(".json").unwrap(), |object| object["spec"]["spec"] = json!("by hand"));
        true
    }
}

crate::conformance_tests!(Fixture::new());

/// A release of two objects with annotations on the first.
fn release(app: &str, annotations: &[(&str, &str)]) -> Release {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(what, how)| (format!("{PREFIX}{what}"), json!(how))).collect();
    Release {
        app: app.parse().unwrap(),
        driver: DriverName::SIMULATED,
        objects: vec![
            Object {
                key: ObjectKey::new("ConfigMap", app),
                spec: json!({ "metadata": { "annotations": annotations } }),
            },
            Object { key: ObjectKey::new("Pod", app), spec: json!({ "spec": { "image": "x" } }) },
        ],
        artifacts: Default::default(),
        secrets: Default::default(),
        account: None,
    }
}

async fn apply(
    driver: &SimulatedDriver,
    release: &Release,
    action: Action,
    index: usize,
) -> Result<(), DriverError> {
    let object = &release.objects[index].key;
    driver
        .apply(ApplyStep {
            app: &release.app,
            action,
            object,
            release: Some(release),
            id: None,
            strategy: holdfast_core::release::Strategy::StopStart,
            from: None,
        })
        .await
}

async fn create(driver: &SimulatedDriver, release: &Release) -> Result<(), DriverError> {
    for index in 0..release.objects.len() {
        apply(driver, release, Action::Create, index).await?;
    }
    Ok(())
}

async fn look(driver: &SimulatedDriver, release: &Release) -> Vec<Observed> {
    driver.observe(&release.app, Some(release)).await.unwrap().into_values().collect()
}

/// The next event's app. The limit is for a driver that sends none.
async fn next(heard: &mut mpsc::Receiver<DriverEvent>) -> DriverEvent {
    tokio::time::timeout(Duration::from_secs(30), heard.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_release_at_fault_and_a_runtime_at_fault_are_told_apart() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    for what in ["prepare", "apply"] {
        for (how, is_release) in [("fail", true), ("retry", false), ("hang", false)] {
            let release = release("pos", &[(what, how)]);
            let error = match what {
                "prepare" => driver.prepare(&release).await.unwrap_err(),
                _ => apply(&driver, &release, Action::Create, 0).await.unwrap_err(),
            };
            assert_eq!(matches!(error, DriverError::Release(_)), is_release, "{what}: {how}: {error}");
        }
    }
    assert_eq!(fs::read_dir(fixture.0.path().join("objects")).unwrap().count(), 0);
    let outcomes: Vec<_> = fixture.log().into_iter().map(|line| line.outcome.into_owned()).collect();
    assert_eq!(outcomes, ["failed", "retry", "hang", "failed", "retry", "hang"]);
}

#[tokio::test]
async fn a_runtime_that_does_not_take_a_release_yet_takes_it_in_the_end_or_never() {
    let driver = Fixture::new().open();
    let never = release("pos", &[("apply", "not-yet")]);
    for _ in 0..3 {
        let error = apply(&driver, &never, Action::Create, 0).await.unwrap_err();
        assert!(matches!(error, DriverError::NotYet(_)), "{error}");
    }
    let late = release("menu", &[("apply", "not-yet:1ms")]);
    assert!(matches!(apply(&driver, &late, Action::Create, 0).await, Err(DriverError::NotYet(_))));
    tokio::time::sleep(Duration::from_millis(5)).await;
    apply(&driver, &late, Action::Create, 0).await.unwrap();
}

#[tokio::test]
async fn what_is_immutable_is_told_from_what_differs_otherwise() {
    let driver = Fixture::new().open();
    let with = |version: &str| release("pos", &[("change", "immutable"), ("address", version)]);
    create(&driver, &with("1")).await.unwrap();
    assert_eq!(look(&driver, &with("1")).await[0], Observed::Same);
    let seen = look(&driver, &with("2")).await;
    assert!(seen.iter().any(|seen| matches!(seen, Observed::Immutable { .. })), "{seen:?}");
}

#[tokio::test]
async fn an_object_left_half_made_is_seen_and_made_again() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[("apply", "partial")]);
    apply(&driver, &release, Action::Create, 0).await.unwrap_err();
    let restarted = fixture.open();
    let seen = look(&restarted, &release).await;
    assert!(matches!(&seen[0], Observed::Drift { recreate: true, .. }), "{seen:?}");
    assert!(matches!(restarted.health(&release).await, Health::Unhealthy { .. }));
    apply(&restarted, &release, Action::Recreate, 0).await.unwrap();
    assert_eq!(look(&restarted, &release).await[0], Observed::Same);
}

#[tokio::test]
async fn an_annotation_that_nobody_knows_is_the_releases_fault() {
    let driver = Fixture::new().open();
    for (what, how) in [("helth", "healthy"), ("health", "sick"), ("delay", "5"), ("prepare", "partial")] {
        let error = driver.check(&release("pos", &[(what, how)])).unwrap_err();
        assert!(matches!(&error, DriverError::Release(why) if why.contains(what)), "{error}");
    }
    driver.check(&release("pos", &[("health", "slow:5s"), ("delay", "1ms")])).unwrap();
}

#[tokio::test]
async fn a_runtime_that_is_down_or_hangs_is_an_error_of_the_runtime_and_not_an_empty_one() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[]);
    create(&driver, &release).await.unwrap();
    for runtime in ["down", "hang", "nonsense"] {
        fixture.script(json!({ "runtime": runtime }));
        let error = driver.observe(&release.app, Some(&release)).await.unwrap_err();
        assert!(matches!(error, DriverError::Runtime(_)), "{error}");
        assert!(driver.apps().await.is_err());
        assert_eq!(driver.health(&release).await, Health::Unknown);
        assert!(!driver.fingerprint().await.usable);
    }
    fs::remove_file(fixture.0.path().join("script.json")).unwrap();
    assert_eq!(look(&driver, &release).await, [Observed::Same, Observed::Same]);
}

#[tokio::test]
async fn what_the_script_says_of_an_app_replaces_what_its_release_says() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[("health", "healthy")]);
    create(&driver, &release).await.unwrap();
    assert_eq!(driver.health(&release).await, Health::Healthy);
    fixture.script(json!({ "apps": { "pos": { "health": "unhealthy" } } }));
    assert!(matches!(driver.health(&release).await, Health::Unhealthy { .. }));
}

#[tokio::test]
async fn a_pass_with_nothing_to_do_writes_nothing() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[]);
    look(&driver, &release).await;
    create(&driver, &release).await.unwrap();
    look(&driver, &release).await;
    let (lines, written) =
        (fixture.log(), fs::metadata(fixture.file("Pod:pos")).unwrap().modified().unwrap());
    for _ in 0..3 {
        look(&driver, &release).await;
        driver.health(&release).await;
        driver.apps().await.unwrap();
    }
    assert_eq!(fixture.log(), lines);
    apply(&driver, &release, Action::Create, 1).await.unwrap();
    assert_eq!(fs::metadata(fixture.file("Pod:pos")).unwrap().modified().unwrap(), written);
    assert_eq!(fixture.log().last().unwrap().outcome, "exists");
}

#[tokio::test]
async fn the_log_tells_a_create_that_nobody_looked_before() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[]);
    look(&driver, &release).await;
    create(&driver, &release).await.unwrap();
    assert!(creates_without_absence(&fixture.log()).is_empty());
    fs::remove_file(fixture.file("Pod:pos")).unwrap();
    look(&driver, &release).await;
    apply(&driver, &release, Action::Create, 1).await.unwrap();
    assert!(creates_without_absence(&fixture.log()).is_empty());
    apply(&driver, &release, Action::Create, 1).await.unwrap();
    assert_eq!(creates_without_absence(&fixture.log()).len(), 1);
}

#[tokio::test]
async fn its_own_changes_are_no_events_and_others_are() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let (events, mut heard) = mpsc::channel(64);
    Arc::clone(&driver).watch(events);
    let (pos, tax) = (release("pos", &[]), release("tax", &[]));
    create(&driver, &pos).await.unwrap();
    create(&driver, &tax).await.unwrap();
    fixture.edit("Pod:tax", |object| object["spec"] = json!({}));
    // Had its own changes been events, they would have come first.
    assert_eq!(next(&mut heard).await.app, Some(tax.app.clone()));
    fixture.script(json!({ "runtime": "down" }));
    assert_eq!(next(&mut heard).await.app, None);
}

#[tokio::test]
async fn a_change_that_a_look_at_another_app_comes_across_is_still_reported() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let (pos, tax) = (release("pos", &[]), release("tax", &[]));
    create(&driver, &pos).await.unwrap();
    create(&driver, &tax).await.unwrap();
    let (events, mut heard) = mpsc::channel(64);
    Arc::clone(&driver).watch(events);
    fs::remove_file(fixture.file("Pod:tax")).unwrap();
    look(&driver, &pos).await;
    assert_eq!(next(&mut heard).await.app, Some(tax.app.clone()));
}

#[tokio::test]
async fn a_runtime_whose_folder_was_removed_is_empty_and_goes_on() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[]);
    create(&driver, &release).await.unwrap();
    fs::remove_dir_all(fixture.0.path().join("objects")).unwrap();
    assert_eq!(look(&driver, &release).await, [Observed::Absent, Observed::Absent]);
    create(&driver, &release).await.unwrap();
    fs::remove_file(fixture.file("Pod:pos")).unwrap();
    assert_eq!(look(&driver, &release).await, [Observed::Same, Observed::Absent]);
}

#[tokio::test]
async fn a_file_that_is_garbage_is_foreign_and_not_overwritten() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[]);
    fs::write(fixture.file("Pod:pos"), "{\"device\": ").unwrap();
    assert!(matches!(&look(&driver, &release).await[1], Observed::Foreign { .. }));
    assert!(apply(&driver, &release, Action::Create, 1).await.is_err());
    assert_eq!(fs::read_to_string(fixture.file("Pod:pos")).unwrap(), "{\"device\": ");
}

#[tokio::test]
async fn what_was_given_up_is_nobodys_until_it_is_wanted_again() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let release = release("pos", &[]);
    create(&driver, &release).await.unwrap();
    for index in 0..2 {
        apply(&driver, &release, Action::Orphan, index).await.unwrap();
    }
    assert!(driver.apps().await.unwrap().is_empty());
    assert!(driver.observe(&release.app, None).await.unwrap().is_empty());
    assert!(fixture.file("Pod:pos").exists());
    assert!(matches!(&look(&driver, &release).await[1], Observed::Drift { recreate: false, .. }));
    apply(&driver, &release, Action::Adopt, 1).await.unwrap();
    assert_eq!(look(&driver, &release).await[1], Observed::Same);
}

/// This test starts itself again as the agent that is killed.
#[tokio::test]
async fn a_crash_kills_the_process_and_what_was_done_is_found_again() {
    const NAME: &str = "simulated::tests::a_crash_kills_the_process_and_what_was_done_is_found_again";
    let release = |when| release("pos", &[("crash", when)]);
    let owner = Owner { device: "emea/till-1".parse().unwrap() };
    if let Ok(dir) = std::env::var("HOLDFAST_TEST_CRASH_DIR") {
        let driver = SimulatedDriver::open(dir.as_ref(), &owner).unwrap();
        let release = release(&std::env::var("HOLDFAST_TEST_CRASH_WHEN").unwrap());
        driver.prepare(&release).await.unwrap();
        create(&driver, &release).await.unwrap();
        panic!("it was not killed");
    }
    let there = |seen: Observed| seen == Observed::Same;
    for (when, made) in [("prepare", false), ("apply", false), ("applied", true)] {
        let fixture = Fixture::new();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("HOLDFAST_TEST_CRASH_DIR", fixture.0.path())
            .env("HOLDFAST_TEST_CRASH_WHEN", when)
            .status()
            .unwrap();
        assert!(!status.success() && status.code().is_none(), "{when}: {status}");
        let seen = look(&fixture.open(), &release(when)).await;
        assert_eq!(seen.into_iter().map(there).collect::<Vec<_>>(), [made, false], "{when}");
        let last = fixture.log().into_iter().rfind(|line| line.op != "observe").unwrap();
        assert_eq!((last.outcome.as_ref(), last.pid == std::process::id()), ("crash", false));
    }
}

#[tokio::test]
async fn of_a_long_log_only_whole_lines_from_its_end_are_shown() {
    let fixture = Fixture::new();
    let driver = fixture.open();
    let mut log = fs::OpenOptions::new().append(true).open(fixture.0.path().join("log.jsonl")).unwrap();
    for n in 0..10_000 {
        writeln!(log, "{{\"app\":\"pos\",\"n\":{n},\"more\":\"{}\"}}", "x".repeat(n % 100)).unwrap();
    }
    let shown = driver.logs(&"pos".parse().unwrap(), 100_000).await.unwrap();
    let size: usize = shown.iter().map(|line| line.len() + 1).sum();
    assert!((200 << 10..=256 << 10).contains(&size), "{size}");
    let numbers =
        shown.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap());
    assert!(numbers.eq(10_000 - shown.len() as u64..10_000));
    assert_eq!(driver.logs(&"pos".parse().unwrap(), 3).await.unwrap(), shown[shown.len() - 3..]);
}
