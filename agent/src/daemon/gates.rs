//! Asking the gates of this box whether it is in use: a file, a program, an HTTP answer. What can't be asked counts
//! as in use, with the reason. The agent's own sandbox must not make a box look free: a file that it would hide isn't
//! "not there" (`sandbox`), and a program is started by systemd, outside of it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_core::change::{Gate, GateAnswer, GateKind};
use holdfast_drivers::request;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::sandbox;

/// How long a file or an HTTP server may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often a program is looked after.
const LOOK: Duration = Duration::from_millis(20);
/// Where a gate's program finds others. Nothing else of the agent's environment is passed on.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Asks each of them. Ends within their limits.
pub(super) async fn ask(gates: &[Gate]) -> Vec<GateAnswer> {
    let mut answers = Vec::with_capacity(gates.len());
    for gate in gates {
        answers.push(match ask_one(&gate.probe).await {
            Ok(()) => GateAnswer::Free,
            Err(why) => GateAnswer::InUse(why),
        });
    }
    answers
}

async fn ask_one(gate: &GateKind) -> Result<(), String> {
    match gate {
        GateKind::File { path } => {
            let path = path.clone();
            // A file may lie on a server that hangs; one look that does is enough.
            let Some(looking) = Looking::begin(&path) else {
                return Err(format!(
                    "could not check whether {} exists: an earlier check still hangs",
                    path.display()
                ));
            };
            let look = tokio::task::spawn_blocking(move || {
                let _looking = looking;
                is_absent(&path)
            });
            match tokio::time::timeout(LIMIT, look).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => Err(format!("could not check whether the file exists: {error}")),
                Err(_) => Err(format!("could not check within {LIMIT:?} whether the file exists")),
            }
        }
        GateKind::Command { command, timeout } => {
            let (command, timeout) = (command.clone(), *timeout);
            let run = tokio::task::spawn_blocking(move || run(&command, timeout));
            // A program on a server that hangs can't even be started.
            match tokio::time::timeout(timeout + LIMIT, run).await {
                Ok(ran) => ran.unwrap_or_else(|error| Err(error.to_string())),
                Err(_) => Err(format!("it could not be started within {:?}", timeout + LIMIT)),
            }
        }
        GateKind::Http { url } => request::page(url, usize::from(u16::MAX), LIMIT).await.map(drop),
    }
}

/// The files that are looked for now.
static LOOKED_FOR: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A look for a file, until it is dropped.
struct Looking(PathBuf);

