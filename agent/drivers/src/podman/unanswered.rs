//! Requests that podman took and hasn't answered, though nobody waits for them any more. podman goes on with a request whose
//! connection was closed: it takes the same locks and the same processor, and on a slow or busy box each further try makes
//! all of them slower, until none is answered in time (seen: for 20 minutes, until the load was gone).
//!
//! So such a request is kept until its answer comes. While it is open the same one isn't sent again, and while there are
//! many of them nothing is sent at all. A podman that hangs answers once it is restarted: that closes all connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::client::ApiError;

/// So many may be open. A box has no more containers that matter at once, and a podman that is merely slow answers that many
/// within a minute.
const LIMIT: usize = 16;

/// All requests that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sent: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    what: String,
    /// All of it: the same for another container is another one.
    request: String,
    since: Instant,
    is_given_up: bool,
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
        tokio::spawn(async move {
            let result = work.await;
            drop(asking);
            let _ = sender.send(result);
        });
        let result = tokio::time::timeout(limit, answer).await;
        let silent = || ApiError::Silent { what: what.to_owned(), limit };
        // Without an answer the runtime is ending.
        let result = result.map_err(|_| silent())?.unwrap_or_else(|_| Err(silent()));
        drop(waiting);
        result
    }

    fn begin(&self, what: &str, request: &str) -> Result<(Waiting, Asking), ApiError> {
        let mut state = self.locked();
        let given_up = || state.open.values().filter(|open| open.is_given_up);
        let same = given_up().find(|open| open.request == request);
        if let Some(open) =
            same.or_else(|| given_up().min_by_key(|open| open.since).filter(|_| given_up().count() >= LIMIT))
        {
            return Err(ApiError::Busy {
                what: what.to_owned(),
                before: open.what.clone(),
                count: given_up().count(),
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
            },
        );
        drop(state);
        Ok((Waiting { all: self.clone(), number }, Asking { all: self.clone(), number }))
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
    async fn what_is_answered_in_time_leaves_nothing() {
        let podman = Slow::new();
        podman.answers.send_replace(true);
        for _ in 0..100 {
            podman.ask("GET /a").await.unwrap();
        }
        assert_eq!((podman.asked(), podman.open()), (100, 0));
    }
}
