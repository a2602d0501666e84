use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::*;

/// A stream that keeps what it gets.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn lines(out: impl Write + Send + 'static) -> impl FnOnce() -> Sink + Send {
    move || Sink::Lines { out: Box::new(out), colour: false }
}

#[test]
fn an_event_is_one_line_with_level_message_and_fields() {
    let kept = Kept::default();
    let (log, subscriber) = with_sink(lines(kept.clone()), parse_filter("info").unwrap(), 16).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(app = "pos", tries = 3, "app is good");
        tracing::debug!("not asked for");
    });
    log.close();
    let text = kept.text();
    assert!(text.ends_with(" INFO  holdfast::log::tests: app is good app=pos tries=3\n"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn a_message_cannot_forge_a_line_or_reach_the_terminal() {
    let kept = Kept::default();
    let (log, subscriber) = with_sink(lines(kept.clone()), parse_filter("info").unwrap(), 16).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(what = "\u{1b}[2J", "a\nERROR forged");
    });
    log.close();
    assert!(!kept.text().contains('\u{1b}'));
    assert_eq!(kept.text().lines().count(), 1);
}

#[test]
fn a_level_can_be_set_for_a_part_and_nonsense_is_refused() {
    let filter = parse_filter("warn,holdfast::source=debug").unwrap();
    assert!(filter.would_enable("holdfast::source", &tracing::Level::DEBUG));
    assert!(!filter.would_enable("gix", &tracing::Level::INFO));
    assert!(parse_filter("loud=very").unwrap_err().contains("write error, warn"));
}

#[test]
fn a_stalled_reader_stops_neither_the_agent_nor_its_end_and_what_was_lost_is_counted() {
    // A pipe that nobody reads is full after 64 KiB.
    let (mut reader, writer) = io::pipe().unwrap();
    let (mut log, subscriber) = with_sink(lines(writer), parse_filter("info").unwrap(), 16).unwrap();
    let long = "x".repeat(4096);
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..1000 {
            tracing::info!("{long}");
        }
    });
    // Gives up on the hanging writer.
    log.close_within(Duration::from_millis(20));
    // Now somebody reads: what was queued arrives, then the number of what was not.
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    });
    drop(log);
    let text = text.join().unwrap();
    let kept = text.lines().filter(|line| line.ends_with(&long)).count();
    let lost: usize = text
        .lines()
        .filter_map(|line| line.strip_prefix("WARN  ")?.split(' ').next()?.parse::<usize>().ok())
        .sum();
    assert_eq!(kept + lost, 1000, "{kept} kept, {lost} lost");
    assert!(lost > 0);
}

#[test]
fn a_huge_field_is_cut() {
    let kept = Kept::default();
    let (log, subscriber) = with_sink(lines(kept.clone()), parse_filter("info").unwrap(), 16).unwrap();
    tracing::subscriber::with_default(subscriber, || tracing::info!("{}", "é".repeat(1 << 20)));
    log.close();
    assert!(kept.text().len() < 2 * FIELD_LIMIT);
}

/// Keeps the messages of events, as journald would be given them.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut copy = Copy { values: vec![None; event.metadata().fields().len()] };
        event.record(&mut copy);
        let message =
            event.metadata().fields().iter().zip(copy.values).find(|(field, _)| field.name() == "message");
        self.0.lock().unwrap().extend(message.and_then(|(_, text)| text));
    }
}

#[test]
fn a_message_in_the_journal_begins_with_the_app_and_has_what_the_fields_say() {
    let messages = Messages::default();
    let journal = tracing::Dispatch::new(tracing_subscriber::registry().with(messages.clone()));
    let (log, subscriber) =
        with_sink(move || Sink::Journald(journal), parse_filter("info").unwrap(), 16).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(app = "pos", kind = "app.good", "it was healthy through its soak");
        tracing::warn!(app = "pos", error = "no such image", "a step failed");
        tracing::info!(app = "pos", "pos: is named already");
        tracing::info!("the agent stops");
    });
    log.close();
    let expected = [
        "pos: it was healthy through its soak",
        "pos: a step failed error=no such image",
        "pos: is named already",
        "the agent stops",
    ];
    assert_eq!(*messages.0.lock().unwrap(), expected);
}
