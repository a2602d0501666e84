//! A window of time over a page that is scraped repeatedly: what grew in it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::check::{MetricsCheck, Part};
use super::finding::{Finding, find};
use super::histogram::Bound;
use super::native::Native;
use super::series::{Matcher, Series};
use super::text::{BadPage, Label, Sample, Value, samples};

/// The most series of a page that a check may mean; a bucket is a series of its own.
const SERIES_LIMIT: usize = 5000;
/// The most bounds that the buckets of a histogram may have.
const BOUNDS_LIMIT: usize = 512;

/// Which counter of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    SuccessTotal,
    SuccessPart,
    ErrorTotal,
    Errors,
}

const COUNTERS: usize = 4;

/// What a series is to a check.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Counts(Counter),
    Bucket(Bound),
    Native,
}

/// What a series said.
#[derive(Clone, Debug)]
enum Raw {
    Number(f64),
    Native(Native),
}

impl Raw {
    /// What it grew by. One that went down was started anew, and counted all of it since.
    fn since(&self, before: &Raw) -> Raw {
        match (self, before) {
            (Raw::Number(now), Raw::Number(before)) if now >= before => Raw::Number(now - before),
            (Raw::Native(now), Raw::Native(before)) => {
                Raw::Native(now.since(before).unwrap_or_else(|| now.clone()))
            }
            _ => self.clone(),
        }
    }
}

/// Everything that was counted since the window was opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    counters: [f64; COUNTERS],
    pub(super) buckets: BTreeMap<Bound, f64>,
    pub(super) native: Native,
}

impl Sums {
    pub(super) fn of(&self, counter: Counter) -> f64 {
        self.counters[counter as usize]
    }

    fn add(&mut self, role: Role, grown: &Raw) {
        match (role, grown) {
            (Role::Counts(counter), Raw::Number(by)) => self.counters[counter as usize] += by,
            (Role::Bucket(bound), Raw::Number(by)) => *self.buckets.entry(bound).or_default() += by,
            (Role::Native, Raw::Native(by)) => self.native = self.native_plus(by),
            _ => {}
        }
    }

    /// The first decides what the buckets are.
    fn native_plus(&self, by: &Native) -> Native {
        if self.native.count() > 0.0 { self.native.plus(by) } else { by.clone() }
    }

    fn since(&self, before: &Sums) -> Sums {
        let mut grown = self.clone();
        for (now, before) in grown.counters.iter_mut().zip(before.counters) {
            *now -= before;
        }
        for (bound, count) in &before.buckets {
            *grown.buckets.entry(*bound).or_default() -= count;
        }
        if before.native.count() > 0.0 {
            grown.native = self.native.since(&before.native).unwrap_or_default();
        }
        grown
    }
}

/// The series of one scrape that a check means.
#[derive(Default)]
struct Reading(BTreeMap<String, (Raw, Vec<Role>)>);

impl Reading {
    fn note(&mut self, id: String, raw: Raw, role: Role) -> Result<(), String> {
        // What isn't a number counts nothing.
        if matches!(raw, Raw::Number(number) if !number.is_finite() || number < 0.0) {
            return Ok(());
        }
        let (_, roles) = self.0.entry(id).or_insert_with(|| (raw, Vec::new()));
        if !roles.contains(&role) {
            roles.push(role);
        }
        let many = self.0.len() > SERIES_LIMIT;
        if many { Err(format!("the check selects more than {SERIES_LIMIT} series")) } else { Ok(()) }
    }
}

/// What was seen of a page up to now.
#[derive(Clone, Debug)]
pub struct History {
    check: MetricsCheck,
    counters: Vec<(Counter, Matcher)>,
    histogram: Option<Matcher>,
    /// What each series said when it was last there.
    last: BTreeMap<String, Raw>,
    sums: Sums,
    points: VecDeque<(Duration, Sums)>,
    scraped: Option<Duration>,
}

impl History {
    /// A window in which nothing was seen yet.
    pub fn new(check: &MetricsCheck) -> Self {
        let success = check.success_rate.as_ref();
        let error = check.error_rate.as_ref();
        let meant: [(Counter, Option<&Series>); COUNTERS] = [
            (Counter::SuccessTotal, success.map(|rate| &rate.total)),
            (Counter::SuccessPart, success.map(|rate| Part::series(&rate.part))),
            (Counter::ErrorTotal, error.map(|rate| &rate.total)),
            (Counter::Errors, error.map(|rate| &rate.errors)),
        ];
        let counters = meant.into_iter().filter_map(|(counter, series)| Some((counter, series?.matcher()?)));
        History {
            check: check.clone(),
            counters: counters.collect(),
            histogram: check.latency.as_ref().and_then(|latency| latency.histogram.matcher()),
            last: BTreeMap::new(),
            sums: Sums::default(),
            points: VecDeque::new(),
            scraped: None,
        }
    }

    /// What is asked.
    pub fn check(&self) -> &MetricsCheck {
        &self.check
    }

    /// Whether it is time for another scrape.
    pub fn is_due(&self, at: Duration) -> bool {
        self.scraped.is_none_or(|last| at.saturating_sub(last) >= self.check.interval)
    }

