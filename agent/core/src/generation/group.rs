//! Groups: apps that change together, all of them or none.
//!
//! No member begins before every one is prepared; each is judged by itself; they are good together, or what was
//! changed of them goes back together. What failed is remembered of the one that failed: as long as the revision wants
//! that, the others stay as they are, and once it wants something else they are tried with it again.

use std::collections::BTreeSet;

use super::{Apps, Failed, Order};
use crate::app::{App, Phase};
use crate::held::Held;
use crate::name::AppName;
use crate::release::Target;
use crate::resolve::Resolved;

/// The other apps of a group.
pub fn others<'a>(
    group: &'a AppName,
    name: &'a AppName,
    apps: &'a Apps,
) -> impl Iterator<Item = (&'a AppName, &'a App)> {
    apps.iter().filter(move |(other, app)| *other != name && app.group() == Some(group))
}

/// Why the release that `name` would go to isn't tried: it failed here itself, or another of its group did.
pub(super) fn failure(
    name: &AppName,
    target: &Target,
    resolved: &Resolved,
    failed: &Failed,
) -> Option<String> {
    let of = |name: &AppName, target: &Target| {
        let failure = failed.get(name)?.get(&target.release)?;
        let counts = failure.judged_by.is_none_or(|by| by == target.policy.health.mark());
        counts.then(|| failure.reason.clone())
    };
    of(name, target).or_else(|| {
        let group = target.policy.group.as_ref()?;
        let mut others = resolved.apps.iter().filter(|(_, other)| other.policy.group.as_ref() == Some(group));
        others.find_map(|(other, target)| Some(together(group, other, &of(other, target)?)))
    })
}

/// Why a member goes back that has no fault itself.
pub fn together(group: &AppName, failed: &AppName, reason: &str) -> String {
    format!("the apps of the group {group} change together, and {failed} failed: {reason}")
}

/// Why a member that is prepared has to wait for the rest of its group.
pub(super) fn waits(app: &App, apps: &Apps, order: Order<'_>) -> Option<Held> {
    let group = app.group()?;
    let members = apps.iter().filter(|(_, other)| other.group() == Some(group));
    members.into_iter().find_map(|(name, other)| {
        let why = match &other.phase {
            _ if order.faulty.contains_key(name) => "whose documents are faulty".to_owned(),
            Phase::Preparing => "which isn't prepared yet".to_owned(),
            Phase::RollingBack { .. } => "which is being rolled back".to_owned(),
            Phase::Pending => {
                let outside = |needed: &&AppName| apps.get(*needed).and_then(App::group) != Some(group);
                let needs = other.target.iter().flat_map(|target| &target.policy.depends_on);
                let unmet = |needed: &&AppName| !apps.get(*needed).is_some_and(App::converged);
                let lends = || order.handovers.is_some_and(|all| all.holds(name, apps).is_some());
                match needs.filter(outside).find(unmet) {
                    Some(needed) => format!("which waits for {needed}"),
                    None if lends() => {
                        "which hands objects over to another app, and waits until that app is good".to_owned()
                    }
                    None => return None,
                }
            }
            _ => return None,
        };
        Some(Held::until_changed(
            format!("the apps of the group {group} change together; waiting for {name}, {why}"),
            format!("nothing to do here: it continues together with {name}"),
        ))
    })
}

/// Whether another of its group has been changed already, so that this one is changed too, whatever the hour.
pub fn has_begun(app: &App, apps: &Apps) -> bool {
    let Some(group) = app.group() else { return false };
    let mut members = apps.values().filter(|other| other.group() == Some(group));
    members.any(|other| match &other.phase {
        Phase::Applying => true,
        Phase::Judging(_) => {
            other.current.as_ref().map(|t| t.release) != other.good.as_ref().map(|t| t.release)
        }
        _ => false,
    })
}

/// What becomes of an app if it, or its group, fails: where one that was changed can't go back, none does.
pub(super) fn stays(app: &App, apps: &Apps) -> bool {
    let stays = |app: &App| {
        let changed = matches!(app.phase, Phase::Applying | Phase::Judging(_));
        (changed && app.stays_after_failure()) || app.keeps_unproven()
    };
    let Some(group) = app.group() else { return stays(app) };
    apps.values().any(|other| other.group() == Some(group) && stays(other))
}

/// The groups of which a member is being changed or judged, and is to become something else.
pub(super) fn in_between(apps: &Apps, resolved: &Resolved) -> BTreeSet<AppName> {
    let moving = resolved.apps.iter().filter_map(|(name, target)| {
        apps.get(name).filter(|app| app.is_in_between(target))?.group().cloned()
    });
    moving.collect()
}

