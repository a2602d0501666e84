//! The audit log's older events, in files of some hundred: pages, each written once, and never changed.
//!
//! What the database holds it keeps in memory for the better part (docs/adr/0002-store.md), and a full log is some
//! megabytes. So only the newest events are there; a page is read when somebody asks for what is on it.
//!
//! ```text
//! events/00000000000000000251-00000000000000000500    the places of its first and its last event
//!   {"format":1}                                      a line each, as JSON
//!   {"seq":251,"time":…
//! ```
//!
//! A page is on disk before its events leave the database, and leaves the disk once the segment that stands for it is on
//! disk. So a crash leaves either twice: then the page holds, or the segment.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;
use holdfast_core::event::{ChainHead, Event};
use serde::{Deserialize, Serialize};

use crate::db::Rebuilt;
use crate::durable_files;
use crate::error::{DiskError, at};
use crate::fault;

/// The form of the files. Raise it when older ones don't read as they are.
const FORMAT: u8 = 1;
/// As many events are on a page at most.
pub(super) const LARGEST: usize = 500;
/// What a file is called until it is whole.
const UNFINISHED: &str = ".unfinished";

/// The first line of a page.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u8,
}

/// A run of events in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// The place of its first event.
    pub(super) first: u64,
    /// The place of its last event.
    pub(super) last: u64,
    /// The size of its file.
    pub(super) bytes: u64,
}

impl Page {
    fn name(&self) -> String {
        format!("{:020}-{:020}", self.first, self.last)
    }

    /// The page in a file of this name and size.
    fn named(name: &str, bytes: u64) -> Option<Page> {
        let (first, last) = name.split_once('-')?;
        let page = Page { first: first.parse().ok()?, last: last.parse().ok()?, bytes };
        let count = page.last.checked_sub(page.first)?.checked_add(1)?;
        let can_be = page.first > 0 && page.last < u64::MAX && count <= LARGEST as u64;
        (can_be && page.name() == name).then_some(page)
    }
}

/// The pages of a log, oldest first. No two have a place in common.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    dir: PathBuf,
    all: Vec<Page>,
}

impl Pages {
    /// Those in `dir`, which need not be there. Pages up to place `sealed`, which a crash left, go.
    pub(super) fn open(dir: &Path, sealed: u64) -> Result<Pages, DiskError> {
        let mut pages = Pages { dir: dir.to_owned(), all: Vec::new() };
        for page in pages.sweep(sealed)? {
            // Where places overlap nobody but a meddler made it so; the chain shows what doesn't fit.
            if page.first > pages.end() {
                pages.all.push(page);
            }
        }
        Ok(pages)
    }

    pub(super) fn oldest(&self) -> Option<&Page> {
        self.all.first()
    }

    /// The place of the newest event on a page; 0 without one.
    pub(super) fn end(&self) -> u64 {
        self.all.last().map_or(0, |page| page.last)
    }

    /// The link of the newest event on a page. Where that can't be read, it is one that no event has.
    pub(super) fn head(&self) -> Result<Option<ChainHead>, DiskError> {
        let Some(page) = self.all.last() else { return Ok(None) };
        let newest = self.read(page)?.pop().filter(|newest| newest.seq == page.last);
        let unknown = ChainHead { seq: page.last, hash: Digest::from_bytes([0; 32]) };
        Ok(Some(newest.map_or(unknown, |newest| newest.head())))
    }

    /// How many bytes all of them take.
    pub(super) fn bytes(&self) -> u64 {
        self.all.iter().map(|page| page.bytes).sum()
    }

    /// Writes a page with `events`, which follow one another and those on the newest page. It is on disk then.
    pub(super) fn add(&mut self, events: &[Event]) -> Result<(), DiskError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        let bytes = text_of(events).map_err(at("write events to", &self.dir))?;
        let page = Page { first: first.seq, last: last.seq, bytes: bytes.len() as u64 };
        durable_files::private_dir(&self.dir)?;
        let path = self.dir.join(page.name());
        let unfinished = durable_files::with_suffix(&path, UNFINISHED);
        durable_files::write_new(&unfinished, &bytes)?;
        fault::point("audit.page-synced");
        if let Err(error) = durable_files::rename_synced(&unfinished, &path) {
            // Whichever name it has now: its events are in the database, and may be on another page next time.
            let _ = fs::remove_file(&unfinished);
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        fault::point("audit.page-renamed");
        self.all.push(page);
        Ok(())
    }

