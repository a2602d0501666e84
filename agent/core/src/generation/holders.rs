//! Which names of objects more than one app has. Nearly always none: then nobody else need be looked through before an
//! object is planned for, which for a box of 1,000 apps is all of them for each object of each.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::handover::Releases;
use super::{Inventory, Owned};
use crate::name::{AppName, ObjectKey};

/// An index over releases and the inventory. Names are kept as hashes of 8 bytes: two that have the same one count as one name,
/// which costs a look at all apps and changes no answer. It says nothing of an object's runtime, for the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// How many apps have made an object of this name.
    made: BTreeMap<u64, u32>,
    /// The names that releases of more than one app have.
    rendered: BTreeSet<u64>,
    /// The apps with a release that holds data.
    data: BTreeSet<AppName>,
}

impl Holders {
    /// Those of what is known now.
    pub fn of(releases: &Releases, inventory: &Inventory) -> Self {
        let mut found = Holders::default();
        found.rendered(releases);
        inventory.values().for_each(|owned| found.made(None, Some(owned)));
        found
    }

    /// Other releases are known now.
    pub fn rendered(&mut self, releases: &Releases) {
        let mut all: Vec<(u64, &AppName)> = Vec::new();
        for release in releases.values() {
            all.extend(release.objects.iter().map(|object| (hash(&object.key), &release.app)));
        }
        all.sort_unstable();
        all.dedup();
        let shared = all.windows(2).filter(|pair| matches!(pair, [(one, _), (other, _)] if one == other));
        self.rendered = shared.filter_map(|pair| Some(pair.first()?.0)).collect();
        let with_data =
            releases.values().filter(|release| release.objects.iter().any(|object| object.key.holds_data()));
        self.data = with_data.map(|release| release.app.clone()).collect();
    }

    /// The inventory of one app was `before` and is `after`; none where it has nothing.
    pub fn made(
        &mut self,
        before: Option<&BTreeMap<ObjectKey, Owned>>,
        after: Option<&BTreeMap<ObjectKey, Owned>>,
    ) {
        for key in after.into_iter().flat_map(BTreeMap::keys) {
            *self.made.entry(hash(key)).or_default() += 1;
        }
        for key in before.into_iter().flat_map(BTreeMap::keys) {
            let name = hash(key);
            match self.made.get_mut(&name) {
                Some(count @ 2..) => *count -= 1,
                _ => {
                    self.made.remove(&name);
                }
            }
        }
    }

    /// Whether an app besides the one that this is asked for may have made an object of this name.
    pub(super) fn is_made_besides(&self, key: &ObjectKey, has_it: bool) -> bool {
        self.made.get(&hash(key)).is_some_and(|count| *count > u32::from(has_it))
    }

    /// The same of releases; of a name that the app's own releases don't have nothing is known.
    pub(super) fn is_rendered_besides(&self, key: &ObjectKey, has_it: bool) -> bool {
        !has_it || self.rendered.contains(&hash(key))
    }

    /// The apps with a release that holds data, in order.
    pub(super) fn of_data(&self) -> impl Iterator<Item = &AppName> {
        self.data.iter()
    }
}

