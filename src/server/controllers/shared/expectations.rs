//! What an owner has asked for and the cache does not show yet, so that a cache that lags never
//! leads to a pod too many or too few (`k8s.io/kubernetes/pkg/controller.UIDTrackingControllerExpectations`).
//!
//! Before it creates or deletes, a controller notes how much; each observed creation or deletion
//! takes one off; until none is left it does not create or delete again. A note that is not
//! answered within [`UNANSWERED_MOST`] is given up: the watch then was interrupted and the cache
//! shows the truth.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// As upstream's `ExpectationsTimeout`.
pub(crate) const UNANSWERED_MOST: Duration = Duration::from_secs(300);

/// Notes by the owner's uid.
#[derive(Debug, Default)]
pub(crate) struct Expectations(Mutex<HashMap<String, Note>>);

#[derive(Debug)]
struct Note {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    /// Whether everything asked for was seen.
    pub(crate) fn are_met(&self, owner: &str) -> bool {
        let mut notes = self.0.lock();
        let Some(note) = notes.get(owner) else {
            return true;
        };
        let met = note.creations == 0 && note.deletions.is_empty();
        let given_up = note.since.elapsed() >= UNANSWERED_MOST;
        if met || given_up {
            notes.remove(owner);
        }
        met || given_up
    }

    /// `count` objects are about to be created.
    pub(crate) fn expect_creations(&self, owner: &str, count: usize) {
        self.note(owner, |note| note.creations += count);
    }

    /// The objects with these uids are about to be deleted.
    pub(crate) fn expect_deletions(&self, owner: &str, uids: impl IntoIterator<Item = String>) {
        self.note(owner, |note| note.deletions.extend(uids));
    }

    /// A creation was seen, or failed.
    pub(crate) fn created(&self, owner: &str) {
        if let Some(note) = self.0.lock().get_mut(owner) {
            note.creations = note.creations.saturating_sub(1);
        }
    }

    /// The deletion of an object was seen, or failed.
    pub(crate) fn deleted(&self, owner: &str, uid: &str) {
        if let Some(note) = self.0.lock().get_mut(owner) {
            note.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &str) {
        self.0.lock().remove(owner);
    }

    fn note(&self, owner: &str, change: impl FnOnce(&mut Note)) {
        let mut notes = self.0.lock();
        let note = notes.entry(owner.to_owned()).or_insert_with(|| Note {
            creations: 0,
            deletions: HashSet::new(),
            since: Instant::now(),
        });
        note.since = Instant::now();
        change(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everything_noted_must_be_seen_or_time_must_pass() {
        let expectations = Expectations::default();
        assert!(expectations.are_met("o"));
        expectations.expect_creations("o", 2);
        expectations.created("o");
        assert!(!expectations.are_met("o"));
        expectations.created("o");
        assert!(expectations.are_met("o"));
        expectations.expect_deletions("o", ["a".to_owned()]);
        expectations.deleted("o", "other");
        assert!(!expectations.are_met("o"));
        tokio::time::advance(UNANSWERED_MOST).await;
        assert!(expectations.are_met("o"));
    }
}
