//! Logging to a real socket where journald's would be: each test gives the agent a `/run` of its own, in a
//! mount namespace.

#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

struct Machine {
    folder: tempfile::TempDir,
    journal: UnixDatagram,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sockets = folder.path().join("run/systemd/journal");
        fs::create_dir_all(&sockets).unwrap();
        let journal = UnixDatagram::bind(sockets.join("socket")).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let config = "[device]\nname = \"till-1\"\n[source]\nurl = \"file:///nowhere\"\n[trust]\nmode = \"none\"\n\
                      [state]\ndir = \"state\"\n[api]\nsocket = \"api.sock\"\n";
        fs::write(folder.path().join("agent.toml"), config).unwrap();
        Machine { folder, journal }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One pass, which can't converge: the source isn't there.
    fn run_once(&self) -> Output {
        let user_namespace = if nix::unistd::geteuid().is_root() { None } else { Some("--map-root-user") };
        Command::new("unshare")
            .args(user_namespace)
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /run && exec \"$@\""])
            .arg(self.path("run"))
            .args([env!("CARGO_BIN_EXE_holdfast"), "run", "--once", "--timeout", "1s", "--config"])
            .arg(self.path("agent.toml"))
            .env_remove("HOLDFAST_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

#[test]
fn what_is_logged_reaches_the_journal_with_its_fields() {
    let agent = Machine::new();
    let output = agent.run_once();
    let mut buffer = vec![0; 64 << 10];
    let mut length = 0;
    // The first is empty, to see whether anybody is there.
    while length == 0 {
        length = agent.journal.recv(&mut buffer).unwrap();
    }
    let entry = String::from_utf8_lossy(&buffer[..length]).into_owned();
    // Each field is a name, a length, a value (systemd, "Native Journal Protocol").
    for field in ["PRIORITY\n", "MESSAGE\n", "SYSLOG_IDENTIFIER\n", "TARGET\n", "holdfast::"] {
        assert!(entry.contains(field), "{field} is missing in {entry:?}");
    }
    // Nothing is logged twice.
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains(" holdfast::"), "{stderr}");
}

#[test]
fn a_journal_that_takes_nothing_does_not_keep_the_agent() {
    let agent = Machine::new();
    let flood = UnixDatagram::unbound().unwrap();
    flood.set_nonblocking(true).unwrap();
    let socket = agent.path("run/systemd/journal/socket");
    while flood.send_to(b"MESSAGE=x\n", &socket).is_ok() {}
    // It ends, though not one of its messages is taken.
    assert!(agent.run_once().status.code().is_some());
}