    /// Takes in the page as it was at `at`; times never go back. A page that can't be read changes nothing.
    pub fn take(&mut self, page: &str, at: Duration) -> Result<(), BadPage> {
        let reading = self.read(page)?;
        let stale = self.scraped.is_some_and(|last| at.saturating_sub(last) > self.check.window);
        if stale {
            // What happened since is of no window.
            self.points.clear();
        }
        let first = self.points.is_empty();
        for (id, (raw, roles)) in reading.0 {
            // A series that is new counted from nothing since the last scrape.
            let grown = self.last.get(&id).map_or_else(|| raw.clone(), |before| raw.since(before));
            if !first {
                roles.into_iter().for_each(|role| self.sums.add(role, &grown));
            }
            self.last.insert(id, raw);
        }
        self.points.push_back((at, self.sums.clone()));
        self.scraped = Some(at);
        self.trim(at);
        Ok(())
    }

    /// Keeps one point at the window's beginning, or before it. Series that come and go are forgotten once there
    /// are many of them.
    fn trim(&mut self, at: Duration) {
        let begin = at.saturating_sub(self.check.window);
        while self.points.get(1).is_some_and(|(at, _)| *at <= begin) {
            self.points.pop_front();
        }
        if self.last.len() > 2 * SERIES_LIMIT {
            self.last.clear();
            self.points.clear();
        }
    }

    fn read(&self, page: &str) -> Result<Reading, BadPage> {
        let mut reading = Reading::default();
        let mut line = 0;
        for sample in samples(page) {
            let sample = sample?;
            line = sample.line;
            self.note(&sample, &mut reading).map_err(|why| BadPage { line, why })?;
        }
        let bounds = reading.0.values().flat_map(|(_, roles)| roles).filter_map(|role| match role {
            Role::Bucket(bound) => Some(*bound),
            _ => None,
        });
        if bounds.collect::<std::collections::BTreeSet<_>>().len() > BOUNDS_LIMIT {
            let why = format!("the histogram has more than {BOUNDS_LIMIT} buckets");
            return Err(BadPage { line, why });
        }
        Ok(reading)
    }

    fn note(&self, sample: &Sample<'_>, reading: &mut Reading) -> Result<(), String> {
        let Sample { name, labels, value, .. } = sample;
        match value {
            Value::Number(number) => {
                self.note_counter(name, labels, *number, reading)?;
                self.note_bucket(name, labels, *number, reading)
            }
            Value::Composite(composite) => {
                if let Some(count) = composite.count {
                    self.note_counter(&format!("{name}_count"), labels, count, reading)?;
                }
                if !self.histogram.as_ref().is_some_and(|histogram| histogram.fits(name, labels)) {
                    return Ok(());
                }
                if let Some(native) = &composite.native {
                    reading.note(id(name, labels), Raw::Native(native.clone()), Role::Native)?;
                }
                for (bound, count) in &composite.buckets {
                    let id = format!("{} le={bound}", id(name, labels));
                    reading.note(id, Raw::Number(*count), Role::Bucket(Bound(*bound)))?;
                }
                Ok(())
            }
        }
    }

    fn note_counter(
        &self,
        name: &str,
        labels: &[Label<'_>],
        number: f64,
        reading: &mut Reading,
    ) -> Result<(), String> {
        let meant = self.counters.iter().filter(|(_, matcher)| matcher.fits(name, labels));
        for (counter, _) in meant {
            reading.note(id(name, labels), Raw::Number(number), Role::Counts(*counter))?;
        }
        Ok(())
    }

    fn note_bucket(
        &self,
        name: &str,
        labels: &[Label<'_>],
        number: f64,
        reading: &mut Reading,
    ) -> Result<(), String> {
        let Some(histogram) = &self.histogram else { return Ok(()) };
        let Some(base) = name.strip_suffix("_bucket").filter(|base| histogram.fits(base, labels)) else {
            return Ok(());
        };
        let bound = labels.iter().find(|(label, _)| label == "le").and_then(|(_, bound)| bound.parse().ok());
        let bound: f64 = bound.ok_or_else(|| format!("a bucket of {base} has no bound `le`"))?;
        reading.note(id(name, labels), Raw::Number(number), Role::Bucket(Bound(bound)))
    }

    /// Forgets what was counted up to now: the app is still starting, and that is forgiven.
    pub fn begin_anew(&mut self) {
        self.points.drain(..self.points.len().saturating_sub(1));
    }

    /// What follows from all that was seen.
    pub fn judge(&self) -> Finding {
        let (Some((begin, before)), Some((end, now))) = (self.points.front(), self.points.back()) else {
            return Finding::Unclear("the page has not been scraped yet".to_owned());
        };
        if self.points.len() < 2 {
            return Finding::Unclear(
                "the page was scraped only once; a second scrape is needed to compare with".to_owned(),
            );
        }
        find(&self.check, &now.since(before), end.saturating_sub(*begin))
    }
}

/// What tells a series from others.
fn id(name: &str, labels: &[Label<'_>]) -> String {
    let mut sorted: Vec<&Label<'_>> = labels.iter().collect();
    sorted.sort();
    let mut id = name.to_owned();
    for (label, value) in sorted {
        id.push_str(&format!(",{label}={value:?}"));
    }
    id
}
