//! podman answers, but is slow to start programs in containers.

use std::fs;
use std::io::{Read, Write, copy};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::meddler::HostApp;
use crate::shop::{Shop, wait_for};
use crate::support::agent_box::app;

/// Longer than the probe's program may take.
const DELAY: Duration = Duration::from_secs(3);

/// A way to podman's socket on which every start of a program in a container waits for [`DELAY`] before podman hears of it.
struct SlowStarts {
    socket: PathBuf,
    answered: Arc<AtomicUsize>,
}

impl SlowStarts {
    fn before(podman: &Path, dir: &Path) -> Self {
        let socket = dir.join("slow.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (podman, answered) = (podman.to_owned(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&answered);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (podman, count) = (podman.clone(), Arc::clone(&count));
                // A connection that is cut is the agent's business.
                thread::spawn(move || hand_on(client, &podman, &count).ok());
            }
        });
        SlowStarts { socket, answered }
    }

    /// How many programs were started and ended.
    fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
}

fn hand_on(mut client: UnixStream, podman: &Path, answered: &AtomicUsize) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&head);
    let path = line.split(' ').nth(1).unwrap_or_default();
    let starts = path.contains("/exec/") && path.ends_with("/start");
    if starts {
        thread::sleep(DELAY);
    }
    let mut up = UnixStream::connect(podman)?;
    up.write_all(&head)?;
    let (mut from, mut to) = (client.try_clone()?, up.try_clone()?);
    thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let done = copy(&mut up, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    if starts {
        answered.fetch_add(1, Ordering::SeqCst);
    }
    done.map(drop)
}

#[test]
fn a_liveness_probe_whose_program_podman_starts_too_late_restarts_nothing_and_one_that_fails_does() {
    let mut shop = Shop::new();
    let slow = SlowStarts::before(&shop.podman.socket(), shop.agent.dir());
    let config = shop.agent.dir().join("agent.toml");
    let (direct, through) = (shop.podman.socket(), &slow.socket);
    let text = fs::read_to_string(&config).unwrap();
    let with = text.replace(direct.to_str().unwrap(), through.to_str().unwrap());
    assert_ne!(text, with);
    fs::write(&config, with).unwrap();

    let pos = HostApp::new("pos");
    let live = shop.agent.dir().join("live");
    fs::create_dir(&live).unwrap();
    fs::write(live.join("now"), "").unwrap();
    let probe = "          livenessProbe: { exec: { command: [/webapp, read, /live/now] }, periodSeconds: 1, timeoutSeconds: 1, \
                 failureThreshold: 1 }\n          volumeMounts: [ { name: live, mountPath: /live } ]\n";
    let volume =
        format!("      volumes: [ {{ name: live, hostPath: {{ path: \"{}\" }} }} ]\n", live.display());
    let port = pos.port;
    let container = format!("          env: [ {{ name: PORT, value: \"{port}\" }} ]\n{probe}");
    shop.write_app("pos", &shop.push("1"), "", &format!("      hostNetwork: true\n{volume}"), &container);
    shop.agent.start(&[]);
    shop.converge();

    let before = pos.container(&shop);
    let asked = slow.answered();
    wait_for("it was asked four times", || (slow.answered() >= asked + 4).then_some(()));
    let after = pos.container(&shop);
    assert_eq!((&after.id, after.pid), (&before.id, before.pid), "{}", shop.agent.log_tail());
    let status = shop.agent.status().unwrap();
    assert_eq!(app(&status, "pos").unwrap().health, "Healthy");

    // What the program itself says counts, however late it comes.
    fs::remove_file(live.join("now")).unwrap();
    wait_for("it is restarted", || shop.agent.log().contains("its liveness probe failed").then_some(()));
    fs::write(live.join("now"), "").unwrap();
    let again = pos.wait_renewed(&shop, &before.id, "1");
    assert_ne!(again.pid, before.pid);
}
