//! Holds on content that is in use, so that garbage collection doesn't remove it.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_core::digest::Digest;

use super::Content;

/// How often each digest is held.
pub(super) type Holds = BTreeMap<Digest, usize>;

/// Content that stays as long as this lives. It need not be there yet.
#[derive(Debug)]
pub struct Hold {
    content: Arc<Content>,
    digests: Vec<Digest>,
}

impl Content {
    /// Keeps `digests` from being collected.
    pub fn hold(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Hold {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut state = self.state();
        for digest in &digests {
            *state.holds.entry(*digest).or_default() += 1;
        }
        drop(state);
        Hold { content: self.clone(), digests }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.content.state();
        for digest in &self.digests {
            if let Some(count) = state.holds.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.holds.remove(digest);
                }
            }
        }
    }
}
