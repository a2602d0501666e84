//! Ports for those who can't be given port 0: programs that are told theirs, and workloads that stop and start.
//!
//! A port that the kernel found free may be anybody's a moment later: another test's, or that of an outgoing
//! connection. So these are below the range that the kernel takes ports from by itself, and each is held by a lock file
//! for as long as the test's process lives: no other test on this machine is given it meanwhile.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// What is held, until this process ends.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
/// How many there are to choose from.
const CHOICE: u16 = 10_000;
/// Below are those of services.
const LOWEST: u16 = 10_000;

/// A port of the loopback that nobody has, and that no other test is given while this one runs.
pub fn free_port() -> u16 {
    let locks = std::env::temp_dir().join(format!("holdfast-test-ports-{}", nix::unistd::getuid()));
    fs::create_dir_all(&locks).unwrap_or_else(|error| panic!("{}: {error}", locks.display()));
    let range = range();
    // Not the same ones first in each process: most would be held.
    let start = (RandomState::new().hash_one(std::process::id()) % u64::from(CHOICE)) as u16;
    for at in 0..CHOICE {
        let port = range.start + (start + at) % CHOICE;
        let path = locks.join(port.to_string());
        let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            return port;
        }
    }
    panic!("none of the ports {range:?} of the loopback is free");
}

/// Whether somebody listens there.
pub fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Those just below what the kernel gives to whoever asks for any (ip(7)).
fn range() -> Range<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(32768);
    let start = u16::saturating_sub(lowest, CHOICE).max(LOWEST);
    start..start + CHOICE
}
