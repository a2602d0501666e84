//! The agent's side of a workload's control socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::files::CONTROL_SOCKET;
use super::protocol::{Answer, LONGEST_LINE, Record, Request, line};

/// How long a healthy workload may take for an answer: it answers from memory, between two slices of its
/// guest.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection to one workload.
pub(super) struct Client {
    reader: BufReader<Take<OwnedReadHalf>>,
    /// Held so that the other side sees no end.
    _writer: OwnedWriteHalf,
}

impl Client {
    /// Connects to the process that `record` tells of, proves that it is the one, and asks.
    pub(super) async fn ask(dir: &Path, record: &Record, request: &Request) -> io::Result<Self> {
        timeout(PATIENCE, Self::connect(dir, record, request)).await?
    }

    async fn connect(dir: &Path, record: &Record, request: &Request) -> io::Result<Self> {
        let stream = UnixStream::connect(dir.join(CONTROL_SOCKET)).await?;
        // The kernel's word for who listens (SO_PEERCRED), not the process's own.
        let peer = stream.peer_cred()?.pid();
        if peer != Some(record.pid) {
            let who = peer.map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}"));
            return Err(io::Error::other(format!(
                "{who} listens on the socket instead of process {}",
                record.pid
            )));
        }
        let (reader, mut writer) = stream.into_split();
        writer.write_all(line(request).as_bytes()).await?;
        Ok(Client { reader: BufReader::new(reader.take(LONGEST_LINE as u64)), _writer: writer })
    }

    /// The next answer; `None` once the other side is gone. Waits as long as that takes.
    pub(super) async fn next(&mut self) -> io::Result<Option<Answer>> {
        self.reader.get_mut().set_limit(LONGEST_LINE as u64);
        next_line(&mut self.reader).await
    }

    /// The next answer, soon.
    pub(super) async fn answer(&mut self) -> io::Result<Option<Answer>> {
        timeout(PATIENCE, self.next()).await?
    }
}

/// Reads one JSON line.
pub(super) async fn next_line<T, R>(reader: &mut R) -> io::Result<Option<T>>
where
    T: DeserializeOwned,
    R: tokio::io::AsyncBufRead + Unpin,
{
    let mut text = String::new();
    if reader.read_line(&mut text).await? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&text).map(Some).map_err(io::Error::other)
}
