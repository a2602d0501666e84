//! Logs: to journald where there is one, else to stderr, and never waiting for either.
//!
//! ```text
//! tracing macro -> Queue (a Layer: copies the event, try_send) -> bounded channel -> writer thread -> sink
//! ```
//!
//! What the channel doesn't hold is dropped and counted; the writer says how many when it gets on again.
//! `sink` holds the two sinks.

mod sink;

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

pub use sink::Sink;

/// The environment variable that overrides `[log] level`: a level, or `target=level,…`.
pub const VARIABLE: &str = "HOLDFAST_LOG";

/// Events that wait for the writer. A burst of this size is kept whole; at most some MB are held.
const QUEUE: usize = 1024;

/// A field's text is cut here: a message that quotes a server's answer must not fill the memory.
const FIELD_LIMIT: usize = 8 << 10;

/// One logged event, cut loose from the place where it happened.
#[derive(Debug)]
pub struct Record {
    /// Level, target, file, line, and the names of the fields.
    metadata: &'static Metadata<'static>,
    /// When it happened, by the clock on the wall.
    time: jiff::Timestamp,
    /// In the order of `metadata.fields()`.
    values: Vec<Option<String>>,
}

/// Keeps the writer thread. [`Log::close`] (or dropping it) waits a moment for what is still queued.
#[derive(Debug)]
pub struct Log {
    sender: Option<SyncSender<Message>>,
    done: Receiver<()>,
}

#[derive(Debug)]
enum Message {
    Record(Box<Record>),
    Close,
}

/// The layer that takes events from tracing.
struct Queue {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// Starts logging for the whole process. `filter` is a level or `target=level,…`.
///
/// # Errors
/// A filter that can't be read (the text says what to write), or logging that was started before.
pub fn start(filter: &str) -> Result<Log, String> {
    let filter = parse_filter(filter)?;
    // Chosen by the writer: asking whether there is a journal may hang already, as it sends something.
    let (log, subscriber) =
        with_sink(choose_sink, filter, QUEUE).map_err(|e| format!("cannot start the log's thread: {e}"))?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| "logging was started twice".to_owned())?;
    Ok(log)
}

/// Somebody at a terminal wants to see it there; else the journal, where there is one.
fn choose_sink() -> Sink {
    if std::io::stderr().is_terminal() {
        return Sink::stderr(true);
    }
    Sink::journald().unwrap_or_else(|| Sink::stderr(false))
}

fn parse_filter(text: &str) -> Result<Targets, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not a log level: write error, warn, info, debug or trace, or target=level,…")
    })
}

fn with_sink(
    sink: impl FnOnce() -> Sink + Send + 'static,
    filter: Targets,
    queue: usize,
) -> std::io::Result<(Log, impl Subscriber + Send + Sync)> {
    let (sender, receiver) = mpsc::sync_channel(queue);
    let (done_sender, done) = mpsc::sync_channel(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let layer = Queue { sender: sender.clone(), dropped: Arc::clone(&dropped) };
    std::thread::Builder::new().name("log".to_owned()).stack_size(256 << 10).spawn(move || {
        write_all(&receiver, sink(), &dropped);
        let _ = done_sender.send(());
    })?;
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    Ok((Log { sender: Some(sender), done }, subscriber))
}

/// The writer's life: the only place that may wait for a sink.
fn write_all(receiver: &Receiver<Message>, mut sink: Sink, dropped: &AtomicU64) {
    while let Ok(Message::Record(record)) = receiver.recv() {
        sink.write(&record);
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            sink.note_lost(lost);
        }
    }
}

impl Log {
    /// Waits until what was logged is written, for a second at most: a sink that hangs doesn't keep the
    /// agent from stopping.
    pub fn close(mut self) {
        self.close_within(Duration::from_secs(1));
    }

    fn close_within(&mut self, limit: Duration) {
        let Some(sender) = self.sender.take() else { return };
        let end = Instant::now() + limit;
        // A full queue has no room for the last message either: wait for some.
        while let Err(mpsc::TrySendError::Full(_)) = sender.try_send(Message::Close) {
            match self.done.recv_timeout(Duration::from_millis(5)) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                _ => return,
            }
        }
        let _ = self.done.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close_within(Duration::from_secs(1));
    }
}

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut copy = Copy { values: vec![None; metadata.fields().len()] };
        event.record(&mut copy);
        let record = Record { metadata, time: jiff::Timestamp::now(), values: copy.values };
        if self.sender.try_send(Message::Record(Box::new(record))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Copies the fields of an event as text.
struct Copy {
    values: Vec<Option<String>>,
}

impl Copy {
    fn put(&mut self, field: &Field, mut text: String) {
        if text.len() > FIELD_LIMIT {
            let end = (0..=FIELD_LIMIT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        if let Some(slot) = self.values.get_mut(field.index()) {
            *slot = Some(text);
        }
    }
}

impl Visit for Copy {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests;
