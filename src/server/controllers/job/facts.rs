//! What can be seen of a Job: its spec with defaults, its Pods by where they stand, what has been
//! counted. Pure readings; the decisions are in `plan`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::api::{meta, pod};

use super::indexes::{self, Indexes};
use super::template::{FINALIZER, failures_before, index_of};

/// The spec with its defaults.
#[derive(Clone, Debug)]
pub(super) struct Wish<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) parallelism: i32,
    pub(super) completions: Option<i32>,
    pub(super) is_indexed: bool,
    pub(super) is_suspended: bool,
    pub(super) backoff_limit: i32,
    /// Terminating Pods are not replaced before they have failed.
    pub(super) waits_for_failed: bool,
}

impl<'a> Wish<'a> {
    pub(super) fn of(spec: &'a JobSpec) -> Self {
        let replaces = spec.pod_replacement_policy.as_deref();
        Self {
            spec,
            parallelism: spec.parallelism.unwrap_or(1),
            completions: spec.completions,
            is_indexed: spec.completion_mode.as_deref() == Some("Indexed"),
            is_suspended: spec.suspend == Some(true),
            backoff_limit: spec.backoff_limit.unwrap_or(6),
            waits_for_failed: replaces == Some("Failed")
                || (replaces.is_none() && spec.pod_failure_policy.is_some()),
        }
    }

    /// How many indexes there are; 0 without indexes.
    pub(super) fn indexes(&self) -> i32 {
        match self.is_indexed {
            true => self.completions.unwrap_or(0),
            false => 0,
        }
    }

    /// The index of a Pod, where it is one that counts.
    pub(super) fn index(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|index| *index < self.indexes())
    }

    /// Whether the Pod counts as failed (`isPodFailed`): also one that is being deleted, which
    /// may never come to say how it ended, unless the Job waits for that.
    pub(super) fn has_failed(&self, pod: &Pod) -> bool {
        let phase = pod::phase(pod);
        phase == "Failed"
            || (!self.waits_for_failed && pod::is_terminating(pod) && phase != "Succeeded")
    }
}

/// A Job's Pods by where they stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    pub(super) all: Vec<Arc<Pod>>,
    /// Neither ended nor being deleted.
    pub(super) active: Vec<Arc<Pod>>,
    /// Being deleted and not ended.
    pub(super) terminating: Vec<Arc<Pod>>,
    /// Of the active ones.
    pub(super) ready: usize,
}

impl Pods {
    pub(super) fn of(all: &[Arc<Pod>]) -> Self {
        let is_terminating = |pod: &&Arc<Pod>| pod::is_terminating(pod) && !pod::is_terminal(pod);
        let active: Vec<_> = all.iter().filter(|p| pod::is_active(p)).cloned().collect();
        Self {
            all: all.to_vec(),
            ready: active.iter().filter(|pod| pod::is_ready(pod)).count(),
            terminating: all.iter().filter(is_terminating).cloned().collect(),
            active,
        }
    }

    /// Those the Job has not let go of.
    pub(super) fn tracked(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.all
            .iter()
            .filter(|pod| meta::has_finalizer(&pod.metadata, FINALIZER))
    }

    /// Times of failures since the last success, oldest first.
    pub(super) fn failures_in_a_row(&self, wish: &Wish<'_>, now: Timestamp) -> Vec<Timestamp> {
        let succeeded = self.all.iter().filter(|p| pod::phase(p) == "Succeeded");
        let last_success = succeeded.filter_map(|pod| ended_at(pod)).max();
        let failed = self.all.iter().filter(|pod| wish.has_failed(pod));
        let mut times: Vec<_> = failed
            .map(|pod| ended_at(pod).unwrap_or(now))
            .filter(|at| last_success.is_none_or(|success| *at > success))
            .collect();
        times.sort_unstable();
        times
    }

    /// For Jobs that limit failures by index: the failed Pod of each index that has failed most,
    /// with how often that makes.
    pub(super) fn failed_most(&self, wish: &Wish<'_>) -> BTreeMap<i32, (i32, Arc<Pod>)> {
        let mut most: BTreeMap<i32, (i32, Arc<Pod>)> = BTreeMap::new();
        for pod in self.all.iter().filter(|pod| wish.has_failed(pod)) {
            let Some(index) = wish.index(pod) else {
                continue;
            };
            let count = failures_before(pod) + 1;
            let known = most.get(&index).map_or(0, |(count, _)| *count);
            if count > known {
                most.insert(index, (count, pod.clone()));
            }
        }
        most
    }
}

/// When a Pod ended: its last container's end, or when it was deleted or stopped being ready.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let ends = pod::statuses(pod).filter_map(|status| {
        let ended = status.state.as_ref()?.terminated.as_ref()?;
        Some(ended.finished_at.as_ref()?.0)
    });
    let unready = pod::condition(pod, "Ready").filter(|c| c.status != "True");
    let unready = unready.and_then(|c| c.last_transition_time.as_ref());
    let deleted = pod.metadata.deletion_timestamp.as_ref();
    ends.max()
        .or_else(|| deleted.or(unready).map(|time| time.0))
}

/// What the status says was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Uids that are noted and not in the counts yet.
    pub(super) uncounted_succeeded: Vec<String>,
    pub(super) uncounted_failed: Vec<String>,
    pub(super) completed_indexes: Indexes,
    pub(super) failed_indexes: Indexes,
}

impl Counted {
    pub(super) fn of(status: &JobStatus, wish: &Wish<'_>) -> Self {
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let read = |text: &Option<String>| {
            indexes::parse(text.as_deref().unwrap_or_default(), wish.indexes())
        };
        Self {
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            uncounted_succeeded: uncounted.succeeded.unwrap_or_default(),
            uncounted_failed: uncounted.failed.unwrap_or_default(),
            completed_indexes: read(&status.completed_indexes),
            failed_indexes: read(&status.failed_indexes),
        }
    }

    pub(super) fn all_succeeded(&self) -> i32 {
        self.succeeded + i32::try_from(self.uncounted_succeeded.len()).unwrap_or(i32::MAX)
    }

    pub(super) fn all_failed(&self) -> i32 {
        self.failed + i32::try_from(self.uncounted_failed.len()).unwrap_or(i32::MAX)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty()
    }
}

/// The condition `kind` where it is true.
pub(super) fn holds<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let conditions = status.conditions.iter().flatten();
    let mut fitting = conditions.filter(|c| c.type_ == kind && c.status == "True");
    fitting.next()
}

/// Whether the Job has ended.
pub(in crate::server::controllers) fn is_finished(job: &Job) -> bool {
    let status = job.status.as_ref();
    status.is_some_and(|s| holds(s, "Complete").is_some() || holds(s, "Failed").is_some())
}
