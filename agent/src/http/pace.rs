//! How fast a server must be: averaged over the time of waiting, so that a short pause does no harm.

use std::time::Duration;

/// Watches one transfer.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Duration,
    slowest: u64,
    /// Time spent waiting, and bytes that came, since the speed was last looked at.
    waited: Duration,
    came: u64,
}

impl Pace {
    /// Averaged over `patience` of waiting, `slowest` bytes a second must come.
    pub(crate) fn new(patience: Duration, slowest: u64) -> Self {
        Pace { patience, slowest, waited: Duration::ZERO, came: 0 }
    }

    /// Books what a read brought; an error says why the server is given up.
    pub(crate) fn book(&mut self, waited: Duration, bytes: usize) -> Result<(), String> {
        self.came += bytes as u64;
        self.waited += waited;
        if self.waited < self.patience {
            return Ok(());
        }
        if self.came < self.slowest.saturating_mul(self.patience.as_secs()) {
            return Err(format!(
                "it sent {} bytes in {:?}, which is slower than the minimum of {} bytes a second",
                self.came, self.waited, self.slowest
            ));
        }
        (self.waited, self.came) = (Duration::ZERO, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_drips_is_given_up_and_a_fast_one_is_not() {
        let second = Duration::from_secs(1);
        let mut slow = Pace::new(second * 10, 100);
        for _ in 0..9 {
            slow.book(second, 99).unwrap();
        }
        assert!(slow.book(second, 99).is_err());
        let mut fast = Pace::new(second * 10, 100);
        for _ in 0..50 {
            fast.book(second, 101).unwrap();
        }
    }
}
