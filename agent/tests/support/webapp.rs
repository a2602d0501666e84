//! The web server that runs in the containers of tests: plain std, compiled by `rustc` into one static file.
//!
//! Not a module of the tests; `image.rs` compiles it. What it does is set by its environment:
//!
//! - `PORT` (8080): where it listens, with SO_REUSEPORT.
//! - `ANSWER`, or the content of the file `ANSWER_FILE`: what `/` answers.
//! - `HEALTH`: what `/healthz` answers (200), or an absolute path of a file that has it; no such file is 200.
//! - `START_DELAY_MS`: how long it waits before it listens.
//! - `IGNORE_TERM`: if set, SIGTERM does nothing.
//! - `DRAIN_MS` (0): how long it goes on with accepting after a SIGTERM.
//!
//! Paths: `/`, `/healthz`, `/env/NAME`, `/file?PATH`, `/whoami`, `/slow?MS`, `/print?WORDS` (into the log),
//! `/crash` (exits with 1). With arguments it is no server: `exit CODE [MS]`, `write FILE TEXT`, `read FILE`,
//! `print LINES BYTES`, `sleep`.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);
static OPEN: AtomicUsize = AtomicUsize::new(0);

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

#[repr(C)]
struct SockAddr {
    family: u16,
    port: u16,
    address: u32,
    zero: [u8; 8],
}

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn setsockopt(fd: i32, level: i32, name: i32, value: *const i32, length: u32) -> i32;
    fn bind(fd: i32, address: *const SockAddr, length: u32) -> i32;
    fn listen(fd: i32, backlog: i32) -> i32;
    fn poll(fds: *mut PollFd, count: u64, timeout: i32) -> i32;
    fn signal(number: i32, handler: usize) -> usize;
    fn getuid() -> u32;
    fn getgid() -> u32;
}

extern "C" fn on_term(_: i32) {
    STOP.store(true, Ordering::SeqCst);
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ignores = env::var("IGNORE_TERM").is_ok();
    for number in [SIGTERM, SIGINT] {
        let handler = on_term as extern "C" fn(i32) as usize;
        unsafe { signal(number, if ignores { 1 } else { handler }) };
    }
    match arguments[..] {
        [] | ["serve"] => serve(),
        ["exit", code] => exit(number(code)),
        ["exit", code, after] => {
            pause(number(after));
            exit(number(code));
        }
        ["write", file, text] => write_file(file, text),
        ["read", file] => match fs::read_to_string(file) {
            Ok(text) => print!("{text}"),
            Err(error) => {
                // In one piece, as programs that buffer their lines do: podman 4.3.1 may lose the first of several.
                let line = format!("{file}: {error}\n");
                let _ = std::io::stderr().write_all(line.as_bytes());
                exit(1);
            }
        },
        ["print", lines, bytes] => {
            let text = "x".repeat(number(bytes));
            for line in 0..number::<u64>(lines) {
                println!("{line} {text}");
            }
        }
        ["sleep"] => pause(u64::MAX),
        _ => {
            eprintln!("unknown arguments {arguments:?}");
            exit(64);
        }
    }
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| {
        eprintln!("{text} is no number");
        exit(64)
    })
}

/// Sleeps until the time is over, or a signal asks for the end.
fn pause(ms: u64) {
    let began = Instant::now();
    while began.elapsed().as_millis() < u128::from(ms) {
        if STOP.load(Ordering::SeqCst) {
            exit(0);
        }
        sleep(Duration::from_millis(ms.min(20)));
    }
}

fn write_file(file: &str, text: &str) {
    if let Err(error) = fs::write(file, text) {
        eprintln!("{file}: {error}");
        exit(1);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| number(&text))
}

