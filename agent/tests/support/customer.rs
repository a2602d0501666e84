//! Somebody who asks an app all the time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Asks a WASM app without a pause to speak of, on a thread of its own.
pub struct Customer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u64, Vec<String>)>,
}

impl Customer {
    /// Begins to ask at this port of the loopback.
    pub fn of(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (began, mut asked, mut lost) = (Instant::now(), 0, Vec::new());
            while !told.load(Ordering::Relaxed) {
                asked += 1;
                if let Err(why) = ask(port) {
                    lost.push(format!("after {:?}: {why}", began.elapsed()));
                }
                thread::sleep(Duration::from_millis(20));
            }
            (asked, lost)
        });
        Customer { stop, thread }
    }

    /// Gives how often it asked, and which questions weren't answered.
    pub fn leave(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }

    /// Every question was answered.
    pub fn leave_content(self) {
        let (asked, lost) = self.leave();
        assert!(asked > 0 && lost.is_empty(), "{} of {asked} answers were lost: {lost:#?}", lost.len());
    }
}

/// One question, on a connection of its own. The limit is far from what an answer takes: a slow machine is no
/// lost answer.
fn ask(port: u16) -> Result<(), String> {
    let limit = Some(Duration::from_secs(20));
    let client: ureq::Agent = ureq::Agent::config_builder().timeout_global(limit).build().into();
    let mut answer = client.get(format!("http://{}:{port}/", Ipv4Addr::LOCALHOST)).call();
    let text = answer.as_mut().map_err(|error| error.to_string())?.body_mut().read_to_string();
    match text {
        Ok(text) if text.starts_with("Hello") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
