//! The command line. One command, one file; this one holds what they share: arguments, exit codes, the way to
//! a daemon that runs.
//!
//! `agent` is where commands meet the daemon's own code: those that run the loop, or look for themselves when
//! no daemon runs.

mod agent;
mod config;
mod demo;
mod diag;
mod doctor;
mod events;
mod output;
mod plan;
mod render;
mod repository;
mod retry;
mod run;
mod schema;
mod status;
mod validate;
mod version;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use holdfast_store::StoreError;

use crate::api::{Client, ClientError};
use crate::config::{Config, DEFAULT_PATH};
use output::{print, print_error};

/// How a command ends (CONTRACT: exit codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Converged and healthy, or asked and answered.
    Done = 0,
    /// An error.
    Error = 1,
    /// Held, rolled back, or still soaking.
    NotConverged = 2,
    /// Wrong usage (EX_USAGE of sysexits.h).
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Keeps this box in the desired state that a signed repository describes.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Log level: error, warn, info, debug, trace, or target=level,… [default: [log] level; HOLDFAST_LOG overrides that]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Run(run::Arguments),
    /// Show the status of this box; exit code 2 if it isn't converged and healthy
    Status,
    /// Show the steps that the agent would take now, and why
    Plan,
    /// Show the audit log
    Events(events::Arguments),
    /// Show the diagnosis of an app's last failure
    Diag(diag::Arguments),
    /// Retry an app that failed, with the same release
    Retry(retry::Arguments),
    /// Check a repository and show all errors
    Validate(validate::Arguments),
    /// Render a repository for a box and print its desired state
    Render(render::Arguments),
    /// Run a demonstration in a temporary folder
    Demo(demo::Arguments),
    /// Print the JSON Schema of the documents
    Schema(schema::Arguments),
    /// Print the configuration with all defaults
    Config,
    /// Check this box: what is missing, and what to do
    Doctor,
    /// Print the version and what is built in
    Version,
}

impl Common {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config)?)
    }
}

/// The program.
pub fn main() -> ExitCode {
    // What this binary is besides the agent is told apart before anything else is set up.
    #[cfg(feature = "wasm")]
    if let Some(code) = wasm_child() {
        return code;
    }
    #[cfg(all(feature = "demo", feature = "podman"))]
    if let Some(code) = demo_web() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    match run_command(&cli.common, cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            print_error(&format!("{error:#}"));
            Exit::Error.into()
        }
    }
}

fn run_command(common: &Common, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(arguments) => run::run(common, &arguments),
        Command::Status => status::run(common),
        Command::Plan => plan::run(common),
        Command::Events(arguments) => events::run(common, &arguments),
        Command::Diag(arguments) => diag::run(common, &arguments),
        Command::Retry(arguments) => retry::run(common, &arguments),
        Command::Validate(arguments) => validate::run(common, &arguments),
        Command::Render(arguments) => render::run(common, &arguments),
        Command::Demo(arguments) => demo::run(common, &arguments),
        Command::Schema(arguments) => schema::run(common, &arguments),
        Command::Config => config::run(common),
        Command::Doctor => doctor::run(common),
        Command::Version => version::run(common),
    }
}

/// The web server in the containers of `holdfast demo --podman`.
#[cfg(all(feature = "demo", feature = "podman"))]
fn demo_web() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let is_web = arguments.next().is_some_and(|word| word == crate::demo::web::COMMAND);
    is_web.then(|| crate::demo::web::main(arguments.next().as_deref()))
}

/// The children of the WASM driver.
#[cfg(feature = "wasm")]
fn wasm_child() -> Option<ExitCode> {
    use holdfast_drivers::wasm;
    let mut arguments = std::env::args_os().skip(1);
    let word = arguments.next()?;
    let child: fn(std::iter::Skip<std::env::ArgsOs>) -> ExitCode = match word.to_str()? {
        wasm::RUN_COMMAND => wasm::run_main,
        wasm::PROBE_COMMAND => wasm::probe_main,
        wasm::COMPILE_COMMAND => wasm::compile_main,
        _ => return None,
    };
    Some(child(arguments))
}

/// `--help` and `--version` are answers; all else that clap reports is wrong usage.
fn usage(error: &clap::Error) -> Exit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print(text.trim_end());
            Exit::Done
        }
        _ => {
            print_error(text.trim_end());
            Exit::Usage
        }
    }
}

/// A runtime for one command: one thread, gone with it.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

/// How long an agent that holds the state folder and doesn't answer yet is waited for: it is starting, or ending.
const AGENT_LIMIT: Duration = Duration::from_secs(20);

/// What the daemon says, or, when none runs, what the state folder says.
fn ask_or<T>(
    mut ask: impl FnMut() -> anyhow::Result<Result<T, ClientError>>,
    mut offline: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = unless_not_running(ask()?)? {
            return Ok(answer);
        }
        match offline() {
            Err(error) if is_locked(&error) && started.elapsed() < AGENT_LIMIT => {
                std::thread::sleep(Duration::from_millis(100));
            }
            done => return done,
        }
    }
}

/// Whether the state folder is another process's at the moment.
fn is_locked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Locked { .. }))
}

/// What the daemon says, or `None` when none runs.
fn unless_not_running<T>(answer: Result<T, ClientError>) -> anyhow::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::NotRunning(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn client(socket: &Path) -> Client {
    Client::new(socket)
}
