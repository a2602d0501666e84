//! The answers to requests: the paths, and the way to the loop and back.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_core::event::Event;
use holdfast_core::name::AppName;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::server::Caller;
use super::{EVENTS_AT_ONCE, Request};

type Answer = Response<BoxBody<Bytes, Infallible>>;

pub(super) async fn answer(request: hyper::Request<Incoming>, caller: Caller) -> Answer {
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
        (&Method::GET, "/v1/events/seal") => json(caller.ask(Request::Seal).await),
        (&Method::GET, "/v1/diagnosis") => diagnosis(request.uri().query().unwrap_or(""), &caller).await,
        (&Method::GET, "/v1/doctor") => doctor(&caller).await,
        (&Method::POST, "/v1/retry") => retry(request.uri().query().unwrap_or(""), &caller).await,
        (&Method::POST, "/v1/poll") => poll(&caller).await,
        (
            _,
            "/v1/status" | "/v1/plan" | "/v1/events" | "/v1/events/seal" | "/v1/diagnosis" | "/v1/doctor"
            | "/v1/retry" | "/v1/poll",
        ) => failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} doesn't support {method}")),
        _ => failure(
            StatusCode::NOT_FOUND,
            "no such path; under /v1/ there are status, plan, events, events/seal, diagnosis, doctor, retry and poll",
        ),
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

async fn diagnosis(query: &str, caller: &Caller) -> Answer {
    let app = match app_of(query) {
        Ok(app) => app,
        Err(why) => return failure(StatusCode::BAD_REQUEST, &why),
    };
    match caller.ask(|reply| Request::Diagnosis(app, reply)).await {
        Ok(Ok(diagnosis)) => json(Ok(diagnosis)),
        Ok(Err(why)) => failure(StatusCode::NOT_FOUND, &why),
        Err(answer) => answer,
    }
}

/// Without the loop: a loop that hangs is what somebody may want to know of.
async fn doctor(caller: &Caller) -> Answer {
    let doctor = Arc::clone(&caller.shared.doctor);
    let looked = tokio::task::spawn_blocking(move || doctor());
    match tokio::time::timeout(caller.shared.limits.reply, looked).await {
        Ok(Ok(findings)) => json(Ok(findings)),
        Ok(Err(error)) => unable(error.to_string()),
        Err(_) => failure(StatusCode::GATEWAY_TIMEOUT, "a file system or disk doesn't respond"),
    }
}

async fn retry(query: &str, caller: &Caller) -> Answer {
    let app = match app_of(query) {
        Ok(app) => app,
        Err(why) => return failure(StatusCode::BAD_REQUEST, &why),
    };
    let who = format!("user {}", caller.user);
    match caller.ask(|reply| Request::Retry { app, who, reply }).await {
        Ok(Ok(())) => json(Ok(serde_json::json!({}))),
        Ok(Err(why)) => failure(StatusCode::CONFLICT, &why),
        Err(answer) => answer,
    }
}

/// `app=NAME`, and nothing else.
fn app_of(query: &str) -> Result<AppName, String> {
    let name = query.strip_prefix("app=").ok_or("which app? use app=NAME")?;
    name.parse().map_err(|error| format!("{error}"))
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
                since = text.parse().map_err(|_| format!("since={text:?} is not a number"))?;
            }
            Some(("follow", text @ ("0" | "1"))) => follow = text == "1",
            _ => return Err(format!("unknown parameter {pair:?}: use since=N and follow=1")),
        }
    }
    Ok((since, follow))
}

async fn events(query: &str, mut caller: Caller) -> Answer {
    let (since, follow) = match parse_query(query) {
        Ok(parsed) => parsed,
        Err(why) => return failure(StatusCode::BAD_REQUEST, &why),
    };
    let place = match follow.then(|| Arc::clone(&caller.shared.followers).try_acquire_owned()) {
        Some(Err(_)) => {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "too many clients follow the events already");
        }
        Some(Ok(place)) => Some(place),
        None => None,
    };
    // Seen from here on, before it is asked for: what is written while we ask and send wakes us again.
    caller.newest.borrow_and_update();
    // The first lot is asked for here, so that what goes wrong has a status of its own.
    let first = match caller.events_after(since).await {
        Ok(first) => first,
        Err(answer) => return answer,
    };
    caller.follows.store(follow, Ordering::Relaxed);
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
            // The agent stops.
            Err(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => return,
            // An answer that ends here as any other would say that this is all.
            Err(_) => return caller.cut.notify_one(),
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
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
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
