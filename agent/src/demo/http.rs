//! As much of HTTP/1.1 as the demo's own servers speak: a GET on a connection of its own, and its answer.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// What is answered.
pub(super) struct Answer {
    /// Such as `200`.
    pub(super) status: String,
    /// The media type.
    pub(super) kind: &'static str,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// Serves on a thread of its own, for as long as the process lives: `answer` gets the path.
pub(super) fn serve(listener: TcpListener, answer: impl Fn(&str) -> Answer + Send + 'static) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever doesn't wait for the answer needs none.
            let _ = serve_one(stream, &answer);
        }
    });
}

/// Answers the one request of a connection.
pub(super) fn serve_one(mut stream: TcpStream, answer: &impl Fn(&str) -> Answer) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let Answer { status, kind, body } = answer(first.split(' ').nth(1).unwrap_or_default());
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}