fn hash(key: &ObjectKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Apps;
    use super::super::handover::Claims;
    use super::*;
    use crate::observe::{AppObservation, Observations, Observed};
    use crate::plan::{Aim, Known, plan};
    use crate::runtime::DriverName;
    use crate::testing::{ALL, good, name, release, resolved, target};

    const APPS: [&str; 4] = ["a", "b", "c", "d"];
    const KEYS: [&str; 5] =
        ["ConfigMap/shared", "Pod/one", "Pod/two", "PersistentVolumeClaim/d", "Service/own"];

    /// What one app has: which of the names its releases and its inventory have, and how its objects look.
    #[derive(Clone, Debug)]
    struct Has {
        current: Vec<bool>,
        target: Vec<bool>,
        made: Vec<bool>,
        on_podman: bool,
        is_placed: bool,
        seen: Vec<u8>,
    }

    fn has() -> impl Strategy<Value = Has> {
        let names = || prop::collection::vec(any::<bool>(), KEYS.len());
        let seen = prop::collection::vec(0..5u8, KEYS.len());
        (names(), names(), names(), any::<bool>(), any::<bool>(), seen).prop_map(
            |(current, target, made, on_podman, is_placed, seen)| Has {
                current,
                target,
                made,
                on_podman,
                is_placed,
                seen,
            },
        )
    }

    fn chosen(which: &[bool]) -> Vec<&'static str> {
        KEYS.iter().zip(which).filter(|(_, has)| **has).map(|(key, _)| *key).collect()
    }

    proptest! {
        /// The index only saves looking.
        #[test]
        fn plans_and_claims_are_the_same_with_the_index_and_without_it(
            all in prop::collection::vec(has(), APPS.len()),
            knows_newest: bool,
        ) {
            let (mut apps, mut releases, mut inventory) = (Apps::new(), Releases::new(), Inventory::new());
            let (mut observed, mut newest) = (Observations::new(), Vec::new());
            for (app, has) in APPS.into_iter().zip(&all) {
                let driver = if has.on_podman { DriverName::PODMAN } else { DriverName::SIMULATED };
                let rendered = |version: &str, which: &[bool]| {
                    let mut made = (*release(app, version, &chosen(which))).clone();
                    made.driver = driver;
                    made
                };
                let (current, next) = (rendered("1", &has.current), rendered("2", &has.target));
                let mut record = good(&target(&current, &[]));
                record.target = Some(target(&next, &[]));
                apps.insert(name(app), record);
                if has.is_placed {
                    newest.push((app, target(&next, &[])));
                }
                releases.extend([current, next].map(|release| (release.id(), release.into())));
                let made = chosen(&has.made).into_iter();
                let made = made.map(|key| (key.parse().unwrap(), Owned::by(driver)));
                inventory.insert(name(app), made.collect());
                let seen: AppObservation = KEYS
                    .iter()
                    .zip(&has.seen)
                    .filter_map(|(key, seen)| {
                        let seen = match seen {
                            0 => Observed::Same,
                            1 => Observed::Absent,
                            2 => Observed::Extra { release: None },
                            3 => Observed::Another { app: name("a"), immutable: None },
                            _ => return None,
                        };
                        Some((key.parse().unwrap(), seen))
                    })
                    .collect();
                observed.insert(name(app), [(driver, seen)].into());
            }
            let newest: Vec<_> = newest.iter().map(|(app, target)| (*app, target)).collect();
            let newest = resolved(&newest);
            let newest = knows_newest.then_some(&newest);
            let holders = Holders::of(&releases, &inventory);
            let claims = |holders| Claims {
                apps: &apps,
                releases: &releases,
                inventory: &inventory,
                newest,
                runtimes: &ALL,
                holders,
            };
            let (with, without) = (claims(Some(&holders)), claims(None));
            prop_assert_eq!(with.takers(), without.takers());
            for app in apps.keys() {
                for other in apps.keys() {
                    let shares = |claims: Claims<'_>| claims.shares_any(app, std::iter::once(other));
                    prop_assert_eq!(shares(with), shares(without));
                }
                for key in KEYS.map(|key| key.parse().unwrap()) {
                    for driver in [DriverName::PODMAN, DriverName::SIMULATED] {
                        prop_assert_eq!(with.lent_to(app, driver, &key), without.lent_to(app, driver, &key));
                        prop_assert_eq!(
                            with.owner_besides(app, driver, &key),
                            without.owner_besides(app, driver, &key)
                        );
                    }
                }
            }
            for aim in [Aim::Current, Aim::Target] {
                let known = |holders| Known {
                    apps: &apps,
                    releases: &releases,
                    observed: &observed,
                    inventory: &inventory,
                    newest,
                    runtimes: &ALL,
                    holders,
                };
                prop_assert_eq!(plan(known(Some(&holders)), aim), plan(known(None), aim));
            }
        }

        /// It is kept with each change instead of being made anew.
        #[test]
        fn what_is_made_and_goes_leaves_the_index_as_it_would_be_made_anew(
            changes in prop::collection::vec((0..APPS.len(), prop::collection::vec(any::<bool>(), KEYS.len())), 0..20),
        ) {
            let (mut inventory, mut holders) = (Inventory::new(), Holders::default());
            for (app, which) in changes {
                let owned = chosen(&which).into_iter();
                let owned: BTreeMap<_, _> =
                    owned.map(|key| (key.parse().unwrap(), Owned::by(DriverName::SIMULATED))).collect();
                holders.made(inventory.get(&name(APPS[app])), Some(&owned));
                inventory.insert(name(APPS[app]), owned);
                prop_assert_eq!(&holders, &Holders::of(&Releases::new(), &inventory));
            }
        }
    }

    #[test]
    fn a_name_counts_as_shared_while_two_apps_have_it() {
        let of = |all: &[(&str, &str, &str)]| {
            let all = all.iter().map(|(app, version, key)| release(app, version, &[key]));
            Holders::of(&all.map(|release| (release.id(), release)).collect(), &Inventory::new())
        };
        let key = "Pod/x".parse().unwrap();
        let versions = of(&[("a", "1", "Pod/x"), ("a", "2", "Pod/x"), ("b", "1", "Pod/y")]);
        assert!(!versions.is_rendered_besides(&key, true));
        assert!(versions.is_rendered_besides(&key, false), "nothing is known of what it doesn't have");
        assert!(of(&[("a", "1", "Pod/x"), ("b", "1", "Pod/x")]).is_rendered_besides(&key, true));
    }
}
