//! A value that counts how often it could have been changed. What follows from such values alone needn't be found out again
//! while their counts are the same; and nobody who changes one can forget to say so.

use std::ops::{Deref, DerefMut};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counted<T> {
    value: T,
    count: u64,
}

impl<T> Counted<T> {
    /// How often somebody could have changed it.
    pub(super) fn count(this: &Self) -> u64 {
        this.count
    }
}

impl<T> From<T> for Counted<T> {
    fn from(value: T) -> Self {
        Counted { value, count: 0 }
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Counted<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.count += 1;
        &mut self.value
    }
}
