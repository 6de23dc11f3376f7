//! Tasks with a name, an owner and an end.
//!
//! Every task of the program is spawned here. Two kinds: a *service* runs until it is cancelled,
//! and a panic in it fails the whole group (the owner sees [`Tasks::failed`]); a *job* is the work
//! of one request or one pod, and a panic in it is logged and ends only the job.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks that ends together. Clones share the group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    cancel: CancellationToken,
    failed: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that is cancelled with this one, and can be cancelled and awaited alone. A panic of
    /// a service in it fails this group too.
    pub fn child(&self) -> Self {
        Self {
            cancel: self.cancel.child_token(),
            failed: self.failed.clone(),
            tracker: TaskTracker::new(),
        }
    }

    /// Cancelled when the group is to end: select on it in every loop.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Resolves when a service panicked: the process must not go on as if nothing were.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Runs `service` until it ends; it should end soon after [`Tasks::cancelled`].
    pub fn service<F>(&self, name: &'static str, service: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let failed = self.failed.clone();
        self.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(service).catch_unwind().await {
                tracing::error!(task = name, panic = %panic_text(&*panic), "service panicked");
                failed.cancel();
            }
        })
    }

    /// Runs `job`; a panic in it is logged and ends only this job.
    pub fn job<F>(&self, name: &'static str, job: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(job).catch_unwind().await {
                tracing::error!(task = name, panic = %panic_text(&*panic), "job panicked");
            }
        })
    }

    /// Asks every task to end without waiting.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Asks every task to end and waits up to `limit`. `false`: some had not ended by then.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_ok()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that spawns"
    )]
    fn spawn<F>(&self, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(future))
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not a text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_service_fails_the_group_and_a_job_does_not() {
        let tasks = Tasks::new();
        tasks.job("job", async { panic!("one request") });
        tasks.service("service", async { panic!("broken") });
        tasks.failed().await;
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn shutdown_ends_what_waits_for_cancellation() {
        let tasks = Tasks::new();
        let token = tasks.child().cancelled();
        tasks.service("waits", async move { token.cancelled().await });
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
    }
}
