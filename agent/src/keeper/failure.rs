//! What follows when a release fails: it is remembered, its app is rolled back, and so are the apps that changed
//! together with it. And how somebody has it tried again.

use holdfast_core::app::{App, Phase};
use holdfast_core::clock::Now;
use holdfast_core::digest::ReleaseId;
use holdfast_core::generation::{Failure, group};
use holdfast_core::name::AppName;

use super::Keeper;
use super::journal::{Journal, JournalError, Note};

impl<J: Journal> Keeper<J> {
    /// The release failed: that is remembered first, then the app goes back, and its group with it.
    pub(super) fn fail(
        &mut self,
        name: &AppName,
        id: ReleaseId,
        reason: &str,
        now: &Now,
    ) -> Result<(), JournalError> {
        let judged = self.apps.get(name).is_some_and(|app| matches!(app.phase, Phase::Judging(_)));
        self.fail_for_good(name, id, reason, judged, now)?;
        let group = self.apps.get(name).and_then(App::group).cloned();
        let changed = |app: &App| matches!(app.phase, Phase::Applying | Phase::Judging(_));
        let others: Vec<AppName> = match &group {
            Some(group) => {
                let others = group::others(group, name, &self.apps).filter(|(_, app)| changed(app));
                others.map(|(name, _)| name.clone()).collect()
            }
            None => Vec::new(),
        };
        let all: Vec<AppName> = others.iter().chain([name]).cloned().collect();
        // Where one can't go back, the others don't: they belong together.
        let stays = all.iter().filter_map(|name| self.apps.get(name)).any(App::stays_after_failure);
        let others_reason = group.as_ref().map(|group| group::together(group, name, reason));
        let reason_for = |app: &AppName| match &others_reason {
            Some(others_reason) if app != name => others_reason.clone(),
            _ => reason.to_owned(),
        };
        self.change_together(&all, |name, app| app.fail(&reason_for(name), stays, now))?;
        for name in &others {
            self.journal.note(Note::of("app.failed", name, reason_for(name)), now);
        }
        self.undiagnosed.extend(all);
        Ok(())
    }

    /// Remembers that a release failed; what was `judged` may do by another health policy.
    pub(super) fn fail_for_good(
        &mut self,
        name: &AppName,
        id: ReleaseId,
        reason: &str,
        judged: bool,
        now: &Now,
    ) -> Result<(), JournalError> {
        let target = self.apps.get(name).and_then(|app| app.target.as_ref());
        let judged_by = target.filter(|_| judged).map(|target| target.policy.health.mark());
        let failure = Failure { reason: reason.to_owned(), judged_by };
        self.journal.remember_failed(name, &id, &failure, now)?;
        self.failed.entry(name.clone()).or_default().insert(id, failure);
        self.journal.note(Note::of("app.failed", name, format!("{id}: {reason}")), now);
        Ok(())
    }

    /// Somebody wants what failed of an app to be tried again, though nothing of it has changed. An error says why
    /// there is nothing to try.
    pub fn retry(
        &mut self,
        name: &AppName,
        who: &str,
        now: &Now,
    ) -> Result<Result<(), String>, JournalError> {
        let Some(app) = self.apps.get(name) else {
            return Ok(Err(format!("there is no app {name} on this box")));
        };
        if !matches!(app.phase, Phase::RolledBack { .. } | Phase::Held { .. }) && app.stuck.is_none() {
            return Ok(Err(format!("nothing to retry: {name} has not failed, it is {}", app.phase.word())));
        }
        // Whatever failed of its group keeps it from being tried.
        let group = app.group().cloned();
        let others = group.iter().flat_map(|group| group::others(group, name, &self.apps));
        let all: Vec<AppName> = others.map(|(name, _)| name.clone()).chain([name.clone()]).collect();
        for name in &all {
            self.journal.forget_failed(name)?;
            self.failed.remove(name);
            self.try_now(name, now);
        }
        self.journal.note(Note::of("app.retried", name, format!("retry requested by {who}")), now);
        Ok(Ok(()))
    }
}
