//! Starts a workload's process, in two steps: it loads its code while the one before it still runs, and takes
//! its place when that has gone.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::cgroup::Groups;
use super::client::next_line;
use super::files::LAST_WORDS;
use super::protocol::{Because, GO, LONGEST_LINE, Progress, StartOrder, line};
use crate::DriverError;

/// How long a process may take to load its code.
const LOAD_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take from its turn until it serves.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no process.
pub(super) enum StartError {
    /// The engine doesn't take the compiled code: compile it again.
    Stale(String),
    /// Anything else.
    Driver(DriverError),
}

/// A process that waits for its turn. Dropped, it ends.
pub(super) struct Loaded {
    child: Child,
    input: ChildStdin,
    output: BufReader<Take<ChildStdout>>,
    app: String,
}

/// Starts a process and waits until it has loaded its code.
pub(super) async fn load(program: &Path, groups: &Groups, order: &StartOrder) -> Result<Loaded, StartError> {
    let app = order.mark.app.to_string();
    let runtime =
        |what: String| StartError::Driver(DriverError::Runtime(format!("cannot start {app}: {what}")));
    let order_line = line(order);
    if order_line.len() > LONGEST_LINE {
        return Err(StartError::Driver(DriverError::Release(format!(
            "{app} cannot run: its arguments and environment are longer than {LONGEST_LINE} bytes"
        ))));
    }
    let last_words = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(order.dir.join(LAST_WORDS))
        .map_err(|e| runtime(format!("cannot write to {}: {e}", order.dir.display())))?;
    let mut child = Command::new(program)
        .arg(super::RUN_COMMAND)
        .arg(&order.dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(last_words))
        .spawn()
        .map_err(|e| runtime(format!("cannot start {}: {e}", program.display())))?;
    // Before it has read its order it does nothing.
    if let Some(pid) = child.id()
        && let Err(error) = groups.put(&app, pid, &order.workload.limits)
    {
        let app = &order.mark.app;
        tracing::warn!(%app, %error, "the process has no cgroup of its own: only the engine enforces its limits");
    }
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(runtime("its pipes are missing".into()));
    };
    // A process that doesn't read is seen by its silence.
    let _ = timeout(LOAD_LIMIT, input.write_all(order_line.as_bytes())).await;
    let output = BufReader::new(output.take(LONGEST_LINE as u64));
    let mut loaded = Loaded { child, input, output, app };
    match loaded.progress(LOAD_LIMIT).await {
        Ok(Progress::Loaded) => Ok(loaded),
        outcome => Err(loaded.failure(outcome, "load its code", &order.dir).await),
    }
}

impl Loaded {
    /// Lets the process take its place, and waits until it serves. The process goes on without us from then.
    pub(super) async fn go(mut self, dir: &Path) -> Result<(), StartError> {
        // A process that has ended is seen by its silence.
        let _ = self.input.write_all(format!("{GO}\n").as_bytes()).await;
        match self.progress(READY_LIMIT).await {
            Ok(Progress::Ready) => {
                let mut child = self.child;
                // It is collected when it ends; when the agent has gone by then, by init.
                tokio::spawn(async move { child.wait().await });
                Ok(())
            }
            outcome => Err(self.failure(outcome, "begin", dir).await),
        }
    }

    async fn progress(&mut self, limit: Duration) -> io::Result<Progress> {
        match timeout(limit, next_line(&mut self.output)).await {
            Ok(Ok(Some(progress))) => Ok(progress),
            Ok(Ok(None)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it reported nothing for {} s", limit.as_secs()),
            )),
        }
    }

    /// Ends the process, and says why it didn't come to `doing`.
    async fn failure(mut self, outcome: io::Result<Progress>, doing: &str, dir: &Path) -> StartError {
        // It may have ended by itself.
        let _ = self.child.start_kill();
        let status = timeout(READY_LIMIT, self.child.wait()).await;
        let app = &self.app;
        match outcome {
            Ok(Progress::Failed { because: Because::Release, what }) => {
                StartError::Driver(DriverError::Release(format!("{app} cannot run: {what}")))
            }
            Ok(Progress::Failed { because: Because::Code, what }) => StartError::Stale(what),
            Ok(Progress::Failed { because: Because::Box, what }) => {
                StartError::Driver(DriverError::Runtime(format!("{app} didn't start: {what}")))
            }
            Ok(other) => StartError::Driver(DriverError::Runtime(format!(
                "{app} didn't {doing}: its process unexpectedly reported {other:?}"
            ))),
            Err(e) => {
                let end = match status {
                    Ok(Ok(status)) => status.to_string(),
                    _ => "its process doesn't end".to_owned(),
                };
                let words = last_words(dir);
                StartError::Driver(DriverError::Runtime(format!("{app} didn't {doing}: {e} ({end}) {words}")))
            }
        }
    }
}

/// What a process wrote before it died, such as that it ran out of memory.
pub(super) fn last_words(dir: &Path) -> String {
    let Ok(file) = std::fs::File::open(dir.join(LAST_WORDS)) else { return String::new() };
    let mut bytes = Vec::new();
    // Half of what it said is better than nothing.
    let _ = io::Read::read_to_end(&mut io::Read::take(file, 2000), &mut bytes);
    String::from_utf8_lossy(&bytes).trim().replace('\n', " ")
}
