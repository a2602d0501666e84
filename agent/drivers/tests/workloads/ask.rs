//! A probe as somebody would write it: plain std, compiled by `rustc` for wasm32-wasip2.
//!
//! Not a module of the tests; `component.rs` compiles it. Its first argument says what it does:
//!
//! - `get PATH`: asks HOLDFAST_TARGET by HTTP, and wants 200; else it says what the server said.
//! - `connect ADDRESS`: says how that ended.
//! - `listen`, `resolve`, `datagram`: tries what no probe may do, and says how that ended.
//! - `say WORDS…`: prints each, and ends with 1.
//! - `environment`: prints it, sorted, and ends with 1.
//! - `spin`: says so, and never ends.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::exit;

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let second = words.get(1).map(String::as_str).unwrap_or_default();
    match words.first().map(String::as_str).unwrap_or_default() {
        "get" => get(second),
        "connect" => tell(TcpStream::connect(second).map(drop)),
        "listen" => tell(TcpListener::bind("127.0.0.1:0").map(drop)),
        "resolve" => tell("localhost:80".to_socket_addrs().map(drop)),
        "datagram" => tell(UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(b"x", "127.0.0.1:9")).map(drop)),
        "say" => words[1..].iter().for_each(|word| println!("{word}")),
        "environment" => {
            let mut all: Vec<String> = env::vars().map(|(name, value)| format!("{name}={value}")).collect();
            all.sort();
            println!("{}", all.join(" "));
        }
        "spin" => {
            println!("it goes round");
            loop {
                std::hint::black_box(());
            }
        }
        other => println!("{other:?} is nothing that it can do"),
    }
    exit(1);
}

fn get(path: &str) {
    let target = env::var("HOLDFAST_TARGET").unwrap_or_default();
    let asked = TcpStream::connect(&target).and_then(|mut stream| {
        let mut answer = String::new();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    match asked {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => exit(0),
        Ok(answer) => println!("{target} said {:?}", answer.lines().next().unwrap_or_default()),
        Err(error) => println!("{target}: {error}"),
    }
}

fn tell(done: std::io::Result<()>) {
    match done {
        Ok(()) => println!("it went well"),
        Err(error) => println!("{:?}", error.kind()),
    }
}
