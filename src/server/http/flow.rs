//! How many requests are served at a time: reading and changing ones apart, so that neither
//! starves the other. What comes beyond waits a little in order, then is told to come back.
//!
//! Watches and streams do not count: they hardly work. Administrators and the program itself are
//! never kept waiting, so that an overloaded server can be repaired.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::status::ApiError;
use crate::server::request::{RequestInfo, User};
use crate::util::metrics::{Gauge, Metrics};

/// Upstream's `--max-requests-inflight`.
const READING_MAX: usize = 400;
/// Upstream's `--max-mutating-requests-inflight`.
const CHANGING_MAX: usize = 200;
/// Longer than that, and the client is better off knowing.
const WAIT_MAX: Duration = Duration::from_secs(5);
const RETRY_AFTER_SECONDS: u32 = 1;

/// The places there are.
#[derive(Debug)]
pub(crate) struct Flow {
    reading: Lane,
    changing: Lane,
}

#[derive(Debug)]
struct Lane {
    places: Arc<Semaphore>,
    inflight: Gauge,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    inflight: Gauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inflight.add(-1);
    }
}

impl Flow {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let inflight = metrics.gauges(
            "apiserver_current_inflight_requests",
            "Maximal number of currently used inflight request limit of this apiserver per request \
             kind in last second.",
            &["request_kind"],
        );
        let lane = |kind: &str, places: usize| Lane {
            places: Arc::new(Semaphore::new(places)),
            inflight: inflight.with(&[kind]),
        };
        Self {
            reading: lane("readOnly", READING_MAX),
            changing: lane("mutating", CHANGING_MAX),
        }
    }

    /// A place for a request; 429 where there is none for too long.
    pub(crate) async fn enter(&self, info: &RequestInfo, user: &User) -> Result<Place, ApiError> {
        let is_reading = matches!(info.verb.as_str(), "get" | "list");
        let lane = if is_reading {
            &self.reading
        } else {
            &self.changing
        };
        let permit = if user.is_in("system:masters") {
            None
        } else {
            let wait = Arc::clone(&lane.places).acquire_owned();
            match tokio::time::timeout(WAIT_MAX, wait).await {
                Ok(permit) => permit.ok(),
                Err(_) => {
                    let message = "too many requests, please try again later";
                    return Err(ApiError::too_many_requests(message, RETRY_AFTER_SECONDS));
                }
            }
        };
        lane.inflight.add(1);
        Ok(Place {
            _permit: permit,
            inflight: lane.inflight.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(verb: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.into(),
            ..RequestInfo::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_lane_refuses_users_but_not_administrators() {
        let flow = Flow::new(&Metrics::new());
        let user = User::anonymous();
        let mut held = Vec::new();
        for _ in 0..CHANGING_MAX {
            held.push(flow.enter(&asks("create"), &user).await.unwrap());
        }
        let refused = flow.enter(&asks("patch"), &user).await.unwrap_err();
        assert_eq!(refused.code, 429);
        assert!(flow.enter(&asks("list"), &user).await.is_ok());
        assert!(
            flow.enter(&asks("create"), &User::system("a"))
                .await
                .is_ok()
        );
        held.pop();
        assert!(flow.enter(&asks("create"), &user).await.is_ok());
    }
}
