//! The state of following the source: which job uses it at the moment, how far the box got, and when it is asked again.

use holdfast_core::clock::{Moment, Now};
use holdfast_core::held::Held;

use super::fetch_and_render::SharedSource;
use super::progress::Progress;
use super::tags::Tags;
use crate::backoff::Backoff;

/// A job that uses the source. One at a time, each begun with what the loop knew then: what one brings, another that was
/// begun before it would take for something that nobody needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceJob {
    /// Asks for the newest revision, and for what the mirror lacks of it.
    Fetch,
    /// Renders what was accepted, asking for what the mirror lacks of that.
    Render,
    /// Drops what no revision needs any more.
    Collect,
}

/// Following the source.
pub(super) struct Following {
    pub(super) source: SharedSource,
    /// What uses it; begun by [`Following::begin`].
    job: Option<SourceJob>,
    pub(super) progress: Progress,
    pub(super) backoff: Backoff,
    pub(super) tags: Tags,
    /// When what apps lack of the source is asked for again.
    pub(super) render_due: Option<Moment>,
    /// Somebody wants it to be asked now.
    pub(super) poll_asked: bool,
    /// The newest revision can't be read, and may hold an emergency stop.
    pub(super) unread_stop: Option<Held>,
}

impl Following {
    /// Nothing is under way, and the source is asked at once.
    pub(super) fn new(source: SharedSource, progress: Progress, backoff: Backoff) -> Self {
        Following {
            source,
            job: None,
            progress,
            backoff,
            tags: Tags::default(),
            render_due: None,
            poll_asked: true,
            unread_stop: None,
        }
    }

    /// A job uses the source from here on.
    pub(super) fn begin(&mut self, job: SourceJob) {
        self.job = Some(job);
    }

    /// The job that used the source has ended.
    pub(super) fn ended(&mut self) {
        self.job = None;
    }

    /// Whether a job uses the source.
    pub(super) fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    /// Whether it is being found out what the accepted revision means for this box.
    pub(super) fn is_rendering_news(&self) -> bool {
        self.job == Some(SourceJob::Render) && self.progress.is_unread()
    }

    /// Whether the source is to be asked now.
    pub(super) fn is_poll_due(&self, now: &Now) -> bool {
        !self.is_busy() && (self.poll_asked || self.progress.is_due(now))
    }

    /// When it is next used without anybody asking for that, if nothing uses it now.
    pub(super) fn wakes(&self) -> impl Iterator<Item = Moment> + '_ {
        let own = [&self.progress.next_poll, &self.render_due].into_iter().flatten().cloned();
        own.filter(|_| !self.is_busy()).chain(self.tags.next())
    }
}
