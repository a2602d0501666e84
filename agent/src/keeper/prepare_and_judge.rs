//! What is done beside the loop, and how its results are taken in: preparing releases, looking at apps.

use std::sync::Arc;

use holdfast_core::app::{App, Judging, Phase, Verdict};
use holdfast_core::clock::Now;
use holdfast_core::digest::ReleaseId;
use holdfast_core::generation::{group, shaken_by};
use holdfast_core::health::{Health, Sight};
use holdfast_core::name::AppName;
use holdfast_core::release::{Policy, Release, Target};
use holdfast_drivers::{Driver, DriverError};

use super::diagnose::note_sight;
use super::journal::{Journal, JournalError, Note};
use super::{Keeper, Scope};

/// Something to be prepared, in the background.
#[derive(Clone)]
pub struct Preparation {
    /// The app.
    pub app: AppName,
    /// The release.
    pub release: Arc<Release>,
    /// Its id.
    pub id: ReleaseId,
    /// Who prepares it.
    pub driver: Arc<dyn Driver>,
    /// How it will be judged.
    pub policy: Policy,
    /// Who runs probe components; none without the WebAssembly runtime.
    pub prober: Option<Arc<dyn Driver>>,
}

/// Something to be looked at, in the background.
#[derive(Clone)]
pub struct Look {
    /// The app.
    pub app: AppName,
    /// The release that should be running.
    pub release: Arc<Release>,
    /// Its id.
    pub id: ReleaseId,
    /// The checks to make.
    pub policy: Policy,
    /// It is judged, and `startup` has not passed since its start.
    pub is_starting: bool,
    /// Who holds it.
    pub driver: Arc<dyn Driver>,
    /// Who runs probe components; none without the WebAssembly runtime.
    pub prober: Option<Arc<dyn Driver>>,
}

impl<J: Journal> Keeper<J> {
    /// What is to be prepared now.
    pub fn to_prepare(&self, now: &Now) -> Vec<Preparation> {
        if self.permit.download.is_some() {
            return Vec::new();
        }
        let preparing =
            self.apps.iter().filter(|(_, app)| app.phase == Phase::Preparing && !app.waits(&now.moment));
        preparing
            .filter_map(|(name, app)| {
                let target = app.target.as_ref()?;
                Some(Preparation {
                    app: name.clone(),
                    release: Arc::clone(self.releases.get(&target.release)?),
                    id: target.release,
                    driver: Arc::clone(self.drivers.get(&target.driver)?),
                    policy: target.policy.clone(),
                    prober: self.drivers.engine(),
                })
            })
            .collect()
    }

    /// Takes in how a preparation ended.
    pub fn prepared(
        &mut self,
        name: &AppName,
        id: ReleaseId,
        result: Result<(), DriverError>,
        now: &Now,
    ) -> Result<(), JournalError> {
        let still_wanted = self.apps.get(name).is_some_and(|app| {
            app.phase == Phase::Preparing && app.target.as_ref().is_some_and(|target| target.release == id)
        });
        match result {
            _ if !still_wanted => Ok(()),
            Ok(()) => self.change(name, |app| app.prepared(now)),
            Err(DriverError::Release(reason)) => {
                self.fail_for_good(name, id, &reason, false, now)?;
                self.change(name, |app| app.refuse(&reason, now))
            }
            Err(
                DriverError::Runtime(cause)
                | DriverError::Disk { cause, .. }
                | DriverError::NotYet(cause)
                | DriverError::Stays(cause),
            ) => self.change(name, |app| app.stick(&cause, now)),
        }
    }

    /// What should be looked at now: apps that are judged, when their time has come, and of the
    /// others those in `scope`.
    pub fn to_look_at(&self, now: &Now, scope: &Scope) -> Vec<Look> {
        let due = |name: &AppName, app: &App| match &app.phase {
            Phase::Judging(_) => self.looks.get(name).is_none_or(|at| !now.moment.is_before(at)),
            _ => scope.has(name) || (app.current.is_some() && !self.health.contains_key(name)),
        };
        // What isn't brought up yet after the agent has started tells nothing by how it fares.
        let looked_at = self.apps.iter().filter(|(name, app)| due(name, app) && !self.is_unmet(name));
        looked_at
            .filter_map(|(name, app)| {
                let current = app.current.as_ref()?;
                Some(Look {
                    app: name.clone(),
                    release: Arc::clone(self.releases.get(&current.release)?),
                    id: current.release,
                    policy: current.policy.clone(),
                    is_starting: is_starting(app, current, now),
                    driver: Arc::clone(self.drivers.get(&current.driver)?),
                    prober: self.drivers.engine(),
                })
            })
            .collect()
    }

