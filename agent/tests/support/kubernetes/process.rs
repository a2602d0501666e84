//! The processes of a control plane. They end with the test program, however it ends, and so does their folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::tools::missing;

type Job = Box<dyn FnOnce() + Send>;

/// One part of the control plane. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a part, in this network namespace if one is given; what it says goes to `NAME.log` in the folder.
    pub(super) fn start(program: &Path, dir: &Path, arguments: &[String], network: Option<&Path>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::run(&arguments[0], dir, command, network)
    }

    /// The same for any command.
    pub(super) fn run(name: &str, dir: &Path, command: Command, network: Option<&Path>) -> Self {
        let log = File::options().create(true).append(true).open(dir.join(format!("{name}.log"))).unwrap();
        let mut outer = Command::new("setpriv");
        outer.args(["--pdeathsig", "KILL", "--"]);
        if let Some(network) = network {
            outer.arg("nsenter").arg(format!("--net={}", network.display())).arg("--");
        }
        outer.arg(command.get_program()).args(command.get_args());
        // What the machine has for other clusters or other Go programs is of no concern.
        for variable in
            ["KUBECONFIG", "GOGC", "GOMEMLIMIT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"]
        {
            outer.env_remove(variable);
        }
        outer.env("HOME", dir).current_dir(dir);
        outer.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = on_lasting_thread(move || outer.spawn());
        let child = child.unwrap_or_else(|error| panic!("{} ({error})", missing("setpriv (util-linux)")));
        Process { child, name: name.to_owned() }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGCONT, SIGTERM or another one.
    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Stops it, and waits until none of its threads does anything any more.
    pub(super) fn hang(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks =
            || fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().map(|task| task.unwrap().path());
        // The state follows the name, which is in parentheses.
        let stopped = |task: PathBuf| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        while !tasks().all(stopped) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it, and waits until it is gone.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The part that it is.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Asks it to end, and kills it if it doesn't: an API server no longer listens then, but waits a minute for the
    /// watches that go on.
    pub(super) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let began = Instant::now();
        while self.ended().is_none() && began.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Has `job` done by a thread that lives as long as this program.
///
/// A process that asked for a signal at its parent's death gets it when the *thread* that started it ends; and the
/// thread of a test ends long before the control plane that it shares with others.
fn on_lasting_thread<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    static THREAD: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = THREAD.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        sender
    });
    let (sender, result) = mpsc::channel();
    jobs.send(Box::new(move || drop(sender.send(job())))).unwrap();
    result.recv().unwrap()
}

/// Removes a folder once this program has ended, however it did; and kills what of the control plane still runs on
/// it, which is nothing but for a process that was just being started.
///
/// A control plane that tests share lies in a `static`, which nobody drops.
#[derive(Debug)]
pub(super) struct Janitor(Child);

impl Janitor {
    /// `cgroup`: what a node has of control groups, which go as well.
    pub(super) fn of(dir: &Path, program: &Path, cgroup: &str) -> Self {
        const SCRIPT: &str = r#"
            trap '' INT TERM HUP
            cat >/dev/null
            for process in /proc/[0-9]*; do
                arguments=$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)
                case $arguments in *"$PROGRAM"*"$FOLDER"*) kill -9 "${process#/proc/}" ;; esac
            done
            until rm -rf "$FOLDER"; do sleep 0.1; done
            for at in /sys/fs/cgroup/"$CGROUP" /sys/fs/cgroup/*/"$CGROUP"; do
                while [ -n "$CGROUP" ] && [ -d "$at" ] && ! find "$at" -depth -type d -exec rmdir {} +; do sleep 0.1; done
            done
        "#;
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", SCRIPT]).env("FOLDER", dir).env("PROGRAM", program);
        command.env("CGROUP", cgroup).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Janitor(
            command.spawn().unwrap_or_else(|error| panic!("{} ({error})", missing("setsid (util-linux)"))),
        )
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
