//! Runs a controller: keys from a [`Queue`], a few workers, one key at a time each.
//!
//! A reconcile is told a key and nothing else, and returns whether it wants to be called again. An
//! error calls it again with the queue's growing delay. A panic in it counts as an error.

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::util::{errors::chain, tasks::Tasks};

use super::{Error, Queue, Result};

/// What a reconcile wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something changes.
    Done,
    /// To be called again after this time at the latest.
    After(Duration),
}

impl Action {
    /// The earlier of two wishes.
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Action::Done, action) | (action, Action::Done) => action,
            (Action::After(a), Action::After(b)) => Action::After(a.min(b)),
        }
    }
}

/// Brings the world one key stands for towards its wish.
pub trait Reconcile: Send + Sync + 'static {
    /// What names a unit of work.
    type Key: Clone + Eq + Hash + Display + Send + Sync + 'static;

    /// For logs.
    fn name(&self) -> &'static str;

    /// Looks at everything the key stands for and does what is to be done.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Action>> + Send;
}

/// Runs `controller` on the keys of `queue` with at most `workers` keys at once, from when `ready`
/// resolves (its caches are complete) until `tasks` end.
pub fn start<R: Reconcile>(
    tasks: &Tasks,
    controller: Arc<R>,
    queue: Queue<R::Key>,
    workers: usize,
    ready: impl Future<Output = ()> + Send + 'static,
) {
    let jobs = tasks.clone();
    let cancelled = tasks.cancelled();
    tasks.service(controller.name(), async move {
        let running = async {
            ready.await;
            let slots = Arc::new(Semaphore::new(workers));
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else {
                    return;
                };
                let key = queue.next().await;
                let work = work_on(controller.clone(), queue.clone(), key);
                jobs.job(controller.name(), async move {
                    work.await;
                    drop(slot);
                });
            }
        };
        cancelled.run_until_cancelled(running).await;
    });
}

/// Gives the key back however the work ends; a panic counts as a failure.
struct Taken<K: Clone + Eq + Hash> {
    queue: Queue<K>,
    key: K,
    ended: bool,
}

impl<K: Clone + Eq + Hash> Drop for Taken<K> {
    fn drop(&mut self) {
        if !self.ended {
            self.queue.add_failed(self.key.clone());
        }
        self.queue.done(&self.key);
    }
}

async fn work_on<R: Reconcile>(controller: Arc<R>, queue: Queue<R::Key>, key: R::Key) {
    let name = controller.name();
    let mut taken = Taken {
        queue: queue.clone(),
        key: key.clone(),
        ended: false,
    };
    let span = tracing::debug_span!("reconcile", controller = name, %key);
    let result = controller.reconcile(&key).instrument(span).await;
    taken.ended = true;
    match result {
        Ok(action) => {
            queue.forget(&key);
            if let Action::After(delay) = action {
                queue.add_after(key, delay);
            }
        }
        Err(error) => {
            log_failure(name, &key, &error, queue.failures(&key));
            queue.add_failed(key);
        }
    }
}

/// Conflicts and the like are how controllers race and are not worth a line; what keeps failing is.
fn log_failure(controller: &'static str, key: &impl Display, error: &Error, failures: u32) {
    let ordinary = error.is_conflict() || error.is_already_exists() || error.is_not_found();
    let error = chain(error);
    if ordinary || failures < 3 {
        tracing::debug!(controller, %key, error, "reconcile failed, trying again");
    } else {
        tracing::warn!(controller, %key, error, failures, "reconcile keeps failing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::ApiError;
    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    type Scripts = fn() -> Result<Action>;

    struct Scripted {
        calls: mpsc::Sender<String>,
        script: Mutex<Vec<Scripts>>,
    }

    impl Reconcile for Scripted {
        type Key = String;

        fn name(&self) -> &'static str {
            "scripted"
        }

        async fn reconcile(&self, key: &String) -> Result<Action> {
            self.calls.send(key.clone()).await.unwrap();
            let next = self.script.lock().pop();
            next.map_or(Ok(Action::Done), |next| next())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn errors_panics_and_wishes_call_again_and_success_does_not() {
        let (calls, mut seen) = mpsc::channel(8);
        let script: Vec<Scripts> = vec![
            || Ok(Action::After(Duration::from_secs(7))),
            || panic!("a bug"),
            || Err(ApiError::internal("no").into()),
        ];
        let controller = Arc::new(Scripted {
            calls,
            script: Mutex::new(script),
        });
        let (tasks, queue) = (Tasks::new(), Queue::new());
        start(&tasks, controller, queue.clone(), 2, async {});
        queue.add("a".to_owned());
        for _ in 0..4 {
            assert_eq!(seen.recv().await.unwrap(), "a");
        }
        let more = tokio::time::timeout(Duration::from_secs(60), seen.recv()).await;
        assert!(more.is_err());
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }
}
