//! Gathering what a box reads of a revision: it reads as far as it can, fetches whatever was missing in one
//! request, and reads again. So each level of folders costs one request, however many folders it has.

use super::error::SourceError;
use super::{FileClass, Reading, SourceTree};
use crate::http::allowance::UsedUp;

/// A revision that is being read.
pub struct Gathering<'a> {
    reading: Box<dyn Reading + 'a>,
    /// Something waits for the byte budget.
    lacks: bool,
}

impl<'a> Gathering<'a> {
    pub(super) fn new(reading: Box<dyn Reading + 'a>) -> Self {
        Gathering { reading, lacks: false }
    }

    /// What `look` gives when it finds all that it looks for. Until then it meets
    /// [`super::ReadError::NotHere`], should go on with what else it needs, and is called again; what it
    /// gave before is dropped.
    ///
    /// # Errors
    /// [`SourceError`]; what was fetched until then stays, and is not fetched again.
    pub fn read<T>(&mut self, mut look: impl FnMut(&dyn SourceTree) -> T) -> Result<T, SourceError> {
        let mut found = look(self.reading.tree());
        let mut missing = self.reading.tree().missing();
        while !missing.is_empty() {
            self.reading.bring(FileClass::Documents)?;
            found = look(self.reading.tree());
            missing = self.still_missing(&missing)?;
        }
        Ok(found)
    }

    /// The same of what may wait for the byte budget: gives what `look` gives of what came, and why that isn't all.
    ///
    /// # Errors
    /// As [`Gathering::read`].
    pub fn read_as_far<T>(
        &mut self,
        what: FileClass,
        mut look: impl FnMut(&dyn SourceTree) -> T,
    ) -> Result<(T, Option<UsedUp>), SourceError> {
        let mut found = look(self.reading.tree());
        let mut missing = self.reading.tree().missing();
        let mut waits = None;
        while !missing.is_empty() {
            waits = match self.reading.bring(what) {
                Ok(()) => None,
                Err(SourceError::UsedUp { cause, .. }) => Some(cause),
                Err(error) => return Err(error),
            };
            found = look(self.reading.tree());
            missing = match waits {
                None => self.still_missing(&missing)?,
                Some(_) => {
                    let still = self.reading.tree().missing();
                    if still == missing {
                        break;
                    }
                    still
                }
            };
        }
        self.lacks |= waits.is_some();
        Ok((found, waits))
    }

    /// What is missing after `brought` was brought. What came and can't be found would be asked for without end.
    fn still_missing(&self, brought: &[String]) -> Result<Vec<String>, SourceError> {
        let still = self.reading.tree().missing();
        match still.iter().any(|name| brought.binary_search(name).is_ok()) {
            true => Err(self.reading.brought_in_vain()),
            false => Ok(still),
        }
    }

    /// Everything that the box needs of the revision was read: from here on it is known to be here, unless something
    /// waits.
    ///
    /// # Errors
    /// [`SourceError::Local`].
    pub fn finish(self) -> Result<Box<dyn SourceTree>, SourceError> {
        self.reading.finish(!self.lacks)
    }
}
