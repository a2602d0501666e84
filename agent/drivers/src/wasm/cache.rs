//! Compiled code: made in a child process, kept by digest, and trusted only with our keyed digest beside it.
//! Whoever can write to the disk but doesn't have the key cannot have his machine code run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac};
use holdfast_core::digest::Digest;
use holdfast_core::release::WasmWorkload;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::user::RunAs;
use super::{COMPILE_REFUSED, ENGINE, files};
use crate::DriverError;
use crate::durable_file::publish;

/// How long a compilation may take by the clock on the wall.
const COMPILE_LIMIT: Duration = Duration::from_secs(300);
/// How long a caller waits for one; it goes on behind him.
const WAIT_LIMIT: Duration = Duration::from_secs(50);
/// What is kept of the reason of a failure, in bytes.
const LONGEST_REASON: u64 = 4096;

/// The folder of compiled code.
pub(super) struct Cache {
    program: PathBuf,
    content: PathBuf,
    dir: PathBuf,
    key: [u8; 32],
    user: RunAs,
    /// One compilation at a time: each may take all the memory that a small box has.
    turn: Mutex<()>,
}

/// What compiled code is called: what was compiled, as what, by which engine, for which processor.
struct Entry {
    source: Digest,
    mode: &'static str,
}

impl Entry {
    fn of(workload: &WasmWorkload<Digest>) -> Self {
        Entry { source: workload.component, mode: if workload.http.is_some() { "http" } else { "command" } }
    }

    fn name(&self) -> String {
        format!("{}-{}-{ENGINE}-{}.cwasm", self.source.to_hex(), self.mode, std::env::consts::ARCH)
    }
}

impl Cache {
    pub(super) fn new(
        program: PathBuf,
        content: PathBuf,
        dir: PathBuf,
        key: [u8; 32],
        user: RunAs,
    ) -> Arc<Self> {
        Arc::new(Cache { program, content, dir, key, user, turn: Mutex::new(()) })
    }

    /// The compiled code of a workload, made if it isn't there or isn't ours.
    pub(super) async fn ensure(
        self: &Arc<Self>,
        workload: &WasmWorkload<Digest>,
    ) -> Result<PathBuf, DriverError> {
        let entry = Entry::of(workload);
        let path = self.dir.join(entry.name());
        if self.is_ours(&path).await {
            return Ok(path);
        }
        let cache = Arc::clone(self);
        // A task of its own: a caller who gives up waiting doesn't throw away what was compiled so far.
        let work = tokio::spawn(async move {
            let _turn = cache.turn.lock().await;
            let path = cache.dir.join(entry.name());
            if cache.is_ours(&path).await {
                return Ok(path);
            }
            cache.compile(&entry, &path).await.map(|()| path)
        });
        match timeout(WAIT_LIMIT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => {
                Err(DriverError::Runtime(format!("compiling {} was interrupted: {e}", workload.component)))
            }
            Err(_) => Err(DriverError::Runtime(format!(
                "{} is still being compiled after {} s; compilation continues, and is checked again later",
                workload.component,
                WAIT_LIMIT.as_secs()
            ))),
        }
    }

    /// Throws away what is there of a workload's compiled code, since the engine didn't take it.
    pub(super) fn forget(&self, workload: &WasmWorkload<Digest>) {
        let path = self.dir.join(Entry::of(workload).name());
        // What can't be removed is found to be wrong again.
        let _ = files::remove_if_there(&mac_path(&path));
        let _ = files::remove_if_there(&path);
    }

