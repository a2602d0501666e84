//! What every driver must do, as tests that any driver can be run through: implement [`Runtime`] for it and
//! call `holdfast_drivers::conformance_tests!(make_runtime())` in a test module.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_core::health::Health;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::{AppObservation, Observed};
use holdfast_core::plan::Action;
use holdfast_core::release::Release;
use tokio::sync::mpsc;

use crate::{ApplyStep, Driver, DriverError};

/// A runtime of the test's own, empty at first.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// A driver on the runtime, as an agent opens it that was just started or restarted.
    async fn driver(&self) -> Arc<dyn Driver>;

    /// The release of `app` in a version. Versions have the same objects' names and differ in what is in
    /// them.
    fn release(&self, app: &AppName, version: u32) -> Release;

    /// Puts something under `key` that another device made. False if the runtime holds what two devices make
    /// beside each other, so that neither is in the other's way.
    async fn plant(&self, key: &ObjectKey) -> bool;

    /// Takes away what is under `key`, behind the driver's back.
    async fn take_away(&self, key: &ObjectKey);

    /// Whether a name is the same object whichever app has it, so that one app can take over what another one has.
    fn shares_names(&self) -> bool {
        false
    }

    /// Changes what is under `key`, behind the driver's back. False if the runtime knows no such thing.
    async fn tamper(&self, key: &ObjectKey) -> bool;
}

/// What a driver did wrong.
pub type Outcome = Result<(), String>;

/// How long an event may take to come, or something to go. Only a driver that fails takes as long.
const EVENT_LIMIT: Duration = Duration::from_secs(30);

fn app() -> Result<AppName, String> {
    "conformance".parse().map_err(|error| format!("{error}"))
}

fn said(doing: &str) -> impl Fn(DriverError) -> String {
    move |error| format!("{doing}: {error}")
}

async fn look(driver: &dyn Driver, release: &Release) -> Result<AppObservation, String> {
    driver.observe(&release.app, Some(release)).await.map_err(said("observe"))
}

async fn act(
    driver: &dyn Driver,
    release: &Release,
    action: Action,
    key: &ObjectKey,
) -> Result<(), DriverError> {
    let desired = !matches!(action, Action::Remove | Action::Orphan | Action::Purge);
    let step = ApplyStep {
        app: &release.app,
        action,
        object: key,
        release: desired.then_some(release),
        id: None,
        strategy: holdfast_core::release::Strategy::StopStart,
        from: None,
    };
    driver.apply(step).await
}

async fn create(driver: &dyn Driver, release: &Release) -> Outcome {
    driver.prepare(release).await.map_err(said("prepare"))?;
    for object in &release.objects {
        act(driver, release, Action::Create, &object.key).await.map_err(said("create"))?;
    }
    Ok(())
}

async fn remove(driver: &dyn Driver, release: &Release) -> Outcome {
    for object in release.objects.iter().rev() {
        // What goes slowly is asked for again, as the agent does it.
        let deadline = tokio::time::Instant::now() + EVENT_LIMIT;
        loop {
            match act(driver, release, Action::Remove, &object.key).await {
                Err(DriverError::NotYet(_)) if tokio::time::Instant::now() < deadline => {}
                done => break done.map_err(said("remove"))?,
            }
        }
    }
    Ok(())
}

fn all(observation: &AppObservation, what: &str, is: impl Fn(&Observed) -> bool) -> Outcome {
    match observation.iter().find(|(_, observed)| !is(observed)) {
        None if observation.is_empty() => Err(format!("nothing was observed that could be {what}")),
        None => Ok(()),
        Some((key, observed)) => Err(format!("{key} should be {what} and is {observed:?}")),
    }
}

fn same(observed: &Observed) -> bool {
    *observed == Observed::Same
}

fn absent(observed: &Observed) -> bool {
    *observed == Observed::Absent
}

