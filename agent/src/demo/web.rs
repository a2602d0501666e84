//! The web server in the containers of `holdfast demo --podman`: this program again, so that the demo needs no
//! image from anywhere. It answers what the files of its image say, and stops when it is asked to.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::{TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::http::{self, Answer};

/// Connections that may wait for their turn.
const BACKLOG: u32 = 128;
/// So long must nobody have come before it stops: the demo asks about 20 times a second.
const QUIET: Duration = Duration::from_millis(20);

/// The program's first argument when it is the web server.
pub(crate) const COMMAND: &str = "demo-web";
/// What it answers.
pub(super) const TEXT_FILE: &str = "demo/text";
/// What it answers when asked for its health: a status of HTTP.
pub(super) const HEALTH_FILE: &str = "demo/health";

/// Serves at `port`, the argument after [`COMMAND`], until it is asked to stop.
pub(crate) fn main(port: Option<&OsStr>) -> ExitCode {
    match run(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(port: Option<&OsStr>) -> Result<()> {
    let port = port.and_then(|port| port.to_str()?.parse().ok());
    let port: u16 = port.ok_or_else(|| anyhow!("name a port"))?;
    let text = fs::read_to_string(format!("/{TEXT_FILE}")).context("cannot read what to answer")?;
    let health = fs::read_to_string(format!("/{HEALTH_FILE}")).context("cannot read the health")?;
    let answer = move |path: &str| {
        let status = if path == "/healthz" { health.trim() } else { "200" };
        Answer { status: status.to_owned(), kind: "text/plain", body: text.clone().into_bytes() }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(port, Arc::new(answer)))
}

/// Serves until it is asked to stop, and then what has come by then: another version listens beside it.
async fn serve(port: u16, answer: Arc<impl Fn(&str) -> Answer + Send + Sync + 'static>) -> Result<()> {
    // The first process of a container ignores signals that it doesn't ask for.
    let mut term = signal(SignalKind::terminate())?;
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    let listening = || {
        socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        socket.listen(BACKLOG)
    };
    let listener = listening().with_context(|| format!("cannot listen on {port}"))?;
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => serve_one(&mut requests, accepted?.0, &answer)?,
            _ = term.recv() => break,
        }
    }
    // Until nobody has come for a moment; whoever comes later gets the other version.
    while let Ok(accepted) = timeout(QUIET, listener.accept()).await {
        serve_one(&mut requests, accepted?.0, &answer)?;
    }
    drop(listener);
    while requests.join_next().await.is_some() {}
    Ok(())
}

fn serve_one(
    requests: &mut JoinSet<()>,
    stream: TcpStream,
    answer: &Arc<impl Fn(&str) -> Answer + Send + Sync + 'static>,
) -> Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let answer = Arc::clone(answer);
    requests.spawn_blocking(move || {
        // Whoever doesn't wait for the answer needs none.
        let _ = http::serve_one(stream, &*answer);
    });
    // Those that have ended are let go of.
    while requests.try_join_next().is_some() {}
    Ok(())
}
