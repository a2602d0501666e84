//! The diagnosis of an app that failed: gathered and saved before anything is rolled back.

use std::collections::VecDeque;

use holdfast_core::app::{App, Phase};
use holdfast_core::clock::Now;
use holdfast_core::diagnosis::{Diagnosis, LookRecord};
use holdfast_core::health::{Health, Sight};
use holdfast_core::name::AppName;
use holdfast_core::observe::Observations;

use super::Keeper;
use super::journal::Journal;
use super::work::Evidence;

/// How many looks are remembered.
const LOOKS: usize = 20;

/// Remembers a look. Looks that say the same are counted, not kept.
pub(super) fn note_sight(looks: &mut VecDeque<LookRecord>, sight: &Sight, now: &Now) {
    let reason = match &sight.health {
        Health::Starting { reason } | Health::Unhealthy { reason } => Some(reason.clone()),
        Health::Healthy | Health::Unknown => None,
    };
    let health = sight.health.word().to_owned();
    if let Some(last) = looks.back_mut().filter(|last| last.health == health && last.reason == reason) {
        last.times += 1;
        last.restarts = sight.restarts;
        return;
    }
    looks.push_back(LookRecord { time: now.wall, times: 1, health, reason, restarts: sight.restarts });
    if looks.len() > LOOKS {
        looks.pop_front();
    }
}

impl<J: Journal> Keeper<J> {
    /// Apps that go back and of which nothing was kept yet: after a crash, or as the store was lost.
    pub(super) fn find_undiagnosed(&mut self) {
        let back = |app: &App| matches!(app.phase, Phase::RollingBack { .. });
        let names: Vec<AppName> =
            self.apps.iter().filter(|(_, app)| back(app)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let failed = self.apps.get(&name).and_then(|app| app.target.as_ref()).map(|t| t.release);
            let kept = self.journal.diagnosis(&name).map(|kept| kept.release);
            if failed.is_some() && kept != failed {
                self.undiagnosed.insert(name);
            }
        }
    }

    /// Keeps what could be had of an app that failed. What can't be had is left out: nothing here keeps an app from going
    /// back.
    pub(super) fn keep_diagnosis(
        &mut self,
        name: &AppName,
        evidence: Evidence,
        observed: &Observations,
        now: &Now,
    ) {
        let Some(app) = self.apps.get(name) else { return };
        let (Phase::RollingBack { reason } | Phase::RolledBack { reason } | Phase::Held { reason }) =
            &app.phase
        else {
            return;
        };
        let Evidence { target, logs, seen } = evidence;
        if app.target.as_ref().is_none_or(|own| own.release != target.release) {
            return;
        }
        // Asked anew: what was observed was compared with what is to come back.
        let seen: Vec<_> = match &seen {
            Some(seen) => seen.iter().collect(),
            None => observed.get(name).into_iter().flatten().flat_map(|(_, seen)| seen).collect(),
        };
        let diagnosis = Diagnosis {
            app: name.clone(),
            release: target.release,
            revision: target.revision.clone(),
            driver: target.driver,
            time: now.wall,
            reason: reason.clone(),
            looks: self.sights.get(name).into_iter().flatten().cloned().collect(),
            objects: seen.into_iter().map(|(key, seen)| (key.clone(), seen.to_string())).collect(),
            no_logs: logs.as_ref().err().cloned(),
            logs: logs.unwrap_or_default(),
            events: Vec::new(),
        };
        self.journal.keep_diagnosis(name, diagnosis.bounded());
        // Before anything of it is removed.
        self.uncommitted.insert(name.clone());
    }
}
