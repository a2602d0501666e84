//! What the daemon reports: answers to requests, the audit log, and to the service manager.

use holdfast_core::clock::Now;
use holdfast_core::digest::Revision;
use holdfast_core::name::AppName;
use holdfast_core::report::{PlanReport, Status};
use holdfast_store::records::Revisions;
use tokio::sync::oneshot;

use super::journal::lock;
use super::{Daemon, Event, runtimes, status};
use crate::api::Request;
use crate::keeper::{Answered, Journal, JournalError, Note, Scope};

/// Where a plan is waited for.
pub(super) type PlanReply = oneshot::Sender<Result<PlanReport, String>>;

/// Why there is no diagnosis of an app.
pub(super) fn nothing_kept(app: &AppName) -> String {
    format!("there is no diagnosis of {app}: none of its releases has failed on this box")
}

impl Daemon {
    pub(super) fn answer(&mut self, request: Request, now: &Now) {
        self.untrimmed = true;
        // A client that went away meanwhile is no error.
        match request {
            Request::Status(reply) => {
                let (mut status, drivers) =
                    (self.status(), self.keeper.drivers().values().cloned().collect());
                let known = self.runtimes.clone();
                tokio::spawn(async move {
                    status.runtimes = known.ask(drivers, runtimes::LIMIT).await;
                    let _ = reply.send(status);
                });
            }
            Request::Plan(reply) => {
                let (asking, jobs) = (self.keeper.ask_for_plan(now), self.jobs.clone());
                tokio::spawn(async move {
                    let answered = asking.run().await;
                    let _ = jobs.send(Event::Planned(reply, answered)).await;
                });
            }
            Request::Events { since, limit, reply } => {
                let events = lock(&self.store).audit().after(since, limit);
                let _ = reply.send(events.map_err(|error| error.to_string()));
            }
            Request::Seal(reply) => {
                let _ = reply.send(lock(&self.store).seal());
            }
            Request::Diagnosis(app, reply) => {
                let kept = self.keeper.journal().diagnosis(&app);
                let _ = reply.send(kept.ok_or_else(|| nothing_kept(&app)));
            }
            Request::Retry { app, who, reply } => {
                let result = self.keeper.retry(&app, &who, now);
                let answer = match &result {
                    Ok(answer) => answer.clone(),
                    Err(error) => Err(error.to_string()),
                };
                self.widen(Scope::All);
                self.note_trouble(result.map(drop), now);
                let _ = reply.send(answer);
            }
            Request::Poll(reply) => {
                self.follow.poll_asked = true;
                let _ = reply.send(());
            }
        }
    }

    /// The runtimes have told what there is: that is planned from.
    pub(super) fn planned(&self, reply: PlanReply, answered: Answered, now: &Now) {
        let plan = self.keeper.plan_to_target(answered, now);
        let (held, orphans) = (self.status().held, self.keeper.orphans(now));
        let _ = reply.send(Ok(status::plan_report(&plan, &self.follow.progress, held, orphans)));
    }

    pub(super) fn status(&self) -> Status {
        let mut status = status::status(&self.config, &self.keeper, &self.follow.progress, &self.clock.now());
        status.downloads = self.allowance.standing();
        if let Some(held) = self.held_by_disk() {
            status.converged = false;
            status.held.push(held);
        }
        status
    }

    pub(super) fn note(&mut self, kind: &'static str, revision: Option<&Revision>, message: &str, now: &Now) {
        let revision = revision.map(|revision| revision.0.clone());
        self.keeper.journal().note(Note { kind, app: None, revision, message: message.to_owned() }, now);
    }

    /// Returns once all that happened is on disk, and how far the source was followed.
    pub(super) fn commit(&mut self) -> Result<(), JournalError> {
        let revisions = Revisions {
            fetched: self.follow.progress.fetched.clone(),
            accepted: self.follow.progress.accepted.as_ref().map(|floor| floor.revision.clone()),
            applied: self.follow.progress.applied.clone(),
        };
        let kept = lock(&self.store).set_revisions(&revisions);
        if let Err(error) = kept {
            tracing::warn!(%error, "the database can't keep a copy of how far the source was followed");
        }
        self.keeper.commit()
    }

    /// Writes down how far it came, and tells whoever follows.
    pub(super) fn publish(&mut self) {
        // That a revision was accepted goes to the disk together with what it turns out to mean for this box, which mostly is
        // nothing: nothing is done for it before. Whoever follows the events is told of it after that as well: after a crash
        // another event might have its place.
        let finds_out = self.follow.is_rendering_news() || self.keeper.is_searching();
        if !(finds_out && self.keeper.is_committed()) {
            if self.disk.trouble.is_none() {
                let committed = self.commit();
                self.note_trouble(committed, &self.clock.now());
            }
            let newest = lock(&self.store).audit().head().map_or(0, |head| head.seq);
            self.newest_event.send_if_modified(|seq| std::mem::replace(seq, newest) != newest);
        }
        let apps = self.keeper.apps();
        let good = apps.values().filter(|app| app.converged()).count();
        let line = format!("{good} of {} apps are good", apps.len());
        if self.told != line {
            self.notifier.status(&line);
            self.told = line;
        }
    }
}