/// Whether every member is good or would be: then they are good together.
pub fn is_settled(group: &AppName, apps: &Apps) -> bool {
    let mut members = apps.values().filter(|app| app.group() == Some(group));
    members.all(|app| app.has_passed() || app.converged())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Moment, Now};
    use crate::generation::Faulty;
    use crate::generation::handover::Handovers;
    use crate::generation::{Failure, advance, ready};
    use crate::health::Health;
    use crate::testing::{good, name, now, release, resolved, target};

    fn member(app: &str, version: &str, needs: &[&str]) -> Target {
        let mut target = target(&release(app, version, &["Pod/x"]), needs);
        target.policy.group = Some(name("till"));
        target.policy.health.soak = Duration::ZERO;
        target
    }

    /// Both at version 1, and told of version 2.
    fn updated() -> (Apps, Resolved) {
        let at =
            |version| [("pos", member("pos", version, &[])), ("menu", member("menu", version, &["pos"]))];
        let mut apps: Apps = at("1").iter().map(|(app, target)| (name(app), good(target))).collect();
        let [pos, menu] = at("2");
        let new = resolved(&[("pos", &pos.1), ("menu", &menu.1)]);
        advance(&mut apps, &new, &Failed::new(), None, false, &Handovers::default(), &now());
        (apps, new)
    }

    fn later(now: &Now) -> Now {
        let uptime = now.moment.uptime + Duration::from_secs(1);
        Now { moment: Moment { uptime, ..now.moment.clone() }, ..now.clone() }
    }

    fn pass_judgement(app: &mut App) {
        app.apply(&now());
        app.applied(&now());
        let policy = app.current.as_ref().unwrap().policy.health.clone();
        let Phase::Judging(judging) = &mut app.phase else { panic!("{:?}", app.phase) };
        judging.judge(&policy, &Health::Healthy.into(), &later(&now()).moment);
        assert!(judging.has_passed());
    }

    #[test]
    fn no_member_begins_before_every_one_is_prepared_and_whole() {
        let (mut apps, _) = updated();
        apps.get_mut(&name("pos")).unwrap().prepared(&now());
        assert!(ready(&apps, &Faulty::new(), &now()).is_empty());
        apps.get_mut(&name("menu")).unwrap().prepared(&now());
        assert_eq!(ready(&apps, &Faulty::new(), &now()), [name("pos")]);
        let faulty = Faulty::from([(name("menu"), Held::until_changed("app.yaml:1:1", "mend it"))]);
        assert!(ready(&apps, &faulty, &now()).is_empty());
    }

    #[test]
    fn a_member_goes_on_when_the_one_it_depends_on_would_be_good_and_both_are_good_together() {
        let (mut apps, _) = updated();
        apps.values_mut().for_each(|app| app.prepared(&now()));
        pass_judgement(apps.get_mut(&name("pos")).unwrap());
        assert_eq!(ready(&apps, &Faulty::new(), &now()), [name("menu")]);
        assert!(!is_settled(&name("till"), &apps));
        pass_judgement(apps.get_mut(&name("menu")).unwrap());
        assert!(is_settled(&name("till"), &apps));
    }

    #[test]
    fn an_app_outside_of_the_group_waits_until_all_of_it_is_good() {
        let (mut apps, mut new) = updated();
        new.apps.insert(name("sign"), target(&release("sign", "1", &["Pod/x"]), &["pos"]));
        advance(&mut apps, &new, &Failed::new(), None, false, &Handovers::default(), &now());
        apps.values_mut().for_each(|app| app.prepared(&now()));
        pass_judgement(apps.get_mut(&name("pos")).unwrap());
        assert_eq!(ready(&apps, &Faulty::new(), &now()), [name("menu")]);
    }

    #[test]
    fn no_member_begins_while_another_one_waits_for_something_outside() {
        let (mut apps, mut new) = updated();
        new.apps.get_mut(&name("menu")).unwrap().policy.depends_on.insert(name("sign"));
        new.apps.insert(name("sign"), target(&release("sign", "1", &["Pod/x"]), &[]));
        advance(&mut apps, &new, &Failed::new(), None, false, &Handovers::default(), &now());
        apps.values_mut().for_each(|app| app.prepared(&now()));
        assert_eq!(ready(&apps, &Faulty::new(), &now()), [name("sign")]);
    }

    #[test]
    fn a_group_that_has_begun_gets_its_verdict_as_a_whole_before_its_successor_that_has_to_wait() {
        let (mut apps, _) = updated();
        apps.values_mut().for_each(|app| app.prepared(&now()));
        apps.get_mut(&name("pos")).unwrap().apply(&now());
        let (pos, menu) = (member("pos", "3", &[]), member("menu", "3", &["pos"]));
        let next = resolved(&[("pos", &pos), ("menu", &menu)]);
        let closed = Held::until_changed("the window is closed", "wait");
        let advanced =
            advance(&mut apps, &next, &Failed::new(), Some(&closed), true, &Handovers::default(), &now());
        assert!(advanced.changed.is_empty() && advanced.withheld, "{advanced:?}");
        advance(&mut apps, &next, &Failed::new(), None, false, &Handovers::default(), &now());
        assert!(apps.values().all(|app| app.phase == Phase::Preparing), "{apps:?}");
    }

    #[test]
    fn what_cannot_go_back_is_kept_though_its_successor_is_known_as_bad() {
        let (mut apps, mut new) = updated();
        new.apps.get_mut(&name("pos")).unwrap().policy.irreversible = true;
        advance(&mut apps, &new, &Failed::new(), None, false, &Handovers::default(), &now());
        apps.values_mut().for_each(|app| app.prepared(&now()));
        apps.values_mut().for_each(|app| app.apply(&now()));
        apps.values_mut().for_each(|app| app.fail("answered 500", true, &now()));
        let (pos, menu) = (member("pos", "3", &[]), member("menu", "3", &["pos"]));
        let failure = Failure { reason: "refused".into(), judged_by: None };
        let failed = Failed::from([(name("menu"), [(menu.release, failure)].into())]);
        advance(
            &mut apps,
            &resolved(&[("pos", &pos), ("menu", &menu)]),
            &failed,
            None,
            false,
            &Handovers::default(),
            &now(),
        );
        for app in apps.values() {
            assert!(matches!(app.phase, Phase::Held { .. }) && app.current != app.good, "{app:?}");
        }
    }

    #[test]
    fn what_has_begun_of_a_group_is_brought_to_its_end() {
        let (mut apps, _) = updated();
        apps.values_mut().for_each(|app| app.prepared(&now()));
        assert!(!has_begun(&apps[&name("menu")], &apps));
        apps.get_mut(&name("pos")).unwrap().apply(&now());
        assert!(has_begun(&apps[&name("menu")], &apps));
        apps.get_mut(&name("pos")).unwrap().applied(&now());
        assert!(has_begun(&apps[&name("menu")], &apps));
    }

    #[test]
    fn after_a_crash_a_group_goes_back_or_stays_as_one() {
        let (mut apps, mut new) = updated();
        new.apps.get_mut(&name("pos")).unwrap().policy.irreversible = true;
        advance(&mut apps, &new, &Failed::new(), None, false, &Handovers::default(), &now());
        apps.values_mut().for_each(|app| app.prepared(&now()));
        apps.values_mut().for_each(|app| app.apply(&now()));
        let failure = Failure { reason: "answered 500".into(), judged_by: None };
        let failed = Failed::from([(name("menu"), [(new.apps[&name("menu")].release, failure)].into())]);
        advance(&mut apps, &new, &failed, None, false, &Handovers::default(), &now());
        assert!(apps.values().all(|app| matches!(app.phase, Phase::Held { .. })), "{apps:?}");
    }

    #[test]
    fn while_the_revision_wants_what_failed_no_member_is_tried_and_with_the_next_all_are() {
        let (mut apps, mut new) = updated();
        let failed = Failed::from([(
            name("menu"),
            [(new.apps[&name("menu")].release, Failure { reason: "answered 500".into(), judged_by: None })]
                .into(),
        )]);
        advance(&mut apps, &new, &failed, None, false, &Handovers::default(), &now());
        let pos = &apps[&name("pos")];
        let Phase::RolledBack { reason } = &pos.phase else { panic!("{:?}", pos.phase) };
        assert!(reason.contains("group till") && reason.contains("menu failed: answered 500"), "{reason}");
        assert_eq!(pos.current, pos.good);
        apps.values_mut().for_each(|app| app.restored(&now()));
        assert!(
            advance(&mut apps, &new, &failed, None, false, &Handovers::default(), &now()).changed.is_empty()
        );
        new.apps.insert(name("menu"), member("menu", "3", &["pos"]));
        advance(&mut apps, &new, &failed, None, false, &Handovers::default(), &now());
        assert!(apps.values().all(|app| app.phase == Phase::Preparing), "{apps:?}");
    }
}
