use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::event::segment::Seal;
use holdfast_core::event::{ChainHead, Draft};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::server::Limits;
use super::*;

const LIMITS: Limits = Limits {
    connections: 4,
    followers: 1,
    head: Duration::from_millis(200),
    whole: Duration::from_secs(2),
    reply: Duration::from_millis(500),
    stall: Duration::from_millis(200),
};

/// A server whose loop holds `events` events and answers everything but a plan.
struct Agent {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    newest: watch::Sender<u64>,
    polls: watch::Receiver<u32>,
}

fn events(count: u64) -> Vec<Event> {
    let mut head: Option<ChainHead> = None;
    (0..count)
        .map(|n| {
            let draft = Draft::new("test", format!("event {n}"));
            let event = Event::after(head.as_ref(), jiff::Timestamp::UNIX_EPOCH, draft);
            head = Some(event.head());
            event
        })
        .collect()
}

fn status() -> Status {
    serde_json::from_value(serde_json::json!({
        "device": "till-1", "agent": "0.1.0", "trust": "signed", "converged": true,
        "source": { "url": "file:///x", "lastPoll": null, "nextPoll": null, "error": null },
        "revision": { "fetched": null, "accepted": null, "applied": null }, "apps": [], "held": []
    }))
    .unwrap()
}

fn start(limits: Limits, allow: fn(u32) -> bool, count: u64) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let server = Server::bind_with(&socket, limits, allow, Arc::new(Vec::new)).unwrap();
    let (requests, mut receiver) = mpsc::channel(WAITING_REQUESTS);
    let (newest, newest_receiver) = watch::channel(0);
    let (poll_sender, polls) = watch::channel(0);
    tokio::spawn(server.serve(requests, newest_receiver.clone()));
    tokio::spawn(async move {
        let all = events(count);
        let mut kept_plans = Vec::new();
        while let Some(request) = receiver.recv().await {
            match request {
                Request::Status(reply) => drop(reply.send(status())),
                Request::Plan(reply) => kept_plans.push(reply),
                Request::Events { since, limit, reply } => {
                    let shown = *newest_receiver.borrow();
                    let some = all.iter().filter(|e| e.seq > since && e.seq <= shown).take(limit).cloned();
                    drop(reply.send(Ok(some.collect())));
                }
                Request::Seal(reply) => drop(reply.send(Seal::default())),
                Request::Diagnosis(app, reply) => drop(reply.send(Err(format!("nothing of {app}")))),
                Request::Retry { app, who, reply } => drop(reply.send(Err(format!("{app} for {who}")))),
                Request::Poll(reply) => {
                    poll_sender.send_modify(|polls| *polls += 1);
                    let _ = reply.send(());
                }
            }
        }
    });
    Agent { _folder: folder, socket, newest, polls }
}

fn everybody(_: u32) -> bool {
    true
}

fn nobody(_: u32) -> bool {
    false
}

