//! The steps of a start, in their order.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_core::release::Restart;
use nix::sys::stat::{Mode as FileMode, umask};
use nix::unistd::{chdir, dup2_stdin, dup2_stdout, setsid};
use tokio::runtime::{Builder, Runtime};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use super::super::files::{self, CONTROL_SOCKET, LIFE_LOCK, RECORD};
use super::super::guest::{self, Linked, Mode};
use super::super::protocol::{Because, FORMAT, Record, StartOrder};
use super::super::user::User;
use super::super::{engine, protocol};
use super::super::{handover, process};
use super::log::Ring;
use super::{Refusal, confine};

/// How long the process waits for the one before it to let go.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// Threads that wait for a guest's files.
const FILE_THREADS: usize = 4;

/// Code in memory, with all that it imports.
pub(super) struct Loaded {
    pub(super) engine: Engine,
    pub(super) code: Linked,
}

/// What the process holds while it lives.
pub(super) struct Held {
    pub(super) control: UnixListener,
    pub(super) listener: Option<TcpListener>,
    /// Where the end of a workload that isn't started again is written down.
    pub(super) outcome: Option<File>,
    pub(super) nowhere: File,
    /// Never read: it is locked, and tells that this app has a process.
    _life: File,
}

fn of_the_box(what: impl Into<String>) -> Refusal {
    Refusal { because: Because::Box, what: what.into() }
}

/// Leaves the agent's session, and has panics written to the log instead of anywhere else.
pub(super) fn detach(log: &Arc<Ring>) {
    // It fails for the leader of a session, which is alone already.
    let _ = setsid();
    umask(FileMode::from_bits_truncate(0o077));
    let log = Arc::clone(log);
    std::panic::set_hook(Box::new(move |panic| log.note(&format!("the host panicked: {panic}"))));
}

/// Brings compiled code into memory and links it.
pub(super) fn load(code: &Path, mode: Mode) -> Result<Loaded, Refusal> {
    let engine = engine::engine()
        .map_err(|e| of_the_box(format!("cannot set up the WebAssembly engine: {}", guest::causes(&e))))?;
    let stale = |e: wasmtime::Error| Refusal { because: Because::Code, what: guest::causes(&e) };
    let refused = |e: wasmtime::Error| Refusal { because: Because::Release, what: guest::causes(&e) };
    let code = match Engine::detect_precompiled_file(code).map_err(stale)? {
        Some(Precompiled::Module) => {
            let module = read_module(&engine, code).map_err(stale)?;
            guest::link_module(&engine, &module, mode).map_err(refused)?
        }
        Some(Precompiled::Component) => {
            let component = read_component(&engine, code).map_err(stale)?;
            guest::link_component(&engine, &component, mode).map_err(refused)?
        }
        None => return Err(Refusal { because: Because::Code, what: "it isn't compiled code".into() }),
    };
    Ok(Loaded { engine, code })
}

#[allow(unsafe_code)]
fn read_module(engine: &Engine, code: &Path) -> wasmtime::Result<Module> {
    // SAFETY: the file was written by this program's own compiler. The agent has checked its keyed digest
    // just before it gave the order, it lies in a folder that only the agent's user can write to, and it is
    // replaced by renaming alone, never changed in place.
    unsafe { Module::deserialize_file(engine, code) }
}

#[allow(unsafe_code)]
fn read_component(engine: &Engine, code: &Path) -> wasmtime::Result<Component> {
    // SAFETY: as in `read_module`.
    unsafe { Component::deserialize_file(engine, code) }
}

/// The listening socket of the process that serves now, if it listens where this one is to listen.
pub(super) fn inherit(order: &StartOrder) -> Option<TcpListener> {
    let (before, http) = (order.takes_over_from?, order.workload.http.as_ref()?);
    handover::take(&order.dir, before, http.listen)
}