fn first(release: &Release) -> Result<&ObjectKey, String> {
    release.objects.first().map(|object| &object.key).ok_or_else(|| "the release has no object".to_owned())
}

/// Before anything was made there is nothing.
pub async fn an_empty_runtime_holds_nothing(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    driver.check(&release).map_err(said("check"))?;
    all(&look(&*driver, &release).await?, "absent", absent)?;
    let apps = driver.apps().await.map_err(said("apps"))?;
    if apps.is_empty() { Ok(()) } else { Err(format!("there should be no app, and there is {apps:?}")) }
}

/// Prepare stages, once or twice, and makes nothing.
pub async fn preparing_disturbs_nothing(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    driver.prepare(&release).await.map_err(said("prepare"))?;
    driver.prepare(&release).await.map_err(said("prepare again"))?;
    all(&look(&*driver, &release).await?, "absent", absent)
}

/// What was created is as it should be, and a second create, as after a crash, changes nothing about that.
pub async fn creating_twice_is_creating_once(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    create(&*driver, &release).await?;
    all(&look(&*driver, &release).await?, "the same", same)?;
    create(&*driver, &release).await?;
    all(&look(&*driver, &release).await?, "the same", same)?;
    remove(&*driver, &release).await
}

/// What was removed is gone, and a second remove is no error.
pub async fn removing_twice_is_removing_once(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    create(&*driver, &release).await?;
    remove(&*driver, &release).await?;
    all(&look(&*driver, &release).await?, "absent", absent)?;
    remove(&*driver, &release).await?;
    all(&look(&*driver, &release).await?, "absent", absent)
}

/// What carries our mark and isn't wanted is named, with its release.
pub async fn what_is_not_wanted_is_extra(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    create(&*driver, &release).await?;
    let found = driver.observe(&release.app, None).await.map_err(said("observe"))?;
    let id = release.id();
    all(&found, "extra, with its release", |o| *o == Observed::Extra { release: Some(id) })?;
    if found.len() != release.objects.len() {
        return Err(format!("{} objects were made, and {} are extra", release.objects.len(), found.len()));
    }
    remove(&*driver, &release).await
}

/// What carries our mark and nobody knew of can be taken in, before it is removed, without being changed.
pub async fn what_is_extra_can_be_adopted(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    create(&*driver, &release).await?;
    for object in &release.objects {
        let step = ApplyStep {
            app: &release.app,
            action: Action::Adopt,
            object: &object.key,
            release: None,
            id: None,
            strategy: holdfast_core::release::Strategy::StopStart,
            from: None,
        };
        driver.apply(step).await.map_err(said("adopt for removal"))?;
        act(&*driver, &release, Action::Adopt, &object.key).await.map_err(said("adopt"))?;
    }
    all(&look(&*driver, &release).await?, "the same", same)?;
    remove(&*driver, &release).await
}

/// What another app of the box has is told apart, and can be taken over as it is: then it is the new app's.
pub async fn what_another_app_has_can_be_taken_over(runtime: &dyn Runtime) -> Outcome {
    if !runtime.shares_names() {
        return Ok(());
    }
    let (driver, old) = (runtime.driver().await, runtime.release(&app()?, 1));
    let taker: AppName = "taker".parse().map_err(|error| format!("{error}"))?;
    let new = Release { app: taker.clone(), ..old.clone() };
    create(&*driver, &old).await?;
    let theirs = Observed::Another { app: old.app.clone(), immutable: None };
    all(&look(&*driver, &new).await?, "the other app's", |o| *o == theirs)?;
    for object in &new.objects {
        for _ in 0..2 {
            let step = ApplyStep {
                app: &taker,
                action: Action::Adopt,
                object: &object.key,
                release: Some(&new),
                id: None,
                strategy: holdfast_core::release::Strategy::StopStart,
                from: Some(&old.app),
            };
            driver.apply(step).await.map_err(said("take over"))?;
        }
    }
    all(&look(&*driver, &new).await?, "the same", same)?;
    // Who gave it removes nothing any more.
    remove(&*driver, &old).await?;
    all(&look(&*driver, &new).await?, "the same", same)?;
    let left = driver.observe(&old.app, None).await.map_err(said("observe"))?;
    if !left.is_empty() {
        return Err(format!("nothing should be left of the first app, and there is {left:?}"));
    }
    remove(&*driver, &new).await
}

