use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A clock that stands until somebody sleeps or a test says so.
#[derive(Clone, Default)]
struct Stage {
    seconds: Arc<Mutex<i64>>,
    slept: Arc<Mutex<Duration>>,
    kept: Arc<Mutex<Option<LinkUsage>>>,
    writes: Arc<AtomicU64>,
    broken: bool,
}

impl Time for Stage {
    fn wall(&self) -> Timestamp {
        let start: Timestamp = "2026-02-10T12:00:00Z".parse().unwrap();
        Timestamp::from_second(start.as_second() + *self.seconds.lock().unwrap()).unwrap()
    }

    fn uptime(&self) -> Duration {
        *self.slept.lock().unwrap()
    }

    fn sleep(&self, wait: Duration) {
        assert!(wait <= STEP && !wait.is_zero());
        *self.slept.lock().unwrap() += wait;
    }
}

impl Keep for Stage {
    fn load(&self) -> Result<Option<LinkUsage>, String> {
        if self.broken { Err("damaged".to_owned()) } else { Ok(self.kept.lock().unwrap().clone()) }
    }

    fn save(&self, usage: &LinkUsage) -> Result<(), String> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        *self.kept.lock().unwrap() = Some(usage.clone());
        Ok(())
    }
}

impl Stage {
    fn open(&self) -> Allowance {
        Allowance::open(self.clone(), self.clone())
    }

    fn with(&self, rate: Option<u64>, budget: Option<u64>) -> Allowance {
        let allowance = self.open();
        allowance.set(limits(rate, budget), false, TimeZone::UTC);
        allowance
    }

    fn days_later(&self, days: i64) {
        *self.seconds.lock().unwrap() += days * 86_400;
    }

    fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

fn limits(rate: Option<u64>, budget: Option<u64>) -> DownloadLimits {
    DownloadLimits { rate, budget: budget.map(|bytes| ByteBudget { bytes, per: BudgetPeriod::Month }) }
}

/// Downloads `bytes` in pieces, as a socket would.
fn download(line: &Line, purpose: Purpose, mut bytes: u64) -> Result<(), UsedUp> {
    let _transfer = line.begin(purpose)?;
    while bytes > 0 {
        line.wait();
        line.may_go_on()?;
        let piece = bytes.min(4 * KIB);
        line.book(piece as usize);
        bytes -= piece;
    }
    Ok(())
}

#[test]
fn without_limits_nothing_waits_and_nothing_is_kept() {
    let stage = Stage::default();
    let allowance = stage.open();
    download(&allowance.line(), Purpose::Content(10 * MIB), 10 * MIB).unwrap();
    assert_eq!((allowance.used(), allowance.left(), allowance.standing()), (None, None, None));
    assert_eq!((stage.uptime(), stage.writes()), (Duration::ZERO, 0));
}

#[test]
fn several_downloads_share_one_rate() {
    let stage = Stage::default();
    *stage.slept.lock().unwrap() = Duration::from_secs(1000);
    let allowance = stage.with(Some(10 * KIB), None);
    let lines = [allowance.line(), allowance.line()];
    let transfers: Vec<_> = lines.iter().map(|line| line.begin(Purpose::Content(MIB)).unwrap()).collect();
    for _ in 0..100 {
        for line in &lines {
            line.wait();
            line.book(2 * KIB as usize);
        }
    }
    drop(transfers);
    lines[0].wait();
    // 400 KiB at 10 KiB a second, of which a second's worth may come at once.
    assert_eq!(stage.uptime(), Duration::from_secs(1000 + 39));
    let waited: Duration = lines.iter().map(Line::waited).sum();
    assert_eq!(waited, Duration::from_secs(39), "each knows how long it was held up");
}

#[test]
fn new_limits_hold_for_what_waits_already() {
    let stage = Stage::default();
    let allowance = stage.with(Some(1), None);
    let line = allowance.line();
    line.book(MIB as usize);
    allowance.set(limits(Some(MIB), None), false, TimeZone::UTC);
    line.wait();
    assert_eq!(stage.uptime(), Duration::ZERO, "what came under the old rate is forgiven");
    line.book(100 * MIB as usize);
    allowance.set(limits(Some(MIB), None), true, TimeZone::UTC);
    line.wait();
    assert_eq!(stage.uptime(), Duration::ZERO, "an urgent revision waits for nothing");
    assert!(!line.is_slowed());
}

#[test]
fn a_used_up_budget_stops_content_and_says_when_it_goes_on() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(MIB));
    let line = allowance.line();
    let stopped = download(&line, Purpose::Content(3 * MIB), 3 * MIB).unwrap_err();
    assert_eq!(allowance.used(), Some(MIB));
    assert_eq!(
        stopped.to_string(),
        "the byte budget of this link is used up (1 MiB of 1 MiB a month); it continues at 2026-03-01T00:00:00Z"
    );
    assert_eq!(stopped.held("x").next, Some("2026-03-01T00:00:00Z".parse().unwrap()));
    assert!(line.begin(Purpose::Content(1)).is_err(), "nothing is used by trying");
    assert_eq!(allowance.used(), Some(MIB));
    stage.days_later(20);
    assert_eq!((allowance.used(), allowance.left()), (Some(0), Some(MIB)));
    download(&line, Purpose::Content(2 * MIB), MIB).unwrap();
}

