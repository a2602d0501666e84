//! `holdfast wasm-run`: a workload's own process. It loads the code, waits for its turn, takes everything
//! that it will need, gives up every right to more, and then runs the guest until it is told to stop.

mod command;
pub(super) mod confine;
mod control;
pub(super) mod cpu;
mod http;
mod instance;
pub(super) mod log;
pub(super) mod memory;
mod probe_component;
mod slow;
mod state;
mod steps;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::Uid;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::control::Control;
use self::cpu::Cpu;
use self::http::Server;
use self::instance::Maker;
use self::log::Ring;
use self::memory::Account;
use self::state::Board;
use self::steps::{Held, Loaded};
use super::guest::{Linked, Mode};
use super::protocol::{Because, FORMAT, GO, LONGEST_LINE, Outcome, Progress, StartOrder, State, line};

pub use self::probe_component::probe_main;

/// What requests in flight get when the system asks the process to end.
const GRACE: Duration = Duration::from_secs(2);
/// What of the log is kept with a workload's end.
const LAST_LINES: usize = 50;

/// Why a workload didn't start.
struct Refusal {
    because: Because,
    what: String,
}

/// Runs `wasm-run <folder>`. The folder is only there for people who look at the process list: what it needs
/// to know comes over its standard input.
pub fn run_main(_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match start() {
        Ok(Some(ended)) => {
            // Threads that wait for a disk must not keep the process.
            std::process::exit(i32::from(!ended));
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(Refusal { because, what }) => {
            say(&Progress::Failed { because, what });
            ExitCode::FAILURE
        }
    }
}

/// Tells the agent. When it is gone, the process goes on: a workload doesn't need it.
fn say(progress: &Progress) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(line(progress).as_bytes()).and_then(|()| out.flush());
}

fn read_line() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(LONGEST_LINE as u64).read_line(&mut text)?;
    Ok(text)
}

/// The whole life of the process: `None` if the agent went away before it was its turn, else whether the
/// workload ended well.
fn start() -> Result<Option<bool>, Refusal> {
    let order: StartOrder =
        read_line().and_then(|text| serde_json::from_str(&text).map_err(io::Error::other)).map_err(|e| {
            Refusal { because: Because::Box, what: format!("cannot read the order to start: {e}") }
        })?;
    let log = Ring::new();
    steps::detach(&log);
    confine::limit_workload(order.workload.limits.memory);
    let mode = if order.workload.http.is_some() { Mode::Http } else { Mode::Command };
    let loaded = steps::load(&order.code, mode)?;
    let inherited = steps::inherit(&order);
    say(&Progress::Loaded);
    if read_line().ok().as_deref().map(str::trim_end) != Some(GO) {
        return Ok(None);
    }
    let agent = Uid::effective();
    let held = steps::take_place(&order, inherited)?;
    steps::give_up_rights(&order, &log)?;
    let runtime = steps::runtime(steps::threads(&order))?;
    let cpu = Cpu::start(&loaded.engine, order.workload.limits.cpu_millis).map_err(|e| Refusal {
        because: Because::Box,
        what: format!("cannot start the thread that interrupts the guest: {e}"),
    })?;
    say(&Progress::Ready);
    steps::hang_up(&held.nowhere);
    let ended = runtime.block_on(live(order, loaded, held, cpu, log, agent));
    runtime.shutdown_background();
    Ok(Some(ended))
}

/// Serves or runs the workload until its end, and says whether that was a good one.
async fn live(
    order: StartOrder,
    loaded: Loaded,
    mut held: Held,
    cpu: Arc<Cpu>,
    log: Arc<Ring>,
    agent: Uid,
) -> bool {
    let board = Arc::new(Board::new(order.mark.clone()));
    let (stop, mut stopped) = mpsc::channel(1);
    let memory = Account::new(order.workload.limits.memory, Arc::clone(&log));
    let maker = Maker {
        engine: loaded.engine,
        workload: order.workload.clone(),
        network: None,
        memory,
        cpu,
        log: Arc::clone(&log),
    };
    let listener = held.listener.take().map(|listener| TcpListener::from_std(listener).map(Arc::new));
    match UnixListener::from_std(held.control) {
        Ok(socket) => {
            let control = Control {
                board: Arc::clone(&board),
                log: Arc::clone(&log),
                stop: stop.clone(),
                // Not kept: once the server has let go of it, nobody listens.
                listener: listener.iter().flatten().next().map(Arc::downgrade),
                agent,
            };
            tokio::spawn(control::serve(Arc::new(control), socket));
        }
        Err(e) => log.note(&format!("the workload's status can't be queried: {e}")),
    }
    end_on_signal(stop, &log);
    match (loaded.code, listener) {
        (Linked::Http(code), Some(Ok(listener))) => {
            board.set(State::Running);
            Server::new(maker, code).serve(listener, stopped).await;
            true
        }
        (Linked::Http(_), _) => false,
        (code, _) => {
            let ended = tokio::select! {
                ended = command::supervise(&maker, &code, &board) => ended,
                _ = stopped.recv() => {
                    board.set(State::Stopping);
                    return true;
                }
            };
            let outcome = Outcome {
                version: FORMAT,
                mark: order.mark,
                ok: ended.ok,
                what: ended.what,
                at: Timestamp::now(),
                log: log.last(LAST_LINES),
            };
            if let Some(file) = held.outcome.as_mut() {
                // A disk that is full loses the outcome, and the job runs again: at least once is what is
                // promised.
                let _ = write_outcome(file, &outcome);
            }
            ended.ok
        }
    }
}

/// Treats SIGTERM as the agent's word to stop.
fn end_on_signal(stop: mpsc::Sender<Duration>, log: &Ring) {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::spawn(async move {
                if terminate.recv().await.is_some() {
                    let _ = stop.try_send(GRACE);
                }
                // A sender is kept, so that the receiver doesn't end by itself.
                std::future::pending::<()>().await;
            });
        }
        Err(e) => log.note(&format!("SIGTERM ends the workload at once: {e}")),
    }
}

fn write_outcome(file: &mut File, outcome: &Outcome) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(line(outcome).as_bytes())?;
    file.sync_all()
}