impl Looking {
    fn begin(path: &Path) -> Option<Self> {
        let mut all = LOOKED_FOR.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(path.to_owned()).then(|| Looking(path.to_owned()))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKED_FOR.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn is_absent(path: &Path) -> Result<(), String> {
    match sandbox::is_there(path) {
        Ok(true) => Err(format!("{} exists", path.display())),
        Ok(false) => Ok(()),
        Err(unseen @ sandbox::Unseen::Unreadable { .. }) => Err(unseen.to_string()),
        Err(unseen) => Err(format!("could not check whether {} exists: {unseen}", path.display())),
    }
}

/// Runs a gate's program as the box's own services run it: it must not take for free what it only can't see.
fn run(command: &[String], limit: Duration) -> Result<(), String> {
    let Some(program) = command.first() else { return Err("the command is empty".into()) };
    match sandbox::is_narrower_than_the_box() {
        Ok(false) => run_here(program, command, limit),
        Ok(true) if Path::new(SYSTEMD).is_dir() => {
            run_here(program, &by_systemd(command, limit), limit + LIMIT)
        }
        Ok(true) => Err(format!(
            "{program} would run in the agent's sandbox, where it can't see the whole box, and there is no systemd \
             to run it outside; use a file gate, or run the agent without a sandbox"
        )),
        Err(unseen) => Err(format!("{program} was not run: {unseen}")),
    }
}

/// There is such a folder where systemd is the first process (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// The same program as a service of its own, which ends with all that it started when its time is over.
fn by_systemd(command: &[String], limit: Duration) -> Vec<String> {
    let limit = format!("--property=RuntimeMaxSec={}ms", limit.as_millis());
    let options = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--wait",
        "--service-type=exec",
        "--description=A gate of Holdfast",
        &limit,
        "--property=TimeoutStopSec=1s",
        "--property=StandardOutput=null",
        "--property=StandardError=null",
        "--working-directory=/",
        "--",
    ];
    let (program, arguments) = command.split_at(command.len().min(1));
    // systemd would put its own environment in the place of a `$NAME`.
    let arguments = arguments.iter().map(|argument| argument.replace('$', "$$"));
    options.into_iter().map(str::to_owned).chain(program.iter().cloned()).chain(arguments).collect()
}

/// Runs a program in a process group of its own, all of which is killed when its time is over. `command` is what is
/// started to have `program` run.
fn run_here(program: &str, command: &[String], limit: Duration) -> Result<(), String> {
    let Some((started, arguments)) = command.split_first() else { return Err("the command is empty".into()) };
    let child = Command::new(started)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| format!("{started} could not be started: {error}"))?;
    let ended = wait(&mut child, limit);
    // What it left running goes too.
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("{program}: {status}")),
        Ok(None) => {
            // One that waits for a broken disk doesn't end even now: whoever waits for it is nobody else.
            std::thread::spawn(move || child.wait());
            Err(format!("{program} did not end within {limit:?}"))
        }
        Err(error) => Err(format!("{program} could not be waited for: {error}")),
    }
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        match child.try_wait()? {
            None if began.elapsed() < limit => std::thread::sleep(LOOK),
            ended => return Ok(ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn answer(probe: GateKind) -> GateAnswer {
        ask(&[Gate { name: "x".into(), probe, max_hold: LIMIT }]).await.remove(0)
    }

    fn why(answer: &GateAnswer) -> &str {
        match answer {
            GateAnswer::InUse(why) => why,
            GateAnswer::Free => "free",
        }
    }

    #[tokio::test]
    async fn the_box_is_in_use_while_the_file_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let gate = || GateKind::File { path: dir.path().join("sale") };
        assert_eq!(answer(gate()).await, GateAnswer::Free);
        std::fs::write(dir.path().join("sale"), "").unwrap();
        assert!(why(&answer(gate()).await).contains("exists"));
        let no_folder = GateKind::File { path: dir.path().join("sale/x") };
        assert!(why(&answer(no_folder).await).contains("could not check whether"));
    }

    #[tokio::test]
    async fn a_program_says_free_by_ending_with_zero_and_nothing_of_it_is_left_when_it_hangs() {
        let run = |words: &[&str], timeout| GateKind::Command {
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            timeout: Duration::from_millis(timeout),
        };
        assert_eq!(answer(run(&["/bin/true"], 5000)).await, GateAnswer::Free);
        assert!(why(&answer(run(&["/bin/false"], 5000)).await).contains("exit status: 1"));
        assert!(why(&answer(run(&["/no/such"], 5000)).await).contains("could not be started"));
        let dir = tempfile::tempdir().unwrap();
        let script = format!("sleep 1000 & echo $! > {}/pid; sleep 1000", dir.path().display());
        assert!(why(&answer(run(&["/bin/sh", "-c", &script], 500)).await).contains("did not end"));
        let pid: i32 = std::fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        while nix::sys::signal::kill(Pid::from_raw(pid), None).is_ok() && !is_zombie(pid) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn outside_of_the_sandbox_a_program_is_the_same_with_the_same_arguments_and_time() {
        let command = ["/usr/bin/vehicle", "--is-parked", "$HOME"].map(str::to_owned);
        let words = by_systemd(&command, Duration::from_secs(5));
        assert_eq!(words[words.len() - 4..], ["--", "/usr/bin/vehicle", "--is-parked", "$$HOME"]);
        assert!(words.contains(&"--property=RuntimeMaxSec=5000ms".to_owned()));
    }

    #[tokio::test]
    async fn only_a_two_hundred_is_free() {
        for (status, is_free) in
            [("200 OK", true), ("204 No Content", true), ("302 Found", false), ("503 Busy", false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/idle", listener.local_addr().unwrap());
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                std::future::pending::<()>().await
            };
            let answer = tokio::select! {
                answer = answer(GateKind::Http { url }) => answer,
                () = serve => unreachable!(),
            };
            assert_eq!(answer == GateAnswer::Free, is_free, "{status}: {answer:?}");
        }
    }
}
