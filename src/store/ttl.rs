//! Which keys expire and when: one deadline at a time is waited for, nothing ticks.
//!
//! Deadlines are kept on the wall clock across restarts and on the monotonic clock while running,
//! so a clock that is set does not make keys vanish or stay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::store::Revision;

/// Deadlines within one such slot expire together, so that many cost one wake-up.
const SLOT: Duration = Duration::from_secs(1);

/// A key that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// The key.
    pub(crate) key: Bytes,
    /// The write that gave it the deadline.
    pub(crate) modified: Revision,
}

/// The deadlines of all keys that have one.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    by_key: HashMap<Bytes, Entry>,
    by_time: BTreeSet<(Instant, Bytes)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    deadline_ms: u64,
    modified: Revision,
}

impl Deadlines {
    /// `key` expires after `left`; `deadline_ms` is the same on the wall clock.
    pub(crate) fn set(&self, due: Due, left: Duration, deadline_ms: u64) {
        // Two slots at most late, never early.
        let at = Instant::now() + left;
        let mut inner = self.inner.lock();
        inner.forget(&due.key);
        let first = inner.by_time.first().map(|(at, _)| *at);
        inner.by_time.insert((at, due.key.clone()));
        let entry = Entry {
            at,
            deadline_ms,
            modified: due.modified,
        };
        inner.by_key.insert(due.key, entry);
        if first.is_none_or(|first| at < first) {
            self.changed.notify_one();
        }
    }

    /// `key` no longer expires.
    pub(crate) fn remove(&self, key: &[u8]) {
        self.inner.lock().forget(key);
    }

    /// Waits until keys are due and returns them, at most `count`. They stay until removed or set
    /// anew; `retry_after` is when they are due again.
    pub(crate) async fn due(&self, count: usize, retry_after: Duration) -> Vec<Due> {
        loop {
            let first = self.inner.lock().by_time.first().map(|(at, _)| *at);
            let changed = self.changed.notified();
            match first {
                None => changed.await,
                Some(at) => {
                    let wake = at + SLOT;
                    tokio::select! {
                        () = tokio::time::sleep_until(wake) => {}
                        () = changed => continue,
                    }
                    let due = self
                        .inner
                        .lock()
                        .take_due(Instant::now(), count, retry_after);
                    if !due.is_empty() {
                        return due;
                    }
                }
            }
        }
    }

    /// All keys that expire, with their deadline on the wall clock.
    pub(crate) fn all(&self) -> BTreeMap<Bytes, u64> {
        let inner = self.inner.lock();
        let each = inner.by_key.iter();
        each.map(|(key, entry)| (key.clone(), entry.deadline_ms))
            .collect()
    }

    /// Whether no key expires.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.lock().by_key.is_empty()
    }
}

impl Inner {
    fn forget(&mut self, key: &[u8]) {
        if self.by_key.is_empty() {
            return;
        }
        if let Some((key, entry)) = self.by_key.remove_entry(key) {
            self.by_time.remove(&(entry.at, key));
        }
    }

    fn take_due(&mut self, now: Instant, count: usize, retry_after: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < count {
            match self.by_time.first() {
                Some((at, _)) if *at <= now => {}
                _ => break,
            }
            let Some((_, key)) = self.by_time.pop_first() else {
                break;
            };
            let Some(entry) = self.by_key.get_mut(&key) else {
                continue;
            };
            due.push(Due {
                key: key.clone(),
                modified: entry.modified,
            });
            entry.at = now + retry_after;
            self.by_time.insert((entry.at, key));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(5);

    fn due(key: &'static str) -> Due {
        Due {
            key: Bytes::from_static(key.as_bytes()),
            modified: Revision(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_due_in_order_and_never_early() {
        let deadlines = Deadlines::default();
        let start = Instant::now();
        deadlines.set(due("late"), Duration::from_secs(60), 1);
        deadlines.set(due("soon"), Duration::from_secs(10), 1);
        deadlines.set(due("never"), Duration::from_secs(5), 1);
        deadlines.remove(b"never");
        assert_eq!(deadlines.due(9, RETRY).await, [due("soon")]);
        let waited = start.elapsed().as_secs();
        assert!((10..12).contains(&waited), "{waited}");
        deadlines.remove(b"soon");
        assert_eq!(deadlines.due(9, RETRY).await, [due("late")]);
        deadlines.remove(b"late");
        assert!(deadlines.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_wakes_who_waits_for_a_later_one() {
        let deadlines = Deadlines::default();
        deadlines.set(due("late"), Duration::from_secs(3600), 1);
        let start = Instant::now();
        let (got, ()) = tokio::join!(deadlines.due(1, RETRY), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            deadlines.set(due("soon"), Duration::from_secs(2), 1);
        });
        assert_eq!(got, [due("soon")]);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_removed_is_due_again() {
        let deadlines = Deadlines::default();
        deadlines.set(due("a"), Duration::from_secs(1), 1);
        assert_eq!(deadlines.due(1, RETRY).await, [due("a")]);
        assert_eq!(deadlines.due(1, RETRY).await, [due("a")]);
    }
}
