//! What the runtime has of each pod, kept current by its events.
//!
//! An event only names a container; the container is then looked at. Looks that overtake one
//! another are told apart by a count taken before the look: the later look wins. Between events
//! nothing happens, but for a list of everything every few minutes in case one was lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::runtime::{ContainerState, Runtime, RuntimeEvent};
use crate::util::{backoff::Backoff, errors::chain, rng::Rng, tasks::Tasks};

/// Lists everything this often although events tell of changes.
const RELIST: Duration = Duration::from_secs(300);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Label that names the pod of a container.
const POD_UID: &str = "io.kubernetes.pod.uid";

/// Called when something of a pod has changed.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

struct Look {
    taken: u64,
    /// `None`: there is no such container.
    state: Option<ContainerState>,
}

#[derive(Default)]
struct Known {
    by_id: HashMap<String, Look>,
    wakes: HashMap<String, Wake>,
}

/// What is known of the node's containers. Clones share it.
#[derive(Clone)]
pub(crate) struct Pleg(Arc<Inner>);

struct Inner {
    runtime: Arc<dyn Runtime>,
    known: Mutex<Known>,
    looks: AtomicU64,
    /// `Ok` once everything was listed; the text of the last failure otherwise.
    health: watch::Sender<Result<(), String>>,
}

impl Pleg {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self(Arc::new(Inner {
            runtime,
            known: Mutex::default(),
            looks: AtomicU64::new(1),
            health: watch::Sender::new(Err("the runtime has not been asked yet".to_owned())),
        }))
    }

    /// Whether the runtime answers; changes as it does and does not.
    pub(crate) fn health(&self) -> watch::Receiver<Result<(), String>> {
        self.0.health.subscribe()
    }

    /// The containers of a pod, in no order.
    pub(crate) fn of_pod(&self, uid: &str) -> Vec<ContainerState> {
        let known = self.0.known.lock();
        let states = known.by_id.values().filter_map(|look| look.state.as_ref());
        states
            .filter(|state| uid_of(state) == Some(uid))
            .cloned()
            .collect()
    }

    /// The pods that have containers, with the labels of one of them.
    pub(crate) fn pods(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let known = self.0.known.lock();
        let states = known.by_id.values().filter_map(|look| look.state.as_ref());
        states
            .filter_map(|state| Some((uid_of(state)?.to_owned(), state.labels.clone())))
            .collect()
    }

    /// Calls `wake` from now on when something of the pod changes.
    pub(crate) fn subscribe(&self, uid: &str, wake: Wake) {
        self.0.known.lock().wakes.insert(uid.to_owned(), wake);
    }

    pub(crate) fn unsubscribe(&self, uid: &str) {
        self.0.known.lock().wakes.remove(uid);
    }

    /// Looks at one container now. A look that fails is left to the next list.
    pub(crate) async fn refresh(&self, id: &str) {
        let taken = self.0.looks.fetch_add(1, Ordering::Relaxed);
        match self.0.runtime.container(id).await {
            Ok(state) => self.learn(id, taken, state),
            Err(error) => tracing::debug!(id, error = %chain(&error), "look at container failed"),
        }
    }

    fn learn(&self, id: &str, taken: u64, state: Option<ContainerState>) {
        let mut known = self.0.known.lock();
        let old = known.by_id.get(id);
        if old.is_some_and(|old| old.taken > taken)
            || old.is_some_and(|old| old.state == state)
            || (old.is_none() && state.is_none())
        {
            return;
        }
        let uid = state.as_ref().or(old.and_then(|old| old.state.as_ref()));
        let wake = uid
            .and_then(uid_of)
            .and_then(|uid| known.wakes.get(uid).cloned());
        known.by_id.insert(id.to_owned(), Look { taken, state });
        drop(known);
        if let Some(wake) = wake {
            wake();
        }
    }

    /// Looks at everything.
    async fn relist(&self) -> Result<(), crate::runtime::Error> {
        let taken = self.0.looks.fetch_add(1, Ordering::Relaxed);
        let listed = self.0.runtime.containers().await?;
        let mut found: HashMap<String, ContainerState> =
            listed.into_iter().map(|s| (s.id.clone(), s)).collect();
        let gone: Vec<String> = {
            let mut known = self.0.known.lock();
            // What was gone at an earlier look need not be remembered any longer.
            known
                .by_id
                .retain(|_, look| look.state.is_some() || look.taken > taken);
            let ids = known.by_id.keys();
            ids.filter(|id| !found.contains_key(*id)).cloned().collect()
        };
        for id in gone {
            self.learn(&id, taken, None);
        }
        for (id, state) in found.drain() {
            self.learn(&id, taken, Some(state));
        }
        Ok(())
    }

    /// Follows the runtime for ever.
    pub(crate) async fn run(self, rng: Rng, tasks: Tasks) {
        let cancelled = tasks.cancelled();
        tokio::select! {
            () = self.follow(rng) => {}
            () = cancelled.cancelled() => {}
        }
    }

    async fn follow(&self, rng: Rng) {
        let mut retry = Backoff::new(RETRY_FIRST, RETRY_MOST, rng);
        let mut events = self.0.runtime.events();
        loop {
            match self.relist().await {
                Ok(()) => {
                    retry.reset();
                    self.tell(Ok(()));
                }
                Err(error) => {
                    self.tell(Err(chain(&error)));
                    tokio::time::sleep(retry.next_delay()).await;
                    continue;
                }
            }
            let next_list = tokio::time::Instant::now() + RELIST;
            loop {
                let event = tokio::time::timeout_at(next_list, events.recv()).await;
                match event {
                    Ok(Some(RuntimeEvent::Container { id })) => self.refresh(&id).await,
                    Ok(Some(RuntimeEvent::Resync)) | Err(_) => break,
                    Ok(None) => {
                        events = self.0.runtime.events();
                        break;
                    }
                }
            }
        }
    }

    fn tell(&self, health: Result<(), String>) {
        self.0.health.send_if_modified(|before| {
            let changed = *before != health;
            if changed {
                *before = health;
            }
            changed
        });
    }
}

