//! Work that is under way: how long it takes, and in which order it ends.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use holdfast_core::clock::Now;
use holdfast_core::name::AppName;

use super::runtime::Shared;
use crate::keeper::patience::mark;
use crate::keeper::{Done, Work};

/// All of it. The runtime does a piece of work at one moment, and the agent hears of it at a later one.
#[derive(Default)]
pub(super) struct Pending {
    /// 0: everything is done at once. Else each piece of work takes its own time, which is the same in every run.
    pub(super) pace: u8,
    /// The work of these apps isn't done, but for the next few pieces.
    pub(super) held: BTreeSet<AppName>,
    pub(super) let_through: usize,
    taken_on: u64,
    all: Vec<Piece>,
}

struct Piece {
    what: What,
    app: Option<AppName>,
    /// With which of the things that happened it was begun.
    begun: usize,
    done_at: Duration,
    told_at: Duration,
    number: u64,
    is_let_through: bool,
}

enum What {
    Asked(Work),
    Done(Done),
}

impl Pending {
    pub(super) fn forget(&mut self) {
        self.all.clear();
    }

    /// How many pieces of work are under way for an app.
    pub(super) fn of(&self, app: &AppName) -> usize {
        self.all.iter().filter(|piece| piece.app.as_ref() == Some(app)).count()
    }

    pub(super) fn take_on(&mut self, works: Vec<Work>, begun: usize, now: &Now) {
        for work in works {
            self.taken_on += 1;
            let (pace, number) = (self.pace, self.taken_on);
            // Mostly short, and some very long.
            let lag = |what: u8| {
                let random = mark((pace, number, what));
                let most = [2, 2, 2, 5, 30, 150][(random % 6) as usize];
                Duration::from_secs(if pace == 0 { 0 } else { random / 7 % most })
            };
            let done_at = now.moment.uptime + lag(0);
            let app = work.ticket().app;
            let told_at = done_at + lag(1);
            let is_let_through =
                self.let_through > 0 && app.as_ref().is_some_and(|app| self.held.contains(app));
            self.let_through -= usize::from(is_let_through);
            let what = What::Asked(work);
            self.all.push(Piece { what, app, begun, done_at, told_at, number, is_let_through });
        }
        assert!(self.taken_on < 1_000_000, "it never comes to rest");
        let apps: BTreeSet<_> = self.all.iter().map(|piece| &piece.app).collect();
        assert_eq!(apps.len(), self.all.len(), "two pieces of work for one app at once");
    }

    /// Has the runtime do what is due, and gives what the agent hears of next.
    pub(super) async fn next(&mut self, shared: &Mutex<Shared>, now: &Now) -> Option<Done> {
        let uptime = now.moment.uptime;
        let (held, pace) = (&self.held, self.pace);
        let is_held =
            |piece: &Piece| !piece.is_let_through && piece.app.as_ref().is_some_and(|app| held.contains(app));
        // Neither in the order in which it was asked for.
        self.all.sort_by_key(|piece| if pace == 0 { piece.number } else { mark((pace, piece.number)) });
        let due = self.all.iter().position(|piece| {
            !is_held(piece)
                && match piece.what {
                    What::Asked(_) => piece.done_at <= uptime,
                    What::Done(_) => piece.told_at <= uptime,
                }
        })?;
        let mut piece = self.all.swap_remove(due);
        loop {
            match piece.what {
                What::Done(done) if piece.told_at <= uptime => return Some(done),
                What::Done(_) => {
                    self.all.push(piece);
                    return Box::pin(self.next(shared, now)).await;
                }
                What::Asked(work) => {
                    shared.lock().unwrap().begun = piece.begun;
                    piece.what = What::Done(work.run().await);
                }
            }
        }
    }
}
