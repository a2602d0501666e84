//! Processes that podman lost sight of. A service that dies within a start leaves a conmon with the container's first
//! process; once the container is removed, the API knows nothing of them, and they stay for ever (docs/adr/0008).
//!
//! So the ids of the containers that were made are noted in memory, which is lost with the processes themselves. What
//! has such an id and no container any more is ours, whatever became of the agent or of podman meanwhile.
//!
//! With the id is noted what must be known of a container when its release isn't at hand, or the agent was started again.
//! Its labels would be the place for that, but an image brings labels of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::pod::Hook;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::api::Api;
use super::process;

/// How long what belongs to a container may take to go after it.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What is known of a container that was made. The notes of most are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Made {
    /// What is done before it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pre_stop: Option<PreStop>,
    /// The process of that start of it whose postStart hook has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) post_started: Option<i32>,
}

/// What is done before a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PreStop {
    pub(super) hook: Hook,
    /// Whether its pod uses the box's own network.
    pub(super) on_host: bool,
}

/// The containers that this agent made since the box was started, and those before it.
#[derive(Clone, Debug)]
pub(super) struct Strays {
    dir: PathBuf,
    /// Those that this process made, also where the folder can't be written.
    own: Arc<Mutex<BTreeMap<String, Made>>>,
}

impl Strays {
    pub(super) fn new(run_dir: &Path) -> Self {
        Strays { dir: run_dir.join("made"), own: Arc::default() }
    }

    /// Whether a container was made since the box was started. What was made before can't have run since: it ended with
    /// the box, whatever podman says of how it ended.
    pub(super) fn knows(&self, id: &str) -> bool {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.contains_key(id) || self.dir.join(id).exists()
    }

    /// What was noted of a container.
    pub(super) fn made(&self, id: &str) -> Made {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = || serde_json::from_slice(&fs::read(self.dir.join(id)).ok()?).ok();
        own.get(id).cloned().or_else(noted).unwrap_or_default()
    }

    /// The postStart hook of a container has succeeded, for the start by which it is this process.
    pub(super) fn note_post_started(&self, id: &str, pid: i32) {
        self.note(id, Made { post_started: Some(pid), ..self.made(id) });
    }

    /// A container was made, and is not started yet; or more is known of it.
    pub(super) fn note(&self, id: &str, made: Made) {
        let noted = self.write(id, &made);
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), made);
        if let Err(error) = noted {
            tracing::warn!(%error, id, "a container can't be recorded: remains of it that podman leaves behind \
                                        won't be removed");
        }
    }

    /// Whole or not at all, and for nobody else's eyes: a header of a hook may be a secret.
    fn write(&self, id: &str, made: &Made) -> io::Result<()> {
        let text = match *made == Made::default() {
            true => Vec::new(),
            false => serde_json::to_vec(made)?,
        };
        fs::create_dir_all(&self.dir)?;
        // Not in the folder: what is there is a container's id.
        let temp = self.dir.with_extension(id);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&temp)?.write_all(&text)?;
        fs::rename(&temp, self.dir.join(id))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Made {
        let hook = Hook::Exec(vec!["/bin/drain".to_owned()]);
        Made { pre_stop: Some(PreStop { hook, on_host: true }), post_started: None }
    }

    #[test]
    fn what_was_noted_of_a_container_is_known_after_the_agent_was_started_again() {
        let dir = tempfile::tempdir().unwrap();
        Strays::new(dir.path()).note("c0ffee", made());
        Strays::new(dir.path()).note_post_started("c0ffee", 7);
        let again = Strays::new(dir.path());
        assert_eq!(again.made("c0ffee"), Made { post_started: Some(7), ..made() });
        again.forget("c0ffee");
        assert_eq!(again.made("c0ffee"), Made::default());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the empty folder is left");
    }

    #[test]
    fn the_note_of_an_older_agent_says_that_nothing_is_to_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let strays = Strays::new(dir.path());
        fs::create_dir_all(&strays.dir).unwrap();
        fs::write(strays.dir.join("c0ffee"), "").unwrap();
        assert!(strays.knows("c0ffee"));
        assert_eq!(strays.made("c0ffee"), Made::default());
    }

    #[test]
    fn a_note_is_for_the_agent_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let strays = Strays::new(dir.path());
        strays.note("c0ffee", made());
        let mode = fs::metadata(strays.dir.join("c0ffee")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }

    #[test]
    fn what_can_not_be_written_down_is_known_as_long_as_the_agent_runs() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("made"), "no folder").unwrap();
        let strays = Strays::new(dir.path());
        strays.note("c0ffee", made());
        assert_eq!(strays.made("c0ffee"), made());
    }
}