    /// Takes in what a look saw, and judges by it.
    pub fn seen(
        &mut self,
        name: &AppName,
        id: ReleaseId,
        sight: impl Into<Sight>,
        now: &Now,
    ) -> Result<(), JournalError> {
        let sight: Sight = sight.into();
        let Some(app) = self.apps.get(name) else { return Ok(()) };
        let Some(policy) = app.current.as_ref().filter(|t| t.release == id).map(|t| t.policy.health.clone())
        else {
            return Ok(());
        };
        self.remarks.remove(name);
        self.health.insert(name.clone(), sight.health.clone());
        note_sight(self.sights.entry(name.clone()).or_default(), &sight, now);
        if !matches!(app.phase, Phase::Judging(_)) {
            return Ok(());
        }
        let shaken = self.apps.get(name).and_then(|app| shaken_by(app, &self.apps)).cloned();
        let Some(Phase::Judging(judging)) = self.apps.get_mut(name).map(|app| &mut app.phase) else {
            return Ok(());
        };
        self.looks.insert(name.clone(), now.moment_in(Judging::next_look(&policy)));
        if let Some(other) = shaken {
            **judging = Judging::begin(now.moment.clone());
            let remark = format!("not judged while {other}, on which it depends, is being changed");
            self.remarks.insert(name.clone(), remark);
            return Ok(());
        }
        match judging.judge(&policy, &sight, &now.moment) {
            Verdict::Wait => {
                self.remarks.extend(sight.remark.map(|remark| (name.clone(), remark)));
                Ok(())
            }
            Verdict::Good => self.passed(name, id, sight.remark, now),
            Verdict::Bad { reason } => self.fail(name, id, &reason, now),
        }
    }

    /// An app was healthy through its soak: it is good, or will be with the rest of its group.
    fn passed(
        &mut self,
        name: &AppName,
        id: ReleaseId,
        remark: Option<String>,
        now: &Now,
    ) -> Result<(), JournalError> {
        let remark = remark.map(|remark| format!("; {remark}")).unwrap_or_default();
        let message = format!("{id} stayed healthy for its whole soak{remark}");
        let Some(group) = self.apps.get(name).and_then(App::group).cloned() else {
            self.change(name, |app| app.pass(now))?;
            self.journal.note(Note::of("app.good", name, message), now);
            self.forget_releases();
            return Ok(());
        };
        if !group::is_settled(&group, &self.apps) {
            // That it has passed is written down once: it outlives the agent.
            self.change_together(std::slice::from_ref(name), |_, _| {})?;
            self.remarks.insert(
                name.clone(),
                format!(
                    "it passed its soak, and is good as soon as all apps of the group {group} have passed"
                ),
            );
            return Ok(());
        }
        let members = group::others(&group, name, &self.apps).filter(|(_, app)| app.has_passed());
        let members: Vec<AppName> = members.map(|(name, _)| name.clone()).chain([name.clone()]).collect();
        self.change_together(&members, |_, app| app.pass(now))?;
        for name in &members {
            let message =
                format!("it stayed healthy for its whole soak, as did all other apps of the group {group}");
            self.journal.note(Note::of("app.good", name, message), now);
        }
        self.forget_releases();
        Ok(())
    }

    /// Takes in how an app is, without judging by it.
    pub fn note_health(&mut self, name: &AppName, health: Health) {
        self.health.insert(name.clone(), health);
    }
}

fn is_starting(app: &App, current: &Target, now: &Now) -> bool {
    let Phase::Judging(judging) = &app.phase else { return false };
    now.moment.since(&judging.started).is_none_or(|elapsed| elapsed < current.policy.health.startup)
}
