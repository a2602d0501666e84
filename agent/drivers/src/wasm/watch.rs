//! Watching: one connection to each workload, on which it says what happens to it. Its end is the process's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::name::AppName;
use holdfast_core::runtime::DriverName;
use tokio::sync::mpsc;

use super::client::Client;
use super::files::{RECORD, read_json};
use super::protocol::{Answer, Record, Request, State, Status};
use crate::DriverEvent;

/// How often a process that lives and takes no watcher is asked again.
const RETRIES: u32 = 5;

/// All watchers of one driver.
#[derive(Clone, Default)]
pub(super) struct Watchers {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    events: Option<mpsc::Sender<DriverEvent>>,
    /// Processes that are watched: the app, the number, the start.
    followed: BTreeSet<(AppName, i32, u64)>,
}

impl Watchers {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, events go to `events`.
    pub(super) fn begin(&self, events: mpsc::Sender<DriverEvent>) {
        self.shared().events = Some(events);
    }

    /// Watches the process that an app has now. Does nothing when it is watched, or nobody listens.
    pub(super) fn follow(&self, app: &AppName, dir: &Path) {
        let Some(record) = read_json::<Record>(&dir.join(RECORD)).filter(Record::is_alive) else { return };
        let id = (app.clone(), record.pid, record.started);
        let mut shared = self.shared();
        let Some(events) = shared.events.clone().filter(|events| !events.is_closed()) else { return };
        if !shared.followed.insert(id.clone()) {
            return;
        }
        drop(shared);
        let (watchers, dir) = (self.clone(), dir.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = report(&id.0, dir, &record, &events) => {}
                () = events.closed() => {}
            }
            watchers.shared().followed.remove(&id);
        });
    }
}

/// Passes on what one process says, until it is gone.
async fn report(app: &AppName, dir: PathBuf, record: &Record, events: &mpsc::Sender<DriverEvent>) {
    let mut tries = 0;
    let mut seen = None;
    while record.is_alive() && tries < RETRIES {
        if let Ok(mut client) = Client::ask(&dir, record, &Request::Watch).await {
            while let Ok(Some(Answer::Status(status))) = client.next().await {
                tries = 0;
                let now = (status.state, status.restarts);
                let worth_it = seen.map_or(status.state != State::Running, |before| before != now);
                seen = Some(now);
                if worth_it && send(app, words(&status), events).await.is_err() {
                    return;
                }
            }
        }
        tries += 1;
        // Only a process that is dying, or is stuck, comes here.
        tokio::time::sleep(Duration::from_millis(10 << tries)).await;
    }
    let what = if record.is_alive() { "it doesn't answer" } else { "its process ended" };
    // When nobody listens any more, nobody needs to know.
    let _ = send(app, what.to_owned(), events).await;
}

async fn send(
    app: &AppName,
    what: String,
    events: &mpsc::Sender<DriverEvent>,
) -> Result<(), mpsc::error::SendError<DriverEvent>> {
    events.send(DriverEvent { driver: DriverName::WASM, app: Some(app.clone()), what, back: false }).await
}

fn words(status: &Status) -> String {
    let last = status.last_exit.as_deref().unwrap_or("has not ended yet");
    match status.state {
        State::Starting => "it is being started".into(),
        State::Running => "it runs".into(),
        State::Backoff => {
            format!("it {last} and is being restarted (restarted {} times so far)", status.restarts)
        }
        State::Exited | State::Failed => format!("it {last} and is not restarted"),
        State::Stopping => "it is being stopped".into(),
    }
}
