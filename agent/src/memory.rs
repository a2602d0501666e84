//! Giving memory back. A start runs through much code that is not needed again, and each page of it stays
//! mapped: on a box of 256 MiB that is worth a system call.

use std::convert::Infallible;
use std::fs;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};

/// How often an agent at rest looks whether it has grown.
const LOOK: Duration = Duration::from_secs(30);
/// By how much it may, in pages: a look itself needs a few.
const SLACK: u64 = 256;
/// How many pages it had when memory was last given back.
static SETTLED: AtomicU64 = AtomicU64::new(0);

/// A range of this process' addresses, and what is mapped there.
#[derive(Debug, PartialEq, Eq)]
struct Range<'a> {
    start: usize,
    end: usize,
    /// Device and inode.
    file: (&'a str, &'a str),
}

/// Gives back what is not needed at rest: code, and constants.
pub fn give_back() {
    give_back_code();
    SETTLED.store(resident(), Ordering::Relaxed);
}

/// Gives back at rest what is taken although nothing is to be done: by whoever asks for the status, by connections that
/// end, and by what an API server tells of its own accord, such as how far its watches have come, once a minute.
pub async fn stay_small() -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        if resident() > SETTLED.load(Ordering::Relaxed) + SLACK {
            give_back();
        }
    }
}

/// The pages that this process has in memory (proc_pid_statm(5)); none without /proc.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

/// Lets go of the clean pages of the program's own code and constants. What is needed again is taken from the
/// page cache.
fn give_back_code() {
    // Without /proc nothing is given back, and nothing else is lost.
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    let ranges = clean_file_ranges(&smaps);
    // An emulator may show its own mappings: only the file that has this function is ours. Besides code and constants
    // it has the table by which the program was moved to its place: megabytes that only the start reads.
    let here = give_back_code as *const () as usize;
    let ours = ranges.iter().find(|range| (range.start..range.end).contains(&here)).map(|range| range.file);
    for range in ranges.iter().filter(|range| Some(range.file) == ours) {
        drop_pages(range);
    }
}

#[allow(unsafe_code)]
fn drop_pages(range: &Range<'_>) {
    let Some(start) = NonNull::new(range.start as *mut std::ffi::c_void) else { return };
    // SAFETY: the range is a mapping of this program's file: never written to, without a page that differs from the
    // file (`clean_file_ranges`), and mapped for as long as the process lives. MADV_DONTNEED then only unmaps pages;
    // the next access maps them again with the same content (madvise(2)).
    let _ = unsafe { madvise(start, range.end - range.start, MmapAdvise::MADV_DONTNEED) };
}

/// The mappings of files that cannot be written to and have no page of their own (proc_pid_smaps(5)).
fn clean_file_ranges(smaps: &str) -> Vec<Range<'_>> {
    let mut ranges = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(header) = header(line) {
            candidate = header;
        } else if let Some(size) = line.strip_prefix("Anonymous:")
            && let Some(range) = candidate.take()
            && size.trim() == "0 kB"
        {
            ranges.push(range);
        }
    }
    ranges
}

/// `None` if the line opens no mapping; the inner one is `None` if the mapping is not of interest.
fn header(line: &str) -> Option<Option<Range<'_>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let permissions = words.next()?;
    // The offset stands before them; an inode of 0 is no file.
    let (device, inode) = (words.nth(1)?, words.next()?);
    let wanted = permissions.starts_with('r') && !permissions.contains('w') && inode != "0" && start < end;
    Some(wanted.then_some(Range { start, end, file: (device, inode) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0a0000000-55d0a0100000 r-xp 00000000 fe:00 42 /usr/bin/holdfast
Size:               1024 kB
Anonymous:             0 kB
55d0a0100000-55d0a0110000 r--p 00100000 fe:00 42 /usr/bin/holdfast
Anonymous:            64 kB
55d0a0110000-55d0a0120000 rw-p 00110000 fe:00 42 /usr/bin/holdfast
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_clean_pages_of_files_that_cannot_be_written_are_given_back() {
        let wanted = Range { start: 0x55d0_a000_0000, end: 0x55d0_a010_0000, file: ("fe:00", "42") };
        assert_eq!(clean_file_ranges(SMAPS), [wanted]);
    }

    #[test]
    fn a_process_that_gave_its_code_back_goes_on() {
        give_back_code();
        assert_eq!(header("Size: 4 kB"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_grown_at_rest_is_given_back() {
        assert!(resident() > SLACK);
        SETTLED.store(0, Ordering::Relaxed);
        assert!(tokio::time::timeout(LOOK * 2, stay_small()).await.is_err(), "it goes on for good");
        assert_ne!(SETTLED.load(Ordering::Relaxed), 0);
    }
}
