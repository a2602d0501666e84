//! Processes as the kernel shows them: podman's word for what runs is not enough.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Whether there is such a process, and not only its remains.
pub(super) fn is_alive(pid: i32) -> bool {
    match stat(pid) {
        Some((state, _)) => !matches!(state.as_str(), "Z" | "X" | "x"),
        // Hidden from us (hidepid) is not gone.
        None => {
            pid > 0
                && nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None)
                    == Err(nix::errno::Errno::EPERM)
        }
    }
}

/// Whether `conmon` watches over the container: it is there, and it is the container's conmon, not a process
/// that has got its number since.
pub(super) fn watches(conmon: i32, container_id: &str) -> bool {
    match fs::read(format!("/proc/{conmon}/cmdline")) {
        Ok(line) => line.windows(container_id.len()).any(|part| part == container_id.as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        // Another user's: podman's word must do.
        Err(_) => is_alive(conmon),
    }
}

/// State and parent of a process (proc_pid_stat(5)).
fn stat(pid: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// The processes of the container `id`: its conmon, by its command line, and what is in the container's cgroup.
pub(super) fn of_container(id: &str) -> Vec<i32> {
    let has = |text: &[u8]| text.windows(id.len()).any(|part| part == id.as_bytes());
    let is_conmon = |line: &[u8]| {
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        program.ends_with(b"conmon") && has(line)
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            // What has gone meanwhile, or is hidden, can't be read.
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            (is_conmon(&read("cmdline")) || has(&read("cgroup"))) && is_alive(*pid)
        })
        .collect()
}

/// Ends a process as nothing can refuse.
pub(super) fn end(pid: i32) {
    if pid > 1 {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// How long a process has been there.
pub(super) fn age(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22 (proc_pid_stat(5)): clock ticks from the boot to its start. No clock that is set can change it.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let started = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_secs_f64(uptime).saturating_sub(started))
}

/// Waits until a process is gone; at once if it is gone already.
pub(super) async fn gone(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return };
    // Its successor is unsafe; an `OwnedFd` keeps what that asks for: the descriptor is its own until it is dropped.
    #[expect(deprecated)]
    let Ok(fd) = AsyncFd::<OwnedFd>::with_interest(fd, Interest::READABLE) else { return };
    // A pidfd is readable once its process has ended (pidfd_open(2)).
    let _ = fd.readable().await;
}

/// Who listens on a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// None of those who were asked about.
    Nobody,
    /// One of them, by this socket.
    By(Listener),
    /// That can't be seen.
    Unseen,
}

/// A listening socket, as a process holds it. To find it the kernel walks through its table of all connections, for
/// milliseconds where there is much memory; whether it is still held costs a system call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listener {
    file: PathBuf,
    socket: PathBuf,
}

impl Listener {
    /// Whether its process still has it.
    pub(super) fn is_held(&self) -> bool {
        fs::read_link(&self.file).is_ok_and(|target| target == self.socket)
    }
}

/// Whether the process `pid` or one of its children listens on the TCP port `port`.
pub(super) fn listener(pid: i32, port: u16) -> Listening {
    let mut sockets = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        sockets.extend(table.lines().filter_map(|line| listening(line, port)));
    }
    if sockets.is_empty() {
        return Listening::Nobody;
    }
    // Without CONFIG_PROC_CHILDREN only the first of them could be looked at.
    if fs::metadata(format!("/proc/{pid}/task/{pid}/children")).is_err() {
        return Listening::Unseen;
    }
    let mut family = vec![pid];
    let mut seen = 0;
    while let Some(pid) = family.get(seen).copied() {
        seen += 1;
        match held(pid, &sockets) {
            None => return Listening::Unseen,
            Some(Some(listener)) => return Listening::By(listener),
            Some(None) => {}
        }
        family.extend(children(pid));
        if family.len() > PROCESSES_LOOKED_AT {
            return Listening::Unseen;
        }
    }
    Listening::Nobody
}

/// More than this are not looked at.
const PROCESSES_LOOKED_AT: usize = 500;

/// The inode of a listening socket in a line of `/proc/net/tcp` (proc_pid_net(5)).
fn listening(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(local, 16).ok()? == port && fields.get(3) == Some(&LISTEN);
    matches.then(|| fields.get(9)?.parse().ok()).flatten()
}

/// The one of these sockets that a process holds, if any; none if the process doesn't let itself be looked at.
fn held(pid: i32, sockets: &BTreeSet<u64>) -> Option<Option<Listener>> {
    let wanted = |socket: &Path| {
        let inode = socket.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        sockets.contains(&inode).then_some(())
    };
    for file in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let file = file.path();
        match fs::read_link(&file) {
            Ok(socket) if wanted(&socket).is_some() => return Some(Some(Listener { file, socket })),
            // Their names may be listed where only CAP_SYS_PTRACE reads what they are.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
            // It was closed just now.
            _ => {}
        }
    }
    Some(None)
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_alive(pid));
        assert!(!watches(pid, "a container's id"));
        let waiting = tokio::spawn(gone(pid));
        child.kill().unwrap();
        waiting.await.unwrap();
        assert!(!is_alive(pid), "a process that nobody collected counts as gone");
        child.wait().unwrap();
        gone(pid).await;
    }

    #[test]
    fn who_listens_is_seen_by_the_kernels_tables() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = nix::unistd::getpid().as_raw();
        let Listening::By(found) = super::listener(own, port) else { panic!("nobody listens") };
        assert!(found.is_held());
        drop(listener);
        assert!(!found.is_held());
        assert_eq!(super::listener(own, port), Listening::Nobody);
    }
}
