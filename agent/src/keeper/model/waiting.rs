//! A runtime that doesn't take a release yet: how long it is waited for, and what follows.

use super::*;

/// A version of the app `db` of this kind whose policy takes a failed one back.
pub(super) fn taken_back(kind: Kind) -> u8 {
    let revision = Revision("r".into());
    let stays = |version: &u8| target(0, &release(0, *version, kind), &revision).policy.stays();
    // An odd one has another ConfigMap than the one before it.
    (1..100).step_by(2).find(|version| !stays(version)).unwrap()
}

pub(super) fn db_alone(version: u8, kind: Kind) -> [Says; 5] {
    let mut says = [Says::Nothing; 5];
    says[0] = Says::Version(version, kind);
    says
}

/// Plays `test` against a box whose app `db` is good.
pub(super) fn on_a_good_box(test: impl AsyncFnOnce(&mut History)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut history = History::new();
        history.push(db_alone(0, Kind::Good));
        history.live(60).await;
        assert_eq!(history.phase(), "Good");
        test(&mut history).await;
    });
}

impl History {
    pub(super) fn phase(&self) -> &'static str {
        self.disk.lock().unwrap().loaded.apps[&name(0)].phase.word()
    }
}

#[test]
fn what_the_runtime_never_takes_fails_at_its_deadline_and_goes_back() {
    on_a_good_box(async |history| {
        history.push(db_alone(taken_back(Kind::NotYet), Kind::NotYet));
        history.live(80).await;
        assert_eq!(history.phase(), "Applying", "its deadline is 90 s");
        assert!(!history.keeper.as_ref().unwrap().at_rest(), "its verdict is to come");
        history.live(30).await;
        let app = history.disk.lock().unwrap().loaded.apps[&name(0)].clone();
        let Phase::RolledBack { reason } = &app.phase else { panic!("{app:?}") };
        assert!(
            reason.contains("did not accept the release within its deadline")
                && reason.contains("the script says"),
            "{reason}"
        );
        assert_eq!(app.current, app.good);
    });
}

#[test]
fn what_the_runtime_takes_in_time_is_good() {
    on_a_good_box(async |history| {
        history.push(db_alone(taken_back(Kind::Late), Kind::Late));
        history.live(10).await;
        assert_eq!(history.phase(), "Applying");
        history.live(40).await;
        assert_eq!(history.phase(), "Good");
    });
}

#[test]
fn a_runtime_that_is_away_does_not_count_against_a_release_that_it_does_not_take_yet() {
    on_a_good_box(async |history| {
        history.push(db_alone(taken_back(Kind::NotYet), Kind::NotYet));
        history.live(60).await;
        history.shared.lock().unwrap().world.script.runtime = RuntimeIs::Down;
        history.live(600).await;
        assert_eq!(history.phase(), "Applying");
        history.shared.lock().unwrap().world.script.runtime = RuntimeIs::Up;
        let now = history.now();
        history.keeper.as_mut().unwrap().try_all_now(&now);
        history.live(60).await;
        assert_eq!(
            history.phase(),
            "Applying",
            "it was refused for a minute before, and that isn't in a row"
        );
        history.live(60).await;
        assert_eq!(history.phase(), "RolledBack");
    });
}
