//! Servers that do what no server should: say nothing, drip, never end, redirect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A server that hands each connection to a script, on a thread of its own.
#[derive(Debug)]
pub struct Hostile {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

/// What a script gets: the connection, and the head of the request if `read_head` was called.
pub struct Conversation {
    stream: TcpStream,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    /// Starts a server that runs `script` for each connection.
    pub fn start(script: impl Fn(Conversation) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let seen = heads.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, heads) = (script.clone(), seen.clone());
                thread::spawn(move || script(Conversation { stream, heads }));
            }
        });
        Hostile { port, heads }
    }

    /// Its address in the clear.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/edge.git", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The heads of the requests that it read.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Conversation {
    /// Reads the head of a request and its body; gives the head.
    pub fn read_request(&mut self) -> String {
        self.read_with_body().0
    }

    /// Reads the head of a request and its body.
    pub fn read_with_body(&mut self) -> (String, Vec<u8>) {
        let mut reader = BufReader::new(&self.stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                break;
            }
        }
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        let _ = reader.read_exact(&mut body);
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        (head, body)
    }

    /// Hands a request on to a server at this port of the loopback, and its answer back.
    pub fn hand_on(&mut self, port: u16, head: &str, body: &[u8]) {
        let mut up = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
        lines.retain(|line| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("connection:") && !line.starts_with("content-length:")
        });
        let length = format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        up.write_all(format!("{}\r\n{length}", lines.join("\r\n")).as_bytes()).unwrap();
        up.write_all(body).unwrap();
        let _ = std::io::copy(&mut up, &mut self.stream);
    }

    /// The connection itself.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends bytes; false when the other side has gone.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Says nothing until the other side goes.
    pub fn hang(&mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    /// Answers with protocol version 2's advertisement of capabilities, with `filter` that of leaving things out.
    pub fn advertise(&mut self, filter: bool) {
        let mut body = packet("# service=git-upload-pack\n") + "0000";
        let fetch = if filter { "fetch=shallow filter\n" } else { "fetch=shallow\n" };
        for line in ["version 2\n", "agent=hostile\n", "ls-refs=unborn\n", fetch] {
            body.push_str(&packet(line));
        }
        body.push_str("0000");
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(head.as_bytes());
        self.send(body.as_bytes());
    }

    /// Begins an answer to a POST whose body may go on for ever.
    pub fn begin_result(&mut self) -> bool {
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\nConnection: close\r\n\r\n")
    }
}

/// A line as Git's protocol sends it (git's Documentation/gitprotocol-common).
pub fn packet(line: &str) -> String {
    format!("{:04x}{line}", line.len() + 4)
}
