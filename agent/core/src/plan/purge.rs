//! What holds data and what no app wants any more: it is listed, and goes only when a Purge document asks for it and
//! its grace time is over.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Action, Step};
use crate::change::ChangePolicy;
use crate::clock::Now;
use crate::generation::Inventory;
use crate::name::{AppName, ObjectKey};
use crate::observe::{Observations, Observed};
use crate::runtime::DriverName;

/// An object that holds data and that no app wants any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// The app that it was made for.
    pub app: AppName,
    /// The runtime that holds it.
    pub driver: DriverName,
    /// What it is called.
    pub object: ObjectKey,
    /// Since when nothing wants it.
    pub since: Timestamp,
    /// The Purge document that asks for it.
    pub purge: Option<String>,
    /// When it goes, if a Purge document asks for it and nothing comes between: for people.
    pub goes: Option<Timestamp>,
    /// How much time the box has seen when it goes ([`Now::seen`]), if a Purge document asks for it.
    #[serde(skip)]
    pub due: Option<Duration>,
}

impl Orphan {
    /// Whether it goes once so much time was seen.
    pub fn is_due(&self, seen: Duration) -> bool {
        self.due.is_some_and(|due| due <= seen)
    }
}

/// Every orphan of the inventory, in order. What `is_wanted` again, or may be, goes by no Purge document.
pub fn orphans(
    inventory: &Inventory,
    policy: &ChangePolicy,
    is_wanted: impl Fn(&AppName, &ObjectKey) -> bool,
    now: &Now,
) -> Vec<Orphan> {
    let objects =
        inventory.iter().flat_map(|(app, owned)| owned.iter().map(move |(key, owned)| (app, key, owned)));
    let orphaned = objects.filter_map(|(app, key, owned)| Some((app, key, owned, owned.orphaned?)));
    orphaned
        .map(|(app, key, owned, since)| {
            let purge = policy.purges.iter().find(|purge| purge.app == *app && purge.object == *key);
            let purge = purge.filter(|_| !is_wanted(app, key));
            // What was counted since it was last written down is lost with the power: until that is made up for, the
            // whole grace time is ahead.
            let due = owned.seen.min(now.seen).saturating_add(policy.grace);
            let goes = now.wall_in(due.saturating_sub(now.seen));
            Orphan {
                app: app.clone(),
                driver: owned.driver,
                object: key.clone(),
                since,
                purge: purge.map(|purge| purge.name.clone()),
                goes: purge.map(|_| goes),
                due: purge.map(|_| due),
            }
        })
        .collect()
}