/// Takes the app's place: its lock, its record, its port, its socket. From here on nobody else can.
pub(super) fn take_place(order: &StartOrder, inherited: Option<TcpListener>) -> Result<Held, Refusal> {
    let life = lock_life(order)?;
    let record = Record {
        version: FORMAT,
        mark: order.mark.clone(),
        pid: process::own_pid(),
        started: process::started(process::own_pid())
            .ok_or_else(|| of_the_box("cannot read /proc/self/stat: mount /proc"))?,
        boot: process::boot_id(),
    };
    files::write_atomically(&order.dir.join(RECORD), protocol::line(&record).as_bytes())
        .map_err(|e| of_the_box(format!("cannot write {}: {e}", order.dir.join(RECORD).display())))?;
    let listener = match (&order.workload.http, inherited) {
        (Some(_), Some(inherited)) => Some(inherited),
        (Some(http), None) => Some(listen(http.listen)?),
        (None, _) => None,
    };
    let control = control_socket(order)?;
    let outcome = (order.workload.restart != Restart::Always)
        .then(|| OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&order.outcome))
        .transpose()
        .map_err(|e| of_the_box(format!("cannot open {}: {e}", order.outcome.display())))?;
    let nowhere = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| of_the_box(format!("cannot open /dev/null: {e}")))?;
    let place = if order.workload.dirs.is_empty() { "/".as_ref() } else { order.volumes.as_path() };
    chdir(place).map_err(|e| of_the_box(format!("cannot enter {}: {e}", place.display())))?;
    Ok(Held { control, listener, outcome, nowhere, _life: life })
}

/// The lock says that the app has a process, even if the agent died between starting and recording it.
fn lock_life(order: &StartOrder) -> Result<File, Refusal> {
    let path = order.dir.join(LIFE_LOCK);
    let cannot = |e: io::Error| of_the_box(format!("cannot lock {}: {e}", path.display()));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(cannot)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_LIMIT => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(of_the_box(format!("another process runs the app {}", order.mark.app)));
            }
            Err(TryLockError::Error(e)) => return Err(cannot(e)),
        }
    }
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener, Refusal> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::AddrInUse => "; stop what listens there, or change `http.listen`",
            io::ErrorKind::AddrNotAvailable => "; the box has no such address (yet)",
            io::ErrorKind::PermissionDenied => "; a port below 1024 needs the agent to run as root",
            _ => "",
        };
        of_the_box(format!("cannot listen at {address}: {e}{hint}"))
    })
}

/// The socket is made in the app's own folder, where a leftover can only be of a process that is gone: the
/// lock is held.
fn control_socket(order: &StartOrder) -> Result<UnixListener, Refusal> {
    let path = order.dir.join(CONTROL_SOCKET);
    let made = || {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = UnixListener::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    made().map_err(|e| of_the_box(format!("cannot create the socket {}: {e}", path.display())))
}

/// Goes on as the workloads' user, with a filter of system calls. What the box cannot do is noted, but for
/// the user: that was asked for.
pub(super) fn give_up_rights(order: &StartOrder, log: &Ring) -> Result<(), Refusal> {
    become_workload(order.user)?;
    if let Err(why) = confine::forbid_system_calls() {
        log.note(&format!("the workload runs without a seccomp filter: {why}"));
    }
    Ok(())
}

/// Goes on as the workloads' user, where there is one.
pub(super) fn become_workload(user: Option<User>) -> Result<(), Refusal> {
    let Some(User { uid, gid }) = user else { return Ok(()) };
    confine::become_user(uid, gid).map_err(|e| of_the_box(format!("cannot become user {uid}:{gid}: {e}")))
}

/// As many threads as the workload may use processors; a command is one thread by nature.
pub(super) fn threads(order: &StartOrder) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = order.workload.limits.cpu_millis.map_or(cores, |millis| millis.div_ceil(1000) as usize);
    if order.workload.http.is_some() { share.clamp(1, cores) } else { 1 }
}

/// What drives the guest, with so many threads.
pub(super) fn runtime(threads: usize) -> Result<Runtime, Refusal> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder
        .worker_threads(threads)
        .max_blocking_threads(FILE_THREADS)
        .enable_all()
        .build()
        .map_err(|e| of_the_box(format!("cannot start the workload's threads: {e}")))
}

/// Lets go of the agent's pipes.
pub(super) fn hang_up(nowhere: &File) {
    // Without it the pipes stay open until the process ends, and nobody reads them.
    let _ = dup2_stdin(nowhere);
    let _ = dup2_stdout(nowhere);
}
