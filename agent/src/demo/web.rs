//! The web server in the containers of `holdfast demo --podman`: this program again, so that the demo needs no
//! image from anywhere. It answers what the files of its image say, and stops when it is asked to.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};

use super::http::{self, Answer};

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
    let listener =
        TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("cannot listen on {port}"))?;
    http::serve(listener, move |path| {
        let status = if path == "/healthz" { health.trim() } else { "200" };
        Answer { status: status.to_owned(), kind: "text/plain", body: text.clone().into_bytes() }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The first process of a container ignores signals that it doesn't ask for.
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        term.recv().await;
        Ok(())
    })
}