/// The steps that remove what may go once so much time was `seen`: only what carries our mark for that app and is wanted by nothing.
pub fn purges(orphans: &[Orphan], observed: &Observations, seen: Duration) -> Vec<Step> {
    let due = orphans.iter().filter(|orphan| orphan.is_due(seen));
    let ours = due.filter(|orphan| {
        let seen = observed.get(&orphan.app).and_then(|seen| seen.get(&orphan.driver));
        match seen {
            Some(seen) => matches!(seen.get(&orphan.object), Some(Observed::Extra { .. }) | None),
            None => false,
        }
    });
    ours.map(|orphan| Step {
        app: orphan.app.clone(),
        driver: orphan.driver,
        action: Action::Purge,
        object: orphan.object.clone(),
        reason: format!(
            "purges/{}.yaml names it, and no app has wanted it since {}",
            orphan.purge.as_deref().unwrap_or_default(),
            orphan.since
        ),
        release: None,
        from: None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Purge;
    use crate::clock::{BootId, Moment};
    use crate::generation::Owned;
    use std::collections::BTreeMap;

    const CLAIM: &str = "PersistentVolumeClaim/db/data";

    fn nobody(_: &AppName, _: &ObjectKey) -> bool {
        false
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const DAY: Duration = Duration::from_secs(86_400);

    /// Orphaned when the box had seen ten days.
    fn inventory(orphaned: Option<&str>) -> Inventory {
        let owned = Owned { orphaned: orphaned.map(at), seen: 10 * DAY, ..Owned::by(DriverName::PODMAN) };
        [("db".parse().unwrap(), [(CLAIM.parse().unwrap(), owned)].into())].into()
    }

    fn policy(purged: &[(&str, &str)]) -> ChangePolicy {
        let purge = |(app, object): &(&str, &str)| Purge {
            name: "old".into(),
            reason: "moved".into(),
            app: app.parse().unwrap(),
            object: object.parse().unwrap(),
        };
        ChangePolicy { grace: DAY, purges: purged.iter().map(purge).collect(), ..ChangePolicy::default() }
    }

    fn seen(observed: Option<Observed>) -> Observations {
        let objects = observed.map(|observed| (CLAIM.parse().unwrap(), observed)).into_iter().collect();
        BTreeMap::from([("db".parse().unwrap(), BTreeMap::from([(DriverName::PODMAN, objects)]))])
    }

    /// When the box has seen so much, whatever its clock shows.
    fn now(seen: Duration) -> Now {
        let moment = Moment { boot: BootId("b".into()), uptime: DAY };
        Now { seen, ..Now::certain(at("2026-11-01T00:00:00Z"), moment) }
    }

    fn steps(orphaned: Option<&str>, purged: &[(&str, &str)], observed: Observed, after: Duration) -> usize {
        let orphans = orphans(&inventory(orphaned), &policy(purged), nobody, &now(after));
        purges(&orphans, &seen(Some(observed)), after).len()
    }

    #[test]
    fn an_orphan_goes_only_with_a_purge_and_after_its_grace_time() {
        let since = Some("2026-11-01T00:00:00Z");
        let extra = || Observed::Extra { release: None };
        assert_eq!(steps(since, &[("db", CLAIM)], extra(), 11 * DAY), 1);
        assert_eq!(
            steps(since, &[("db", CLAIM)], extra(), 11 * DAY - Duration::from_secs(1)),
            0,
            "its grace"
        );
        assert_eq!(steps(since, &[("db", CLAIM)], extra(), DAY), 0, "it lost count");
        assert_eq!(steps(since, &[], extra(), 999 * DAY), 0, "nobody asked");
        assert_eq!(steps(since, &[("pos", CLAIM)], extra(), 999 * DAY), 0, "another app's");
        assert_eq!(steps(None, &[("db", CLAIM)], extra(), 999 * DAY), 0, "it is wanted");
    }

    #[test]
    fn what_belongs_to_somebody_else_now_or_is_wanted_again_is_left_alone() {
        let since = Some("2026-11-01T00:00:00Z");
        for observed in [
            Observed::Foreign { owner: "somebody".into() },
            Observed::Same,
            Observed::Drift { difference: "size".into(), recreate: false },
        ] {
            assert_eq!(steps(since, &[("db", CLAIM)], observed.clone(), 99 * DAY), 0, "{observed:?}");
        }
        let orphans = orphans(&inventory(since), &policy(&[("db", CLAIM)]), nobody, &now(99 * DAY));
        assert!(purges(&orphans, &Observations::new(), 99 * DAY).is_empty(), "not observed");
        assert_eq!(purges(&orphans, &seen(None), 99 * DAY).len(), 1, "it is forgotten");
    }

    #[test]
    fn what_a_release_wants_that_is_to_come_or_to_come_back_goes_by_no_purge() {
        let inventory = inventory(Some("2026-11-01T00:00:00Z"));
        let listed = orphans(&inventory, &policy(&[("db", CLAIM)]), |_, _| true, &now(99 * DAY));
        assert_eq!((&listed[0].purge, listed[0].goes), (&None, None));
        assert!(purges(&listed, &seen(Some(Observed::Extra { release: None })), 99 * DAY).is_empty());
    }

    #[test]
    fn every_orphan_is_listed_with_what_becomes_of_it() {
        let since = Some("2026-11-01T00:00:00Z");
        let listed = orphans(&inventory(since), &policy(&[]), nobody, &now(10 * DAY));
        assert_eq!((listed.len(), &listed[0].purge, listed[0].goes), (1, &None, None));
        let asked = orphans(&inventory(since), &policy(&[("db", CLAIM)]), nobody, &now(10 * DAY));
        assert_eq!(asked[0].goes, Some(at("2026-11-02T00:00:00Z")));
        assert!(orphans(&inventory(None), &policy(&[]), nobody, &now(10 * DAY)).is_empty());
    }
}
