//! Where records go: journald, or a stream of lines. Only the writer thread is in here, so waiting is allowed.

use std::fmt::Write as _;
use std::io::{self, Write};

use holdfast_core::report::text::printable;
use tracing::field::Value;
use tracing::{Dispatch, Event, Level};
use tracing_subscriber::layer::SubscriberExt;

use super::Record;

/// Where records go.
pub enum Sink {
    /// The journal, with all fields.
    Journald(Dispatch),
    /// Lines of text.
    Lines {
        /// Usually stderr.
        out: Box<dyn Write + Send>,
        /// Whether a terminal reads them. A journal or a file gets no escapes.
        colour: bool,
    },
}

impl Sink {
    /// The journal, if there is one.
    pub fn journald() -> Option<Sink> {
        let layer = tracing_journald::layer().ok()?.with_field_prefix(Some("HOLDFAST".to_owned()));
        Some(Sink::Journald(Dispatch::new(tracing_subscriber::registry().with(layer))))
    }

    /// Standard error.
    pub fn stderr(colour: bool) -> Sink {
        Sink::Lines { out: Box::new(io::stderr()), colour }
    }

    pub(super) fn write(&mut self, record: &Record) {
        match self {
            Sink::Journald(journal) => {
                tracing::dispatcher::with_default(journal, || send_again(record));
            }
            // Nobody is left to tell when stderr is gone.
            Sink::Lines { out, colour } => drop(out.write_all(line(record, *colour).as_bytes())),
        }
    }

    pub(super) fn note_lost(&mut self, lost: u64) {
        let text = format!("{lost} log messages were dropped: the log could not be written fast enough");
        match self {
            Sink::Journald(journal) => {
                tracing::dispatcher::with_default(journal, || tracing::warn!("{text}"))
            }
            Sink::Lines { out, .. } => drop(out.write_all(format!("{:<5} {text}\n", "WARN").as_bytes())),
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sink::Journald(_) => "Journald",
            Sink::Lines { .. } => "Lines",
        })
    }
}

/// Gives the record to the thread's subscriber as the event that it was, metadata and all.
fn send_again(record: &Record) {
    let told = told(record);
    let fields = record.metadata.fields().iter().zip(&record.values);
    let values: Vec<Option<&dyn Value>> = fields
        .map(|(field, value)| match value {
            Some(_) if field.name() == "message" => Some(&told as &dyn Value),
            value => value.as_ref().map(|text| text as &dyn Value),
        })
        .collect();
    // One slot for each field, in their order: that is how `Copy` filled them.
    let values = record.metadata.fields().value_set_all(&values);
    Event::dispatch(record.metadata, &values);
}

/// A record as one who reads the journal sees it, who is shown the message and none of the other fields: `app: message
/// key=value …`.
fn told(record: &Record) -> String {
    let (message, fields) = parts(record, |name| name != "app" && name != "kind");
    match value_of(record, "app") {
        Some(app) if !message.starts_with(&format!("{app}: ")) => format!("{app}: {message}{fields}"),
        _ => format!("{message}{fields}"),
    }
}

fn value_of<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let mut fields = record.metadata.fields().iter().zip(&record.values);
    fields.find(|(field, _)| field.name() == name).and_then(|(_, value)| value.as_deref())
}

/// The message, and ` key=value` of each other field that is wanted.
fn parts(record: &Record, wanted: impl Fn(&str) -> bool) -> (&str, String) {
    let mut message = "";
    let mut fields = String::new();
    for (field, value) in record.metadata.fields().iter().zip(&record.values) {
        match value {
            Some(text) if field.name() == "message" => message = text,
            // Writing to a String can't fail.
            Some(text) if wanted(field.name()) => {
                let _ = write!(fields, " {}={}", field.name(), printable(text));
            }
            _ => {}
        }
    }
    (message, fields)
}

/// `time LEVEL target: message key=value …`; a line is a line, whatever is in it.
fn line(record: &Record, colour: bool) -> String {
    let level = record.metadata.level();
    let (message, fields) = parts(record, |_| true);
    let (start, end) = if colour { (colour_of(*level), "\u{1b}[0m") } else { ("", "") };
    let target = record.metadata.target();
    format!("{:.3} {start}{level:<5}{end} {target}: {}{fields}\n", record.time, printable(message))
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        _ => "\u{1b}[2m",
    }
}