/// What another device made is told apart, isn't changed, isn't removed and isn't listed.
pub async fn what_is_foreign_is_left_alone(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    let key = first(&release)?;
    if !runtime.plant(key).await {
        return Ok(());
    }
    let foreign = |o: &Observed| matches!(o, Observed::Foreign { .. });
    let is_foreign = async || -> Outcome {
        let seen = look(&*driver, &release).await?;
        match seen.get(key) {
            Some(observed) if foreign(observed) => Ok(()),
            other => Err(format!("{key} should be foreign and is {other:?}")),
        }
    };
    is_foreign().await?;
    for action in [Action::Create, Action::Update, Action::Recreate] {
        if act(&*driver, &release, action, key).await.is_ok() {
            return Err(format!("{action:?} of {key} succeeded, and it isn't ours"));
        }
        is_foreign().await?;
    }
    // Nothing of ours is there, so it may be called a success; what is there must stay.
    let _ = act(&*driver, &release, Action::Remove, key).await;
    is_foreign().await?;
    let apps = driver.apps().await.map_err(said("apps"))?;
    if apps.contains(&release.app) {
        Err("an app is listed that only foreign things exist for".into())
    } else {
        Ok(())
    }
}

/// An agent that was killed in the middle of a release finds what it made, and goes on from there.
pub async fn a_restarted_agent_finds_what_there_is(runtime: &dyn Runtime) -> Outcome {
    let release = runtime.release(&app()?, 1);
    let key = first(&release)?;
    let before = runtime.driver().await;
    before.prepare(&release).await.map_err(said("prepare"))?;
    act(&*before, &release, Action::Create, key).await.map_err(said("create"))?;
    drop(before);

    let after = runtime.driver().await;
    for (found, observed) in look(&*after, &release).await? {
        let expected = if &found == key { Observed::Same } else { Observed::Absent };
        if observed != expected {
            return Err(format!("{found} should be {expected:?} after a restart and is {observed:?}"));
        }
    }
    let apps = after.apps().await.map_err(said("apps"))?;
    if apps != [release.app.clone()] {
        return Err(format!("after a restart the apps are {apps:?}"));
    }
    create(&*after, &release).await?;
    all(&look(&*after, &release).await?, "the same", same)?;
    remove(&*after, &release).await
}

/// Another version differs, says how, and can be reached by the step that the observation asks for.
pub async fn another_version_is_drift_and_can_be_reached(runtime: &dyn Runtime) -> Outcome {
    let (driver, old, new) =
        (runtime.driver().await, runtime.release(&app()?, 1), runtime.release(&app()?, 2));
    create(&*driver, &old).await?;
    driver.prepare(&new).await.map_err(said("prepare"))?;
    mend(&*driver, &new).await?;
    remove(&*driver, &new).await
}

/// Puts right every drift of `release` by the steps that the planner would take, each of them twice.
async fn mend(driver: &dyn Driver, release: &Release) -> Outcome {
    let mut drifted = 0;
    for (key, observed) in look(driver, release).await? {
        let Observed::Drift { difference, recreate } = observed else { continue };
        drifted += 1;
        if difference.trim().is_empty() {
            return Err(format!("{key} has drifted, and the driver doesn't say how"));
        }
        let action = if recreate { Action::Recreate } else { Action::Update };
        for _ in 0..2 {
            act(driver, release, action, &key).await.map_err(said("put right"))?;
        }
    }
    if drifted == 0 {
        return Err("nothing has drifted".to_owned());
    }
    all(&look(driver, release).await?, "the same", same)
}

