//! What the demo prints: text and, on a terminal, a running timer.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take before the demo gives up.
const LIMIT: Duration = Duration::from_secs(90);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Where the demo prints.
pub(super) struct Screen {
    terminal: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Screen { terminal: stdout().is_terminal() }
    }

    /// A heading: what happens next.
    pub(super) fn chapter(&self, text: &str) {
        if self.terminal {
            self.write(&format!("\n\x1b[1m{text}\x1b[0m\n"));
        } else {
            self.write(&format!("\n{text}\n"));
        }
    }

    /// Something that is so.
    pub(super) fn say(&self, text: &str) {
        self.write(&format!("    {text}\n"));
    }

    /// Waits until `look` gives something, and says `what` with the time that it took.
    pub(super) fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                let took = started.elapsed();
                self.clear();
                let mark = if self.terminal { "\x1b[32mok\x1b[0m" } else { "ok" };
                self.write(&format!("    {mark}  {what} ({:.2} s)\n", took.as_secs_f64()));
                return Ok(found);
            }
            if started.elapsed() > LIMIT {
                self.clear();
                bail!("this did not happen within {LIMIT:?}: {what}");
            }
            if self.terminal {
                self.write(&format!("\r    ..  {what} ({:.1} s)", started.elapsed().as_secs_f64()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn clear(&self) {
        if self.terminal {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        let mut out = stdout().lock();
        // Nobody reads any more: the demo goes on and cleans up.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
