//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING, as datagrams to `$NOTIFY_SOCKET` (sd_notify(3)).
//! Without one, nothing happens. Nothing here waits: what a full socket doesn't take is left out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

/// What the service manager says by its environment.
#[derive(Debug, Default)]
pub struct Environment {
    /// `NOTIFY_SOCKET`
    pub socket: Option<OsString>,
    /// `WATCHDOG_USEC`
    pub watchdog_usec: Option<OsString>,
    /// `WATCHDOG_PID`
    pub watchdog_pid: Option<OsString>,
}

impl Environment {
    /// This process's own. The variables stay set: children get an environment that is made for them.
    pub fn of_process() -> Self {
        Environment {
            socket: std::env::var_os("NOTIFY_SOCKET"),
            watchdog_usec: std::env::var_os("WATCHDOG_USEC"),
            watchdog_pid: std::env::var_os("WATCHDOG_PID"),
        }
    }
}

impl Notifier {
    /// Connects to the service manager, if there is one. A socket that can't be reached is logged, and the
    /// agent goes on without: it must run where systemd doesn't.
    pub fn new(environment: &Environment) -> Self {
        let socket = environment.socket.as_deref().filter(|name| !name.is_empty()).and_then(|name| {
            connect(name)
                .inspect_err(|error| {
                    tracing::warn!("cannot reach the service manager at NOTIFY_SOCKET={name:?}: {error}");
                })
                .ok()
        });
        let watchdog = socket.as_ref().and_then(|_| watchdog(environment, std::process::id()));
        Notifier { socket, watchdog }
    }

    /// How often [`Notifier::alive`] must be called: half of what the service manager allows. `None` when it
    /// doesn't watch.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The agent has started: what should run is known, and its socket answers.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", holdfast_core::report::text::printable(text)));
    }

    /// The loop still turns. Called by the loop itself, not by a timer beside it: a loop that hangs must be
    /// seen.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The agent stops; the workloads go on.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // Lost when the manager is gone or its queue full: there is nobody to tell, and the next is due.
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// A name that begins with `@` is in the abstract namespace (unix(7)).
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "only paths and @names are supported")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Half of `WATCHDOG_USEC`, if it is meant for the process `pid` (sd_watchdog_enabled(3)).
fn watchdog(environment: &Environment, pid: u32) -> Option<Duration> {
    let number = |text: &OsString| text.to_str()?.parse::<u64>().ok();
    if environment.watchdog_pid.as_ref().is_some_and(|text| number(text) != Some(pid.into())) {
        return None;
    }
    let micros = environment.watchdog_usec.as_ref().and_then(number).filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros / 2).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn environment(socket: impl Into<OsString>) -> Environment {
        Environment { socket: Some(socket.into()), watchdog_usec: Some("3000000".into()), watchdog_pid: None }
    }

    #[test]
    fn the_service_manager_hears_what_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(&environment(path));
        notifier.ready();
        notifier.status("1 app held\nREADY=0");
        notifier.alive();
        notifier.stopping();
        assert_eq!(receive(&manager), "READY=1");
        assert_eq!(receive(&manager), "STATUS=1 app held READY=0");
        assert_eq!(receive(&manager), "WATCHDOG=1");
        assert_eq!(receive(&manager), "STOPPING=1");
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_socket_may_be_in_the_abstract_namespace() {
        let name = format!("holdfast-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::new(&environment(format!("@{name}"))).ready();
        assert_eq!(receive(&manager), "READY=1");
    }

    #[test]
    fn a_manager_that_does_not_read_cannot_stop_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(&environment(path));
        (0..10_000).for_each(|_| notifier.alive());
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        for environment in [
            Environment::default(),
            environment(""),
            environment("/nowhere/at/all"),
            environment("vsock:1:2"),
        ] {
            let notifier = Notifier::new(&environment);
            notifier.ready();
            assert_eq!(notifier.watchdog_interval(), None);
        }
    }

    #[test]
    fn a_watchdog_that_watches_another_process_is_not_ours() {
        let mut environment = environment("x");
        assert!(watchdog(&environment, 7).is_some());
        environment.watchdog_pid = Some("8".into());
        assert_eq!(watchdog(&environment, 7), None);
        environment.watchdog_pid = Some("7".into());
        assert!(watchdog(&environment, 7).is_some());
        environment.watchdog_usec = Some("soon".into());
        assert_eq!(watchdog(&environment, 7), None);
    }
}
