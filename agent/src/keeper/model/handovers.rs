//! What moves between apps while something is in its way: a removal that isn't over, a window that is closed.

use super::waiting::{db_alone, on_a_good_box};
use super::*;

const DB: usize = 0;
const SIGN: usize = 3;
const ROAMING: usize = 0;

impl History {
    fn home_of(&self, what: usize) -> Option<AppName> {
        let shared = self.shared.lock().unwrap();
        match shared.world.objects.get(&key(ROAMS[what]))? {
            Entry::Object(stored) => Some(stored.app.clone()),
            Entry::Unreadable(why) => panic!("{why}"),
        }
    }

    /// Whether what an app runs has it.
    fn runs(&self, app: usize, what: usize) -> bool {
        let disk = self.disk.lock().unwrap();
        let target = disk.loaded.apps[&name(app)].current.as_ref().unwrap();
        self.keeper
            .as_ref()
            .unwrap()
            .releases
            .get(&target.release)
            .unwrap()
            .object(&key(ROAMS[what]))
            .is_some()
    }

    fn windows(&mut self, are_open: bool) {
        let closed = Held::until_changed("the window is closed", "wait until it opens");
        self.permit = Permit { apply: (!are_open).then_some(closed), ..Permit::default() };
        if let Some(keeper) = &mut self.keeper {
            keeper.permit(self.permit.clone());
        }
    }

    fn held_of(&self, app: usize) -> Option<Held> {
        self.keeper.as_ref().unwrap().held(&name(app), &self.now())
    }
}

#[test]
fn an_app_that_is_being_removed_and_whose_object_another_one_is_to_take_says_what_it_waits_for() {
    on_a_good_box(async |history| {
        history.homes[ROAMING] = DB;
        history.push(db_alone(0, Kind::Good));
        history.live(60).await;
        assert_eq!(history.home_of(ROAMING), Some(name(DB)));
        history.keep(true);
        history.push([Says::Nothing; 5]);
        history.live(30).await;
        assert_eq!(history.phase(), "Removing");

        // The next commit wants it elsewhere, in a window that isn't open yet.
        history.windows(false);
        let mut says = [Says::Nothing; 5];
        says[SIGN] = Says::Version(0, Kind::Good);
        history.homes[ROAMING] = SIGN;
        history.push(says);
        history.keep(false);
        history.live(45).await;
        let held = history.held_of(DB).unwrap();
        assert_eq!(history.phase(), "Removing");
        assert!(held.cause.contains("waiting to hand over Deployment/roams to the app sign"), "{held:?}");
        assert_eq!(history.home_of(ROAMING), Some(name(DB)), "nobody removes it");
        assert!(history.keeper.as_ref().unwrap().at_rest(), "only the window is waited for");

        history.windows(true);
        history.live(120).await;
        assert_eq!(history.home_of(ROAMING), Some(name(SIGN)));
        assert!(!history.disk.lock().unwrap().loaded.apps.contains_key(&name(DB)), "it is gone");
        assert!(history.converged());
    });
}

#[test]
fn an_object_whose_move_is_reverted_in_a_closed_window_goes_back_when_the_window_opens() {
    on_a_good_box(async |history| {
        let mut says = db_alone(0, Kind::Good);
        says[SIGN] = Says::Version(0, Kind::Good);
        history.homes[ROAMING] = DB;
        history.push(says);
        history.live(60).await;
        assert_eq!(history.home_of(ROAMING), Some(name(DB)));
        history.homes[ROAMING] = SIGN;
        history.push(says);
        while !history.runs(SIGN, ROAMING) {
            history.live(1).await;
        }
        // What has begun goes on: `sign` gets good with it, and `db`, which is to let go of it, waits.
        history.windows(false);
        history.live(60).await;
        assert_eq!(history.home_of(ROAMING), Some(name(SIGN)));
        assert!(history.runs(DB, ROAMING), "its change has not begun");

        history.homes[ROAMING] = DB;
        history.push(says);
        history.live(300).await;
        assert_eq!(history.home_of(ROAMING), Some(name(SIGN)), "nothing changes while the window is closed");
        assert!(!history.converged());
        let held = history.held_of(DB).unwrap();
        assert!(held.cause.contains("waiting to have back Deployment/roams from the app sign"), "{held:?}");

        history.windows(true);
        history.live(120).await;
        assert_eq!((history.home_of(ROAMING), history.held_of(DB)), (Some(name(DB)), None));
        assert!(history.converged());
    });
}
