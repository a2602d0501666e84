//! The workload's control socket: it answers the agent, and nobody else.

use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::super::handover;
use super::super::protocol::{Answer, LONGEST_LINE, Request, line};
use super::log::Ring;
use super::state::Board;

/// How long a caller may take for its request, and for taking an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Callers at once.
const CALLERS: usize = 32;
/// A request is short.
const LONGEST_REQUEST: u64 = 4096;
/// The longest time to finish requests that the agent may grant.
const LONGEST_GRACE: Duration = Duration::from_secs(60);

/// What the socket serves.
pub(super) struct Control {
    pub(super) board: Arc<Board>,
    pub(super) log: Arc<Ring>,
    /// Told the grace time when the workload is to stop.
    pub(super) stop: mpsc::Sender<Duration>,
    /// Where the workload listens, for as long as it does.
    pub(super) listener: Option<Weak<TcpListener>>,
    /// Who started the process.
    pub(super) agent: Uid,
}

/// Answers callers for as long as the process lives.
pub(super) async fn serve(control: Arc<Control>, socket: UnixListener) {
    let callers = Arc::new(Semaphore::new(CALLERS));
    loop {
        let Ok(turn) = Arc::clone(&callers).acquire_owned().await else { return };
        let Ok((stream, _)) = socket.accept().await else {
            // Out of file descriptors; connections that end give some back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            // A caller that goes away in the middle is its own affair.
            let _ = control.answer(stream).await;
            drop(turn);
        });
    }
}

impl Control {
    async fn answer(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let caller = Uid::from_raw(stream.peer_cred()?.uid());
        let (reader, mut writer) = stream.split();
        if !caller.is_root() && caller != self.agent {
            return say(&mut writer, &Answer::Refused { why: format!("user {caller} isn't the agent") })
                .await;
        }
        let mut request = String::new();
        let mut reader = BufReader::new(reader.take(LONGEST_REQUEST));
        timeout(PATIENCE, reader.read_line(&mut request)).await??;
        match serde_json::from_str(&request) {
            Ok(Request::Status) => say(&mut writer, &Answer::Status(self.board.status())).await,
            Ok(Request::Logs { lines }) => {
                let mut lines = self.log.last(lines);
                while lines.iter().map(|line| line.len() * 2 + 8).sum::<usize>() > LONGEST_LINE / 2 {
                    lines.remove(0);
                }
                say(&mut writer, &Answer::Logs { lines }).await
            }
            Ok(Request::Stop { grace_millis }) => {
                let grace = Duration::from_millis(grace_millis).min(LONGEST_GRACE);
                // The channel is full when it has been told before.
                let _ = self.stop.try_send(grace);
                say(&mut writer, &Answer::Stopping).await
            }
            Ok(Request::Listener) => match self.listener.as_ref().and_then(Weak::upgrade) {
                Some(listener) => timeout(PATIENCE, handover::give(writer.as_ref(), &*listener)).await?,
                None => say(&mut writer, &Answer::Refused { why: "it doesn't listen".into() }).await,
            },
            Ok(Request::Watch) => self.report_changes(&mut reader, &mut writer).await,
            Err(e) => say(&mut writer, &Answer::Refused { why: format!("not a request: {e}") }).await,
        }
    }

    /// Writes each change until the watcher hangs up.
    async fn report_changes(
        &self,
        reader: &mut (impl tokio::io::AsyncRead + Unpin),
        writer: &mut (impl tokio::io::AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let mut changes = self.board.changes();
        let mut byte = [0];
        loop {
            changes.mark_unchanged();
            say(writer, &Answer::Status(self.board.status())).await?;
            tokio::select! {
                change = changes.changed() => if change.is_err() { return Ok(()) },
                _ = reader.read(&mut byte) => return Ok(()),
            }
        }
    }
}

async fn say(writer: &mut (impl tokio::io::AsyncWrite + Unpin), answer: &Answer) -> std::io::Result<()> {
    timeout(PATIENCE, writer.write_all(line(answer).as_bytes())).await?
}
