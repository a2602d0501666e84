//! How large a file of a revision may be, by what it is for: one table for every source.

use crate::yaml::{DOCUMENT_LIMIT, MANIFEST_LIMIT};

/// What a file of a revision is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// A document of the repository: Fleet, Site, Device, App, Stop, Purge. It is parsed in memory.
    Document,
    /// A file of an app's manifests. It is parsed in memory.
    Manifest,
    /// A WebAssembly component, of an app or of a health check. It is compiled in memory, in a process of its own.
    Component,
    /// The archive of a Helm chart.
    Chart,
    /// A disk of a virtual machine, or an image of the OS.
    DiskImage,
}

impl FileKind {
    /// How many bytes it may have. Documents and manifests are read into memory; everything else is streamed to disk.
    pub const fn limit(self) -> u64 {
        match self {
            FileKind::Document => DOCUMENT_LIMIT as u64,
            FileKind::Manifest => MANIFEST_LIMIT as u64,
            FileKind::Chart => 16 << 20,
            FileKind::Component => 256 << 20,
            FileKind::DiskImage => 64 << 30,
        }
    }
}
