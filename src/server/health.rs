//! The named checks of `/livez` and `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::server::http::health::{Counts, Health};
use crate::store::Store;
use crate::util::tasks::Tasks;

/// A store that takes longer is not well.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Set once the first objects are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Ready(Arc<AtomicBool>);

impl Ready {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Adds the checks, under the names upstream has for the same things.
pub(super) fn add(health: &Health, store: &Arc<dyn Store>, tasks: &Tasks) -> Ready {
    health.add("log", Counts::Everywhere, || Box::pin(async { Ok(()) }));
    let store = Arc::clone(store);
    health.add("etcd", Counts::Everywhere, move || {
        let store = Arc::clone(&store);
        Box::pin(async move {
            match tokio::time::timeout(STORE_TIMEOUT, store.current()).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the datastore does not answer".to_owned()),
            }
        })
    });
    let ready = Ready::default();
    let seen = ready.clone();
    health.add(
        "poststarthook/rbac/bootstrap-roles",
        Counts::Ready,
        move || {
            let is_set = seen.0.load(Ordering::Acquire);
            Box::pin(async move {
                if is_set {
                    return Ok(());
                }
                Err("the first objects are not there yet".to_owned())
            })
        },
    );
    let stopping = tasks.cancelled();
    health.add("shutdown", Counts::Ready, move || {
        let is_stopping = stopping.is_cancelled();
        Box::pin(async move {
            if is_stopping {
                return Err("the process is shutting down".to_owned());
            }
            Ok(())
        })
    });
    ready
}
