//! Between a box and a real server: sees what is asked for, and may answer in the server's place.

use std::sync::{Arc, Mutex, PoisonError};

use super::git_repo::SignedRepo;
use super::git_server::{GitServer, Options};
use super::hostile::{Conversation, Hostile, packet};
use super::ports::free_port;

/// The server, and who stands before it.
pub struct Middleman {
    /// The real one.
    pub server: GitServer,
    hostile: Hostile,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
}

/// What is done with a request for objects.
pub enum Deed {
    /// It is handed on.
    Pass,
    /// The connection is cut.
    Cut,
    /// The server is asked for another object instead.
    Ask(String),
    /// It is handed on without its filter: the server sends all that is below, too.
    Widen,
    /// The answer is these bytes.
    Say(Vec<u8>),
}

impl Middleman {
    /// Starts a server with what `repo` has; `deed` gets the ids that each request wants, and how many such
    /// requests there were before.
    pub fn start(repo: &SignedRepo, deed: impl Fn(&[String], usize) -> Deed + Send + Sync + 'static) -> Self {
        Self::with(repo, &Options::default(), deed)
    }

    /// The same, before a server that is as `options` say.
    pub fn with(
        repo: &SignedRepo,
        options: &Options,
        deed: impl Fn(&[String], usize) -> Deed + Send + Sync + 'static,
    ) -> Self {
        let port = free_port();
        let server = GitServer::with(repo, &Options { plain_port: Some(port), ..options.clone() });
        let asked: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let seen = asked.clone();
        let hostile = Hostile::start(move |mut peer| {
            let (head, body) = peer.read_with_body();
            let wanted = wanted(&String::from_utf8_lossy(&body));
            if wanted.is_empty() {
                peer.hand_on(port, &head, &body);
                return;
            }
            let before = {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(wanted.clone());
                seen.len() - 1
            };
            answer(&mut peer, port, &head, &body, &wanted, deed(&wanted, before));
        });
        Middleman { server, hostile, asked }
    }

    /// The address for `source.url`.
    pub fn url(&self) -> String {
        self.hostile.url()
    }

    /// The ids that were wanted so far, request by request.
    pub fn asked(&self) -> Vec<Vec<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts counting anew.
    pub fn forget(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn answer(peer: &mut Conversation, port: u16, head: &str, body: &[u8], wanted: &[String], deed: Deed) {
    match deed {
        Deed::Pass => peer.hand_on(port, head, body),
        Deed::Cut => {}
        Deed::Ask(other) => {
            let body = String::from_utf8_lossy(body).replace(&wanted[0], &other);
            peer.hand_on(port, head, body.as_bytes());
        }
        Deed::Widen => {
            let body = String::from_utf8_lossy(body).replace("filter tree:0", "filter tree:9");
            peer.hand_on(port, head, body.as_bytes());
        }
        Deed::Say(bytes) => {
            peer.begin_result();
            peer.send(&bytes);
        }
    }
}

/// The answer of a server that sends this pack.
pub fn sends(pack: &[u8]) -> Vec<u8> {
    let mut answer = packet("packfile\n").into_bytes();
    for piece in pack.chunks(65_000) {
        answer.extend(format!("{:04x}\u{1}", piece.len() + 5).bytes());
        answer.extend(piece);
    }
    answer.extend(b"0000");
    answer
}

/// The answer of a server that doesn't send what is asked for by its id.
pub fn refusal(id: &str) -> Deed {
    Deed::Say(packet(&format!("ERR upload-pack: not our ref {id}")).into_bytes())
}

fn wanted(body: &str) -> Vec<String> {
    let lines = body.split("want ").skip(1);
    lines.filter_map(|rest| rest.get(..40)).map(str::to_owned).collect()
}
