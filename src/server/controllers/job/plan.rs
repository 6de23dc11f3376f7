//! Decides what a Job needs next. Pure; kubernetes `pkg/controller/job/job_controller.go`.
//!
//! *Counting exactly.* A Pod that has ended is first noted in `status.uncountedTerminatedPods`,
//! then loses the finalizer, and only when it is seen without is the note turned into a count. At
//! whatever step the process ends, the next look finds either the note or the finalizer, so that
//! no Pod is counted twice or not at all. Indexes that have succeeded are a set and need no note.
//!
//! *Ending.* A verdict (`FailureTarget` or `SuccessCriteriaMet`) comes first and stops what still
//! runs; `Failed` or `Complete` follow when no Pod is left running and nothing is uncounted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{
    Job, JobCondition, JobStatus, SuccessPolicyRule, UncountedTerminatedPods,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{meta, pod};
use crate::server::controllers::shared::pods;

use super::facts::{Counted, Pods, Wish, ended_at, holds};
use super::failure::{Verdict, verdict};
use super::indexes;
use super::template::{Wanted, failures_before};

/// Notes in a status at once (`MaxUncountedPods`); the rest waits for the next look.
const UNCOUNTED_MAX: usize = 500;
/// Pause after the first failure, doubled with each further one, and the longest.
const BACKOFF: (SignedDuration, SignedDuration) = (
    SignedDuration::from_secs(10),
    SignedDuration::from_secs(600),
);

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Written first.
    pub(super) status: JobStatus,
    /// Pods to let go of, when the status is written.
    pub(super) release: Vec<Arc<Pod>>,
    /// Pods of a Job that has ended: they count as failed.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods too many: they are let go of first and do not count.
    pub(super) dismiss: Vec<Arc<Pod>>,
    pub(super) create: Vec<Wanted>,
    pub(super) wake_in: Option<Duration>,
    /// Kind, reason, message.
    pub(super) events: Vec<(Kind, String, String)>,
}

/// Of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Warning,
}

/// A condition that is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ending {
    has_failed: bool,
    reason: String,
    message: String,
}

impl Ending {
    fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self {
            has_failed: true,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn succeeded(reason: &str, message: impl Into<String>) -> Self {
        Self {
            has_failed: false,
            ..Self::failed(reason, message)
        }
    }
}

/// Everything a decision looks at.
struct Look<'a> {
    job: &'a Job,
    wish: Wish<'a>,
    pods: Pods,
    counted: Counted,
    now: Timestamp,
}

/// What `job` needs. `may_change`: what was asked for before has been seen, so that Pods may be
/// created and deleted.
pub(super) fn plan(job: &Job, all: &[Arc<Pod>], may_change: bool, now: Timestamp) -> Option<Plan> {
    let spec = job.spec.as_ref()?;
    let wish = Wish::of(spec);
    let mut status = job.status.clone().unwrap_or_default();
    let counted = Counted::of(&status, &wish);
    let mut look = Look {
        job,
        pods: Pods::of(all),
        counted,
        wish,
        now,
    };
    let mut plan = Plan::default();
    if status.start_time.is_none() && !look.wish.is_suspended {
        status.start_time = Some(Time(now));
    }
    look.settle();
    let known = ending_of(&status);
    let mut ending = known.clone().or_else(|| look.failure(&status));
    let delayed = look.delayed(ending.as_ref());
    plan.release = look.count(ending.as_ref(), &delayed);
    look.fail_indexes();
    ending = ending
        .or_else(|| look.failure_of_counts())
        .or_else(|| look.success());
    if meta::is_terminating(&job.metadata) {
        // Whoever deletes the Job deletes its Pods.
    } else if let Some(ending) = &ending {
        if may_change {
            plan.delete.clone_from(&look.pods.active);
        }
        look.conclude(&mut status, ending, &mut plan);
    } else {
        if may_change {
            look.keep_going(&mut plan);
        }
        look.suspend(&mut status, &mut plan);
    }
    look.wake_for_deadline(&status, &mut plan);
    look.write(&mut status);
    plan.status = status;
    Some(plan)
}

