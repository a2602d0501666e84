//! Processes that podman lost sight of. A service that dies within a start leaves a conmon with the container's first
//! process; once the container is removed, the API knows nothing of them, and they stay for ever (docs/adr/0008).
//!
//! So the ids of the containers that were made are noted in memory, which is lost with the processes themselves. What
//! has such an id and no container any more is ours, whatever became of the agent or of podman meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::api::Api;
use super::process;

/// How long what belongs to a container may take to go after it.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// The containers that this agent made since the box was started, and those before it.
#[derive(Clone, Debug)]
pub(super) struct Strays {
    dir: PathBuf,
    /// Those that this process made, also where the folder can't be written.
    own: Arc<Mutex<BTreeSet<String>>>,
}

impl Strays {
    pub(super) fn new(run_dir: &Path) -> Self {
        Strays { dir: run_dir.join("made"), own: Arc::default() }
    }

    /// Whether a container was made since the box was started. What was made before can't have run since: it ended with
    /// the box, whatever podman says of how it ended.
    pub(super) fn knows(&self, id: &str) -> bool {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.contains(id) || self.dir.join(id).exists()
    }

    /// A container was made, and is not started yet.
    pub(super) fn note(&self, id: &str) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        let noted = fs::create_dir_all(&self.dir).and_then(|()| fs::write(self.dir.join(id), ""));
        if let Err(error) = noted {
            tracing::warn!(%error, id, "a container can't be recorded: remains of it that podman leaves behind \
                                        won't be removed");
        }
    }

    /// A container was removed, and nothing is left of it.
    pub(super) fn forget(&self, id: &str) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let _ = fs::remove_file(self.dir.join(id));
    }

    /// Ends what is left of containers that podman no longer knows.
    pub(super) async fn sweep(&self, api: &Api) {
        let noted = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let ids: Vec<String> = noted.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for id in ids {
            match api.container(&id).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    end(&id).await;
                    self.forget(&id);
                }
                // Another time.
                Err(_) => return,
            }
        }
    }
}

/// Ends what is left of a container that was removed, if it doesn't go by itself.
pub(super) async fn end(id: &str) {
    let since = Instant::now();
    loop {
        let left = process::of_container(id);
        if left.is_empty() {
            return;
        }
        if since.elapsed() >= GRACE {
            tracing::warn!(id, ?left, "ending processes that podman left behind");
            // Whatever conmon would start at the end of its container is of no use any more: so it goes first.
            left.into_iter().for_each(process::end);
            return;
        }
        sleep(LOOK).await;
    }
}