fn serve() {
    pause(setting("START_DELAY_MS", 0));
    let listener = listener(setting("PORT", 8080).try_into().unwrap_or(8080));
    listener.set_nonblocking(true).expect("non-blocking");
    println!("listening");
    let mut until = None;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let _ = stream.set_nonblocking(false);
                OPEN.fetch_add(1, Ordering::SeqCst);
                spawn(move || {
                    let _ = talk(&stream);
                    OPEN.fetch_sub(1, Ordering::SeqCst);
                });
                continue;
            }
            Err(_) if until.is_some_and(|until| Instant::now() >= until) => break,
            Err(_) => {}
        }
        if STOP.load(Ordering::SeqCst) && until.is_none() {
            println!("stopping");
            until = Some(Instant::now() + Duration::from_millis(setting("DRAIN_MS", 0)));
        } else {
            let mut fd = PollFd { fd: listener.as_raw_fd(), events: 1, revents: 0 };
            unsafe { poll(&raw mut fd, 1, if until.is_some() { 1 } else { 100 }) };
        }
    }
    drop(listener);
    // Those who talk get their answer.
    let began = Instant::now();
    while OPEN.load(Ordering::SeqCst) > 0 && began.elapsed() < Duration::from_secs(5) {
        sleep(Duration::from_millis(1));
    }
    println!("stopped");
}

/// A listener on all addresses, beside others on the same port.
fn listener(port: u16) -> TcpListener {
    let address = SockAddr { family: 2, port: port.to_be(), address: 0, zero: [0; 8] };
    let on = 1;
    unsafe {
        let fd = socket(2, 1, 0);
        // SO_REUSEADDR and SO_REUSEPORT.
        setsockopt(fd, 1, 2, &raw const on, 4);
        setsockopt(fd, 1, 15, &raw const on, 4);
        if fd < 0 || bind(fd, &raw const address, 16) != 0 || listen(fd, 1024) != 0 {
            eprintln!("port {port}: {}", std::io::Error::last_os_error());
            exit(1);
        }
        TcpListener::from_raw_fd(fd)
    }
}

/// Answers until the client goes, or this server does.
fn talk(mut stream: &TcpStream) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        // Time may run out between two requests, and then it is looked whether this server stops.
        loop {
            match reader.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => break,
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if STOP.load(Ordering::SeqCst) && line.is_empty() => return Ok(()),
                Err(_) => {}
            }
        }
        let mut close = line.contains("HTTP/1.0");
        let target = line.split(' ').nth(1).unwrap_or("/").to_owned();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            close |= header.to_ascii_lowercase().starts_with("connection: close");
        }
        let (status, body) = answer(&target);
        close |= STOP.load(Ordering::SeqCst);
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat())?;
        if close {
            return Ok(());
        }
    }
}

fn answer(target: &str) -> (&'static str, Vec<u8>) {
    const OK: &str = "200 OK";
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/" => match env::var("ANSWER_FILE") {
            Ok(file) => file_answer(&file),
            Err(_) => (OK, env::var("ANSWER").unwrap_or_else(|_| "hello".into()).into_bytes()),
        },
        "/healthz" => {
            let health = env::var("HEALTH").unwrap_or_default();
            let health = if health.starts_with('/') { fs::read_to_string(health) } else { Ok(health) };
            match health.unwrap_or_default().trim() {
                "" | "200" | "ok" => (OK, b"ok".to_vec()),
                _ => ("500 Internal Server Error", b"ill".to_vec()),
            }
        }
        "/file" => file_answer(query),
        "/whoami" => {
            let (uid, gid) = unsafe { (getuid(), getgid()) };
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let folder = env::current_dir().unwrap_or_default();
            let text = format!("uid={uid} gid={gid} host={} dir={}", host.trim(), folder.display());
            (OK, text.into_bytes())
        }
        "/slow" => {
            sleep(Duration::from_millis(query.parse().unwrap_or(0)));
            (OK, b"slow".to_vec())
        }
        "/print" => {
            println!("{query}");
            (OK, Vec::new())
        }
        "/crash" => exit(1),
        _ => match path.strip_prefix("/env/").and_then(|name| env::var(name).ok()) {
            Some(value) => (OK, value.into_bytes()),
            None => ("404 Not Found", Vec::new()),
        },
    }
}

fn file_answer(file: &str) -> (&'static str, Vec<u8>) {
    match fs::read(file) {
        Ok(content) => ("200 OK", content),
        Err(error) => ("404 Not Found", error.to_string().into_bytes()),
    }
}
