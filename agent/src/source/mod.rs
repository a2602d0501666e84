//! Where the state comes from. So far: a Git repository, over HTTPS or on the box's own disk.
//!
//! No program is started for it: gix speaks the protocol and reads the objects. The calls block; the loop
//! runs them on a thread of their own. Every one of them ends within the limits of its configuration,
//! whatever the server does.

mod config;
mod error;
mod gathering;
mod git;
mod http;
mod local;
mod mirror;
mod remote;
mod snapshot;
mod spurned;

pub use self::config::{Limits, Reference, SourceConfig};
pub use self::error::{ReadError, SourceError};
pub use self::gathering::Gathering;
pub use self::git::GitSource;
pub use self::remote::Parts;
pub use self::snapshot::{Entry, EntryKind, Snapshot};