#[test]
fn what_does_not_fit_any_more_is_not_begun_unless_it_never_would() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(MIB));
    let line = allowance.line();
    download(&line, Purpose::Content(MIB / 2), MIB / 2).unwrap();
    let refused = line.begin(Purpose::Content(MIB / 2 + 1)).unwrap_err();
    assert!(
        refused.to_string().starts_with(
            "it needs 512.0 KiB, but 512 KiB of the byte budget (1 MiB a month) are already used"
        ),
        "{refused}"
    );
    assert!(line.begin(Purpose::Content(MIB / 2)).is_ok());
    assert!(line.begin(Purpose::Content(MIB + 1)).is_ok(), "it needs several periods in any case");
}

#[test]
fn polls_pass_when_nothing_is_left_but_a_server_that_sends_without_end_is_stopped() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(KIB));
    let line = allowance.line();
    assert!(download(&line, Purpose::Content(MIB), MIB).is_err());
    for _ in 0..1000 {
        download(&line, Purpose::Poll, 8 * KIB).unwrap();
    }
    assert!(download(&line, Purpose::Poll, MIB).is_err());
}

#[test]
fn documents_have_a_little_more_each_day() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(KIB));
    let line = allowance.line();
    assert!(download(&line, Purpose::Content(MIB), MIB).is_err());
    download(&line, Purpose::Documents, EXTRA - 8 * KIB).unwrap();
    let stopped = download(&line, Purpose::Documents, EXTRA).unwrap_err();
    assert_eq!(stopped.next, "2026-02-11T00:00:00Z".parse().unwrap());
    assert!(line.begin(Purpose::Documents).is_err());
    assert!(line.begin(Purpose::Poll).is_ok());
    stage.days_later(1);
    download(&line, Purpose::Documents, EXTRA).unwrap();
    assert!(line.begin(Purpose::Content(1)).is_err());
    stage.days_later(-1);
    assert!(line.begin(Purpose::Documents).is_err(), "a clock that goes back gives nothing");
}

#[test]
fn neither_files_nor_images_nor_other_revisions_use_up_what_documents_have() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(KIB));
    let line = allowance.line();
    line.documents_of("one");
    assert!(download(&line, Purpose::Files(0), MIB).is_err());
    assert_eq!(allowance.used(), Some(4 * KIB), "cut off at the next read");
    assert!(download(&line, Purpose::Manifests, MIB).is_err());
    assert!(download(&line, Purpose::Content(MIB), MIB).is_err());
    assert!(line.begin(Purpose::Manifests).is_err(), "manifests have a bound of their own");
    download(&line, Purpose::Documents, EXTRA).unwrap();
    assert!(line.begin(Purpose::Documents).is_err());
    line.documents_of("two");
    drop(line);
    let line = stage.open().line();
    line.documents_of("one");
    assert!(line.begin(Purpose::Documents).is_err(), "a restart gives nothing");
    line.documents_of("two");
    download(&line, Purpose::Documents, EXTRA).unwrap();
    assert!(line.begin(Purpose::Documents).is_err());
    line.documents_of("two");
    assert!(line.begin(Purpose::Documents).is_err(), "it is given once a day");
}

