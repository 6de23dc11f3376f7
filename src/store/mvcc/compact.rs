//! Shortening the history, by request and by its limits, in steps short enough not to be noticed.

use std::time::Duration;

use super::Shared;
use crate::store::{Error, Result, Revision};

/// Writes of the history handled under one hold of the lock; well under a millisecond.
const WRITES_PER_STEP: usize = 512;
/// The history may outgrow its count by this share before it is cut back, so that it is not cut at
/// every write.
const SLACK_SHARE: usize = 8;
/// The age is kept to within this share.
const AGE_SHARE: u64 = 8;

/// How much history is kept; what exceeds either is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// How old the oldest may be; an eighth more is possible.
    pub age: Duration,
    /// How many writes; an eighth more is possible.
    pub revisions: usize,
}

impl Default for HistoryLimits {
    /// Ten minutes, twice what clients of Kubernetes are used to; and a count that bounds memory to
    /// some 10 MiB under constant load.
    fn default() -> Self {
        Self {
            age: Duration::from_secs(600),
            revisions: 100_000,
        }
    }
}

impl HistoryLimits {
    /// How far apart moments of the history are noted.
    pub(crate) fn spacing_ms(&self) -> u64 {
        self.age_ms() / AGE_SHARE
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX)
    }

    /// The count at which the history is cut back.
    fn count_max(&self) -> usize {
        self.revisions.saturating_add(self.revisions / SLACK_SHARE)
    }
}

impl Shared {
    /// Forgets what is before `revision`.
    pub(crate) fn compact(&self, revision: Revision) -> Result<()> {
        {
            let mut state = self.state.write();
            if revision > state.current {
                return Err(Error::Future {
                    wanted: revision,
                    current: state.current,
                });
            }
            state.compacted = state.compacted.max(revision);
            let compacted = state.compacted;
            state.lost.retain(|lost| lost.until > compacted);
        }
        while !self.compact_step() {}
        Ok(())
    }

    /// One bounded step towards the compacted revision; `true` when there is nothing left to do
    /// now. What is superseded only by a write that may still be lost is kept.
    fn compact_step(&self) -> bool {
        let mut state = self.state.write();
        let pinned = self.pins.lock().keys().next().copied();
        let most = state.compacted.min(self.durable());
        let to = pinned.map_or(most, |pinned| pinned.min(most));
        let (dropped, done) = state.index.compact_step(to, WRITES_PER_STEP);
        for change in dropped {
            state.pending.drop_version(change.key, &change.version);
        }
        done
    }

    /// Compacts as far as the limits ask; cheap when they do not.
    pub(crate) fn enforce_limits(&self) -> Result<()> {
        let target = {
            let state = self.state.read();
            let by_age = self
                .now_ms()
                .checked_sub(
                    self.limits
                        .age_ms()
                        .saturating_add(self.limits.spacing_ms()),
                )
                .and_then(|before_ms| state.index.noted_before(before_ms));
            let by_count = (state.index.history_len() > self.limits.count_max())
                .then(|| state.index.revision_leaving(self.limits.revisions))
                .flatten();
            by_age.max(by_count).filter(|to| *to > state.compacted)
        };
        match target {
            Some(target) => self.compact(target),
            None => {
                // What an earlier compaction had to leave.
                while !self.compact_step() {}
                Ok(())
            }
        }
    }

    /// Whether the count asks for a compaction now.
    pub(crate) fn has_long_history(&self) -> bool {
        self.state.read().index.history_len() > self.limits.count_max()
    }

    /// How long until the age asks for a compaction; `None` while there is no history.
    pub(crate) fn until_compaction(&self) -> Option<Duration> {
        let oldest_ms = self.state.read().index.oldest_note_ms()?;
        let kept_ms = self
            .limits
            .age_ms()
            .saturating_add(self.limits.spacing_ms());
        let due_ms = oldest_ms.saturating_add(kept_ms).saturating_add(1);
        let left_ms = due_ms.saturating_sub(self.now_ms());
        // Not before a share of the age is over, also where a clock was set or a read holds it up.
        let least_ms = self.limits.spacing_ms().max(1000);
        Some(Duration::from_millis(left_ms.max(least_ms)))
    }
}
