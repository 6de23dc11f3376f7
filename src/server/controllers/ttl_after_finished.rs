//! Deletes Jobs when the time they are kept after their end is over
//! (`spec.ttlSecondsAfterFinished`).
//!
//! Writes: deletes Jobs. Asks the API once more before it does: a TTL that was raised a moment ago
//! must hold.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::api::{meta, object::ObjectKey};
use crate::client::{
    Cache, Client, DeleteParams, Propagation, Queue, Result,
    controller::{Action, Reconcile},
};
use crate::util::clock::Clock;

use super::Setup;
use super::job::is_finished;
use super::shared::wire;

const WORKERS: usize = 2;

struct Ends {
    jobs: Cache<Job>,
    client: Client,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let jobs = setup.informers.cache::<Job>();
    let queue = Queue::new();
    wire::on_own(&jobs, &queue);
    let controller = Ends {
        jobs: jobs.clone(),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
    };
    setup.run(
        controller,
        queue,
        WORKERS,
        async move { jobs.synced().await },
    );
}

impl Reconcile for Ends {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "ttl_after_finished"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let now = self.clock.now();
        let cached = self.jobs.get(key);
        let Some(left) = cached.and_then(|job| left(&job, now)) else {
            return Ok(Action::Done);
        };
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let api = self.client.namespaced::<Job>(&key.namespace);
        let Some(job) = api.get_opt(&key.name).await? else {
            return Ok(Action::Done);
        };
        match self::left(&job, now) {
            Some(left) if left.is_zero() => {}
            Some(left) => return Ok(Action::After(left)),
            None => return Ok(Action::Done),
        }
        let params = DeleteParams {
            propagation: Some(Propagation::Foreground),
            ..DeleteParams::uid(meta::uid(&job.metadata))
        };
        match api.delete(&key.name, &params).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

/// How long the Job is still kept; `None`: for ever, or it has not ended, or it goes already.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if !is_finished(job) || meta::is_terminating(&job.metadata) {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let ends = conditions.filter(|c| matches!(c.type_.as_str(), "Complete" | "Failed"));
    let ended = ends
        .filter_map(|c| Some(c.last_transition_time.as_ref()?.0))
        .min()?;
    let kept = SignedDuration::from_secs(i64::from(seconds));
    let until = ended.checked_add(kept).ok()?;
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_job_is_kept_for_its_time_after_its_end() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let job = |ttl: Value, end: &str| -> Job {
            serde_json::from_value(json!({"metadata": {},
                "spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
                "status": {"conditions": [{"type": end, "status": "True",
                    "lastTransitionTime": at(0).to_string()}]}}))
            .unwrap()
        };
        assert_eq!(
            left(&job(json!(30), "Complete"), at(10)),
            Some(Duration::from_secs(20))
        );
        assert_eq!(
            left(&job(json!(30), "Failed"), at(40)),
            Some(Duration::ZERO)
        );
        assert_eq!(left(&job(json!(null), "Failed"), at(40)), None);
        assert_eq!(left(&job(json!(0), "Suspended"), at(40)), None);
    }
}