/// The verdict an earlier look came to.
fn ending_of(status: &JobStatus) -> Option<Ending> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let of = |condition: &JobCondition, has_failed| Ending {
        has_failed,
        reason: text(&condition.reason),
        message: text(&condition.message),
    };
    holds(status, "FailureTarget")
        .map(|condition| of(condition, true))
        .or_else(|| holds(status, "SuccessCriteriaMet").map(|condition| of(condition, false)))
}

impl Look<'_> {
    /// Turns notes of Pods that have lost the finalizer into counts.
    fn settle(&mut self) {
        let tracked: HashSet<&str> = self
            .pods
            .tracked()
            .map(|pod| meta::uid(&pod.metadata))
            .collect();
        let counted = &mut self.counted;
        for (notes, count) in [
            (&mut counted.uncounted_succeeded, &mut counted.succeeded),
            (&mut counted.uncounted_failed, &mut counted.failed),
        ] {
            let before = notes.len();
            notes.retain(|uid| tracked.contains(uid.as_str()));
            *count += i32::try_from(before - notes.len()).unwrap_or(i32::MAX);
        }
    }

    /// Failures that need no count: a rule of the failure policy, the deadline.
    fn failure(&self, status: &JobStatus) -> Option<Ending> {
        let policy = self.wish.spec.pod_failure_policy.as_ref();
        let failed = self
            .pods
            .tracked()
            .filter(|pod| pod::phase(pod) == "Failed");
        let by_rule = failed
            .filter_map(|pod| match verdict(policy, pod) {
                Verdict::FailJob(message) => Some(message),
                _ => None,
            })
            .next();
        if let Some(message) = by_rule {
            return Some(Ending::failed("PodFailurePolicy", message));
        }
        if self.is_past_limit_in_place() {
            return Some(past_limit());
        }
        let left = self.until_deadline(status)?;
        left.is_zero().then(|| {
            let message = "Job was active longer than specified deadline";
            Ending::failed("DeadlineExceeded", message)
        })
    }

    /// Pods that restart their containers themselves count by restarts
    /// (`pastBackoffLimitOnFailure`).
    fn is_past_limit_in_place(&self) -> bool {
        let spec = self.wish.spec.template.spec.as_ref();
        if spec.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.pods.active.iter();
        let running = running.filter(|p| matches!(pod::phase(p), "Running" | "Pending"));
        let restarts: i64 = running.map(|pod| pod::restart_count(pod)).sum();
        match i64::from(self.wish.backoff_limit) {
            0 => restarts > 0,
            limit => restarts >= limit,
        }
    }

    fn until_deadline(&self, status: &JobStatus) -> Option<Duration> {
        if self.wish.is_suspended {
            return None;
        }
        let seconds = self.wish.spec.active_deadline_seconds?;
        let start = status.start_time.as_ref()?.0;
        let end = start.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        Some(Duration::try_from(end.duration_since(self.now)).unwrap_or_default())
    }

    /// Failed Pods that are kept until their index has a new Pod, which must know how often the
    /// index has failed.
    fn delayed(&self, ending: Option<&Ending>) -> HashSet<String> {
        let Some(limit) = self.wish.spec.backoff_limit_per_index else {
            return HashSet::new();
        };
        if ending.is_some() || meta::is_terminating(&self.job.metadata) {
            return HashSet::new();
        }
        let policy = self.wish.spec.pod_failure_policy.as_ref();
        let most = self.pods.failed_most(&self.wish).into_iter();
        let kept = most.filter(|(index, (count, pod))| {
            let is_over = self.counted.completed_indexes.contains(index)
                || self.counted.failed_indexes.contains(index)
                || *count > limit
                || verdict(policy, pod) == Verdict::FailIndex;
            let is_replaced = self.pods.all.iter().any(|other| {
                self.wish.index(other) == Some(*index) && failures_before(other) >= *count
            });
            !is_over && !is_replaced
        });
        kept.map(|(_, (_, pod))| meta::uid(&pod.metadata).to_owned())
            .collect()
    }

    /// Notes Pods that have ended; returns those to be let go of.
    fn count(&mut self, ending: Option<&Ending>, delayed: &HashSet<String>) -> Vec<Arc<Pod>> {
        let has_failed = ending.is_some_and(|ending| ending.has_failed);
        let mut release = Vec::new();
        let tracked: Vec<_> = self.pods.tracked().cloned().collect();
        for pod in tracked {
            let uid = meta::uid(&pod.metadata);
            let failed = self.wish.has_failed(&pod) && !delayed.contains(uid);
            let succeeded = pod::phase(&pod) == "Succeeded";
            let ends = has_failed && pod::is_terminating(&pod);
            if !(failed || succeeded || ends || self.is_orphaned(&pod)) {
                continue;
            }
            if release.len() >= UNCOUNTED_MAX {
                break;
            }
            if succeeded {
                self.note_success(&pod);
            } else if failed || ends {
                self.note_failure(&pod);
            }
            release.push(pod);
        }
        release
    }

    /// A Pod of a Job that is being deleted is let go of when it is deleted too.
    fn is_orphaned(&self, pod: &Pod) -> bool {
        meta::is_terminating(&self.job.metadata) && pod::is_terminating(pod)
    }

    fn note_success(&mut self, pod: &Pod) {
        let uid = meta::uid(&pod.metadata);
        let counted = &mut self.counted;
        if counted.uncounted_failed.iter().any(|known| known == uid) {
            return;
        }
        if self.wish.is_indexed {
            if let Some(index) = self.wish.index(pod) {
                counted.completed_indexes.insert(index);
            }
        } else if !counted.uncounted_succeeded.iter().any(|known| known == uid) {
            counted.uncounted_succeeded.push(uid.to_owned());
        }
    }

    fn note_failure(&mut self, pod: &Pod) {
        let uid = meta::uid(&pod.metadata);
        let policy = self.wish.spec.pod_failure_policy.as_ref();
        let is_known = self
            .counted
            .uncounted_failed
            .iter()
            .any(|known| known == uid);
        let is_stray = self.wish.is_indexed && self.wish.index(pod).is_none();
        if is_known || is_stray || verdict(policy, pod) == Verdict::Ignore {
            return;
        }
        self.counted.uncounted_failed.push(uid.to_owned());
    }

    /// Indexes that have failed as often as they may.
    fn fail_indexes(&mut self) {
        let Some(limit) = self.wish.spec.backoff_limit_per_index else {
            return;
        };
        let policy = self.wish.spec.pod_failure_policy.as_ref();
        for (index, (count, pod)) in self.pods.failed_most(&self.wish) {
            let is_over = count > limit || verdict(policy, &pod) == Verdict::FailIndex;
            if is_over && !self.counted.completed_indexes.contains(&index) {
                self.counted.failed_indexes.insert(index);
            }
        }
    }

    /// Failures that follow from the counts.
    fn failure_of_counts(&self) -> Option<Ending> {
        let spec = self.wish.spec;
        if spec.backoff_limit_per_index.is_none() {
            let is_past = self.counted.all_failed() > self.wish.backoff_limit;
            return is_past.then(past_limit);
        }
        let failed = i32::try_from(self.counted.failed_indexes.len()).unwrap_or(i32::MAX);
        if spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Ending::failed("MaxFailedIndexesExceeded", message));
        }
        if spec
            .backoff_limit
            .is_some_and(|limit| self.counted.all_failed() > limit)
        {
            return Some(past_limit());
        }
        let ended = failed + self.succeeded();
        (failed > 0 && ended >= self.wish.indexes())
            .then(|| Ending::failed("FailedIndexes", "Job has failed indexes"))
    }

    fn succeeded(&self) -> i32 {
        match self.wish.is_indexed {
            true => i32::try_from(self.counted.completed_indexes.len()).unwrap_or(i32::MAX),
            false => self.counted.all_succeeded(),
        }
    }

    fn success(&self) -> Option<Ending> {
        let rules = self.wish.spec.success_policy.as_ref();
        let rules = rules
            .map(|policy| policy.rules.as_slice())
            .unwrap_or_default();
        if let Some(position) = rules.iter().position(|rule| self.is_met(rule)) {
            let message = format!("Matched rules at index {position}");
            return Some(Ending::succeeded("SuccessPolicy", message));
        }
        let succeeded = self.succeeded();
        let is_complete = match self.wish.completions {
            Some(wanted) => succeeded >= wanted,
            None => succeeded > 0 && self.pods.active.is_empty(),
        };
        let message = "Reached expected number of succeeded pods";
        is_complete.then(|| Ending::succeeded("CompletionsReached", message))
    }

    fn is_met(&self, rule: &SuccessPolicyRule) -> bool {
        let done = &self.counted.completed_indexes;
        let among = rule
            .succeeded_indexes
            .as_deref()
            .map(|text| indexes::parse(text, self.wish.indexes()));
        let hits = among
            .as_ref()
            .map_or(done.len(), |among| among.intersection(done).count());
        match (rule.succeeded_count, among) {
            (Some(count), _) => i32::try_from(hits).unwrap_or(i32::MAX) >= count,
            (None, Some(among)) => hits == among.len(),
            (None, None) => false,
        }
    }

    /// Writes the verdict, and the end where nothing is left to wait for.
    fn conclude(&self, status: &mut JobStatus, ending: &Ending, plan: &mut Plan) {
        let (target, end) = match ending.has_failed {
            true => ("FailureTarget", "Failed"),
            false => ("SuccessCriteriaMet", "Complete"),
        };
        self.set(status, target, ending);
        let is_quiet = self.pods.active.is_empty() && self.pods.terminating.is_empty();
        if !(is_quiet && self.counted.is_settled() && plan.release.is_empty()) {
            return;
        }
        self.set(status, end, ending);
        if ending.has_failed {
            let (reason, message) = (ending.reason.clone(), ending.message.clone());
            plan.events.push((Kind::Warning, reason, message));
        } else {
            status.completion_time = Some(Time(self.now));
            let event = ("Completed".to_owned(), "Job completed".to_owned());
            plan.events.push((Kind::Normal, event.0, event.1));
        }
    }

    fn set(&self, status: &mut JobStatus, kind: &str, ending: &Ending) {
        if holds(status, kind).is_none() {
            let (reason, message) = (&ending.reason, &ending.message);
            set_condition(status, (kind, "True"), (reason, message), self.now);
        }
    }

    /// The Pods to create or delete while the Job runs.
    fn keep_going(&self, plan: &mut Plan) {
        let active = i32::try_from(self.pods.active.len()).unwrap_or(i32::MAX);
        let wanted = self.wanted_active(active);
        if active > wanted {
            let surplus = usize::try_from(active - wanted)
                .unwrap_or(0)
                .min(pods::BURST);
            plan.dismiss = pods::to_delete(&self.pods.active, &self.pods.all, surplus, self.now);
            return;
        }
        let mut missing = wanted - active;
        if self.wish.waits_for_failed {
            let terminating = i32::try_from(self.pods.terminating.len()).unwrap_or(i32::MAX);
            missing = missing.saturating_sub(terminating);
        }
        let missing = usize::try_from(missing).unwrap_or(0).min(pods::BURST);
        if missing == 0 {
            return;
        }
        if self.wish.spec.backoff_limit_per_index.is_some() {
            return self.create_by_index(missing, plan);
        }
        let failures = self.pods.failures_in_a_row(&self.wish, self.now);
        if let Some(wait) = self.pause(failures.len(), failures.last().copied()) {
            plan.wake_in = Some(wait);
            return;
        }
        plan.create = match self.wish.is_indexed {
            true => self
                .free_indexes()
                .take(missing)
                .map(|i| wanted_pod(Some(i)))
                .collect(),
            false => vec![wanted_pod(None); missing],
        };
    }

    fn wanted_active(&self, active: i32) -> i32 {
        if self.wish.is_suspended {
            return 0;
        }
        let parallelism = self.wish.parallelism;
        match self.wish.completions {
            // A queue of work that one worker found empty needs no more workers.
            None if self.counted.all_succeeded() > 0 => active.min(parallelism),
            None => parallelism,
            Some(wanted) => {
                let failed = i32::try_from(self.counted.failed_indexes.len()).unwrap_or(0);
                parallelism.min((wanted - self.succeeded() - failed).max(0))
            }
        }
    }

    /// Indexes without a Pod, a success or a failure for good.
    fn free_indexes(&self) -> impl Iterator<Item = i32> {
        let mut taken: HashSet<i32> = HashSet::new();
        let ends = self
            .pods
            .terminating
            .iter()
            .filter(|_| self.wish.waits_for_failed);
        let taking = self.pods.active.iter().chain(ends);
        taken.extend(taking.filter_map(|pod| self.wish.index(pod)));
        taken.extend(&self.counted.completed_indexes);
        taken.extend(&self.counted.failed_indexes);
        (0..self.wish.indexes()).filter(move |index| !taken.contains(index))
    }

    fn create_by_index(&self, missing: usize, plan: &mut Plan) {
        let most = self.pods.failed_most(&self.wish);
        let mut waits: Option<Duration> = None;
        for index in self.free_indexes() {
            if plan.create.len() >= missing {
                break;
            }
            let failed = most.get(&index);
            let count = failed.map_or(0, |(count, _)| *count);
            let at = failed.and_then(|(_, pod)| ended_at(pod));
            match self.pause(usize::try_from(count).unwrap_or(0), at) {
                Some(wait) => waits = Some(waits.map_or(wait, |known| known.min(wait))),
                None => plan.create.push(Wanted {
                    index: Some(index),
                    failures: Some(count),
                }),
            }
        }
        plan.wake_in = waits;
    }

    /// How long to wait after so many failures, the last of them then.
    fn pause(&self, failures: usize, last: Option<Timestamp>) -> Option<Duration> {
        let last = last.filter(|_| failures > 0)?;
        let (first, most) = BACKOFF;
        let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
        let delay = (first * 2_i32.pow(doublings)).min(most);
        let end = last.checked_add(delay).ok()?;
        let left = Duration::try_from(end.duration_since(self.now)).unwrap_or_default();
        (!left.is_zero()).then_some(left)
    }

    /// Says when a Job is suspended and resumed.
    fn suspend(&self, status: &mut JobStatus, plan: &mut Plan) {
        let is_said = holds(status, "Suspended").is_some();
        if self.wish.is_suspended == is_said {
            return;
        }
        let (value, reason, message) = match self.wish.is_suspended {
            true => ("True", "JobSuspended", "Job suspended"),
            false => ("False", "JobResumed", "Job resumed"),
        };
        set_condition(status, ("Suspended", value), (reason, message), self.now);
        let event = match self.wish.is_suspended {
            true => "Suspended",
            false => {
                status.start_time = Some(Time(self.now));
                "Resumed"
            }
        };
        plan.events
            .push((Kind::Normal, event.to_owned(), message.to_owned()));
    }

    fn wake_for_deadline(&self, status: &JobStatus, plan: &mut Plan) {
        let left = self.until_deadline(status).filter(|left| !left.is_zero());
        plan.wake_in = match (plan.wake_in, left) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn write(&self, status: &mut JobStatus) {
        let count = |count: usize| i32::try_from(count).ok();
        let some = |count: i32| (count > 0).then_some(count);
        status.active = count(self.pods.active.len()).and_then(some);
        status.ready = count(self.pods.ready);
        status.terminating = count(self.pods.terminating.len());
        status.failed = some(self.counted.failed);
        status.succeeded = match self.wish.is_indexed {
            true => some(self.succeeded()),
            false => some(self.counted.succeeded),
        };
        if self.wish.is_indexed {
            let done = indexes::format(&self.counted.completed_indexes);
            status.completed_indexes = (!done.is_empty()).then_some(done);
            if self.wish.spec.backoff_limit_per_index.is_some() {
                status.failed_indexes = Some(indexes::format(&self.counted.failed_indexes));
            }
        }
        let list = |uids: &Vec<String>| (!uids.is_empty()).then(|| uids.clone());
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list(&self.counted.uncounted_succeeded),
            failed: list(&self.counted.uncounted_failed),
        });
    }
}

fn wanted_pod(index: Option<i32>) -> Wanted {
    Wanted {
        index,
        failures: None,
    }
}

fn past_limit() -> Ending {
    let message = "Job has reached the specified backoff limit";
    Ending::failed("BackoffLimitExceeded", message)
}

fn set_condition(
    status: &mut JobStatus,
    (kind, value): (&str, &str),
    (reason, message): (&str, &str),
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}
