//! Requests that podman took and hasn't answered, though nobody waits for them any more. podman goes on with a request whose
//! connection was closed: it takes the same locks and the same processor, and on a slow or busy box each further try makes
//! all of them slower, until none is answered in time (seen: for 20 minutes, until the load was gone).
//!
//! So such a request is kept until its answer comes. While it is open the same one isn't sent again, and while there are
//! many of them and podman answers nothing else, nothing is sent at all. What has no answer after a long time will hardly have
//! one, as of a container whose storage hangs: it is given up for good and may be asked for again, so that one request that
//! hangs holds up nothing for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::client::ApiError;

/// So many may be open. A box has no more containers that matter at once, and a podman that is merely slow answers that many
/// within a minute.
const LIMIT: usize = 16;
/// And so many in any case.
const MOST: usize = 64;
/// After so long a request counts as one that hangs: a podman that is only slow has answered it by then.
const HANGS: Duration = Duration::from_secs(10 * 60);

/// All requests that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sent: u64,
    /// When podman last answered something.
    answered: Option<Instant>,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    what: String,
    /// All of it: the same for another container is another one.
    request: String,
    since: Instant,
    is_given_up: bool,
    task: Option<AbortHandle>,
}

/// A request that is under way, as whoever waits for it has it: given up when it is dropped.
struct Waiting {
    all: Unanswered,
    number: u64,
}

/// The same, as whoever asks has it: at its end when it is dropped.
struct Asking {
    all: Unanswered,
    number: u64,
}