    /// Removes what is compiled from anything but `keep`, what other engines compiled, and what was left over.
    pub(super) async fn collect(&self, keep: &BTreeSet<Digest>) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let names: BTreeSet<String> = keep
            .iter()
            .flat_map(|source| ["http", "command"].map(|mode| Entry { source: *source, mode }.name()))
            .flat_map(|name| [mac_name(&name), name])
            .collect();
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| names.contains(name)) {
                files::remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Whether the file carries the keyed digest of its name and content.
    async fn is_ours(self: &Arc<Self>, path: &Path) -> bool {
        let (cache, path) = (Arc::clone(self), path.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let written = fs::read(mac_path(&path)).ok()?;
            let mut file = File::open(&path).ok()?;
            cache.mac(&path, &mut file).ok()?.verify_slice(&written).ok()
        });
        matches!(checked.await, Ok(Some(())))
    }

    fn mac(&self, path: &Path, file: &mut File) -> io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(io::Error::other)?;
        mac.update(b"holdfast compiled wasm 1\0");
        mac.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        mac.update(b"\0");
        read_through(file, |bytes| mac.update(bytes))?;
        Ok(mac)
    }

    async fn compile(self: &Arc<Self>, entry: &Entry, path: &Path) -> Result<(), DriverError> {
        let failed = |what: String| format!("cannot compile {}: {what}", entry.source);
        let of_file = |what: String, error: &io::Error| DriverError::of_file(failed(what), error);
        let source = self.open_source(entry.source).await?;
        files::make_private_dir(&self.dir)
            .map_err(|e| of_file(format!("cannot create {}: {e}", self.dir.display()), &e))?;
        let (temporary, output) = files::create_temporary(path)
            .map_err(|e| of_file(format!("cannot write to {}: {e}", self.dir.display()), &e))?;
        let guard = RemoveOnDrop(&temporary);
        let child_output = output.try_clone().map_err(|e| of_file(e.to_string(), &e))?;
        self.run_compiler(entry, source, child_output).await?;
        let (cache, file, temporary, target) = (Arc::clone(self), output, temporary.clone(), path.to_owned());
        let done = tokio::task::spawn_blocking(move || cache.publish(file, &temporary, &target)).await;
        drop(guard);
        done.map_err(|e| DriverError::Runtime(failed(e.to_string())))?
            .map_err(|e| of_file(format!("cannot keep the compiled code {}: {e}", path.display()), &e))
    }

    /// Gives compiled code its name. The keyed digest comes last: without it nothing is trusted.
    fn publish(&self, mut file: File, temporary: &Path, path: &Path) -> io::Result<()> {
        files::remove_if_there(&mac_path(path))?;
        file.seek(SeekFrom::Start(0))?;
        let mac = self.mac(path, &mut file)?.finalize().into_bytes();
        publish(&file, temporary, path)?;
        files::write_atomically(&mac_path(path), &mac)
    }

    /// The pinned code, once its digest has been proved.
    async fn open_source(&self, digest: Digest) -> Result<File, DriverError> {
        let path = self.content.join("sha256").join(digest.to_hex());
        let read = tokio::task::spawn_blocking(move || {
            let cannot =
                |e: io::Error| DriverError::of_file(format!("cannot read {}: {e}", path.display()), &e);
            let mut file = File::open(&path).map_err(cannot)?;
            let mut hash = Sha256::new();
            read_through(&mut file, |bytes| hash.update(bytes)).map_err(cannot)?;
            if Digest::from_bytes(hash.finalize().into()) != digest {
                let why = format!("{} is damaged: it doesn't have the digest {digest}", path.display());
                return Err(DriverError::Runtime(why));
            }
            file.seek(SeekFrom::Start(0)).map_err(cannot)?;
            Ok(file)
        });
        match read.await {
            Ok(read) => read,
            Err(e) => Err(DriverError::Runtime(format!("cannot read {digest}: {e}"))),
        }
    }

    async fn run_compiler(&self, entry: &Entry, source: File, output: File) -> Result<(), DriverError> {
        let runtime = |what: String| DriverError::Runtime(format!("cannot compile {}: {what}", entry.source));
        let mut command = Command::new(&self.program);
        command.arg(super::COMPILE_COMMAND).arg(entry.mode).env_clear().current_dir("/").kill_on_drop(true);
        if let Some(user) = self.user.user().map_err(DriverError::Runtime)? {
            command.args([user.uid.to_string(), user.gid.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::from(source))
            .stdout(Stdio::from(output))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| runtime(format!("cannot start {}: {e}", self.program.display())))?;
        let mut reason = Vec::new();
        let finished = async {
            if let Some(stderr) = child.stderr.take() {
                stderr.take(LONGEST_REASON).read_to_end(&mut reason).await?;
            }
            child.wait().await
        };
        let status = timeout(COMPILE_LIMIT, finished).await;
        let reason = String::from_utf8_lossy(&reason).trim().to_owned();
        match status {
            Ok(Ok(status)) => judge(entry, status, &reason),
            Ok(Err(e)) => Err(runtime(e.to_string())),
            Err(_) => {
                // It is killed for good when `child` is dropped.
                let _ = child.start_kill();
                let limit = COMPILE_LIMIT.as_secs();
                Err(DriverError::Release(format!("compiling {} took longer than {limit} s", entry.source)))
            }
        }
    }
}

/// What the compiler's end means.
fn judge(entry: &Entry, status: ExitStatus, reason: &str) -> Result<(), DriverError> {
    let source = entry.source;
    if status.success() {
        return Ok(());
    }
    if status.code() == Some(i32::from(COMPILE_REFUSED)) {
        return Err(DriverError::Release(format!("{source} cannot be run: {reason}")));
    }
    match status.signal() {
        // SIGXCPU, and SIGABRT after an allocation that failed or a bug in the compiler: the same again.
        Some(signal @ (24 | 6 | 11 | 4)) => Err(DriverError::Release(format!(
            "compiling {source} was ended by signal {signal}, probably because it ran out of memory or time: \
             {reason}"
        ))),
        Some(signal) => {
            Err(DriverError::Runtime(format!("compiling {source} was ended by signal {signal}: {reason}")))
        }
        None => Err(DriverError::Runtime(format!("cannot compile {source}: {reason}"))),
    }
}

fn mac_name(name: &str) -> String {
    format!("{name}.mac")
}

fn mac_path(path: &Path) -> PathBuf {
    path.with_file_name(mac_name(&path.file_name().unwrap_or_default().to_string_lossy()))
}

fn read_through(file: &mut File, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes a temporary file whatever happens; after a success it has another name.
struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = files::remove_if_there(self.0);
    }
}
