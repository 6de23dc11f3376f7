//! Pods that wait for a node.
//!
//! Three places: *active* (to be tried now; higher priority first, then who waits longest),
//! *backoff* (to be tried at a time; 1 s doubling to 10 s with each failure), *parked* (nothing has
//! changed that could help; a happening that concerns who rejected it moves it on, and after
//! [`PARKED_MOST`] it is tried anyway, in case a hint is wrong).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::object::ObjectKey;

use super::framework::Plugin;
use super::pod::PodInfo;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// As upstream's `podMaxInUnschedulablePodsDuration`.
const PARKED_MOST: Duration = Duration::from_secs(300);

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct PodQueue {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeMap<(Reverse<i32>, u64), ObjectKey>,
    /// Backoff and parked pods by the time they are tried anyway.
    timed: BTreeMap<(Instant, u64), ObjectKey>,
    count: u64,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Active(u64),
    Backoff((Instant, u64)),
    Parked {
        until: (Instant, u64),
        failed: Instant,
        rejected_by: BTreeSet<Plugin>,
    },
    /// Taken by [`PodQueue::pop`].
    Taken,
}

impl PodQueue {
    /// The pod waits: new ones are tried at once; one that is known is tried again where it wants
    /// something else than before.
    pub(crate) fn set(&mut self, pod: Arc<PodInfo>) {
        let key = pod.key.clone();
        match self.entries.get_mut(&key) {
            Some(entry) if entry.pod.wants_the_same_as(&pod) => entry.pod = pod,
            _ => {
                self.remove(&key);
                self.activate(pod, 0);
            }
        }
    }

    /// A pod that waits.
    pub(crate) fn pod(&self, key: &ObjectKey) -> Option<&Arc<PodInfo>> {
        self.entries.get(key).map(|entry| &entry.pod)
    }