#[test]
fn a_file_that_did_not_fit_is_begun_again_only_with_more_room() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(MIB));
    let line = allowance.line();
    assert!(line.begin(Purpose::Files(MIB - 1)).is_ok());
    let refused = line.begin(Purpose::Files(MIB)).unwrap_err().held_files();
    assert!(refused.cause.contains("needs more than all of the byte budget"), "{refused:?}");
    assert_eq!(refused.next, None);
    allowance.set(limits(None, Some(2 * MIB)), false, TimeZone::UTC);
    assert!(line.begin(Purpose::Files(MIB)).is_ok());
    download(&line, Purpose::Files(0), MIB + 4 * KIB).unwrap();
    let refused = line.begin(Purpose::Files(MIB)).unwrap_err().held_files();
    assert!(refused.cause.contains("its files wait") && refused.next.is_some(), "{refused:?}");
}

#[test]
fn an_urgent_revision_goes_beyond_the_budget_and_is_counted() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(KIB));
    allowance.set(limits(None, Some(KIB)), true, TimeZone::UTC);
    let line = allowance.line();
    download(&line, Purpose::Content(MIB), MIB).unwrap();
    assert_eq!(allowance.used(), Some(MIB));
    allowance.set(limits(None, Some(KIB)), false, TimeZone::UTC);
    assert!(line.begin(Purpose::Content(1)).is_err());
}

#[test]
fn what_was_used_and_what_holds_outlive_a_restart() {
    let stage = Stage::default();
    let allowance = stage.with(Some(MIB), Some(2 * MIB));
    download(&allowance.line(), Purpose::Content(MIB), MIB).unwrap();
    drop(allowance);
    let again = stage.open();
    assert_eq!(again.used(), Some(MIB));
    assert_eq!(again.standing().unwrap().rate, Some(MIB), "before any revision was read again");
    assert!(again.line().begin(Purpose::Content(MIB + 1)).is_err());
}

#[test]
fn a_long_download_is_written_down_every_megabyte_and_at_its_end() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(100 * MIB));
    let set = stage.writes();
    download(&allowance.line(), Purpose::Content(4 * MIB + 4 * KIB), 4 * MIB + 4 * KIB).unwrap();
    assert_eq!(stage.writes() - set, 5);
    assert!(allowance.line().begin(Purpose::Content(1)).is_ok());
    assert_eq!(stage.writes() - set, 5, "nothing came, so nothing is written");
}

#[test]
fn polls_write_nothing_and_are_written_with_what_comes_next() {
    let stage = Stage::default();
    let allowance = stage.with(None, Some(100 * MIB));
    let (line, set) = (allowance.line(), stage.writes());
    for _ in 0..1000 {
        download(&line, Purpose::Poll, 8 * KIB).unwrap();
    }
    assert_eq!(stage.writes(), set);
    download(&line, Purpose::Documents, KIB).unwrap();
    assert_eq!(stage.open().used(), Some(8001 * KIB));
}

#[test]
fn a_record_that_is_lost_begins_at_nothing() {
    let stage = Stage { broken: true, ..Stage::default() };
    let allowance = stage.with(None, Some(MIB));
    assert_eq!(allowance.used(), Some(0));
}

#[test]
fn the_same_limits_again_are_not_written() {
    let stage = Stage::default();
    let allowance = stage.with(Some(KIB), Some(MIB));
    let set = stage.writes();
    allowance.set(limits(Some(KIB), Some(MIB)), false, TimeZone::UTC);
    assert_eq!(stage.writes(), set);
}