    /// Up to `limit` events that come after place `after`, oldest first.
    pub(super) fn after(&self, after: u64, limit: usize) -> Result<Vec<Event>, DiskError> {
        let mut found = Vec::new();
        for page in self.all.iter().filter(|page| page.last > after) {
            if found.len() >= limit {
                break;
            }
            found.extend(self.read(page)?.into_iter().filter(|event| event.seq > after));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The events of `page`. What of it can't be read as such is left out, so that the chain has a gap there.
    pub(super) fn read(&self, page: &Page) -> Result<Vec<Event>, DiskError> {
        let path = self.dir.join(page.name());
        let text = match fs::read(&path) {
            // It doesn't come back, and an error each time would keep the log from ever going on.
            Err(error) if !may_pass(&error) => {
                tracing::warn!(path = %path.display(), %error, "a page of the audit log can't be read");
                Vec::new()
            }
            read => read.map_err(at("read events from", &path))?,
        };
        let events = events_of(&text, page);
        if events.len() as u64 != page.last - page.first + 1 {
            tracing::warn!(path = %path.display(), read = events.len(), "events of the audit log can't be read");
        }
        Ok(events)
    }

    /// Takes the oldest out; its file stays.
    pub(super) fn take_oldest(&mut self) -> Option<Page> {
        (!self.all.is_empty()).then(|| self.all.remove(0))
    }

    /// Removes the files of all that are up to place `sealed`.
    pub(super) fn remove_up_to(&self, sealed: u64) -> Result<(), DiskError> {
        self.sweep(sealed).map(drop)
    }

    /// Removes the files of pages up to place `sealed`, and what was never finished; gives the others, oldest first.
    fn sweep(&self, sealed: u64) -> Result<Vec<Page>, DiskError> {
        let dir = &self.dir;
        let mut found = Vec::new();
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(at("list", dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(at("list", dir))?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            // One that can't even be looked at can't be read either, and is a page all the same.
            let file = entry.metadata().ok();
            let is_file = file.as_ref().is_none_or(|file| file.is_file());
            let page = Page::named(&name, file.map_or(0, |file| file.len())).filter(|_| is_file);
            match page {
                Some(page) if page.last <= sealed => remove(&path),
                Some(page) => found.push(page),
                None if name.ends_with(UNFINISHED) => remove(&path),
                None => tracing::debug!(path = %path.display(), "this is not a page of the audit log"),
            }
        }
        found.sort_by_key(|page| page.first);
        Ok(found)
    }
}

/// Sets the folder of pages aside if it is none, or can never be read: the log goes on without, with a gap.
pub(crate) fn make_usable(dir: &Path) -> Result<Option<Rebuilt>, DiskError> {
    match fs::read_dir(dir).and_then(|mut entries| entries.try_for_each(|entry| entry.map(drop))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && !may_pass(&error) => {
            let set_aside = Some(durable_files::set_aside(dir)?);
            Ok(Some(Rebuilt { reason: error.to_string(), set_aside }))
        }
        _ => Ok(None),
    }
}

/// Whether what failed may go well another time, though nobody touches the disk.
fn may_pass(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let passing = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EACCES, Errno::EPERM, Errno::EINTR];
    passing.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// What can't be removed now is nobody's harm: it is found again at the next start.
fn remove(path: &Path) {
    match durable_files::remove_if_there(path) {
        Ok(()) => fault::point("audit.page-removed"),
        Err(error) => tracing::warn!(%error, "a page of the audit log is left"),
    }
}

fn text_of(events: &[Event]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    serde_json::to_writer(&mut text, &Header { format: FORMAT })?;
    for event in events {
        text.write_all(b"\n")?;
        serde_json::to_writer(&mut text, event)?;
    }
    text.write_all(b"\n")?;
    Ok(text)
}

/// The events of a page that are where they must be, in their order.
fn events_of(text: &[u8], page: &Page) -> Vec<Event> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let header = lines.next().and_then(|line| serde_json::from_slice(line).ok());
    if header.is_none_or(|header: Header| header.format != FORMAT) {
        return Vec::new();
    }
    let mut events: Vec<Event> = Vec::new();
    for event in lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()) {
        let next = events.last().map_or(page.first, |before| before.seq + 1);
        if (next..=page.last).contains(&event.seq) {
            events.push(event);
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use holdfast_core::event::Draft;
    use jiff::Timestamp;

    use super::*;

    fn chain(count: u64) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        for n in 0..count {
            let head = events.last().map(Event::head);
            events.push(Event::after(head.as_ref(), Timestamp::UNIX_EPOCH, Draft::new("x", n.to_string())));
        }
        events
    }

    /// Pages of three events each in `dir`, and the events.
    fn three_pages(dir: &Path) -> (Pages, Vec<Event>) {
        let events = chain(9);
        let mut pages = Pages::open(dir, 0).unwrap();
        events.chunks(3).for_each(|run| pages.add(run).unwrap());
        (pages, events)
    }

    fn places(pages: &Pages) -> Vec<(u64, u64)> {
        pages.all.iter().map(|page| (page.first, page.last)).collect()
    }

    #[test]
    fn what_was_added_is_there_for_the_next_start_from_any_place_on() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("events");
        let (pages, events) = three_pages(&dir);
        let again = Pages::open(&dir, 0).unwrap();
        assert_eq!((places(&again), again.bytes(), again.end()), (places(&pages), pages.bytes(), 9));
        assert_eq!(again.head().unwrap(), events.last().map(Event::head));
        for after in 0..=9 {
            for limit in [0, 1, 4, 9, 20] {
                let wanted: Vec<Event> = events.iter().skip(after).take(limit).cloned().collect();
                assert_eq!(again.after(after as u64, limit).unwrap(), wanted, "{limit} after {after}");
            }
        }
        let on_disk: u64 =
            fs::read_dir(&dir).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(again.bytes(), on_disk);
    }

    #[test]
    fn what_a_crash_left_goes_at_the_next_start_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("events");
        let (pages, _) = three_pages(&dir);
        fs::write(dir.join(format!("{}{UNFINISHED}", pages.all[2].name())), "half").unwrap();
        fs::write(dir.join("notes.txt"), "of somebody else").unwrap();
        fs::create_dir(dir.join("00000000000000000020-00000000000000000021")).unwrap();
        assert_eq!(places(&Pages::open(&dir, 2).unwrap()), [(1, 3), (4, 6), (7, 9)]);
        assert_eq!(places(&Pages::open(&dir, 6).unwrap()), [(7, 9)]);
        let mut left: Vec<String> = fs::read_dir(&dir)
            .unwrap()
            .flatten()
            .map(|file| file.file_name().into_string().unwrap())
            .collect();
        left.sort();
        let folder = "00000000000000000020-00000000000000000021".to_owned();
        assert_eq!(left, [pages.all[2].name(), folder, "notes.txt".to_owned()]);
    }

