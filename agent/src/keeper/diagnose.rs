//! The diagnosis of an app that failed: gathered and kept before anything of it is taken back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::app::{App, Phase};
use holdfast_core::clock::Now;
use holdfast_core::diagnosis::{Diagnosis, LOG_LINES, LookRecord};
use holdfast_core::health::{Health, Sight};
use holdfast_core::name::AppName;
use holdfast_core::observe::{AppObservation, Observations};
use holdfast_core::release::Target;
use tokio::time::timeout;

use super::Keeper;
use super::journal::Journal;

/// How long a runtime may take over the last lines of a log: an app that failed goes back without them.
const LOG_LIMIT: Duration = Duration::from_secs(5);
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

    /// Keeps what can be seen of those of `names` that failed. What can't be had is left out: nothing here keeps an
    /// app from going back.
    pub(super) async fn diagnose(&mut self, names: &[AppName], observed: &Observations, now: &Now) {
        for name in names.iter().filter(|name| self.undiagnosed.contains(*name)).cloned().collect::<Vec<_>>()
        {
            self.undiagnosed.remove(&name);
            if let Some(diagnosis) = self.diagnosis_of(&name, observed, now).await {
                self.journal.keep_diagnosis(&name, diagnosis.bounded());
            }
        }
    }

    /// What the runtime of `target` has of the app, compared with that; `None` if it can't be had.
    async fn compared_with(&self, name: &AppName, target: &Target) -> Option<AppObservation> {
        let release = self.releases.get(&target.release)?;
        self.observe_one(name, target.driver, Some(release)).await.ok()
    }

    async fn diagnosis_of(&self, name: &AppName, observed: &Observations, now: &Now) -> Option<Diagnosis> {
        let app = self.apps.get(name)?;
        let target = app.target.as_ref()?;
        let reason = match &app.phase {
            Phase::RollingBack { reason } | Phase::RolledBack { reason } | Phase::Held { reason } => reason,
            _ => return None,
        };
        let driver = self.drivers.get(&target.driver).map(Arc::clone);
        let logs = match driver {
            Some(driver) => match timeout(LOG_LIMIT, driver.logs(name, LOG_LINES)).await {
                Ok(Ok(lines)) => Ok(lines),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("the runtime did not answer within {LOG_LIMIT:?}")),
            },
            None => Err("its driver is not enabled on this box".to_owned()),
        };
        // Asked anew: what was observed was compared with what is to come back.
        let of_target = self.compared_with(name, target).await;
        let seen: Vec<_> = match &of_target {
            Some(seen) => seen.iter().collect(),
            None => observed.get(name).into_iter().flatten().flat_map(|(_, seen)| seen).collect(),
        };
        Some(Diagnosis {
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
        })
    }
}
