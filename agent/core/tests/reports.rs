//! What `status` and `plan` print, every kind of line of it, as golden files hold it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::golden;
use holdfast_core::clock::{Doubt, Suspicion, Time};
use holdfast_core::digest::Digest;
use holdfast_core::report::{ClockStatus, PlanReport, Status};
use jiff::Timestamp;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-11-21T09:00:00Z".parse().unwrap()
}

fn held(cause: &str, next: Value) -> Value {
    json!({ "cause": cause, "next": next, "unblock": "commit a correction" })
}

fn app(name: &str, phase: &str, health: &str) -> Value {
    let release = Digest::of(name.as_bytes()).to_string();
    json!({
        "name": name, "kind": "container", "driver": "podman", "phase": phase, "health": health, "release": release,
        "good": release, "revision": "f393d566e48189be625cc57302875b85325eea8e", "since": "2026-11-21T08:57:00Z",
        "held": null,
    })
}

fn runtime(driver: &str, usable: bool, detail: &str) -> Value {
    let version = usable.then_some("5.4.2");
    json!({ "driver": driver, "usable": usable, "version": version, "detail": detail })
}

fn orphan(name: &str, purge: Value, goes: Value) -> Value {
    json!({
        "app": "old-db", "driver": "podman", "object": format!("PersistentVolumeClaim/{name}"),
        "since": "2026-11-18T09:00:00Z", "purge": purge, "goes": goes,
    })
}

fn orphans() -> Value {
    json!([
        orphan("kept", json!(null), json!(null)),
        orphan("soon", json!("old-db"), json!("2026-11-23T09:00:00Z")),
        orphan("due", json!("old-db"), json!("2026-11-20T09:00:00Z")),
    ])
}

/// A box on which all is well.
fn well() -> Value {
    json!({
        "device": "emea/de/store-0042/till-1", "agent": "0.1.0", "running": true, "trust": "signed", "converged": true,
        "source": {
            "url": "https://git.example/retail/edge.git", "lastPoll": "2026-11-21T08:59:56Z",
            "nextPoll": "2026-11-21T09:04:00Z", "error": null,
        },
        "revision": {
            "fetched": "d7448027c78fc778ced57f687facd1c6c615156e",
            "accepted": "d7448027c78fc778ced57f687facd1c6c615156e",
            "applied": "d7448027c78fc778ced57f687facd1c6c615156e",
        },
        "change": {
            "subject": "pos: raise the price of tea", "author": "Ada Lovelace", "signer": "ops@retail.example",
        },
        "runtimes": [runtime("podman", true, "answers at /run/podman/podman.sock")],
        "apps": [app("db", "Good", "Healthy"), app("pos", "Good", "Healthy")],
        "held": [],
    })
}

fn rendered(status: Value) -> String {
    serde_json::from_value::<Status>(status).unwrap().render(now())
}

/// With changes on top, by their keys.
fn with(mut status: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!() };
    status.as_object_mut().unwrap().extend(changes);
    status
}

#[test]
fn what_status_prints_is_as_written_down() {
    let mut out = String::new();
    let mut show = |title: &str, status: Value| {
        out.push_str(&format!("# {title}\n\n{}\n", rendered(status)));
    };
    show("all is well", well());
    show("an app that was good is unhealthy", {
        let mut pos = app("pos", "Good", "Unhealthy");
        pos["reason"] = json!("answered 500");
        with(well(), json!({ "apps": [app("db", "Good", "Healthy"), pos] }))
    });
    show("nothing is converged, and all of it waits", {
        let (mut pos, mut web) = (app("pos", "Held", "Healthy"), app("web", "Preparing", "Unknown"));
        pos["held"] = held("the release failed: answered 500", json!(null));
        pos["good"] = json!(Digest::of(b"before").to_string());
        web["held"] = held("the image can't be fetched", json!("2026-11-21T09:10:00Z"));
        for key in ["driver", "release", "good", "revision", "since"] {
            web[key] = json!(null);
        }
        let doubt = |why| {
            let (shown, proven) = ("2099-01-01T00:00:00Z".parse().unwrap(), now());
            serde_json::to_value(ClockStatus::of(&Time::Unknown(Doubt { shown, proven, why }))).unwrap()
        };
        let budget =
            json!({ "bytes": 500 << 20, "per": "month", "used": 3 << 20, "next": "2026-12-01T00:00:00Z" });
        with(
            well(),
            json!({
                "converged": false, "trust": "none", "apps": [pos, web], "orphans": orphans(),
                "clock": doubt(Suspicion::Ahead), "held": [held("the revision is not signed", json!(null))],
                "downloads": { "rate": 64 << 10, "budget": budget, "urgent": true },
                "change": { "subject": "a", "author": "b", "signer": null },
                "runtimes": [runtime("kubernetes", false, "/etc/rancher/k3s/k3s.yaml: No such file or directory; start k3s")],
            }),
        )
    });
    show("no agent runs, and nothing was ever applied", {
        let source = json!({
            "url": "file:///srv/git/edge.git", "lastPoll": null, "nextPoll": null,
            "error": "file:///srv/git/edge.git does not exist: check source.url",
        });
        let status =
            with(well(), json!({ "converged": false, "running": false, "source": source, "apps": [] }));
        with(
            status,
            json!({ "change": null, "revision": { "fetched": null, "accepted": null, "applied": null } }),
        )
    });
    show("nothing is polled but on request", {
        let source =
            json!({ "url": "file:///srv/git/edge.git", "lastPoll": null, "nextPoll": null, "error": null });
        with(well(), json!({ "source": source }))
    });
    golden("status.txt", &out);
}

#[test]
fn what_plan_prints_is_as_written_down() {
    let mut out = String::new();
    let mut show = |title: &str, plan: Value| {
        let plan: PlanReport = serde_json::from_value(plan).unwrap();
        out.push_str(&format!("# {title}\n\n{}\n", plan.render(now())));
    };
    show("nothing to do", json!({ "revision": null, "steps": [], "held": [] }));
    let of = |app: Value, held: Value| with(held, json!({ "app": app }));
    let held = json!([
        of(json!(null), held("the revision is not signed", json!(null))),
        of(json!("db"), held("the image can't be fetched", json!("2026-11-21T09:10:00Z"))),
    ]);
    show("only what is held", json!({ "revision": null, "steps": [], "held": held, "orphans": orphans() }));
    let step = |action: &str, object: &str, reason: &str| json!({ "app": "pos", "driver": "podman", "action": action, "object": object, "reason": reason });
    let steps = [
        step("create", "Pod/pos", "it is part of the release"),
        step("remove", "Pod/old", "it is no longer wanted"),
    ];
    show("steps", json!({ "revision": "c3f6dc49", "steps": steps, "held": [] }));
    golden("plan.txt", &out);
}
