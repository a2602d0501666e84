//! Slow work for one app delays nothing else, and a result that comes late isn't mistaken for a current one.

use super::*;

const SIGN_AND_CAM: [usize; 2] = [3, 4];

/// All apps in this version, `db` in its own.
fn commit(db: u8, others: u8) -> [Says; 5] {
    let mut says = [Says::Version(others, Kind::Good); 5];
    says[0] = Says::Version(db, Kind::Good);
    says
}

/// Plays `test` against a box whose apps are all good at version 0.
fn on_a_good_box(test: impl AsyncFnOnce(&mut History)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut history = History::new();
        history.push(commit(0, 0));
        history.live(120).await;
        for app in 0..5 {
            assert_eq!(history.phase_of(app), "Good");
        }
        test(&mut history).await;
        history.pending.held.clear();
        history.ends_well().await;
    });
}

impl History {
    fn app(&self, app: usize) -> App {
        self.disk.lock().unwrap().loaded.apps[&name(app)].clone()
    }

    fn phase_of(&self, app: usize) -> &'static str {
        self.app(app).phase.word()
    }

    fn is_at(&self, app: usize, version: u8) -> bool {
        self.app(app).good.is_some_and(|good| good.release == release(app, version, Kind::Good).id())
    }
}

#[test]
fn what_takes_minutes_for_one_app_holds_up_only_what_depends_on_it() {
    on_a_good_box(async |history| {
        history.pending.held.insert(name(0));
        history.push(commit(1, 1));
        history.live(60).await;
        assert_eq!(history.phase_of(0), "Applying");
        for app in SIGN_AND_CAM {
            assert!(history.is_at(app, 1), "{:?}", history.app(app));
        }
        for app in [1, 2] {
            assert_eq!(history.phase_of(app), "Pending", "it depends on db");
        }
        // What is killed comes back, that of an app which waits for its own change too.
        let gone: Vec<_> = [1, 3].map(|app| key(&format!("Deployment/{}", APPS[app]))).into();
        history.shared.lock().unwrap().world.objects.retain(|key, _| !gone.contains(key));
        history.live(12).await;
        for key in &gone {
            assert!(history.shared.lock().unwrap().world.objects.contains_key(key), "{key}");
        }
        // A deadline is judged while it is due.
        let mut says = commit(1, 2);
        for app in SIGN_AND_CAM {
            says[app] = Says::Version(2, Kind::Ill);
        }
        history.push(says);
        history.live(120).await;
        assert!(SIGN_AND_CAM.iter().all(|app| ["RolledBack", "Held"].contains(&history.phase_of(*app))));
        assert_eq!(history.pending.of(&name(0)), 1);
    });
}

#[test]
fn what_came_of_a_change_that_is_no_longer_wanted_is_not_taken_for_the_new_one() {
    on_a_good_box(async |history| {
        // It has been asked what there is, and the first step is under way when the next commit comes.
        history.pending.held.insert(name(0));
        history.pending.let_through = 1;
        history.push(commit(1, 0));
        history.live(5).await;
        assert_eq!(history.phase_of(0), "Applying");
        history.push(commit(2, 0));
        history.live(30).await;
        assert_ne!(history.phase_of(0), "Judging", "nothing of it was put in place");
        history.pending.held.clear();
        history.live(60).await;
        assert!(history.is_at(0, 2), "{:?}", history.app(0));
    });
}

#[test]
fn changes_that_were_under_way_when_the_agent_died_go_on_one_at_a_time_until_it_is_known_which_it_dies_of() {
    on_a_good_box(async |history| {
        let changing = |history: &History| -> Vec<String> {
            let open = history.disk.lock().unwrap().loaded.transactions.clone();
            open.iter().filter(|open| open.under_way).map(|open| open.app.to_string()).collect()
        };
        history.pending.held = (0..5).map(name).collect();
        let mut says = [Says::Version(0, Kind::Good); 5];
        for app in [0, 3, 4] {
            says[app] = Says::Version(1, Kind::Good);
        }
        history.push(says);
        history.live(10).await;
        assert_eq!(changing(history).len(), 3);
        // The agent dies of the change of cam, which is the first in order.
        for death in 1..=3 {
            history.keeper = None;
            history.live(5).await;
            let expected: &[&str] = if death < 3 { &["cam"] } else { &["db"] };
            assert_eq!(changing(history), expected, "after death {death}");
        }
        let notes = history.disk.lock().unwrap().notes.clone();
        let aside: Vec<_> = notes.iter().filter(|note| note.kind == "app.setaside").collect();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert_eq!(aside[0].app, Some(name(4)));
    });
}

#[test]
fn an_agent_that_is_told_to_end_suspects_nothing_that_it_was_in_the_midst_of() {
    on_a_good_box(async |history| {
        history.pending.held.insert(name(0));
        history.push(commit(1, 0));
        for _ in 0..5 {
            history.live(10).await;
            let now = history.now();
            history.keeper.as_mut().unwrap().set_down(&now).unwrap();
            history.keeper = None;
        }
        let disk = history.disk.lock().unwrap();
        assert!(disk.notes.iter().all(|note| note.kind != "app.setaside"), "{:?}", disk.notes);
    });
}

#[test]
fn when_the_agent_starts_an_app_is_brought_up_after_those_that_it_depends_on() {
    on_a_good_box(async |history| {
        history.reboot(true);
        history.pending.held.insert(name(0));
        history.live(30).await;
        let there = |history: &History, app: usize| {
            let key = key(&format!("Deployment/{}", APPS[app]));
            history.shared.lock().unwrap().world.objects.contains_key(&key)
        };
        assert!(there(history, 3) && there(history, 4));
        assert!(!there(history, 1) && !there(history, 2), "they depend on db, which isn't there");
        history.pending.held.clear();
        history.live(2).await;
        assert!((0..5).all(|app| there(history, app)));
        // From then on each is put right by itself.
        history.pending.held.insert(name(0));
        let pos = key(&format!("Deployment/{}", APPS[1]));
        history.live(10).await;
        history.shared.lock().unwrap().world.objects.remove(&pos);
        history.live(10).await;
        assert!(there(history, 1));
    });
}
