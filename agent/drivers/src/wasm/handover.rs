//! Handing over the listening socket: a workload's next process takes it from the one that still serves, so that no
//! connection is refused in between. What comes while neither accepts waits in the kernel's queue.
//!
//! The socket goes from process to process over `control.sock` (SCM_RIGHTS, unix(7)) and never through the agent. A
//! process that gets none listens by itself once its turn has come, as the first one does.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use tokio::io::Interest;

use super::files::CONTROL_SOCKET;
use super::protocol::{Answer, Request, line};

/// How long the process before may take for its answer. Nothing is down meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);
/// The answer is shorter, in bytes.
const LONGEST_ANSWER: usize = 256;

/// Sends the answer to [`Request::Listener`] with a duplicate of the socket.
pub(super) async fn give(stream: &tokio::net::UnixStream, listener: &impl AsFd) -> io::Result<()> {
    let text = line(&Answer::Listener);
    let sent = stream.async_io(Interest::WRITABLE, || {
        let fds = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&fds));
        let data = [IoSlice::new(text.as_bytes())];
        Ok(sendmsg(stream, &data, &mut rights, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    });
    match sent.await? {
        all if all == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Takes the socket that listens at `address` from the process `pid`, which serves the app whose folder is `dir`;
/// `None` if that gives none, or another one than it should.
pub(super) fn take(dir: &Path, pid: i32, address: SocketAddr) -> Option<TcpListener> {
    let socket = ask(dir, pid).ok().flatten()?;
    // What comes from a process that ran foreign code is looked at before it is used.
    let listens = sockopt::socket_acceptconn(&socket).is_ok_and(|listens| listens);
    let listener = TcpListener::from(socket);
    let same = listener.local_addr().is_ok_and(|has| has == address);
    (listens && same && listener.set_nonblocking(true).is_ok()).then_some(listener)
}

fn ask(dir: &Path, pid: i32) -> io::Result<Option<OwnedFd>> {
    let mut stream = UnixStream::connect(dir.join(CONTROL_SOCKET))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // The kernel's word for who listens, as in `client.rs`.
    if sockopt::socket_peercred(&stream)?.pid.as_raw_nonzero().get() != pid {
        return Ok(None);
    }
    stream.write_all(line(&Request::Listener).as_bytes())?;
    let mut text = [0; LONGEST_ANSWER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut text)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let mut given = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(given.next().and_then(|mut sockets| sockets.next()))
}
