//! A runtime that doesn't remove what is no longer wanted: that is reported and tried again, and delays nothing else.

use super::waiting::{db_alone, on_a_good_box, taken_back};
use super::*;

/// As long as it takes at most until another try.
const SOON: u32 = 31;

impl History {
    /// Whether an object is there and in the inventory; it must be both or neither.
    fn has(&self, object: &str) -> bool {
        let object = key(object);
        let known =
            self.disk.lock().unwrap().loaded.inventory.values().any(|owned| owned.contains_key(&object));
        let is_there = self.shared.lock().unwrap().world.objects.contains_key(&object);
        assert_eq!(known, is_there, "{object}");
        known
    }

    fn held(&self) -> Option<Held> {
        self.keeper.as_ref().unwrap().held(&name(0), &self.now())
    }

    pub(super) fn converged(&self) -> bool {
        self.keeper.as_ref().unwrap().converged()
    }

    fn told(&self) -> usize {
        self.disk.lock().unwrap().notes.iter().filter(|note| note.kind == "app.leftover").count()
    }
}

#[test]
fn a_removal_that_is_refused_holds_up_neither_its_release_nor_the_next_and_is_made_once_it_may_be() {
    on_a_good_box(async |history| {
        history.keep(true);
        for version in [1, 3] {
            history.push(db_alone(version, Kind::Good));
            history.live(30).await;
            assert_eq!(history.phase(), "Good", "version {version}");
            let held = history.held().unwrap();
            assert!(held.cause.contains("ConfigMap/db-0") && held.cause.contains(KEPT), "{held:?}");
            assert!(held.next.is_some() && history.has("ConfigMap/db-0") && history.has("ConfigMap/db-1"));
            assert!(!history.converged());
            assert_eq!(history.told(), 1, "it is told once");
        }

        // An agent that starts finds it in the inventory.
        history.keeper = None;
        history.live(10).await;
        assert!(history.held().unwrap().cause.contains(KEPT) && history.has("ConfigMap/db-0"));
        let before = format!("{:?}", history.disk.lock().unwrap());
        history.live(600).await;
        assert!(history.keeper.as_ref().unwrap().at_rest());
        assert_eq!(format!("{:?}", history.disk.lock().unwrap()), before, "to try again writes nothing");

        history.keep(false);
        history.live(SOON).await;
        assert!(!history.has("ConfigMap/db-0"));
        assert_eq!((history.held(), history.converged()), (None, true));
    });
}

#[test]
fn what_a_failed_release_leaves_over_is_named_beside_its_failure() {
    on_a_good_box(async |history| {
        history.keep(true);
        history.push(db_alone(taken_back(Kind::Ill), Kind::Ill));
        history.live(120).await;
        assert_eq!(history.phase(), "RolledBack");
        let held = history.held().unwrap();
        assert!(held.cause.contains("the script says so: unhealthy"), "{held:?}");
        assert!(held.cause.contains("ConfigMap/db-1") && held.next.is_some(), "{held:?}");
        assert!(history.has("ConfigMap/db-1"));
        history.keep(false);
        history.live(SOON).await;
        assert!(!history.has("ConfigMap/db-1"));
        assert!(!history.held().unwrap().cause.contains(KEPT));
    });
}

#[test]
fn an_app_that_is_withdrawn_goes_once_it_may_and_comes_back_before() {
    on_a_good_box(async |history| {
        for comes_back in [true, false] {
            history.keep(true);
            history.push([Says::Nothing; 5]);
            history.live(120).await;
            assert_eq!(history.phase(), "Removing");
            assert!(history.held().unwrap().cause.contains("Deployment/db"));
            assert!(history.has("Deployment/db") && history.has("ConfigMap/db-0"));
            if comes_back {
                history.push(db_alone(2, Kind::Good));
                history.live(30).await;
                assert_eq!((history.phase(), history.held(), history.converged()), ("Good", None, true));
            }
        }
        history.keep(false);
        history.live(SOON).await;
        assert!(!history.has("Deployment/db") && !history.has("ConfigMap/db-0"));
        assert!(history.disk.lock().unwrap().loaded.apps.is_empty());
    });
}