/// What a person took away is absent, and the loop is told of it.
pub async fn what_was_taken_away_is_absent_and_reported(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    create(&*driver, &release).await?;
    let (events, mut heard) = mpsc::channel(64);
    Arc::clone(&driver).watch(events);
    let key = first(&release)?;
    runtime.take_away(key).await;
    hear(&mut heard, &release.app).await?;
    match look(&*driver, &release).await?.get(key) {
        Some(Observed::Absent) => {}
        other => return Err(format!("{key} was taken away and is {other:?}")),
    }
    create(&*driver, &release).await?;
    all(&look(&*driver, &release).await?, "the same", same)?;
    remove(&*driver, &release).await
}

/// What a person changed has drifted, the loop is told of it, and it can be put right.
pub async fn what_was_tampered_with_is_drift_and_reported(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    create(&*driver, &release).await?;
    let (events, mut heard) = mpsc::channel(64);
    Arc::clone(&driver).watch(events);
    if runtime.tamper(first(&release)?).await {
        hear(&mut heard, &release.app).await?;
        mend(&*driver, &release).await?;
    }
    remove(&*driver, &release).await
}

/// Waits for an event that concerns `app`.
async fn hear(heard: &mut mpsc::Receiver<crate::DriverEvent>, app: &AppName) -> Outcome {
    let concerns = async {
        while let Some(event) = heard.recv().await {
            if event.app.as_ref().is_none_or(|about| about == app) {
                return Ok(());
            }
        }
        Err("the driver stopped watching".to_owned())
    };
    tokio::time::timeout(EVENT_LIMIT, concerns)
        .await
        .unwrap_or_else(|_| Err(format!("no event came within {EVENT_LIMIT:?}")))
}

/// What isn't there isn't healthy.
pub async fn what_is_absent_is_not_healthy(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    match driver.health(&release).await {
        Health::Healthy => Err("an app that was never made is healthy".to_owned()),
        _ => Ok(()),
    }
}

/// A log has at most as many lines as were asked for, and an app without one has none.
pub async fn logs_are_as_short_as_asked_for(runtime: &dyn Runtime) -> Outcome {
    let (driver, release) = (runtime.driver().await, runtime.release(&app()?, 1));
    create(&*driver, &release).await?;
    for lines in [0, 1, 3] {
        let log = driver.logs(&release.app, lines).await.map_err(said("logs"))?;
        if log.len() > lines {
            return Err(format!("{lines} lines were asked for, and {} came", log.len()));
        }
    }
    remove(&*driver, &release).await
}

/// Makes a test of each of the suite's sentences. `$runtime` is evaluated for each of them, and must give a
/// fresh [`Runtime`](crate::conformance::Runtime).
#[macro_export]
macro_rules! conformance_tests {
    ($runtime:expr) => {
        $crate::conformance_tests! { @ $runtime;
            an_empty_runtime_holds_nothing
            preparing_disturbs_nothing
            creating_twice_is_creating_once
            removing_twice_is_removing_once
            what_is_not_wanted_is_extra
            what_is_extra_can_be_adopted
            what_another_app_has_can_be_taken_over
            what_is_foreign_is_left_alone
            a_restarted_agent_finds_what_there_is
            another_version_is_drift_and_can_be_reached
            what_was_taken_away_is_absent_and_reported
            what_was_tampered_with_is_drift_and_reported
            what_is_absent_is_not_healthy
            logs_are_as_short_as_asked_for
        }
    };
    (@ $runtime:expr; $($sentence:ident)*) => {
        $(
            #[tokio::test]
            async fn $sentence() {
                let runtime = $runtime;
                if let Err(why) = $crate::conformance::$sentence(&runtime).await {
                    panic!("{why}");
                }
            }
        )*
    };
}
