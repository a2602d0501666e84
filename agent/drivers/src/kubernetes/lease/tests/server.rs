//! A server that keeps a Lease, at the end of a line that delays, drops and fails; and a process that may be halted.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::super::{LeaseStore, Refused};
use super::*;

/// The Lease and its version.
#[derive(Default)]
pub(super) struct Server {
    lease: Mutex<(u64, Option<Value>)>,
}

impl Server {
    pub(super) fn lease(&self) -> Option<Value> {
        self.lease.lock().unwrap().1.clone()
    }

    pub(super) fn delete(&self) {
        self.lease.lock().unwrap().1 = None;
    }

    fn create(&self, new: Value) -> Result<Record, Refused> {
        let mut kept = self.lease.lock().unwrap();
        if kept.1.is_some() {
            return Err(Refused::Conflict);
        }
        Ok(keep(&mut kept, new))
    }

    fn replace(&self, new: Value) -> Result<Record, Refused> {
        let mut kept = self.lease.lock().unwrap();
        let version = |lease: &Value| lease.pointer("/metadata/resourceVersion").cloned();
        match &kept.1 {
            Some(lease) if version(lease) == version(&new) => Ok(keep(&mut kept, new)),
            _ => Err(Refused::Conflict),
        }
    }
}

fn keep(kept: &mut (u64, Option<Value>), mut new: Value) -> Record {
    kept.0 += 1;
    new["metadata"]["resourceVersion"] = json!(kept.0.to_string());
    kept.1 = Some(new.clone());
    Record::read(new)
}

/// How bad a line is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// The longest delay of a request or an answer, in milliseconds.
    pub(super) delay: u64,
    /// Of 100 requests, how many get no answer, though they may be done.
    pub(super) lost: u64,
    /// Of 100 requests, how many fail, before or after they were done.
    pub(super) failed: u64,
    /// Of 100 delays, how many are of up to half a minute.
    pub(super) stuck: u64,
}

impl Weather {
    pub(super) const CALM: Weather = Weather { delay: 300, lost: 0, failed: 0, stuck: 0 };
}

/// One candidate's line to the server.
pub(super) struct Line {
    pub(super) server: Arc<Server>,
    pub(super) weather: Mutex<Weather>,
    pub(super) chance: Mutex<u64>,
}

impl Line {
    pub(super) fn new(server: &Arc<Server>, weather: Weather, seed: u64) -> Arc<Self> {
        let (weather, chance) = (Mutex::new(weather), Mutex::new(seed | 1));
        Arc::new(Line { server: Arc::clone(server), weather, chance })
    }

    /// A number below `end`, the same ones for the same seed (xorshift64).
    fn roll(&self, end: u64) -> u64 {
        let mut state = self.chance.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 8) % end.max(1)
    }

    fn delay(&self) -> Duration {
        let weather = *self.weather.lock().unwrap();
        let most = if self.roll(100) < weather.stuck { 30_000 } else { weather.delay };
        Duration::from_millis(self.roll(most + 1))
    }

    /// Sends a request. It is on its way by itself: whoever waits for the answer may go away.
    async fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Server) -> T + Send + 'static,
        failure: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let weather = *self.weather.lock().unwrap();
        let (there, back) = (self.delay(), self.delay());
        let (is_lost, fails) = (self.roll(100) < weather.lost, self.roll(100) < weather.failed);
        let is_done = !(is_lost || fails) || self.roll(2) == 0;
        let server = Arc::clone(&self.server);
        let (reply, answer) = oneshot::channel();
        tokio::spawn(async move {
            sleep(there).await;
            let made = is_done.then(|| work(&server));
            sleep(back).await;
            if is_lost {
                std::future::pending::<()>().await;
            }
            let made = made.filter(|_| !fails);
            let _ = reply.send(made.unwrap_or_else(failure));
        });
        answer.await.unwrap()
    }
}

#[async_trait]
impl LeaseStore for Line {
    async fn get(&self) -> Result<Option<Record>, String> {
        self.send(|server| Ok(server.lease().map(Record::read)), || Err("503".to_owned())).await
    }

    async fn create(&self, record: &Record) -> Result<Record, Refused> {
        let lease = record.lease("holdfast-system", "shop");
        self.send(move |server| server.create(lease), || Err(Refused::Failed("503".to_owned()))).await
    }

    async fn replace(&self, record: &Record) -> Result<Record, Refused> {
        let lease = record.lease("holdfast-system", "shop");
        self.send(move |server| server.replace(lease), || Err(Refused::Failed("503".to_owned()))).await
    }
}

/// Runs `work` as a process that is halted and goes on: at each of these times, for so long. Clocks go on meanwhile.
pub(super) async fn halted<F: Future<Output = ()>>(work: F, halts: Vec<(Duration, Duration)>) {
    let start = Instant::now();
    let mut work = pin!(work);
    let mut waker: Option<Pin<Box<tokio::time::Sleep>>> = None;
    poll_fn(|context| {
        let now = start.elapsed();
        let until = halts
            .iter()
            .filter(|(at, length)| *at <= now && now < *at + *length)
            .map(|(at, length)| *at + *length);
        if let Some(until) = until.max() {
            let mut nap = Box::pin(tokio::time::sleep_until(start + until));
            let over = nap.as_mut().poll(context).is_ready();
            waker = Some(nap);
            if !over {
                return Poll::Pending;
            }
        }
        work.as_mut().poll(context)
    })
    .await;
    drop(waker);
}
