//! What wakes the loop: podman's events, and the end of a process that podman doesn't tell of (when conmon died, it
//! says nothing).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::name::AppName;
use holdfast_core::runtime::DriverName;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::api::Api;
use super::client::ApiError;
use super::strays::Strays;
use super::{marks, process};
use crate::{DriverEvent, Owner};

/// How long the head of the stream may take. With `events_logger="none"` it never comes.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// The pauses between two tries to listen.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a podman that doesn't answer is asked whether it is back.
const AWAY_PAUSE: Duration = Duration::from_secs(2);
/// The longest line of an event, in bytes.
const LINE_LIMIT: usize = 1 << 20;

/// Tells the loop that it should look.
#[derive(Clone, Debug, Default)]
pub(super) struct Notifications {
    sender: Arc<Mutex<Option<mpsc::Sender<DriverEvent>>>>,
    /// Waits for a podman that doesn't answer.
    waiting: Arc<Mutex<Option<AbortHandle>>>,
    /// It answers again.
    back: Arc<Notify>,
}

impl Notifications {
    /// Whom to tell from here on.
    pub(super) fn connect(&self, sender: mpsc::Sender<DriverEvent>) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// Tells the loop; gives whether anybody listens.
    pub(super) async fn notify(&self, app: Option<AppName>, what: impl Into<String>) -> bool {
        self.send(app, what.into(), false).await
    }

    async fn send(&self, app: Option<AppName>, what: String, back: bool) -> bool {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match sender {
            Some(sender) => {
                sender.send(DriverEvent { driver: DriverName::PODMAN, app, what, back }).await.is_ok()
            }
            None => false,
        }
    }

    /// podman could not be asked: tells when it can, so that nobody waits longer than it is away.
    pub(super) fn ring_when_back(&self, api: &Api, owner: &Owner) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref().is_some_and(|waiting| !waiting.is_finished()) {
            return;
        }
        let (notifications, api, device) = (self.clone(), api.clone(), owner.device.to_string());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(AWAY_PAUSE).await;
                // A podman that hangs may still tell its version.
                if api.containers(&[(marks::DEVICE, &device)]).await.is_ok() {
                    break;
                }
            }
            notifications.back.notify_one();
            notifications.send(None, "podman answers again".to_owned(), true).await;
        });
        *waiting = Some(task.abort_handle());
    }
}

/// What is told of a container.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: Actor,
}

#[derive(Default, Deserialize)]
struct Actor {
    #[serde(rename = "Attributes", default)]
    attributes: BTreeMap<String, String>,
}

/// Listens for ever: until nobody hears the notifications.
pub(super) async fn listen(api: Api, owner: Owner, notifications: Notifications, strays: Strays) {
    let device = owner.device.to_string();
    let mut pause = FIRST_PAUSE;
    loop {
        // Whatever happened while nobody listened: the agent or podman may have died within a start.
        strays.sweep(&api).await;
        match follow(&api, &device, &notifications).await {
            Ok(true) => pause = FIRST_PAUSE,
            Ok(false) => return,
            // It tells of no events (`events_logger="none"`), so it is looked now and then.
            Err(error @ ApiError::Silent { .. }) => {
                tracing::debug!(%error, "podman's events can't be read");
                if !notifications.notify(None, "podman sends no events").await {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "podman's events can't be read"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = notifications.back.notified() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Follows the events until the stream ends; gives whether anybody still hears the notifications.
async fn follow(api: &Api, device: &str, notifications: &Notifications) -> Result<bool, ApiError> {
    let mut stream = api.events((marks::DEVICE, device), HEAD_LIMIT).await?;
    // What happened meanwhile was not heard.
    if !notifications.notify(None, "connected to podman's events").await {
        return Ok(false);
    }
    let mut line = Vec::new();
    while let Some(Ok(frame)) = stream.frame().await {
        let Some(bytes) = frame.data_ref() else { continue };
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let heard = tell(&line, notifications).await;
                line.clear();
                if !heard {
                    return Ok(false);
                }
            }
        }
        if line.len() > LINE_LIMIT {
            line.clear();
        }
    }
    Ok(notifications.notify(None, "podman's event stream ended").await)
}

async fn tell(line: &[u8], notifications: &Notifications) -> bool {
    let Ok(told) = serde_json::from_slice::<Told>(line) else { return true };
    // What the driver itself does again and again, and what comes before something that is told as well.
    if ["exec", "exec_died", "create", "init", "cleanup", "health_status"].contains(&told.action.as_str()) {
        return true;
    }
    let app = told.actor.attributes.get(marks::APP).and_then(|app| app.parse().ok());
    let name = told.actor.attributes.get("name").map_or("a container", String::as_str);
    notifications.notify(app, format!("{name}: {}", told.action)).await
}

/// Rings when a container's process or its conmon is gone, whatever podman says of it.
#[derive(Debug, Default)]
pub(super) struct Vigils {
    by_process: Mutex<BTreeMap<i32, (AppName, AbortHandle)>>,
}

impl Vigils {
    /// Watches these processes of an app, and no others of it.
    pub(super) fn keep(&self, app: &AppName, processes: &[i32], notifications: &Notifications) {
        let mut watched = self.by_process.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|pid, (of, vigil)| {
            let wanted = of != app || processes.contains(pid);
            if !wanted {
                vigil.abort();
            }
            wanted && !vigil.is_finished()
        });
        for &pid in processes {
            watched.entry(pid).or_insert_with(|| {
                let (notifications, app_name) = (notifications.clone(), app.clone());
                let vigil = tokio::spawn(async move {
                    process::gone(pid).await;
                    notifications.notify(Some(app_name), format!("process {pid} ended")).await;
                });
                (app.clone(), vigil.abort_handle())
            });
        }
    }
}
