//! A workload's share of the processor, and the clock by which a guest is interrupted.
//!
//! The engine looks at a counter, the epoch, at each loop and call of the guest. A thread moves it on every
//! ten milliseconds, but only while guest code runs: an idle workload wakes nobody. Each time the epoch has
//! moved, the guest lets others run, and when the process has used up its share, it waits.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use wasmtime::{Engine, Store, UpdateDeadline};

/// How often a running guest is interrupted.
const TICK: Duration = Duration::from_millis(10);
/// How much of its share an idle workload saves up.
const BURST: Duration = Duration::from_millis(200);
/// A guest never waits longer at once, so that it can be told to stop.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The share, as a bucket that fills with time and empties with the process's use of the processor.
struct Bucket {
    /// Processor seconds for each second.
    rate: f64,
    credit: f64,
    seen_at: Instant,
    seen_used: Duration,
}

impl Bucket {
    fn new(millis: u32) -> Self {
        let rate = f64::from(millis.max(1)) / 1000.0;
        Bucket { rate, credit: rate * BURST.as_secs_f64(), seen_at: Instant::now(), seen_used: used() }
    }

    /// How long the workload must wait until it may run again.
    fn pause(&mut self, now: Instant, used: Duration) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.seen_at).as_secs_f64();
        let spent = used.saturating_sub(self.seen_used).as_secs_f64();
        self.seen_at = now;
        self.seen_used = used;
        self.credit = (self.credit + passed * self.rate).min(self.rate * BURST.as_secs_f64()) - spent;
        (self.credit < 0.0)
            .then(|| Duration::from_secs_f64(-self.credit / self.rate).clamp(TICK / 10, LONGEST_PAUSE))
    }
}

/// Processor time of the whole process. A kernel without that clock would have no limit to enforce.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

struct Ticker {
    running: AtomicUsize,
    ran: AtomicBool,
    parked: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Ticker {
    /// Sleeps while no guest runs, else moves the epoch.
    fn tick(&self, engine: &Engine) {
        thread::sleep(TICK);
        engine.increment_epoch();
        let idle = || self.running.load(Ordering::SeqCst) == 0 && !self.ran.load(Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) == 0 && !self.ran.swap(false, Ordering::SeqCst) {
            self.parked.store(true, Ordering::SeqCst);
            while idle() && self.parked.load(Ordering::SeqCst) {
                thread::park();
            }
            self.parked.store(false, Ordering::SeqCst);
        }
    }

    fn enter(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.ran.store(true, Ordering::SeqCst);
        if self.parked.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            thread.unpark();
        }
    }

    fn leave(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The processor as a workload's guests see it.
pub(in super::super) struct Cpu {
    ticker: Arc<Ticker>,
    bucket: Option<Mutex<Bucket>>,
}

impl Cpu {
    /// Starts the clock. `millis` are thousandths of a core; `None` is no limit.
    pub(in super::super) fn start(engine: &Engine, millis: Option<u32>) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Ticker {
            running: AtomicUsize::new(0),
            ran: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let (engine, clock) = (engine.clone(), Arc::clone(&ticker));
        thread::Builder::new().name("epoch".into()).stack_size(64 << 10).spawn(move || {
            *clock.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
            loop {
                clock.tick(&engine);
            }
        })?;
        Ok(Arc::new(Cpu { ticker, bucket: millis.map(|millis| Mutex::new(Bucket::new(millis))) }))
    }

    fn pause(&self) -> Option<Duration> {
        let mut bucket = self.bucket.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.pause(Instant::now(), used())
    }

    /// Waits until the workload has some of its share left.
    pub(in super::super) async fn admit(&self) {
        while let Some(pause) = self.pause() {
            tokio::time::sleep(pause).await;
        }
    }

    /// Has the guest of `store` interrupted by this clock.
    pub(in super::super) fn govern<T: Send + 'static>(self: &Arc<Self>, store: &mut Store<T>) {
        let cpu = Arc::clone(self);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            let pause = cpu.pause();
            Ok(UpdateDeadline::YieldCustom(
                1,
                Box::pin(async move {
                    match pause {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => tokio::task::yield_now().await,
                    }
                }),
            ))
        });
    }

    /// Runs `guest`, with the clock going whenever it does.
    pub(in super::super) fn run<F: Future>(&self, guest: F) -> Governed<F> {
        Governed { ticker: Arc::clone(&self.ticker), guest: Box::pin(guest) }
    }
}

/// See [`Cpu::run`].
pub(in super::super) struct Governed<F> {
    ticker: Arc<Ticker>,
    guest: Pin<Box<F>>,
}

impl<F: Future> Future for Governed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        /// Leaves even if the guest's host functions panic.
        struct Leave<'a>(&'a Ticker);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.leave();
            }
        }
        let ticker = Arc::clone(&self.ticker);
        ticker.enter();
        let _leave = Leave(&ticker);
        self.guest.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_that_used_its_share_waits_as_long_as_the_share_takes_to_come_back() {
        let start = Instant::now();
        let mut bucket = Bucket { rate: 0.5, credit: 0.0, seen_at: start, seen_used: Duration::ZERO };
        // 100 ms passed and gave 50 ms; 80 ms were used: 30 ms are owed, at half a core that's 60 ms.
        let pause = bucket.pause(start + Duration::from_millis(100), Duration::from_millis(80));
        assert!(pause.is_some_and(|pause| pause.as_millis().abs_diff(60) <= 1), "{pause:?}");
        assert_eq!(bucket.pause(start + Duration::from_millis(161), Duration::from_millis(80)), None);
    }

    #[test]
    fn an_hour_of_rest_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let mut bucket = Bucket { rate: 1.0, credit: 0.0, seen_at: start, seen_used: Duration::ZERO };
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.pause(later, Duration::ZERO), None);
        assert!(bucket.pause(later, BURST + Duration::from_millis(50)).is_some());
    }
}
