//! A way to an HTTP server that does to each answer what a test says: cuts it, delays it, changes it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::hostile::{Conversation, Hostile};

/// What becomes of one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It goes through.
    Pass,
    /// The connection ends after so many bytes of the body.
    CutAfter(u64),
    /// Silence after so many bytes of the body.
    HangAfter(u64),
    /// One byte of the body is another.
    CorruptAt(u64),
    /// The body goes on for ever, and doesn't say how long it is.
    Endless,
    /// Bytes come singly, with a pause in between.
    Drip(Duration),
    /// The server isn't asked: this is the answer.
    Answer(u16, Vec<(String, String)>, String),
}

impl Fault {
    /// An answer without a body.
    pub fn status(status: u16, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Fault::Answer(status, headers.collect(), String::new())
    }
}

/// A request, and what was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As it came.
    pub head: String,
    /// GET or HEAD.
    pub method: String,
    /// With its query.
    pub path: String,
    /// How many requests for the same path came before.
    pub earlier: usize,
    /// How many bytes of a body went back.
    pub sent: u64,
}

impl Seen {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Whether a blob is asked for.
    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// The proxy; it goes on until the test ends.
#[derive(Debug)]
pub struct FaultyProxy {
    server: Hostile,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FaultyProxy {
    /// Stands before the server on `port` of the loopback, which speaks plain HTTP.
    pub fn start(port: u16, choose: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let book = seen.clone();
        let server = Hostile::start(move |mut client| {
            let head = client.read_request();
            if head.is_empty() {
                return;
            }
            let (number, request) = note(&book, head);
            let fault = choose(&request);
            answer(&mut client, port, &request.head, &fault, |count| {
                lock(&book)[number].sent += count as u64;
            });
        });
        FaultyProxy { server, seen }
    }

    /// `host:port`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// What was asked and answered so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// The same, of blobs alone.
    pub fn blobs(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(Seen::is_blob).collect()
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(book: &Mutex<Vec<Seen>>, head: String) -> (usize, Seen) {
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = lock(book);
    let earlier = seen.iter().filter(|seen| seen.path == path).count();
    let request = Seen { head, method, path, earlier, sent: 0 };
    seen.push(request.clone());
    (seen.len() - 1, request)
}

fn answer(client: &mut Conversation, port: u16, head: &str, fault: &Fault, mut sent: impl FnMut(usize)) {
    if let Fault::Answer(status, headers, body) = fault {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} Said\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        client.send(head.as_bytes());
        client.send(body.as_bytes());
        return sent(length);
    }
    let Some((head, mut body)) = ask(port, head) else { return };
    let endless = matches!(fault, Fault::Endless);
    let head = if endless { without(&head, "content-length") } else { head };
    if !client.send(head.as_bytes()) {
        return;
    }
    let mut position = 0;
    let step = if matches!(fault, Fault::Drip(_)) { 1 } else { 4096 };
    loop {
        let mut chunk = vec![0; step];
        let most = match fault {
            Fault::CutAfter(at) | Fault::HangAfter(at) => (at - position).min(step as u64) as usize,
            _ => step,
        };
        let mut count = body.read(&mut chunk[..most]).unwrap_or(0);
        if count == 0 && endless {
            count = step;
        }
        if count == 0 {
            break;
        }
        if let Fault::CorruptAt(at) = fault
            && (position..position + count as u64).contains(at)
        {
            chunk[(at - position) as usize] ^= 1;
        }
        if !client.send(&chunk[..count]) {
            return;
        }
        position += count as u64;
        sent(count);
        if let Fault::Drip(pause) = fault {
            thread::sleep(*pause);
        }
    }
    if matches!(fault, Fault::HangAfter(_)) {
        client.hang();
    }
}

/// Asks the server the same; gives the head of its answer and the rest.
fn ask(port: u16, head: &str) -> Option<(String, BufReader<TcpStream>)> {
    let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    let request = without(head, "connection").replacen("\r\n", "\r\nConnection: close\r\n", 1);
    upstream.write_all(request.as_bytes()).ok()?;
    let mut reader = BufReader::new(upstream);
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        if reader.read_line(&mut answer).ok()? == 0 {
            return None;
        }
    }
    Some((answer, reader))
}

/// A head without one of its headers.
fn without(head: &str, name: &str) -> String {
    let kept = head
        .split_inclusive("\r\n")
        .filter(|line| line.split_once(':').is_none_or(|(found, _)| !found.eq_ignore_ascii_case(name)));
    kept.collect()
}
