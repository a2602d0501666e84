//! What holds data and what no app wants any more: it is listed, and goes only when a Purge document asks for it and
//! its grace time is over.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Action, Step};
use crate::change::ChangePolicy;
use crate::generation::Inventory;
use crate::name::{AppName, ObjectKey};
use crate::observe::{Observations, Observed};
use crate::release::DriverKind;

/// An object that holds data and that no app wants any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// The app that it was made for.
    pub app: AppName,
    /// The runtime that holds it.
    pub driver: DriverKind,
    /// What it is called.
    pub object: ObjectKey,
    /// Since when nothing wants it.
    pub since: Timestamp,
    /// The Purge document that asks for it.
    pub purge: Option<String>,
    /// When it goes, if a Purge document asks for it.
    pub goes: Option<Timestamp>,
}

/// Every orphan of the inventory, in order. What `is_wanted` again, or may be, goes by no Purge document.
pub fn orphans(
    inventory: &Inventory,
    policy: &ChangePolicy,
    is_wanted: impl Fn(&AppName, &ObjectKey) -> bool,
) -> Vec<Orphan> {
    let objects =
        inventory.iter().flat_map(|(app, owned)| owned.iter().map(move |(key, owned)| (app, key, owned)));
    let orphaned = objects.filter_map(|(app, key, owned)| Some((app, key, owned.driver, owned.orphaned?)));
    orphaned
        .map(|(app, key, driver, since)| {
            let purge = policy.purges.iter().find(|purge| purge.app == *app && purge.object == *key);
            let purge = purge.filter(|_| !is_wanted(app, key));
            // More than jiff can count is never.
            let grace = SignedDuration::try_from(policy.grace).unwrap_or(SignedDuration::MAX);
            let goes = since.checked_add(grace).unwrap_or(Timestamp::MAX);
            Orphan {
                app: app.clone(),
                driver,
                object: key.clone(),
                since,
                purge: purge.map(|purge| purge.name.clone()),
                goes: purge.map(|_| goes),
            }
        })
        .collect()
}

/// The steps that remove what may go at `now`: only what carries our mark for that app and is wanted by nothing.
pub fn purges(orphans: &[Orphan], observed: &Observations, now: Timestamp) -> Vec<Step> {
    let due = orphans.iter().filter(|orphan| orphan.goes.is_some_and(|goes| goes <= now));
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
            "purges/{}.yaml asks for it, and nothing has wanted it since {}",
            orphan.purge.as_deref().unwrap_or_default(),
            orphan.since
        ),
        release: None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::change::Purge;
    use crate::generation::Owned;

    const CLAIM: &str = "PersistentVolumeClaim/db/data";

    fn nobody(_: &AppName, _: &ObjectKey) -> bool {
        false
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn inventory(orphaned: Option<&str>) -> Inventory {
        let owned = Owned { orphaned: orphaned.map(at), ..Owned::by(DriverKind::Podman) };
        [("db".parse().unwrap(), [(CLAIM.parse().unwrap(), owned)].into())].into()
    }

    fn policy(purged: &[(&str, &str)]) -> ChangePolicy {
        let purge = |(app, object): &(&str, &str)| Purge {
            name: "old".into(),
            reason: "moved".into(),
            app: app.parse().unwrap(),
            object: object.parse().unwrap(),
        };
        let grace = Duration::from_secs(86_400);
        ChangePolicy { grace, purges: purged.iter().map(purge).collect(), ..ChangePolicy::default() }
    }

    fn seen(observed: Option<Observed>) -> Observations {
        let objects = observed.map(|observed| (CLAIM.parse().unwrap(), observed)).into_iter().collect();
        BTreeMap::from([("db".parse().unwrap(), BTreeMap::from([(DriverKind::Podman, objects)]))])
    }

    fn steps(orphaned: Option<&str>, purged: &[(&str, &str)], observed: Observed, now: &str) -> usize {
        let orphans = orphans(&inventory(orphaned), &policy(purged), nobody);
        purges(&orphans, &seen(Some(observed)), at(now)).len()
    }

    #[test]
    fn an_orphan_goes_only_with_a_purge_and_after_its_grace_time() {
        let since = Some("2026-11-01T00:00:00Z");
        let extra = || Observed::Extra { release: None };
        assert_eq!(steps(since, &[("db", CLAIM)], extra(), "2026-11-02T00:00:00Z"), 1);
        assert_eq!(steps(since, &[("db", CLAIM)], extra(), "2026-11-01T23:59:59Z"), 0, "its grace");
        assert_eq!(steps(since, &[], extra(), "2027-11-02T00:00:00Z"), 0, "nobody asked");
        assert_eq!(steps(since, &[("pos", CLAIM)], extra(), "2027-11-02T00:00:00Z"), 0, "another app's");
        assert_eq!(steps(None, &[("db", CLAIM)], extra(), "2027-11-02T00:00:00Z"), 0, "it is wanted");
    }

    #[test]
    fn what_belongs_to_somebody_else_now_or_is_wanted_again_is_left_alone() {
        let since = Some("2026-11-01T00:00:00Z");
        for observed in [
            Observed::Foreign { owner: "somebody".into() },
            Observed::Same,
            Observed::Drift { difference: "size".into(), recreate: false },
        ] {
            assert_eq!(
                steps(since, &[("db", CLAIM)], observed.clone(), "2027-01-01T00:00:00Z"),
                0,
                "{observed:?}"
            );
        }
        let orphans = orphans(&inventory(since), &policy(&[("db", CLAIM)]), nobody);
        assert!(
            purges(&orphans, &Observations::new(), at("2027-01-01T00:00:00Z")).is_empty(),
            "not observed"
        );
        assert_eq!(purges(&orphans, &seen(None), at("2027-01-01T00:00:00Z")).len(), 1, "it is forgotten");
    }

    #[test]
    fn what_a_release_wants_that_is_to_come_or_to_come_back_goes_by_no_purge() {
        let listed =
            orphans(&inventory(Some("2026-11-01T00:00:00Z")), &policy(&[("db", CLAIM)]), |_, _| true);
        assert_eq!((&listed[0].purge, listed[0].goes), (&None, None));
        assert!(
            purges(&listed, &seen(Some(Observed::Extra { release: None })), at("2027-01-01T00:00:00Z"))
                .is_empty()
        );
    }

    #[test]
    fn every_orphan_is_listed_with_what_becomes_of_it() {
        let listed = orphans(&inventory(Some("2026-11-01T00:00:00Z")), &policy(&[]), nobody);
        assert_eq!((listed.len(), &listed[0].purge, listed[0].goes), (1, &None, None));
        let asked = orphans(&inventory(Some("2026-11-01T00:00:00Z")), &policy(&[("db", CLAIM)]), nobody);
        assert_eq!(asked[0].goes, Some(at("2026-11-02T00:00:00Z")));
        assert!(orphans(&inventory(None), &policy(&[]), nobody).is_empty());
    }
}
