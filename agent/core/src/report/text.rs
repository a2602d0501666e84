//! Reports for people: what a technician in front of the box can read in ten seconds. What is wrong comes
//! first, each with its cause, the next attempt, and what may be done. Pure: the time comes in.
//!
//! Messages may quote documents, servers and workloads, so control characters (a terminal's escapes among
//! them) are never printed.

use std::fmt::Write;

use jiff::Timestamp;

use super::{AppStatus, ClockStatus, DownloadStatus, PlanReport, Status};
use crate::diagnosis::{Diagnosis, LookRecord};
use crate::digest::{ReleaseId, Revision};
use crate::event::Event;
use crate::event::segment::Segment;
use crate::held::Held;
use crate::network::Size;
use crate::plan::Orphan;
use crate::runtime::Fingerprint;

/// How many characters of an id are shown.
const SHORT: usize = 12;

/// The limits of downloads in words.
fn of_downloads(downloads: &DownloadStatus, now: Timestamp) -> String {
    let rate = downloads.rate.map(|rate| format!("at most {} a second", Size(rate)));
    let budget = downloads.budget.as_ref().map(|budget| {
        let (used, bytes, per) = (Size(budget.used), Size(budget.bytes), budget.per.word());
        format!("{used} of {bytes} used this {per}; the next period begins {}", relative(budget.next, now))
    });
    let urgent = downloads.urgent.then(|| "limits are suspended: the revision is urgent".to_owned());
    [budget, rate, urgent].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

impl Status {
    /// The status as text, as seen at `now`.
    pub fn render(&self, now: Timestamp) -> String {
        let mut out = String::new();
        let ill: Vec<&str> = self.ill().map(|app| app.name.as_str()).collect();
        let state = match (self.converged, ill.as_slice()) {
            (true, []) => "converged".to_owned(),
            (true, ill) => format!("converged, but NOT HEALTHY: {}", ill.join(", ")),
            (false, _) => "NOT CONVERGED".to_owned(),
        };
        line(
            &mut out,
            &format!("{}: {state}   (holdfast {}, trust {})", self.device, self.agent, self.trust),
        );
        if !self.running {
            let words = "NOT RUNNING: the agent does not answer. Workloads keep running, but nothing supervises \
                         them and no change is applied (see: systemctl status holdfast)";
            line(&mut out, words);
        }
        if self.trust == "none" {
            line(
                &mut out,
                "UNSIGNED: trust is \"none\": this box applies every revision of its source, without checking a \
                 signature",
            );
        }
        if let Some(ClockStatus { doubt, unblock, .. }) = &self.clock {
            line(
                &mut out,
                &format!(
                    "CLOCK: {doubt}; until it is trusted, windows count as closed and grace times do not advance"
                ),
            );
            line(&mut out, &format!("    to unblock: {unblock}"));
        }
        for (what, held) in self.all_held() {
            render_held(&mut out, &what, held, now);
        }
        self.render_apps(&mut out, now);
        render_orphans(&mut out, &self.orphans, now);
        self.render_source(&mut out, now);
        out
    }

    /// The apps that are unhealthy, whatever the box is otherwise.
    pub fn ill(&self) -> impl Iterator<Item = &AppStatus> {
        self.apps.iter().filter(|app| app.health == "Unhealthy")
    }

    fn all_held(&self) -> impl Iterator<Item = (String, &Held)> {
        let whole = self.held.iter().map(|held| ("HELD".to_owned(), held));
        let apps =
            self.apps.iter().filter_map(|app| Some((format!("HELD {}", app.name), app.held.as_ref()?)));
        whole.chain(apps)
    }

    fn render_apps(&self, out: &mut String, now: Timestamp) {
        out.push('\n');
        if self.apps.is_empty() {
            line(out, "No app is placed on this box.");
            return;
        }
        let header = ["APP", "PHASE", "HEALTH", "DRIVER", "RELEASE", "LAST GOOD", "REVISION", "SINCE"];
        let rows = self.apps.iter().map(|app| app_row(app, now)).collect::<Vec<_>>();
        table(out, &header, &rows);
        for app in self.apps.iter().filter(|app| app.health != "Healthy" && app.held.is_none()) {
            if let Some(reason) = &app.reason {
                line(out, &format!("{}: {reason}", app.name));
            }
        }
    }

    fn render_runtimes(&self, out: &mut String) {
        let usable: Vec<String> =
            self.runtimes.iter().filter(|found| found.usable).map(Fingerprint::title).collect();
        if !usable.is_empty() {
            line(out, &format!("runtimes  {}", usable.join(", ")));
        }
        for found in self.runtimes.iter().filter(|found| !found.usable) {
            line(out, &format!("runtime   {} CAN'T BE USED: {}", found.driver, found.detail));
        }
    }

    fn render_source(&self, out: &mut String, now: Timestamp) {
        let source = &self.source;
        out.push('\n');
        line(out, &format!("source    {}", source.url));
        let last = source.last_poll.map_or("never".to_owned(), |time| relative(time, now));
        let next = match source.next_poll {
            _ if !self.running => "once the agent is running".to_owned(),
            next => next.map_or("only on request".to_owned(), |time| relative(time, now)),
        };
        line(out, &format!("polled    {last}; next {next}"));
        if let Some(error) = &source.error {
            line(out, &format!("problem   {error}"));
        }
        if let Some(downloads) = &self.downloads {
            line(out, &format!("downloads {}", of_downloads(downloads, now)));
        }
        self.render_runtimes(out);
        let revision = &self.revision;
        for (label, id) in
            [("fetched", &revision.fetched), ("accepted", &revision.accepted), ("applied", &revision.applied)]
        {
            line(out, &format!("{label:<9} {}", id.as_ref().map_or("-", |id| id.0.as_str())));
            if let Some(change) = self.change.as_ref().filter(|_| label == "accepted") {
                let by = change
                    .signer
                    .as_ref()
                    .map_or("no trusted signer".to_owned(), |by| format!("signed by {by}"));
                line(out, &format!("          {:?} by {:?}, {by}", change.subject, change.author));
            }
        }
    }
}

impl PlanReport {
    /// The plan as text, as seen at `now`.
    pub fn render(&self, now: Timestamp) -> String {
        let mut out = String::new();
        for held in &self.held {
            let what = held.app.as_ref().map_or("HELD".to_owned(), |app| format!("HELD {app}"));
            render_held(&mut out, &what, &held.held, now);
        }
        render_orphans(&mut out, &self.orphans, now);
        if self.steps.is_empty() {
            let nothing = match self.held.is_empty() {
                true => "Nothing to do: the box matches the desired state.",
                false => "Nothing to do, except for what is held (see above).",
            };
            line(&mut out, nothing);
            return out;
        }
        if let Some(revision) = &self.revision {
            line(&mut out, &format!("Steps to reach revision {revision}:"));
        }
        let rows: Vec<_> = self
            .steps
            .iter()
            .map(|step| {
                let action = format!("{:?}", step.action).to_lowercase();
                [
                    step.app.to_string(),
                    step.driver.to_string(),
                    action,
                    step.object.to_string(),
                    step.reason.clone(),
                ]
            })
            .collect();
        table(&mut out, &["APP", "DRIVER", "ACTION", "OBJECT", "WHY"], &rows);
        out
    }
}

impl Diagnosis {
    /// The diagnosis as text, as seen at `now`.
    pub fn render(&self, now: Timestamp) -> String {
        let mut out = String::new();
        line(&mut out, &format!("{} failed {}: {}", self.app, relative(self.time, now), self.reason));
        line(&mut out, &format!("release   {} on {}", self.release, self.driver));
        line(&mut out, &format!("revision  {}", self.revision));
        let looks: Vec<String> = self.looks.iter().map(LookRecord::render).collect();
        let objects: Vec<String> = self.objects.iter().map(|(key, seen)| format!("{key}: {seen}")).collect();
        let logs = match &self.no_logs {
            Some(why) => vec![format!("no log is available: {why}")],
            None => self.logs.clone(),
        };
        for (title, lines) in
            [("LOOKS", looks), ("OBJECTS", objects), ("LOG", logs), ("EVENTS", self.events.clone())]
        {
            out.push('\n');
            line(&mut out, title);
            for text in &lines {
                line(&mut out, &format!("  {text}"));
            }
        }
        out
    }
}

impl LookRecord {
    fn render(&self) -> String {
        let mut text = format!("{:.0}  {}", self.time, self.health);
        if self.times > 1 {
            let _ = write!(text, " ({} times)", self.times);
        }
        if let Some(reason) = &self.reason {
            let _ = write!(text, ": {reason}");
        }
        if let Some(restarts) = self.restarts.filter(|restarts| *restarts > 0) {
            let _ = write!(text, " (restarted {restarts} times)");
        }
        text
    }
}

impl Event {
    /// The event as one line, without its place in the chain.
    pub fn render(&self) -> String {
        let app = self.app.as_ref().map_or(String::new(), |app| format!(" {app}:"));
        let revision =
            self.revision.as_ref().map_or(String::new(), |id| format!(" ({})", short_revision(id)));
        printable(&format!("{:.0}  {:<18}{app} {}{revision}", self.time, self.kind, self.message))
    }
}

impl Segment {
    /// The segment as one line.
    pub fn render(&self) -> String {
        let Segment { first, last, count, from, to, end, gaps, .. } = self;
        let broken = if *gaps == 0 { "" } else { ", BROKEN when it was sealed" };
        format!("sealed: events {first} to {last} ({count}), {from:.0} to {to:.0}, ending in {end}{broken}")
    }
}

fn render_orphans(out: &mut String, orphans: &[Orphan], now: Timestamp) {
    for orphan in orphans {
        let goes = match (&orphan.purge, orphan.goes) {
            (Some(purge), Some(goes)) if goes > now => {
                format!("purges/{purge}.yaml removes it {}", relative(goes, now))
            }
            (Some(purge), _) => format!("purges/{purge}.yaml removes it as soon as changes are allowed"),
            _ => "it is kept until a Purge document names it".to_owned(),
        };
        let since = relative(orphan.since, now);
        let Orphan { object, app, .. } = orphan;
        line(out, &format!("ORPHAN {object} of {app} holds data and was orphaned {since}; {goes}"));
    }
}

fn render_held(out: &mut String, what: &str, held: &Held, now: Timestamp) {
    line(out, &format!("{what}: {}", held.cause));
    let next = held.next.map_or("not before something changes (see below)".to_owned(), |time| {
        format!("tries again {}", relative(time, now))
    });
    line(out, &format!("    next: {next}"));
    line(out, &format!("    to unblock: {}", held.unblock));
}

fn app_row(app: &AppStatus, now: Timestamp) -> [String; 8] {
    [
        app.name.to_string(),
        app.phase.clone(),
        app.health.clone(),
        app.driver.map_or("-".to_owned(), |driver| driver.to_string()),
        release(app.release),
        if app.good == app.release && app.good.is_some() { "the same".to_owned() } else { release(app.good) },
        app.revision.as_ref().map_or("-".to_owned(), short_revision),
        app.since.map_or("-".to_owned(), |time| relative(time, now)),
    ]
}

fn release(id: Option<ReleaseId>) -> String {
    id.map_or("-".to_owned(), |id| id.0.to_hex().chars().take(SHORT).collect())
}

fn short_revision(revision: &Revision) -> String {
    revision.0.trim_start_matches("sha256:").chars().take(SHORT).collect()
}

/// "3 min ago", "in 5 s": two boxes with wrong clocks are compared by nobody, so this is what helps.
pub fn relative(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - time.as_second();
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{} ago", amount(seconds.unsigned_abs())),
        _ => format!("in {}", amount(seconds.unsigned_abs())),
    }
}

fn amount(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Columns as wide as they must be; the last one is free.
fn table<const N: usize>(out: &mut String, header: &[&str; N], rows: &[[String; N]]) {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let header = header.map(str::to_owned);
    for row in std::iter::once(&header).chain(rows) {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String can't fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        line(out, text.trim_end());
    }
}

/// One line, without anything that a terminal would obey.
fn line(out: &mut String, text: &str) {
    out.push_str(&printable(text));
    out.push('\n');
}

/// The text with its control characters made visible, and line breaks as spaces.
pub fn printable(text: &str) -> String {
    let safe = |c: char| {
        // Controls, and the marks that turn the direction of writing around.
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\n' | '\r' | '\t' => ' ',
            _ if hidden => '\u{fffd}',
            _ => c,
        }
    };
    text.chars().map(safe).collect()
}
