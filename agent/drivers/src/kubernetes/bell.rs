//! What wakes the loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::name::AppName;
use holdfast_core::release::DriverKind;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::api::Api;
use crate::DriverEvent;

/// How often an API server that can't be reached is asked whether it is back.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What is told when the API server answers again.
pub(super) const BACK: &str = "the Kubernetes API answers again";

/// Tells the loop that it should look.
#[derive(Clone, Default)]
pub(super) struct Bell {
    sender: Arc<Mutex<Option<mpsc::Sender<DriverEvent>>>>,
    waiting: Arc<Mutex<Option<AbortHandle>>>,
    /// Another node writes: what could not be done here may be done whenever something changes.
    stands_by: Arc<AtomicBool>,
}

impl Bell {
    /// Whom to tell from here on.
    pub(super) fn connect(&self, sender: mpsc::Sender<DriverEvent>) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// Something has happened to an app, or to nobody knows which.
    pub(super) async fn ring(&self, app: Option<AppName>, what: String) {
        self.send(app, what, self.stands_by.load(Ordering::Relaxed)).await;
    }

    /// Whether another node writes.
    pub(super) fn stand_by(&self, stands_by: bool) {
        self.stands_by.store(stands_by, Ordering::Relaxed);
    }

    /// What could not be done may be possible now.
    pub(super) async fn ring_back(&self, what: &str) {
        self.send(None, what.to_owned(), true).await;
    }

    async fn send(&self, app: Option<AppName>, what: String, back: bool) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            // Nobody hears it any more: the agent is going.
            let _ = sender.send(DriverEvent { driver: DriverKind::Kubernetes, app, what, back }).await;
        }
    }

    /// The API server could not be asked: tells when it can, so that nobody waits longer than it is away.
    pub(super) fn ring_when_back(&self, api: &Api) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref().is_some_and(|waiting| !waiting.is_finished()) {
            return;
        }
        let (bell, api) = (self.clone(), api.clone());
        let task = tokio::spawn(async move {
            let mut pause = AWAY_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                // One that starts answers before it serves anything.
                if api.text("/readyz".to_owned(), "ask whether it is ready".to_owned()).await.is_ok() {
                    return bell.ring_back(BACK).await;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
        *waiting = Some(task.abort_handle());
    }
}
