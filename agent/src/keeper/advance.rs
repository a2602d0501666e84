//! Bringing the newest revision to the apps, unless nothing has changed since that was done.

use holdfast_core::app::Phase;
use holdfast_core::clock::Now;
use holdfast_core::generation::advance;
use holdfast_core::generation::handover::Handovers;

use super::Keeper;
use super::counted::Counted;
use super::journal::{Journal, JournalError};

impl<J: Journal> Keeper<J> {
    /// Brings what the newest revision wants to the apps. An app that goes back ends that first, so this is
    /// done again with every pass.
    pub(super) fn advance(&mut self, now: &Now) -> Result<(), JournalError> {
        // Nearly every pass follows an answer that changed nothing of this.
        if self.advanced == Some(self.basis()) {
            return Ok(());
        }
        let Some(resolved) = &*self.resolved else { return Ok(()) };
        let mut apps = self.apps.clone();
        let withheld = self.permit.apply.as_ref();
        let defers = withheld.is_some() || self.permit.download.is_some();
        let handovers = Handovers::of(self.claims(&apps), resolved);
        let advance = advance(&mut apps, resolved, &self.failed, withheld, defers, &handovers, now);
        for (name, app) in &mut apps {
            let was_removed = self.apps.get(name).is_some_and(|app| app.phase == Phase::Removing);
            // Of what has begun to go nothing is brought back before its successor comes.
            if was_removed && app.phase == Phase::Preparing && !self.is_all_here(name, app) {
                app.current = None;
            }
        }
        self.handovers = handovers;
        let changed: Vec<_> = advance.changed.iter().map(|name| (name, apps.get(name))).collect();
        self.journal.save_apps(&changed)?;
        self.uncommitted.extend(advance.changed.iter().cloned());
        let before = std::mem::replace(&mut *self.apps, apps);
        for name in &advance.changed {
            self.note_stance(name, before.get(name));
        }
        self.note_kept(&advance.kept, now);
        self.kept = advance.kept;
        self.withheld = advance.withheld;
        if !advance.changed.is_empty() {
            self.find_undiagnosed();
        }
        self.forget_releases();
        self.advanced = advance.changed.is_empty().then(|| self.basis());
        Ok(())
    }

    /// The state of all that [`Keeper::advance`] goes by.
    pub(super) fn basis(&self) -> [u64; 6] {
        [
            Counted::count(&self.apps),
            Counted::count(&self.inventory),
            Counted::count(&self.failed),
            Counted::count(&self.releases),
            Counted::count(&self.resolved),
            Counted::count(&self.permit),
        ]
    }
}
