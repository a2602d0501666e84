//! The search for apps that a runtime has with our mark and that the box has no record of, because the store was lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_core::app::App;
use holdfast_core::clock::Now;
use holdfast_core::generation::Owned;
use holdfast_core::name::{AppName, ObjectKey};
use holdfast_core::observe::AppObservation;
use holdfast_core::runtime::DriverName;
use holdfast_drivers::Driver;

use super::Keeper;
use super::journal::{Journal, JournalError, Note};
use super::patience::Pause;
use super::work::{Calls, Finds};

/// How far the search is.
#[derive(Debug)]
pub(super) struct Search {
    /// The runtimes that haven't told yet.
    left: BTreeSet<DriverName>,
    under_way: Option<u64>,
    pub(super) pause: Option<Pause>,
    /// The first search is due or under way: nobody can say yet that nothing unknown is here.
    is_awaited: bool,
}

impl Search {
    pub(super) fn of(drivers: impl Iterator<Item = DriverName>) -> Self {
        Search { left: drivers.collect(), under_way: None, pause: None, is_awaited: false }
    }

    /// There is a revision now, by which can be said what is unknown.
    pub(super) fn await_first(&mut self) {
        self.is_awaited |= self.under_way.is_none() && self.pause.is_none() && !self.left.is_empty();
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// A runtime answers again.
    pub(super) fn hurry(&mut self, driver: DriverName) {
        if self.left.contains(&driver) {
            self.pause = None;
        }
    }
}

impl<J: Journal> Keeper<J> {
    /// Whether a search is to begin. Only with a revision at hand can it be said what is unknown.
    pub fn has_due_search(&self, now: &Now) -> bool {
        let rests = self.search.pause.as_ref().is_some_and(|pause| pause.is_on(now));
        self.resolved.is_some() && !self.search.left.is_empty() && !self.search.is_under_way() && !rests
    }

    /// Searches those runtimes that haven't told yet.
    pub(super) fn begin_search(&mut self, now: &Now) {
        if !self.has_due_search(now) {
            return;
        }
        let left = self.search.left.iter().filter_map(|kind| self.drivers.get(kind));
        let drivers: Vec<Arc<dyn Driver>> = left.cloned().collect();
        // One whose documents are faulty is not unknown: it is found again once they are in order.
        let known = self.apps.keys().chain(self.faulty().map(|(name, _)| name)).cloned().collect();
        self.search.under_way = Some(self.send(None, Calls::Search(drivers, known)));
    }

    /// Takes in what a search brought. All that was found comes in at once: how much of it may go is a question of all of
    /// it.
    pub(super) fn found(&mut self, id: u64, finds: Option<Finds>, now: &Now) -> Result<(), JournalError> {
        if self.search.under_way != Some(id) {
            return Ok(());
        }
        self.search.under_way = None;
        self.search.is_awaited = false;
        for (kind, found) in finds.into_iter().flatten() {
            let Ok(found) = found else { continue };
            for (name, seen) in found {
                let faulty = self.faulty().any(|(faulty, _)| *faulty == name);
                // What was orphaned is listed, and not unknown.
                let listed = seen.keys().all(|key| self.is_orphan(&name, key));
                if !faulty && !listed && !self.apps.contains_key(&name) {
                    self.take_up(name, kind, &seen, now)?;
                }
            }
            self.search.left.remove(&kind);
        }
        self.search.pause =
            (!self.search.left.is_empty()).then(|| Pause::after(self.search.pause.as_ref(), now));
        Ok(())
    }

    fn is_orphan(&self, app: &AppName, key: &ObjectKey) -> bool {
        let owned = self.inventory.get(app).and_then(|owned| owned.get(key));
        owned.is_some_and(|owned| owned.orphaned.is_some())
    }

    fn take_up(
        &mut self,
        name: AppName,
        driver: DriverName,
        seen: &AppObservation,
        now: &Now,
    ) -> Result<(), JournalError> {
        let mut found = self.inventory.get(&name).cloned().unwrap_or_default();
        for key in seen.keys() {
            found.entry(key.clone()).or_insert_with(|| Owned::by(driver));
        }
        self.save_inventory(&name, found)?;
        self.journal.note(Note::of("app.found", &name, "found in a runtime, with this agent's mark"), now);
        let app = App::found(now);
        self.journal.save_apps(&[(&name, Some(&app))])?;
        self.uncommitted.insert(name.clone());
        self.apps.insert(name, app);
        Ok(())
    }
}
