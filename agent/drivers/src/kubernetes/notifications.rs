//! What wakes the loop. Notifying never waits: what is told gathers, app by app, until the loop takes it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_core::name::AppName;
use holdfast_core::runtime::DriverName;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::api::Api;
use crate::DriverEvent;

/// How often an API server that can't be reached is asked whether it is back.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// The same for a server that answers, and fails all the same.
const LONGEST_PAUSE_AFTER_ALL: Duration = Duration::from_secs(60);
/// After so long without a failure the next one is a new one.
const CALM: Duration = Duration::from_secs(30);

/// What is told when the API server answers again.
pub(super) const BACK: &str = "the Kubernetes API answers again";

/// By app what was seen, and whether what failed is worth another try.
type Unheard = BTreeMap<Option<AppName>, (String, bool)>;

/// Tells the loop that it should look.
#[derive(Clone, Default)]
pub(super) struct Notifications {
    /// What the loop hasn't heard yet.
    unheard: Arc<Mutex<Unheard>>,
    notified: Arc<Notify>,
    waiting: Arc<Mutex<Option<AbortHandle>>>,
    /// When it last told that the API server is back, and after which pause.
    told_back: Arc<Mutex<Option<(Instant, Duration)>>>,
    /// Somebody hears it.
    connected: Arc<AtomicBool>,
    /// Another node writes: what could not be done here may be done whenever something changes.
    stands_by: Arc<AtomicBool>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Notifications {
    /// Whom to tell from here on.
    pub(super) fn connect(&self, sender: mpsc::Sender<DriverEvent>) {
        self.connected.store(true, Ordering::Relaxed);
        let notifications = self.clone();
        tokio::spawn(async move {
            loop {
                notifications.notified.notified().await;
                let told = std::mem::take(&mut *locked(&notifications.unheard));
                for (app, (what, back)) in told {
                    let event = DriverEvent { driver: DriverName::KUBERNETES, app, what, back };
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Whether the loop hears it: this is the agent, and not a command that looks.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Something has happened to an app, or to nobody knows which. `back`: what failed may be possible now.
    pub(super) fn notify(&self, app: Option<AppName>, what: String, back: bool) {
        let back = back || self.stands_by.load(Ordering::Relaxed);
        let mut unheard = locked(&self.unheard);
        let before = unheard.get(&app).is_some_and(|(_, back)| *back);
        unheard.insert(app, (what, back || before));
        drop(unheard);
        self.notified.notify_one();
    }

    /// Whether another node writes.
    pub(super) fn stand_by(&self, stands_by: bool) {
        self.stands_by.store(stands_by, Ordering::Relaxed);
    }

    /// The API server could not be asked: tells when it can, so that nobody waits longer than it is away.
    pub(super) fn ring_when_back(&self, api: &Api) {
        let mut waiting = locked(&self.waiting);
        if waiting.as_ref().is_some_and(|waiting| !waiting.is_finished()) {
            return;
        }
        let (notifications, api) = (self.clone(), api.clone());
        let mut pause = self.first_pause();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                // One that starts answers before it serves anything.
                if api.text("/readyz".to_owned(), "ask whether it is ready".to_owned()).await.is_ok() {
                    *locked(&notifications.told_back) = Some((Instant::now(), pause));
                    return notifications.notify(None, BACK.to_owned(), true);
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
        *waiting = Some(task.abort_handle());
    }

    /// How soon to ask for the first time. What fails again right after the server was back is not mended by its answers:
    /// whoever is told so is told less and less often.
    fn first_pause(&self) -> Duration {
        match *locked(&self.told_back) {
            Some((told, pause)) if told.elapsed() < pause.max(CALM) => {
                (pause * 2).min(LONGEST_PAUSE_AFTER_ALL)
            }
            _ => AWAY_PAUSE,
        }
    }
}