    /// The pod does not wait any more.
    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.leave(&entry);
        }
    }

    /// Takes the next pod. It must be [`PodQueue::remove`]d, [`PodQueue::failed`] or
    /// [`PodQueue::park`]ed next.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.promote(now);
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Taken;
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// Whether a pod can be taken now.
    pub(crate) fn has_active(&mut self, now: Instant) -> bool {
        self.promote(now);
        !self.active.is_empty()
    }

    /// When the next pod is to be tried, where none can be taken now.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timed.first_key_value().map(|((at, _), _)| *at)
    }

    /// Trying failed for a reason that has nothing to do with nodes: again after a while.
    pub(crate) fn failed(&mut self, key: &ObjectKey, now: Instant) {
        let Some(mut entry) = self.entries.remove(key) else {
            return;
        };
        self.leave(&entry);
        let at = self.time(now + backoff(entry.attempts), key);
        entry.place = Place::Backoff(at);
        self.entries.insert(key.clone(), entry);
    }

    /// No node takes the pod.
    pub(crate) fn park(&mut self, key: &ObjectKey, rejected_by: BTreeSet<Plugin>, now: Instant) {
        let Some(mut entry) = self.entries.remove(key) else {
            return;
        };
        self.leave(&entry);
        let until = self.time(now + PARKED_MOST, key);
        entry.place = Place::Parked {
            until,
            failed: now,
            rejected_by,
        };
        self.entries.insert(key.clone(), entry);
    }

    /// The pod has a node and waits for something that is being made ready there: the next
    /// happening that concerns `waits_for` moves it on at once.
    pub(crate) fn hold(&mut self, key: &ObjectKey, waits_for: Plugin, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempts = 0;
            self.park(key, BTreeSet::from([waits_for]), now);
        }
    }

    /// Moves on the parked pods that something that happened may help; `helps` is told the pod, who
    /// rejected it and how many pods it is asked for.
    pub(crate) fn wake(
        &mut self,
        now: Instant,
        helps: impl Fn(&PodInfo, &BTreeSet<Plugin>, usize) -> bool,
    ) {
        let parked = self.timed.len();
        let woken = self.entries.iter().filter(|(_, entry)| match &entry.place {
            Place::Parked { rejected_by, .. } => helps(&entry.pod, rejected_by, parked),
            _ => false,
        });
        let woken: Vec<_> = woken.map(|(key, _)| key.clone()).collect();
        for key in woken {
            self.retry(&key, now);
        }
    }

    /// A parked pod is tried when its backoff since it failed is over.
    pub(crate) fn retry(&mut self, key: &ObjectKey, now: Instant) {
        let Some(mut entry) = self.entries.remove(key) else {
            return;
        };
        self.leave(&entry);
        let Place::Parked { failed, .. } = entry.place else {
            return;
        };
        let due = failed + backoff(entry.attempts);
        if due <= now {
            self.activate(entry.pod, entry.attempts);
            return;
        }
        entry.place = Place::Backoff(self.time(due, key));
        self.entries.insert(key.clone(), entry);
    }

    fn activate(&mut self, pod: Arc<PodInfo>, attempts: u32) {
        self.count += 1;
        let key = pod.key.clone();
        let rank = (Reverse(pod.priority), self.count);
        self.active.insert(rank, key.clone());
        let entry = Entry {
            pod,
            attempts,
            place: Place::Active(self.count),
        };
        self.entries.insert(key, entry);
    }

    fn time(&mut self, at: Instant, key: &ObjectKey) -> (Instant, u64) {
        self.count += 1;
        self.timed.insert((at, self.count), key.clone());
        (at, self.count)
    }

    fn leave(&mut self, entry: &Entry) {
        match &entry.place {
            Place::Active(count) => {
                self.active.remove(&(Reverse(entry.pod.priority), *count));
            }
            Place::Backoff(at) | Place::Parked { until: at, .. } => {
                self.timed.remove(at);
            }
            Place::Taken => {}
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(first) = self.timed.first_entry() {
            if first.key().0 > now {
                return;
            }
            let key = first.remove();
            if let Some(entry) = self.entries.remove(&key) {
                self.activate(entry.pod, entry.attempts);
            }
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX);
    if attempts == 0 {
        return Duration::ZERO;
    }
    BACKOFF_FIRST.saturating_mul(doubled).min(BACKOFF_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scheduler::framework::Happening;
    use crate::server::scheduler::testing::pod;

    const S: Duration = Duration::from_secs(1);

    fn names(queue: &mut PodQueue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now).map(|pod| pod.key.name.clone())).collect()
    }

    #[test]
    fn priority_goes_first_then_who_came_first() {
        let mut queue = PodQueue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.set(pod(name).priority(priority).info());
        }
        assert_eq!(names(&mut queue, Instant::now()), ["b", "d", "a", "c"]);
    }

    #[test]
    fn a_parked_pod_is_woken_only_by_what_may_help_and_not_before_its_backoff() {
        let (mut queue, now) = (PodQueue::default(), Instant::now());
        queue.set(pod("a").info());
        let taken = queue.pop(now).unwrap();
        queue.park(&taken.key, BTreeSet::from([Plugin::ResourcesFit]), now);
        let by = |what: Happening| {
            move |_: &PodInfo, by: &BTreeSet<Plugin>, _| by.iter().any(|p| p.is_woken_by(what))
        };
        queue.wake(now + 2 * S, by(Happening::PodPlaced));
        assert!(!queue.has_active(now + 2 * S));
        queue.wake(now + S / 2, by(Happening::PodGone));
        assert!(!queue.has_active(now + S / 2));
        assert_eq!(queue.next_due(), Some(now + S));
        assert_eq!(names(&mut queue, now + S), ["a"]);
    }

    #[test]
    fn failures_wait_longer_each_time_and_a_changed_wish_is_tried_at_once() {
        let (mut queue, mut now) = (PodQueue::default(), Instant::now());
        queue.set(pod("a").info());
        for seconds in [1, 2, 4, 8, 10, 10] {
            let taken = queue.pop(now).unwrap();
            queue.failed(&taken.key, now);
            assert_eq!(queue.next_due(), Some(now + seconds * S));
            now += seconds * S;
        }
        let taken = queue.pop(now).unwrap();
        queue.park(&taken.key, BTreeSet::from([Plugin::NodeAffinity]), now);
        queue.set(pod("a").info());
        assert!(!queue.has_active(now), "nothing it wants has changed");
        queue.set(pod("a").cpu("1").info());
        assert!(queue.has_active(now));
    }

    #[test]
    fn a_parked_pod_is_tried_after_five_minutes_anyway() {
        let (mut queue, now) = (PodQueue::default(), Instant::now());
        queue.set(pod("a").info());
        let taken = queue.pop(now).unwrap();
        queue.park(&taken.key, BTreeSet::from([Plugin::NodeName]), now);
        assert_eq!(queue.next_due(), Some(now + 300 * S));
        assert_eq!(names(&mut queue, now + 300 * S), ["a"]);
    }
}
