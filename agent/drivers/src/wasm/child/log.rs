//! The log of a workload: the last lines of its standard output and error, in memory, within fixed bounds.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Lines that are kept.
const LINES: usize = 1000;
/// Bytes that are kept.
const BYTES: usize = 256 << 10;
/// A longer line goes on in the next one.
const LONGEST: usize = 4 << 10;
/// What a guest may write at once.
const PERMIT: usize = 64 << 10;

/// What the host's own lines begin with.
const NOTE: &str = "holdfast: ";

/// The last lines.
pub(in super::super) struct Ring {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
}

impl Ring {
    pub(in super::super) fn new() -> Arc<Self> {
        Arc::new(Ring { kept: Mutex::default() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A line that was half written by a thread that panicked is still a line.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line of the host's own, such as how the guest ended.
    pub(in super::super) fn note(&self, text: &str) {
        let text: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).take(LONGEST / 4).collect();
        self.push(format!("{NOTE}{text}"));
    }

    /// Whether a line is the host's own, as far as a guest doesn't write such lines.
    pub(in super::super) fn is_note(line: &str) -> bool {
        line.starts_with(NOTE)
    }

    fn push(&self, line: String) {
        let mut kept = self.kept();
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
            kept.dropped += 1;
        }
    }

    /// The last lines, at most `lines`, the newest at the end.
    pub(in super::super) fn last(&self, lines: usize) -> Vec<String> {
        let kept = self.kept();
        let skip = kept.lines.len().saturating_sub(lines);
        kept.lines.iter().skip(skip).cloned().collect()
    }
}

/// One of a guest's streams, cut into lines.
#[derive(Clone)]
pub(in super::super) struct LogStream {
    ring: Arc<Ring>,
    rest: Arc<Mutex<Vec<u8>>>,
}

impl LogStream {
    pub(in super::super) fn to(ring: &Arc<Ring>) -> Self {
        LogStream { ring: Arc::clone(ring), rest: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(mut piece) = pieces.next() {
            while rest.len() + piece.len() > LONGEST {
                let (now, later) = piece.split_at(LONGEST - rest.len());
                rest.extend_from_slice(now);
                self.flush_line(&mut rest);
                piece = later;
            }
            rest.extend_from_slice(piece);
            if pieces.peek().is_some() {
                self.flush_line(&mut rest);
            }
        }
    }

    fn flush_line(&self, rest: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(rest);
        // Control characters could rewrite a technician's screen.
        let text = text.trim_end_matches('\r').replace(|c: char| c.is_control() && c != '\t', "\u{fffd}");
        self.ring.push(text);
        rest.clear();
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(&self.rest) == 1 && !rest.is_empty() {
            self.flush_line(&mut rest);
        }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_pieces() {
        let ring = Ring::new();
        let stream = LogStream::to(&ring);
        stream.take(b"one\ntw");
        stream.take(b"o\n");
        stream.take(b"three");
        drop(stream);
        assert_eq!(ring.last(10), ["one", "two", "three"]);
        assert_eq!(ring.last(1), ["three"]);
    }

    #[test]
    fn a_flood_and_an_endless_line_stay_within_bounds() {
        let ring = Ring::new();
        let stream = LogStream::to(&ring);
        for _ in 0..1000 {
            stream.take(&[b'x'; 10_000]);
            stream.take(&[b'\n'; 1000]);
        }
        let kept = ring.kept();
        assert!(kept.lines.len() <= LINES);
        assert!(kept.bytes <= BYTES && kept.bytes == kept.lines.iter().map(String::len).sum::<usize>());
        assert!(kept.lines.iter().all(|line| line.len() <= LONGEST));
        assert!(kept.dropped > 0);
    }

    #[test]
    fn what_would_move_a_cursor_is_not_kept() {
        let ring = Ring::new();
        LogStream::to(&ring).take(b"a\x1b[2Jb\r\n");
        assert_eq!(ring.last(1), ["a\u{fffd}[2Jb"]);
    }
}
