//! Turns: what several tasks would do at once is done by one of them, while the others wait for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Whoever has it locked has the turn.
pub(crate) type Turn = tokio::sync::Mutex<()>;

/// A turn for each name, as long as somebody has or waits for it.
#[derive(Default)]
pub(crate) struct Turns(Mutex<BTreeMap<String, Weak<Turn>>>);

impl Turns {
    /// The turn called `name`.
    pub(crate) fn turn(&self, name: &str) -> Arc<Turn> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = all.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        all.insert(name.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_wants_the_same_waits_and_nobody_else() {
        let turns = Turns::default();
        let first = turns.turn("a").lock_owned().await;
        assert!(turns.turn("a").try_lock_owned().is_err());
        assert!(turns.turn("b").try_lock_owned().is_ok());
        drop(first);
        assert!(turns.turn("a").try_lock_owned().is_ok());
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