async fn raw(socket: &Path, text: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let _ = stream.write_all(text.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn root_and_the_agents_own_user_get_answers() {
    let agent = Server::bind(&tempfile::tempdir().unwrap().path().join("x.sock"), Arc::new(Vec::new));
    assert!(agent.is_ok());
    let agent = start(LIMITS, everybody, 0);
    let client = Client::new(&agent.socket);
    assert_eq!(client.status().await.unwrap(), status());
    client.poll().await.unwrap();
    assert_eq!(*agent.polls.borrow(), 1);
}

#[tokio::test]
async fn an_app_is_named_and_what_the_agent_says_of_it_comes_back() {
    let agent = start(LIMITS, everybody, 0);
    let client = Client::new(&agent.socket);
    let pos = "pos".parse().unwrap();
    let error = client.diagnosis(&pos).await.unwrap_err().to_string();
    assert!(error.contains("nothing of pos"), "{error}");
    let error = client.retry(&pos).await.unwrap_err().to_string();
    assert!(error.contains(&format!("pos for user {}", nix::unistd::getuid())), "{error}");
    let answer = raw(&agent.socket, "POST /v1/retry?app=../x HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(answer.contains("400 Bad Request"), "{answer}");
}

#[tokio::test]
async fn anybody_else_is_told_why_not() {
    let agent = start(LIMITS, nobody, 0);
    let error = Client::new(&agent.socket).status().await.unwrap_err().to_string();
    assert!(error.contains("only root and the agent's own user"), "{error}");
    assert!(
        raw(&agent.socket, "POST /v1/poll HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 403")
    );
    assert_eq!(*agent.polls.borrow(), 0);
}

#[tokio::test]
async fn a_box_without_a_daemon_is_told_apart_from_one_that_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    assert!(matches!(Client::new(&socket).status().await, Err(ClientError::NotRunning(_))));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(matches!(Client::new(&socket).status().await, Err(ClientError::NotRunning(_))));
}

#[tokio::test]
async fn a_loop_that_does_not_answer_is_said_to_be_busy() {
    let agent = start(LIMITS, everybody, 0);
    let error = Client::new(&agent.socket).plan().await.unwrap_err().to_string();
    assert!(error.contains("busy"), "{error}");
}

#[tokio::test]
async fn all_events_come_in_order_however_many_they_are() {
    let count = 3 * EVENTS_AT_ONCE as u64;
    let agent = start(LIMITS, everybody, count);
    agent.newest.send(count).unwrap();
    let mut seen = Vec::new();
    let each = |event: Event| {
        seen.push(event.seq);
        true
    };
    Client::new(&agent.socket).events(5, false, each).await.unwrap();
    assert_eq!(seen, (6..=count).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_follower_sees_new_events_and_outlives_the_limit_of_a_connection() {
    let limits = Limits { whole: Duration::from_millis(50), ..LIMITS };
    let agent = start(limits, everybody, 3);
    agent.newest.send(1).unwrap();
    let newest = agent.newest.clone();
    let mut seen = Vec::new();
    tokio::spawn(async move {
        for shown in 2..=3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            newest.send(shown).unwrap();
        }
    });
    let each = |event: Event| {
        seen.push(event.seq);
        event.seq < 3
    };
    Client::new(&agent.socket).events(0, true, each).await.unwrap();
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test]
async fn an_event_that_is_written_while_others_are_on_their_way_is_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let server = Server::bind_with(&socket, LIMITS, everybody, Arc::new(Vec::new)).unwrap();
    let (requests, mut receiver) = mpsc::channel(WAITING_REQUESTS);
    let (newest, newest_receiver) = watch::channel(1);
    tokio::spawn(server.serve(requests, newest_receiver));
    tokio::spawn(async move {
        let all = events(4);
        let mut written = 1;
        while let Some(Request::Events { since, reply, .. }) = receiver.recv().await {
            let some = all.iter().filter(|e| e.seq > since && e.seq <= written).cloned().collect();
            // The next one is written, and told of, before the answer is on its way.
            written = 4.min(written + 1);
            newest.send_replace(written);
            let _ = reply.send(Ok(some));
        }
    });
    let mut seen = Vec::new();
    let each = |event: Event| {
        seen.push(event.seq);
        event.seq < 4
    };
    let client = Client::new(&socket);
    tokio::time::timeout(Duration::from_secs(10), client.events(0, true, each)).await.unwrap().unwrap();
    assert_eq!(seen, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_follower_that_does_not_read_loses_its_place() {
    let count = 20_000;
    let agent = start(LIMITS, everybody, count);
    agent.newest.send(count).unwrap();
    let mut lazy = UnixStream::connect(&agent.socket).await.unwrap();
    lazy.write_all(b"GET /v1/events?follow=1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // The only place is taken until the lazy one is cut off.
    let client = Client::new(&agent.socket);
    let one = || client.events(count - 1, true, |_| false);
    while one().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn clients_that_hang_at_each_step_keep_nobody_else_out() {
    let agent = start(LIMITS, everybody, 0);
    let mut hanging = Vec::new();
    for text in [
        "",
        "GET ",
        "GET /v1/status HTTP/1.1\r\n",
        "POST /v1/poll HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
    ] {
        for _ in 0..LIMITS.connections {
            let mut stream = UnixStream::connect(&agent.socket).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            hanging.push(stream);
        }
    }
    assert!(Client::new(&agent.socket).status().await.is_ok());
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error_and_harms_nobody() {
    let agent = start(LIMITS, everybody, 0);
    for (request, answer) in [
        ("GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 404"),
        ("POST /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 405"),
        ("GET /v1/events?since=-1 HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 400"),
        ("GET /v1/events?x HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 400"),
        ("\u{0}\u{1}\u{2}\r\n\r\n", "HTTP/1.1 400"),
    ] {
        assert!(raw(&agent.socket, request).await.starts_with(answer), "{request:?}");
    }
    let head = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(!raw(&agent.socket, &head).await.contains("200 OK"));
    assert!(Client::new(&agent.socket).status().await.is_ok());
}
