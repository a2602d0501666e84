//! The causes that `status` prints, each as the code that decides it words it: a golden file holds them.
#![allow(clippy::disallowed_methods, reason = "a test reads its golden file")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::civil::Weekday;

use super::Held;
use crate::app::{App, Phase};
use crate::change::{ChangePolicy, DailyWindow, Gate, GateAnswer, GateKind, Stop, Windows, Zone};
use crate::clock::{Doubt, Suspicion, Time};
use crate::digest::Revision;
use crate::generation::handover::{Claims, Handovers, Releases};
use crate::generation::{Apps, Inventory, Order, Owned, advance, waits_for};
use crate::name::ObjectKey;
use crate::observe::{Observations, Observed};
use crate::plan::{Aim, Known, plan};
use crate::resolve::Resolved;
use crate::runtime::DriverName;
use crate::testing::{ALL, good, name, now, release, resolved, target};
use crate::verify::{KeyProblem, Refused};

/// What is told, by title.
#[derive(Default)]
struct Told(String);

impl Told {
    fn of(&mut self, title: &str, held: Option<Held>) {
        let Held { cause, next, unblock } = held.unwrap_or_else(|| panic!("{title}: it isn't held"));
        let next = next.map_or("-".to_owned(), |next| next.to_string());
        self.0.push_str(&format!("# {title}\n{cause}\n    next: {next}\n    to unblock: {unblock}\n\n"));
    }
}

fn plans(told: &mut Told) {
    let old = release("pos", "1", &["ConfigMap/shop/till"]);
    let planned = |key: &str, seen: Observed, newest: &Resolved| {
        let wanted = release("pos", "2", &[key]);
        let mut app = good(&target(&wanted, &[]));
        app.phase = Phase::Applying;
        app.good = Some(target(&old, &[]));
        let apps = Apps::from([(name("pos"), app)]);
        let releases = Releases::from([(wanted.id(), wanted)]);
        let seen = BTreeMap::from([(key.parse::<ObjectKey>().unwrap(), seen)]);
        let observed = Observations::from([(name("pos"), BTreeMap::from([(DriverName::SIMULATED, seen)]))]);
        let inventory = Inventory::new();
        let known = Known {
            apps: &apps,
            releases: &releases,
            observed: &observed,
            inventory: &inventory,
            newest: Some(newest),
            runtimes: &ALL,
            holders: None,
        };
        plan(known, Aim::Current).held.remove(&name("pos"))
    };
    let newest = resolved(&[]);
    let foreign = || Observed::Foreign { owner: "helm".into() };
    told.of("somebody else's object has the name", planned("ConfigMap/shop/till", foreign(), &newest));
    told.of("the same where it holds data", planned("PersistentVolumeClaim/shop/db", foreign(), &newest));
    let db = release("db", "1", &["ConfigMap/shop/till"]);
    let keeps = resolved(&[("db", &target(&db, &[]))]);
    let another = || Observed::Another { app: name("db"), immutable: None };
    told.of("another app has it and keeps it", planned("ConfigMap/shop/till", another(), &keeps));
    let mut unread = resolved(&[]);
    unread.held.insert(name("db"), Held::until_changed("app.yaml:1:1", "mend it"));
    told.of(
        "another app has it, whose documents are faulty",
        planned("ConfigMap/shop/till", another(), &unread),
    );
    let changed = || Observed::Immutable { difference: "spec.selector: till, not pos".into() };
    told.of("it can't be changed in place", planned("Deployment/shop/till", changed(), &newest));
    told.of("nor what holds data", planned("PersistentVolumeClaim/shop/db", changed(), &newest));
}

fn waiting(told: &mut Told) {
    let (db, pos) = (release("db", "1", &["Pod/db"]), release("pos", "1", &["Pod/pos"]));
    let pending = || {
        let mut app = App::placed(&target(&pos, &["db"]), None, &now());
        app.prepared(&now());
        app
    };
    let waits = |apps: &Apps| waits_for(&name("pos"), &apps[&name("pos")], apps, &BTreeMap::new());
    let with = |app: App| Apps::from([(name("pos"), pending()), (name("db"), app)]);
    told.of("what it depends on isn't good yet", waits(&with(App::placed(&target(&db, &[]), None, &now()))));
    let mut failed = good(&target(&db, &[]));
    failed.phase = Phase::RolledBack { reason: "answered 500".into() };
    told.of("what it depends on has failed", waits(&with(failed)));
    told.of("what it depends on isn't here", waits(&Apps::from([(name("pos"), pending())])));

    let mut apps =
        Apps::from([(name("db"), good(&target(&db, &[]))), (name("pos"), good(&target(&pos, &[])))]);
    let nothing = resolved(&[]);
    let kept =
        advance(&mut apps, &nothing, &BTreeMap::new(), None, false, &Handovers::default(), &now()).kept;
    told.of("a revision would remove more than the prune limit", kept.get(&name("db")).cloned());

    let taker = release("pos", "2", &["Pod/pos", "Pod/db"]);
    let next = resolved(&[("pos", &target(&taker, &[]))]);
    let releases: Releases = [db, pos, taker].map(|release| (release.id(), release)).into();
    let owned = BTreeMap::from([("Pod/db".parse().unwrap(), Owned::by(DriverName::SIMULATED))]);
    let inventory = Inventory::from([(name("db"), owned)]);
    let claims = Claims {
        apps: &apps,
        releases: &releases,
        inventory: &inventory,
        newest: Some(&next),
        runtimes: &ALL,
        holders: None,
    };
    let handovers = Handovers::of(claims, &next);
    told.of("another app is to take over what it has", handovers.holds(&name("db"), &apps));
    let faulty = BTreeMap::from([(name("db"), Held::until_changed("app.yaml:1:1", "mend it"))]);
    let order = Order { faulty: &faulty, handovers: None };
    let mut grouped = target(&releases.values().next().unwrap().clone(), &[]);
    grouped.policy.group = Some(name("till"));
    let mut member = App::placed(&grouped, None, &now());
    member.prepared(&now());
    let apps = Apps::from([(name("db"), member.clone()), (name("pos"), member)]);
    told.of("another one of its group is faulty", waits_for(&name("pos"), &apps[&name("pos")], &apps, order));
}

