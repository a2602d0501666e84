//! Whose sockets listen on a port of the box's own network, as the kernel tells anybody (sock_diag(7)): by the cgroup
//! that made them. Looking into `/proc/<pid>/fd` of a container needs CAP_SYS_PTRACE, which the agent has no other use
//! for.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Where cgroups of version 2 are, where there are no others.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The kernel answers at once.
const LIMIT_SECONDS: i64 = 1;

// <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_OF_ALL: u16 = 0x1 | 0x300;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const HEADER: usize = 16;
const DIAG: usize = 72;
const STATE_LISTEN: u32 = 1 << 10;
const ATTRIBUTE_CGROUP: u16 = 21;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// Whether the cgroup of process `pid`, or one below it, has a socket that listens on the TCP port `port`. `None`
/// where that can't be told: cgroups of version 1, an old kernel, a process without a cgroup of its own.
pub(super) fn listens(pid: i32, port: u16) -> Option<bool> {
    let own = cgroups_of(pid)?;
    let mut all = cgroups_that_listen(AF_INET, port)?;
    all.extend(cgroups_that_listen(AF_INET6, port)?);
    Some(!own.is_disjoint(&all))
}

/// The numbers of a process's cgroup and of those below it.
fn cgroups_of(pid: i32) -> Option<BTreeSet<u64>> {
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = all.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Whoever is in the root, or outside of what we see, shares it with others.
    if path.is_empty() || path.starts_with("..") || !Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return None;
    }
    let mut todo = vec![Path::new(CGROUPS).join(path)];
    let mut numbers = BTreeSet::from([fs::metadata(todo.first()?).ok()?.ino()]);
    while let Some(folder) = todo.pop() {
        // One that has gone meanwhile has no sockets.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Ok(found) = entry.metadata()
            {
                numbers.insert(found.ino());
                todo.push(entry.path());
            }
        }
    }
    Some(numbers)
}

/// The cgroups of all sockets that listen on a TCP port.
fn cgroups_that_listen(family: u8, port: u16) -> Option<BTreeSet<u64>> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
            .ok()?;
    setsockopt(&netlink, ReceiveTimeout, &TimeVal::seconds(LIMIT_SECONDS)).ok()?;
    send(netlink.as_raw_fd(), &question(family, port), MsgFlags::empty()).ok()?;
    let mut found = BTreeSet::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        match read_answer(buffer.get(..length)?, port, &mut found)? {
            More::Yes => {}
            More::No => return Some(found),
        }
    }
}

/// `inet_diag_req_v2` in a netlink message.
fn question(family: u8, port: u16) -> Vec<u8> {
    const LENGTH: u32 = 72;
    let mut bytes = Vec::with_capacity(LENGTH as usize);
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_OF_ALL.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(STATE_LISTEN.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH as usize, 0);
    bytes
}

enum More {
    Yes,
    No,
}

/// Reads what came in one go. `None` if it isn't what the kernel would say.
fn read_answer(mut bytes: &[u8], port: u16, found: &mut BTreeSet<u64>) -> Option<More> {
    while bytes.len() >= HEADER {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = bytes.get(HEADER..length)?;
        match u16_at(bytes, 4)? {
            MESSAGE_DONE => return Some(More::No),
            MESSAGE_ERROR => return None,
            _ => {}
        }
        if message.get(4..6)? == port.to_be_bytes() {
            found.insert(cgroup(message.get(DIAG..)?)?);
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Some(More::Yes)
}

/// The attribute that names the cgroup. A kernel before 5.8 has none.
fn cgroup(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        if u16_at(attributes, 2)? == ATTRIBUTE_CGROUP {
            return Some(u64::from_ne_bytes(attributes.get(4..12)?.try_into().ok()?));
        }
        attributes = attributes.get(aligned(length.max(4))..)?;
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernel_names_the_cgroup_of_who_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // An old kernel doesn't; then it is found in another way.
        let Some(found) = cgroups_that_listen(AF_INET, port) else { return };
        assert_eq!(found.len(), 1);
        drop(listener);
        assert_eq!(cgroups_that_listen(AF_INET, port), Some(BTreeSet::new()));
    }

    #[test]
    fn an_answer_that_is_none_tells_nothing() {
        let mut found = BTreeSet::new();
        let mut message = question(AF_INET, 80);
        // Cut off, and as long as nothing.
        assert!(read_answer(&message[..40], 80, &mut found).is_none());
        message[..4].copy_from_slice(&0u32.to_ne_bytes());
        assert!(read_answer(&message, 80, &mut found).is_none());
        assert!(found.is_empty());
    }
}