fn uid_of(state: &ContainerState) -> Option<&str> {
    state.labels.get(POD_UID).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Fake;
    use crate::runtime::{Error, Phase};
    use crate::util::clock::Clock;
    use jiff::Timestamp;
    use std::sync::atomic::AtomicUsize;

    fn state(id: &str, phase: Phase) -> ContainerState {
        ContainerState {
            id: id.to_owned(),
            image: String::new(),
            labels: BTreeMap::from([(POD_UID.to_owned(), "u".to_owned())]),
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            phase,
        }
    }

    #[test]
    fn a_look_taken_earlier_does_not_undo_a_later_one() {
        let pleg = Pleg::new(Fake::new(Clock::system()));
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = wakes.clone();
        pleg.subscribe(
            "u",
            Arc::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
        );
        pleg.learn("c", 2, Some(state("c", Phase::Running { pid: 1 })));
        pleg.learn("c", 1, Some(state("c", Phase::Created)));
        assert_eq!(pleg.of_pod("u")[0].phase, Phase::Running { pid: 1 });
        pleg.learn("c", 3, Some(state("c", Phase::Running { pid: 1 })));
        assert_eq!(
            wakes.load(Ordering::Relaxed),
            1,
            "nothing changed after the first"
        );
        pleg.learn("c", 4, None);
        assert!(pleg.of_pod("u").is_empty());
        pleg.learn("c", 3, Some(state("c", Phase::Created)));
        assert!(pleg.of_pod("u").is_empty());
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn health_follows_the_runtime() {
        let runtime = Fake::new(Clock::system());
        let down = Error::Unavailable {
            doing: "list containers",
            why: "no socket".into(),
        };
        runtime.fail_next("containers", down);
        let pleg = Pleg::new(runtime);
        let mut health = pleg.health();
        let tasks = Tasks::new();
        tasks.service("pleg", pleg.run(Rng::seeded(1), tasks.clone()));
        let failed = health.wait_for(|h| h.as_ref().is_err_and(|e| e.contains("no socket")));
        failed.await.unwrap();
        health.wait_for(Result::is_ok).await.unwrap();
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }
}
