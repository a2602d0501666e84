//! The socket's file: made with safe permissions, in one step, and only if nobody else answers there.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why the socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent is at work.
    #[error("another agent answers at {0}: stop it first, or set another [api] socket for this one")]
    Taken(PathBuf),
    /// There is something else.
    #[error("{0} exists and is not a socket: move it away, or set another [api] socket")]
    NotASocket(PathBuf),
    /// The system doesn't allow it.
    #[error("cannot create the socket {path}: {cause}; check [api] socket and the folder's permissions")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// The socket's file, removed when this goes.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a successor's socket of the same name is left alone.
    identity: (u64, u64),
}

/// Binds to `path`. The socket is made under another name, closed to everybody else, and renamed: there is
/// no moment in which it is open, and a stale one is replaced without a gap.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    refuse_what_is_alive(path)?;
    bind_beside(path).map_err(|cause| BindError::Io { path: path.to_owned(), cause })
}

fn refuse_what_is_alive(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Taken(path.to_owned())),
        Err(_) => Ok(()),
    }
}

fn bind_beside(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    // As long as the name itself, so that it fits when that does.
    let beside = path.with_file_name(format!(".{}", std::process::id()));
    remove_if_there(&beside)?;
    let listener = UnixListener::bind(&beside)?;
    let renamed = fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| fs::symlink_metadata(path));
    let metadata = renamed.inspect_err(|_| drop(fs::remove_file(&beside)))?;
    listener.set_nonblocking(true)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) }))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_owner_only_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/holdfast/api.sock");
        let bound = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_one_that_answers_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let _bound = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(BindError::Taken(_))));
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "x").unwrap();
        assert!(matches!(bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn the_socket_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (listener, file) = bind(&path).unwrap();
        drop(listener);
        let _successor = bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
