//! The server's side: who may ask, how much, and for how long. One request a connection; what is answered
//! to it is in `routes`.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Request;
use super::routes::answer;
use super::socket::{self, BindError, SocketFile};
use crate::doctor::Finding;

/// What one client, or all of them together, may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time; more wait in the socket's queue.
    pub(super) connections: usize,
    /// Connections that follow the events, of all.
    pub(super) followers: usize,
    /// From the connection to the end of the request's head.
    pub(super) head: Duration,
    /// For a whole connection that doesn't follow.
    pub(super) whole: Duration,
    /// How long the loop may take to answer.
    pub(super) reply: Duration,
    /// How long a follower may leave a line unread.
    pub(super) stall: Duration,
}

const LIMITS: Limits = Limits {
    connections: 32,
    followers: 8,
    head: Duration::from_secs(5),
    whole: Duration::from_secs(60),
    reply: Duration::from_secs(30),
    stall: Duration::from_secs(30),
};

/// Bytes of a request's head, and of anything that hyper buffers. hyper's own least is 8 KiB.
const HEAD_BYTES: usize = 8 << 10;

/// The local API, listening.
pub struct Server {
    listener: UnixListener,
    _file: SocketFile,
    shared: Shared,
}

/// What the doctor finds in the agent's own process. It looks at files, and may wait for them.
pub type Doctor = Arc<dyn Fn() -> Vec<Finding> + Send + Sync>;

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) doctor: Doctor,
    /// Whether a user may ask.
    allow: fn(u32) -> bool,
    connections: Arc<Semaphore>,
    pub(super) followers: Arc<Semaphore>,
}

/// What a handler of one connection needs.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) shared: Shared,
    /// Who asks.
    pub(super) user: u32,
    /// The user's id, if it may not ask.
    pub(super) stranger: Option<u32>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) newest: watch::Receiver<u64>,
    /// Ends the connection, when what it is sent isn't taken.
    pub(super) cut: Arc<Notify>,
    /// Set once the connection follows, and has no limit as a whole.
    pub(super) follows: Arc<AtomicBool>,
}

impl Server {
    /// Makes the socket and listens. Needs a tokio runtime.
    pub fn bind(path: &Path, doctor: Doctor) -> Result<Server, BindError> {
        Server::bind_with(path, LIMITS, root_or_self, doctor)
    }

    pub(super) fn bind_with(
        path: &Path,
        limits: Limits,
        allow: fn(u32) -> bool,
        doctor: Doctor,
    ) -> Result<Server, BindError> {
        let (listener, file) = socket::bind(path)?;
        let listener = UnixListener::from_std(listener)
            .map_err(|cause| BindError::Io { path: path.to_owned(), cause })?;
        let shared = Shared {
            limits,
            doctor,
            allow,
            connections: Arc::new(Semaphore::new(limits.connections)),
            followers: Arc::new(Semaphore::new(limits.followers)),
        };
        Ok(Server { listener, _file: file, shared })
    }

    /// Serves until it is dropped or the loop's end of `requests` is closed. `newest` holds the `seq` of the
    /// newest event: a change of it wakes followers, which then ask for what they haven't got.
    pub async fn serve(self, requests: mpsc::Sender<Request>, newest: watch::Receiver<u64>) {
        // Connections end with the server: aborted when this is dropped.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&self.shared.connections).acquire_owned().await else { return };
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let caller = self.caller(&stream, &requests, &newest);
                        connections.spawn(serve_one(stream, caller, permit));
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: waiting is what helps.
                        tracing::warn!("the local API cannot take a connection: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                () = requests.closed() => return,
            }
        }
    }

    fn caller(
        &self,
        stream: &UnixStream,
        requests: &mpsc::Sender<Request>,
        newest: &watch::Receiver<u64>,
    ) -> Caller {
        // SO_PEERCRED is of the moment of connect(2); who can't be named is nobody that may ask.
        let user = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        Caller {
            shared: self.shared.clone(),
            user,
            stranger: Some(user).filter(|&user| !(self.shared.allow)(user)),
            requests: requests.clone(),
            newest: newest.clone(),
            cut: Arc::default(),
            follows: Arc::default(),
        }
    }
}

/// Who may ask: root, and the user that the agent runs as.
fn root_or_self(user: u32) -> bool {
    user == 0 || user == nix::unistd::geteuid().as_raw()
}

async fn serve_one(stream: UnixStream, caller: Caller, _permit: OwnedSemaphorePermit) {
    let limits = caller.shared.limits;
    let (cut, follows) = (Arc::clone(&caller.cut), Arc::clone(&caller.follows));
    let service = service_fn(move |request| {
        let caller = caller.clone();
        async move { Ok::<_, Infallible>(answer(request, caller).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let too_long = async {
        tokio::time::sleep(limits.whole).await;
        if follows.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // How a connection ends is the client's business.
        _ = connection => {}
        () = cut.notified() => {}
        () = too_long => {}
    }
}