impl Unanswered {
    /// Does `work`, which is the request `what`, as people and as podman are told of it, and waits for it no longer than
    /// `limit`; the work itself goes on until it has ended.
    ///
    /// # Errors
    /// [`ApiError::Busy`] where it isn't begun, [`ApiError::Silent`] where it doesn't end in time, and its own.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        (what, request): (&str, &str),
        limit: Duration,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (waiting, asking) = self.begin(what, request)?;
        let (sender, answer) = oneshot::channel();
        let number = asking.number;
        let task = tokio::spawn(async move {
            let result = work.await;
            asking.all.locked().answered = Some(Instant::now());
            drop(asking);
            let _ = sender.send(result);
        });
        if let Some(open) = self.locked().open.get_mut(&number) {
            open.task = Some(task.abort_handle());
        }
        let result = tokio::time::timeout(limit, answer).await;
        let silent = || ApiError::Silent { what: what.to_owned(), limit };
        // Without an answer the runtime is ending.
        let result = result.map_err(|_| silent())?.unwrap_or_else(|_| Err(silent()));
        drop(waiting);
        result
    }

    fn begin(&self, what: &str, request: &str) -> Result<(Waiting, Asking), ApiError> {
        self.forget_what_hangs();
        let mut state = self.locked();
        let given_up = || state.open.values().filter(|open| open.is_given_up);
        let same = given_up().find(|open| open.request == request);
        let (count, oldest) = (given_up().count(), given_up().min_by_key(|open| open.since));
        let answers_others = oldest.is_some_and(|open| state.answered.is_some_and(|at| at > open.since));
        let is_full = count >= if answers_others { MOST } else { LIMIT };
        if let Some(open) = same.or_else(|| oldest.filter(|_| is_full)) {
            return Err(ApiError::Busy {
                what: what.to_owned(),
                before: open.what.clone(),
                count,
                since: open.since.elapsed(),
            });
        }
        state.sent += 1;
        let number = state.sent;
        state.open.insert(
            number,
            Open {
                what: what.to_owned(),
                request: request.to_owned(),
                since: Instant::now(),
                is_given_up: false,
                task: None,
            },
        );
        drop(state);
        Ok((Waiting { all: self.clone(), number }, Asking { all: self.clone(), number }))
    }

    fn forget_what_hangs(&self) {
        let mut state = self.locked();
        let hangs = |open: &Open| open.is_given_up && open.since.elapsed() >= HANGS;
        let tasks: Vec<_> =
            state.open.values().filter(|open| hangs(open)).filter_map(|open| open.task.clone()).collect();
        state.open.retain(|_, open| !hangs(open));
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(open) = self.all.locked().open.get_mut(&self.number) {
            open.is_given_up = true;
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.all.locked().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::watch;

    use super::*;

    /// A podman that answers nothing until it is told to.
    struct Slow {
        all: Unanswered,
        asked: Arc<AtomicUsize>,
        answers: watch::Sender<bool>,
    }

    impl Slow {
        fn new() -> Self {
            Slow { all: Unanswered::default(), asked: Arc::default(), answers: watch::Sender::new(false) }
        }

        async fn ask(&self, what: &str) -> Result<(), ApiError> {
            let (asked, mut answers) = (Arc::clone(&self.asked), self.answers.subscribe());
            let work = async move {
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = answers.wait_for(|answers| *answers).await;
                Ok(())
            };
            self.all.ask((what, what), Duration::from_secs(10), work).await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn open(&self) -> usize {
            self.all.locked().open.len()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_answered_is_not_asked_again_until_it_is() {
        let podman = Slow::new();
        assert!(matches!(podman.ask("GET /a").await, Err(ApiError::Silent { .. })));
        for _ in 0..20 {
            let busy = podman.ask("GET /a").await.unwrap_err().to_string();
            assert!(busy.contains("GET /a") && busy.contains("has not answered"), "{busy}");
        }
        assert_eq!(podman.asked(), 1);
        assert!(matches!(podman.ask("GET /b").await, Err(ApiError::Silent { .. })), "others are asked");
        podman.answers.send_replace(true);
        podman.ask("GET /c").await.unwrap();
        tokio::task::yield_now().await;
        podman.ask("GET /a").await.unwrap();
        assert_eq!(podman.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_podman_that_answers_nothing_is_asked_a_few_things_and_no_more() {
        let podman = Slow::new();
        for number in 0..40 {
            podman.ask(&format!("GET /{number}")).await.unwrap_err();
        }
        assert_eq!((podman.asked(), podman.open()), (LIMIT, LIMIT));
        podman.answers.send_replace(true);
        tokio::time::sleep(Duration::from_secs(1)).await;
        podman.ask("GET /more").await.unwrap();
        assert_eq!(podman.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_early_counts_as_well_and_several_may_wait_for_the_same() {
        let podman = Slow::new();
        let both = tokio::join!(podman.ask("GET /a"), podman.ask("GET /a"));
        assert!(matches!(both, (Err(ApiError::Silent { .. }), Err(ApiError::Silent { .. }))));
        assert_eq!(podman.asked(), 2, "that one of them would be in vain was not known");
        let early = tokio::time::timeout(Duration::from_secs(1), podman.ask("GET /b")).await;
        assert!(early.is_err());
        assert!(matches!(podman.ask("GET /b").await, Err(ApiError::Busy { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_asked_for_again_after_a_long_time_and_holds_up_nothing_else() {
        let podman = Slow::new();
        for number in 0..LIMIT + 4 {
            // Between them podman answers others.
            podman.ask(&format!("GET /{number}")).await.unwrap_err();
            let answered = podman.all.ask(("GET /well", "GET /well"), HANGS, async { Ok(()) }).await;
            assert!(answered.is_ok(), "{number}");
        }
        assert!(matches!(podman.ask("GET /0").await, Err(ApiError::Busy { .. })));
        tokio::time::sleep(HANGS).await;
        assert!(matches!(podman.ask("GET /0").await, Err(ApiError::Silent { .. })), "it is asked again");
        assert_eq!(podman.open(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_answered_in_time_leaves_nothing() {
        let podman = Slow::new();
        podman.answers.send_replace(true);
        for _ in 0..100 {
            podman.ask("GET /a").await.unwrap();
        }
        assert_eq!((podman.asked(), podman.open()), (100, 0));
    }
}
