//! The web server in the containers of `holdfast demo --podman`: this program again, so that the demo needs no
//! image from anywhere. It answers what the files of its image say, and stops when it is asked to.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// The program's first argument when it is the web server.
pub(crate) const COMMAND: &str = "demo-web";
/// What it answers.
pub(super) const TEXT_FILE: &str = "demo/text";
/// What it answers when asked for its health: a status of HTTP.
pub(super) const HEALTH_FILE: &str = "demo/health";

/// Serves at `port`, the argument after [`COMMAND`], until it is asked to stop.
pub(crate) fn main(port: Option<&OsStr>) -> ExitCode {
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: Option<&OsStr>) -> Result<()> {
    let port = port.and_then(|port| port.to_str()?.parse().ok());
    let port: u16 = port.ok_or_else(|| anyhow!("name a port"))?;
    let text = fs::read_to_string(format!("/{TEXT_FILE}")).context("cannot read what to answer")?;
    let health = fs::read_to_string(format!("/{HEALTH_FILE}")).context("cannot read the health")?;
    let listener =
        TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("cannot listen on {port}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever doesn't wait for the answer needs none.
            let _ = answer(stream, &text, health.trim());
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The first process of a container ignores signals that it doesn't ask for.
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        term.recv().await;
        Ok(())
    })
}

fn answer(mut stream: TcpStream, text: &str, health: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let status = if first.starts_with("GET /healthz ") { health } else { "200" };
    let length = text.len();
    write!(stream, "HTTP/1.1 {status} OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
}
