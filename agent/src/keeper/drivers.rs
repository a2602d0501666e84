//! The drivers of a box, by their names, and what each of them can do.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use holdfast_core::runtime::{DriverName, Runtimes};
use holdfast_drivers::Driver;

/// The drivers that are switched on.
#[derive(Default)]
pub struct Drivers {
    by_name: BTreeMap<DriverName, Arc<dyn Driver>>,
    runtimes: Runtimes,
}

impl Drivers {
    /// What they take and can do.
    pub fn runtimes(&self) -> &Runtimes {
        &self.runtimes
    }

    /// The one that runs probe components, of whatever runtime's apps.
    pub(super) fn engine(&self) -> Option<Arc<dyn Driver>> {
        self.by_name.values().find(|driver| driver.abilities().engine).cloned()
    }
}

impl FromIterator<Arc<dyn Driver>> for Drivers {
    fn from_iter<T: IntoIterator<Item = Arc<dyn Driver>>>(drivers: T) -> Self {
        let by_name: BTreeMap<_, _> = drivers.into_iter().map(|driver| (driver.name(), driver)).collect();
        let runtimes = by_name.iter().map(|(name, driver)| (*name, driver.abilities())).collect();
        Drivers { by_name, runtimes }
    }
}

impl Deref for Drivers {
    type Target = BTreeMap<DriverName, Arc<dyn Driver>>;

    fn deref(&self) -> &Self::Target {
        &self.by_name
    }
}