    #[test]
    fn what_was_damaged_is_left_out_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("events");
        let (pages, events) = three_pages(&dir);
        let path = dir.join(pages.all[1].name());
        let whole = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let fifth = format!("{}\n{}\n{{\n{}\n", lines[0], lines[1], lines[3]);
        let other_format = whole.replace("\"format\":1", "\"format\":2");
        let twice = format!("{whole}{}\n", lines[2]);
        let half = &whole[..whole.len() - 20];
        let of = |text: &str, wanted: &[usize]| {
            fs::write(&path, text).unwrap();
            let wanted: Vec<Event> = wanted.iter().map(|&index| events[index].clone()).collect();
            assert_eq!(pages.after(2, 5).unwrap(), wanted, "{text}");
        };
        of(&whole, &[2, 3, 4, 5, 6]);
        of(&fifth, &[2, 3, 5, 6, 7]);
        of(half, &[2, 3, 4, 6, 7]);
        of(&other_format, &[2, 6, 7, 8]);
        of("", &[2, 6, 7, 8]);
        of(&twice, &[2, 3, 4, 5, 6]);
        fs::remove_file(&path).unwrap();
        assert_eq!(pages.after(0, 100).unwrap().len(), 6);
        // What no file has to answer.
        fs::create_dir(&path).unwrap();
        assert_eq!(pages.after(0, 100).unwrap().len(), 6);
    }

    #[test]
    fn only_names_that_a_page_can_have_are_pages() {
        let places = |first: u64, last: u64| format!("{first:020}-{last:020}");
        let impossible =
            [places(2, 1), places(0, 1), places(u64::MAX - 1, u64::MAX), places(1, LARGEST as u64 + 1)];
        for name in ["1-2", "x", "", "-"].into_iter().chain(impossible.iter().map(String::as_str)) {
            assert_eq!(Page::named(name, 1), None, "{name}");
        }
        let page = Page { first: 1, last: 250, bytes: 7 };
        assert_eq!(Page::named(&page.name(), 7), Some(page));
    }
}
