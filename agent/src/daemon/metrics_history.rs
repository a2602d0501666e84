//! What metrics checks scraped of the apps that are judged, beside the jobs that look at them. In memory only: after a
//! restart the soak starts over, and so does this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_core::digest::ReleaseId;
use holdfast_core::metrics::{History, MetricsCheck};
use holdfast_core::name::AppName;

type Open = BTreeMap<AppName, (ReleaseId, Vec<History>)>;

/// All open windows.
#[derive(Clone)]
pub(super) struct Histories {
    began: Instant,
    open: Arc<Mutex<Open>>,
}

impl Histories {
    /// None.
    pub(super) fn new() -> Self {
        Histories { began: Instant::now(), open: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time as windows have it.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes the history of a check out, to be put back; a new one if there is none of this release.
    pub(super) fn take(&self, app: &AppName, release: ReleaseId, check: &MetricsCheck) -> History {
        let mut open = self.lock();
        let found = open.get_mut(app).filter(|(of, _)| *of == release).and_then(|(_, windows)| {
            let index = windows.iter().position(|history| history.check() == check)?;
            Some(windows.swap_remove(index))
        });
        found.unwrap_or_else(|| History::new(check))
    }

    /// Puts a history back, in the place of those of another release.
    pub(super) fn put(&self, app: &AppName, release: ReleaseId, history: History) {
        let mut open = self.lock();
        let (of, windows) = open.entry(app.clone()).or_insert_with(|| (release, Vec::new()));
        if *of != release {
            (*of, *windows) = (release, Vec::new());
        }
        windows.push(history);
    }

    /// The app is judged no longer.
    pub(super) fn forget(&self, app: &AppName) {
        self.lock().remove(app);
    }
}
