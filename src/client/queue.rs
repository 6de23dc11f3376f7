//! A queue of keys to look at: each key waits once, is worked on by one worker at a time, and
//! comes back later and later while it fails.
//!
//! A key is *waiting* (ready now), *delayed* (ready at a time), *taken* (a worker has it), or taken
//! and to be looked at again. Waiting keys leave in the order they came, so that no key starves
//! another. The queue holds at most one entry a key, so it is bounded by the number of objects.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Delay after the first failure of a key; doubles with each
/// (`workqueue.DefaultTypedControllerRateLimiter`).
const FAILURE_FIRST: Duration = Duration::from_millis(5);
/// Longest delay after failures.
const FAILURE_MOST: Duration = Duration::from_secs(1000);

/// The queue. Clones share it.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    waiting: VecDeque<K>,
    /// Those in `waiting`, and those taken that are to be looked at again.
    wanted: HashSet<K>,
    taken: HashSet<K>,
    due: BTreeMap<(Instant, u64), K>,
    delayed: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    count: u64,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K> fmt::Debug for Queue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("Queue")
            .field("waiting", &state.waiting.len())
            .field("taken", &state.taken.len())
            .field("delayed", &state.due.len())
            .finish()
    }
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            wanted: HashSet::new(),
            taken: HashSet::new(),
            due: BTreeMap::new(),
            delayed: HashMap::new(),
            failures: HashMap::new(),
            count: 0,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Notify::new(),
            }),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key is to be looked at now.
    pub fn add(&self, key: K) {
        self.shared.state.lock().want(key);
        self.shared.changed.notify_one();
    }

    /// The key is to be looked at after `delay` at the latest.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.shared.state.lock().delay(key, Instant::now() + delay);
        self.shared.changed.notify_one();
    }

    /// The key failed: it is to be looked at again, later with each failure in a row.
    pub fn add_failed(&self, key: K) {
        let mut state = self.shared.state.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        let delay = FAILURE_FIRST.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX));
        *failures = failures.saturating_add(1);
        state.delay(key, Instant::now() + delay.min(FAILURE_MOST));
        drop(state);
        self.shared.changed.notify_one();
    }

    /// The key succeeded: its next failure is its first.
    pub fn forget(&self, key: &K) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often the key failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        let state = self.shared.state.lock();
        state.failures.get(key).copied().unwrap_or(0)
    }

    /// Takes the next key; it is not given to anyone else until [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let next_due = {
                let mut state = self.shared.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.waiting.is_empty() {
                        self.shared.changed.notify_one();
                    }
                    return key;
                }
                state.due.first_key_value().map(|((at, _), _)| *at)
            };
            match next_due {
                None => self.shared.changed.notified().await,
                Some(at) => {
                    // Whichever comes first; the loop looks at everything again.
                    let _ = tokio::time::timeout_at(at, self.shared.changed.notified()).await;
                }
            }
        }
    }

    /// The worker that took `key` is done with it.
    pub fn done(&self, key: &K) {
        let mut state = self.shared.state.lock();
        state.taken.remove(key);
        if state.wanted.contains(key) {
            state.waiting.push_back(key.clone());
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Whether nothing waits and nobody works; delayed keys do not count.
    pub fn is_idle(&self) -> bool {
        let state = self.shared.state.lock();
        state.waiting.is_empty() && state.taken.is_empty()
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn want(&mut self, key: K) {
        if !self.wanted.insert(key.clone()) {
            return;
        }
        if !self.taken.contains(&key) {
            self.waiting.push_back(key);
        }
    }

    fn delay(&mut self, key: K, at: Instant) {
        if let Some(known) = self.delayed.get(&key) {
            if known.0 <= at {
                return;
            }
            let known = *known;
            self.due.remove(&known);
        }
        self.count += 1;
        self.due.insert((at, self.count), key.clone());
        self.delayed.insert(key, (at, self.count));
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.delayed.remove(&key);
            self.want(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.waiting.pop_front()?;
        self.wanted.remove(&key);
        self.taken.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_key_waits_once_and_is_not_taken_twice() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        let more = tokio::time::timeout(MS, queue.next()).await;
        assert!(more.is_err(), "`a` is taken");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_until_forgotten() {
        let queue = Queue::new();
        let mut delays = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            queue.add_failed("a");
            let key = queue.next().await;
            delays.push(start.elapsed().as_millis());
            queue.done(&key);
        }
        assert_eq!(delays, [5, 10, 20]);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
        for _ in 0..40 {
            queue.add_failed("b");
        }
        let start = Instant::now();
        assert_eq!(queue.next().await, "b");
        assert_eq!(start.elapsed(), 5 * MS, "the earliest time counts");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_delays_counts_and_wakes_a_waiting_worker() {
        let queue = Queue::new();
        queue.add_after("a", 500 * MS);
        let waiting = tokio::join!(queue.next(), async {
            tokio::task::yield_now().await;
            queue.add_after("a", 20 * MS);
        });
        assert_eq!(waiting.0, "a");
        queue.done(&"a");
        let again = tokio::time::timeout(Duration::from_secs(2), queue.next()).await;
        assert!(again.is_err());
    }
}
