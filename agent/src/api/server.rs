//! The server's side: who may ask, how much, and for how long. One request a connection.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::event::Event;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::socket::{self, BindError, SocketFile};
use super::{EVENTS_AT_ONCE, Request};

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

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// The local API, listening.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    _file: SocketFile,
    shared: Shared,
}

#[derive(Clone, Debug)]
struct Shared {
    limits: Limits,
    /// Whether a user may ask.
    allow: fn(u32) -> bool,
    connections: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

/// What a handler of one connection needs.
#[derive(Clone)]
struct Caller {
    shared: Shared,
    /// The user's id, if it may not ask.
    stranger: Option<u32>,
    requests: mpsc::Sender<Request>,
    newest: watch::Receiver<u64>,
    /// Ends the connection, when what it is sent isn't taken.
    cut: Arc<Notify>,
    /// Set once the connection follows, and has no limit as a whole.
    follows: Arc<std::sync::atomic::AtomicBool>,
}

impl Server {
    /// Makes the socket and listens. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Server, BindError> {
        Server::bind_with(path, LIMITS, root_or_self)
    }

    pub(super) fn bind_with(
        path: &Path,
        limits: Limits,
        allow: fn(u32) -> bool,
    ) -> Result<Server, BindError> {
        let (listener, file) = socket::bind(path)?;
        let listener = UnixListener::from_std(listener)
            .map_err(|cause| BindError::Io { path: path.to_owned(), cause })?;
        let shared = Shared {
            limits,
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
        if follows.load(std::sync::atomic::Ordering::Relaxed) {
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

async fn answer(request: hyper::Request<Incoming>, caller: Caller) -> Answer {
    if let Some(user) = caller.stranger {
        return failure(
            StatusCode::FORBIDDEN,
            &format!("user {user} may not ask: only root and the agent's own user may; try sudo"),
        );
    }
    // No request has a body; one that comes is neither read nor kept, and the connection ends.
    let (method, path) = (request.method(), request.uri().path());
    match (method, path) {
        (&Method::GET, "/v1/status") => status(&caller).await,
        (&Method::GET, "/v1/plan") => plan(&caller).await,
        (&Method::GET, "/v1/events") => events(request.uri().query().unwrap_or(""), caller).await,
        (&Method::POST, "/v1/poll") => poll(&caller).await,
        (_, "/v1/status" | "/v1/plan" | "/v1/events" | "/v1/poll") => {
            failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} doesn't take {method}"))
        }
        _ => failure(StatusCode::NOT_FOUND, "no such path; there are /v1/status, plan, events and poll"),
    }
}

async fn status(caller: &Caller) -> Answer {
    json(caller.ask(Request::Status).await)
}

async fn plan(caller: &Caller) -> Answer {
    match caller.ask(Request::Plan).await {
        Ok(plan) => json(plan.map_err(unable)),
        Err(answer) => answer,
    }
}

async fn poll(caller: &Caller) -> Answer {
    json(caller.ask(Request::Poll).await.map(|()| serde_json::json!({})))
}

impl Caller {
    /// Asks the loop. The error is the answer to the client.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Answer> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(request(reply)).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(self.shared.limits.reply, asked).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(failure(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping: ask again")),
            Err(_) => Err(failure(
                StatusCode::GATEWAY_TIMEOUT,
                "the agent is busy and didn't answer in time: ask again",
            )),
        }
    }

    async fn events_after(&self, since: u64) -> Result<Vec<Event>, Answer> {
        let events = self.ask(|reply| Request::Events { since, limit: EVENTS_AT_ONCE, reply }).await?;
        events.map_err(unable)
    }
}

/// `since` and `follow`, in any order.
fn parse_query(query: &str) -> Result<(u64, bool), String> {
    let (mut since, mut follow) = (0, false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("since", text)) => {
                since = text.parse().map_err(|_| format!("since={text:?} is no number"))?;
            }
            Some(("follow", text @ ("0" | "1"))) => follow = text == "1",
            _ => return Err(format!("{pair:?} isn't known here: use since=N and follow=1")),
        }
    }
    Ok((since, follow))
}

async fn events(query: &str, caller: Caller) -> Answer {
    let (since, follow) = match parse_query(query) {
        Ok(parsed) => parsed,
        Err(why) => return failure(StatusCode::BAD_REQUEST, &why),
    };
    let place = match follow.then(|| Arc::clone(&caller.shared.followers).try_acquire_owned()) {
        Some(Err(_)) => {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "too many follow the events already");
        }
        Some(Ok(place)) => Some(place),
        None => None,
    };
    // The first lot is asked for here, so that what goes wrong has a status of its own.
    let first = match caller.events_after(since).await {
        Ok(first) => first,
        Err(answer) => return answer,
    };
    caller.follows.store(follow, std::sync::atomic::Ordering::Relaxed);
    let (lines, receiver) = mpsc::channel(1);
    tokio::spawn(send_events(first, since, place, caller, lines));
    let mut answer = Response::new(BodyExt::boxed(Lines { receiver }));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}

/// Sends lot after lot until there is no more, or as long as the client follows and reads.
async fn send_events(
    mut events: Vec<Event>,
    mut since: u64,
    place: Option<OwnedSemaphorePermit>,
    mut caller: Caller,
    lines: mpsc::Sender<Bytes>,
) {
    loop {
        // Seen from here on: what is written while we ask and send wakes us again.
        caller.newest.borrow_and_update();
        let full = events.len() >= EVENTS_AT_ONCE;
        for event in events.drain(..) {
            since = since.max(event.seq);
            let Ok(mut line) = serde_json::to_vec(&event) else { continue };
            line.push(b'\n');
            match tokio::time::timeout(caller.shared.limits.stall, lines.send(line.into())).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => return caller.cut.notify_one(),
            }
        }
        if !full {
            if place.is_none() {
                return;
            }
            tokio::select! {
                changed = caller.newest.changed() => if changed.is_err() { return },
                () = lines.closed() => return,
            }
        }
        events = match caller.events_after(since).await {
            Ok(events) => events,
            Err(_) => return,
        };
    }
}

/// A body of what comes through a channel.
struct Lines {
    receiver: mpsc::Receiver<Bytes>,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receiver.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

fn unable(why: String) -> Answer {
    failure(StatusCode::INTERNAL_SERVER_ERROR, &why)
}

fn failure(status: StatusCode, why: &str) -> Answer {
    let mut answer = whole(&serde_json::json!({ "error": why }));
    *answer.status_mut() = status;
    answer
}

fn json<T: Serialize>(result: Result<T, Answer>) -> Answer {
    result.map_or_else(|answer| answer, |value| whole(&value))
}

fn whole(value: &impl Serialize) -> Answer {
    // Our own types always have a JSON form.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    let mut answer = Response::new(Full::from(bytes).boxed());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
