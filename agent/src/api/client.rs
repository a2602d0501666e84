//! The client's side, as the command line uses it.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::diagnosis::Diagnosis;
use holdfast_core::event::Event;
use holdfast_core::event::segment::Seal;
use holdfast_core::name::AppName;
use holdfast_core::report::{PlanReport, Status};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::doctor::Finding;

/// The server gives up before: this is for one that hangs altogether.
const LIMIT: Duration = Duration::from_secs(65);

/// More than a status of thousands of apps takes, in bytes.
const ANSWER_BYTES: usize = 64 << 20;

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: no daemon runs. Whoever asks may then take the lock and look for itself.
    #[error("no holdfast answers at {0}: is it running? (systemctl status holdfast)")]
    NotRunning(PathBuf),
    /// The system doesn't let us.
    #[error("cannot reach the agent at {socket}: {cause}; only root and the agent's own user may ask")]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It answered, and said no.
    #[error("the agent answered: {0}")]
    Refused(String),
    /// It didn't answer as an agent does.
    #[error("asking the agent at {socket}: {cause}")]
    Broken {
        /// Where.
        socket: PathBuf,
        /// What happened.
        cause: String,
    },
}

/// A client of the agent at one socket. Each request is a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(socket: &Path) -> Self {
        Client { socket: socket.to_owned() }
    }

    /// How the box is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json(Method::GET, "/v1/status").await
    }

    /// What would be done now.
    pub async fn plan(&self) -> Result<PlanReport, ClientError> {
        self.json(Method::GET, "/v1/plan").await
    }

    /// What the audit log is checked by, beside its events.
    pub async fn seal(&self) -> Result<Seal, ClientError> {
        self.json(Method::GET, "/v1/events/seal").await
    }

    /// What the agent finds of this box, within the sandbox of its unit.
    pub async fn doctor(&self) -> Result<Vec<Finding>, ClientError> {
        self.json(Method::GET, "/v1/doctor").await
    }

    /// What was kept of an app when it last failed.
    pub async fn diagnosis(&self, app: &AppName) -> Result<Diagnosis, ClientError> {
        self.json(Method::GET, &format!("/v1/diagnosis?app={app}")).await
    }

    /// Has what failed of an app tried again.
    pub async fn retry(&self, app: &AppName) -> Result<(), ClientError> {
        self.json::<serde_json::Value>(Method::POST, &format!("/v1/retry?app={app}")).await.map(drop)
    }

    /// Polls the source now.
    pub async fn poll(&self) -> Result<(), ClientError> {
        self.json::<serde_json::Value>(Method::POST, "/v1/poll").await.map(drop)
    }

    /// Gives each event after `since` to `each`, oldest first, until there is no more, or with `follow`
    /// until the agent stops or `each` says `false`.
    pub async fn events(
        &self,
        since: u64,
        follow: bool,
        mut each: impl FnMut(Event) -> bool,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/events?since={since}&follow={}", u8::from(follow));
        let (answer, connection) = self.limited(self.send(Method::GET, &path)).await?;
        let _connection = AbortOnDrop(connection);
        let mut body = answer.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event = serde_json::from_slice(&line).map_err(|error| self.broken(&error))?;
                if !each(event) {
                    return Ok(());
                }
            }
            if rest.len() > ANSWER_BYTES {
                return Err(self.broken(&"a line without an end"));
            }
        }
        Ok(())
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let whole = async {
            let (answer, connection) = self.send(method, path).await?;
            let _connection = AbortOnDrop(connection);
            let body = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES);
            let bytes = body.collect().await.map_err(|error| self.broken(&error))?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|error| self.broken(&error))
        };
        self.limited(whole).await
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let late = |_| Err(self.broken(&"no answer: the agent hangs (journalctl -u holdfast)"));
        tokio::time::timeout(LIMIT, work).await.unwrap_or_else(late)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(Response<Incoming>, JoinHandle<()>), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(error))?;
        let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        let connection = tokio::spawn(async { drop(connection.await) });
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "holdfast")
            .body(Empty::new())
            .map_err(|error| self.broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        if answer.status().is_success() {
            return Ok((answer, connection));
        }
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), 64 << 10).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let why = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|value| value["error"].as_str().map(str::to_owned))
            .unwrap_or_else(|| status.to_string());
        connection.abort();
        Err(ClientError::Refused(why))
    }

    fn no_connection(&self, cause: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(socket),
            _ => ClientError::Unreachable { socket, cause },
        }
    }

    fn broken(&self, cause: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), cause: cause.to_string() }
    }
}

/// The task that drives a connection goes with whoever waits for its answer.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