fn failures(told: &mut Told) {
    let pos = target(&release("pos", "1", &["Pod/pos"]), &[]);
    let with = |phase: Phase, stays: bool| {
        let mut app = good(&pos);
        app.phase = phase;
        if stays {
            app.target.as_mut().unwrap().policy.irreversible = true;
        }
        app.held(&name("pos"))
    };
    let reason = || "answered 500".to_owned();
    told.of("its release failed", with(Phase::RolledBack { reason: reason() }, false));
    told.of("its release failed and stays", with(Phase::Held { reason: reason() }, true));
    let mut stuck = good(&pos);
    stuck.stick("podman can't be reached", &now());
    told.of("its runtime can't be reached", stuck.held(&name("pos")));
}

fn policies(told: &mut Told) {
    let at = |text: &str| Time::Known(text.parse().unwrap());
    let windows: Windows = Windows {
        zone: Zone::utc(),
        daily: vec![DailyWindow::new(&[Weekday::Saturday, Weekday::Sunday], "02:00", "04:00").unwrap()],
    };
    let policy = ChangePolicy { apply: windows.clone(), download: windows, ..ChangePolicy::default() };
    told.of("the window for changes is closed", policy.holds_apply(&at("2026-11-21T09:00:00Z")));
    told.of("the window for downloads is closed", policy.holds_download(&at("2026-11-21T09:00:00Z")));
    let doubt = Doubt {
        shown: "2099-01-01T00:00:00Z".parse().unwrap(),
        proven: "2026-11-21T09:00:00Z".parse().unwrap(),
        why: Suspicion::Ahead,
    };
    told.of("nobody knows the time", policy.holds_apply(&Time::Unknown(doubt)));
    let stop = Stop { name: "freeze".into(), reason: "the tills are being counted".into() };
    let stopped = ChangePolicy { stop: Some(stop), ..ChangePolicy::default() };
    told.of("all changes are stopped", stopped.stopped());
    let gate = Gate {
        name: "sale".into(),
        probe: GateKind::File { path: "/run/pos/busy".into() },
        max_hold: Duration::from_secs(4 * 3600),
    };
    let gated = ChangePolicy { gates: vec![gate], ..ChangePolicy::default() };
    let answers = [GateAnswer::InUse("/run/pos/busy exists".into())];
    let next = "2026-11-21T09:01:00Z".parse().unwrap();
    told.of("a gate says that the box is in use", gated.holds_gates(&answers, Duration::ZERO, next));
}

fn refusals(told: &mut Told) {
    let revision = || Revision("f393d566e48189be625cc57302875b85325eea8e".into());
    let accepted = || Revision("d7448027c78fc778ced57f687facd1c6c615156e".into());
    let key = |problem| Refused::Key {
        revision: revision(),
        fingerprint: "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8".into(),
        problem,
    };
    let (from, until) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-11-01T00:00:00Z".parse().unwrap());
    let at = "2026-11-21T09:00:00Z".parse().unwrap();
    let all = [
        ("a revision is not signed", Refused::Unsigned { revision: revision() }),
        ("nobody knows its key", key(KeyProblem::Stranger)),
        (
            "its key is for something else",
            key(KeyProblem::Namespace { line: 2, allowed: "file".into(), wanted: "git".into() }),
        ),
        ("its key is not valid yet", key(KeyProblem::NotYetValid { line: 2, from: at, at: from })),
        ("its key is no longer valid", key(KeyProblem::Expired { line: 2, until, at })),
        ("history was rewritten", Refused::NotADescendant { revision: revision(), accepted: accepted() }),
        (
            "its ancestry can't be shown",
            Refused::DescentUnproven {
                revision: revision(),
                accepted: accepted(),
                why: "the server sends no commit without its files".into(),
            },
        ),
        (
            "an older artifact is offered",
            Refused::NotNewer { revision: revision(), sequence: 3, accepted: accepted(), newest: 4 },
        ),
        ("the source is of another kind", Refused::OtherKind { revision: revision(), accepted: accepted() }),
    ];
    for (title, refused) in all {
        told.of(title, Some(Held::from(&refused)));
    }
}

#[test]
fn what_holds_a_box_is_told_as_the_golden_file_has_it() {
    let mut told = Told::default();
    plans(&mut told);
    waiting(&mut told);
    failures(&mut told);
    policies(&mut told);
    refusals(&mut told);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/causes.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &told.0).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == told.0, "{} differs; is now:\n{}", path.display(), told.0);
}
