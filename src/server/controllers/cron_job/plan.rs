//! Decides what a CronJob needs: a Job to be made, Jobs to be deleted, its status. Pure; kubernetes
//! `pkg/controller/cronjob/cronjob_controllerv2.go`.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::Resource as _;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::api::{meta, time};
use crate::client;
use crate::server::controllers::job::is_finished;

use super::schedule::Times;

/// When the Job was due (annotation).
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) is_warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: CronJobStatus,
    pub(super) events: Vec<Event>,
    /// Jobs that still run and make room for a new one.
    pub(super) replace: Vec<Arc<Job>>,
    /// When the Job to be made was due.
    pub(super) create: Option<Timestamp>,
    /// Ended Jobs beyond the limits of history.
    pub(super) forget: Vec<Arc<Job>>,
    pub(super) wake_in: Option<Duration>,
}

impl Plan {
    fn tell(&mut self, is_warning: bool, reason: &'static str, message: impl Into<String>) {
        self.events.push(Event {
            is_warning,
            reason,
            message: message.into(),
        });
    }
}

/// What `cron` needs, of which `jobs` are.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let spec = &cron.spec;
    let mut plan = Plan {
        status: cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    take_stock(jobs, &mut plan);
    plan.forget = beyond_history(spec, jobs);
    if meta::is_terminating(&cron.metadata) || spec.suspend == Some(true) {
        return plan;
    }
    let times = match times(spec) {
        Ok(times) => times,
        Err((reason, message)) => {
            plan.tell(true, reason, message);
            return plan;
        }
    };
    start(cron, (spec, &times), jobs, (now, &mut plan));
    plan.wake_in = times.next(now).map(|next| {
        let left = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        // A little late rather than early, so that the time has come.
        left + Duration::from_millis(50)
    });
    plan
}

fn times(spec: &CronJobSpec) -> Result<Times, (&'static str, String)> {
    let name = spec.time_zone.as_deref();
    let zone = Times::zone(name).map_err(|error| {
        let name = name.unwrap_or_default();
        (
            "UnknownTimeZone",
            format!("invalid timeZone: {name:?}: {error}"),
        )
    })?;
    Times::new(&spec.schedule, zone).map_err(|error| {
        let text = &spec.schedule;
        (
            "UnparseableSchedule",
            format!("unparseable schedule: {text:?} : {error}"),
        )
    })
}

/// Brings the list of running Jobs in line with what there is.
fn take_stock(jobs: &[Arc<Job>], plan: &mut Plan) {
    let before = plan.status.active.take().unwrap_or_default();
    let mut active = Vec::new();
    for job in jobs {
        let uid = meta::uid(&job.metadata);
        let name = meta::name(&job.metadata);
        let known = before.iter().find(|r| r.uid.as_deref() == Some(uid));
        if !is_finished(job) {
            if known.is_none() && is_missing_from(&before, job) {
                let text = "Saw a job that the controller did not create or forgot";
                plan.tell(true, "UnexpectedJob", format!("{text}: {name}"));
            }
            active.push(known.cloned().unwrap_or_else(|| reference(job)));
            continue;
        }
        let end = end_of(job);
        if known.is_some() {
            let text = format!("Saw completed job: {name}, condition: {end}");
            plan.tell(false, "SawCompletedJob", text);
        }
        let ended = job.status.as_ref().and_then(|s| s.completion_time.as_ref());
        let last = plan.status.last_successful_time.as_ref();
        if let Some(ended) = ended.filter(|e| end == "Complete" && last.is_none_or(|l| l.0 < e.0)) {
            plan.status.last_successful_time = Some(ended.clone());
        }
    }
    for missing in before {
        let is_known = |job: &Arc<Job>| Some(meta::uid(&job.metadata)) == missing.uid.as_deref();
        if !jobs.iter().any(is_known) {
            let name = missing.name.unwrap_or_default();
            plan.tell(
                false,
                "MissingJob",
                format!("Active job went missing: {name}"),
            );
        }
    }
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// Whether nothing in the list has the Job's name either (it was made a moment ago).
fn is_missing_from(active: &[ObjectReference], job: &Job) -> bool {
    let made_here = meta::annotation(&job.metadata, SCHEDULED_AT).is_some();
    !made_here && !active.iter().any(|r| r.name == job.metadata.name)
}

fn end_of(job: &Job) -> &'static str {
    let conditions = job
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let mut true_ones = conditions.filter(|c| c.status == "True");
    match true_ones.any(|c| c.type_ == "Failed") {
        true => "Failed",
        false => "Complete",
    }
}

fn reference(job: &Job) -> ObjectReference {
    client::reference(job)
}

/// Decides whether a Job is due, and may be made now.
fn start(
    cron: &CronJob,
    (spec, times): (&CronJobSpec, &Times),
    jobs: &[Arc<Job>],
    (now, plan): (Timestamp, &mut Plan),
) {
    let Some(due) = times.due(earliest(cron, spec, now), now) else {
        return;
    };
    if due.are_too_many {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or \
                    check clock skew";
        plan.tell(true, "TooManyMissedTimes", text);
    }
    let deadline = spec.starting_deadline_seconds;
    let last_start = deadline.and_then(|s| due.at.checked_add(SignedDuration::from_secs(s)).ok());
    if last_start.is_some_and(|last| last < now) {
        let text = format!(
            "Missed scheduled time to start a job: {}",
            time::seconds(due.at)
        );
        plan.tell(true, "MissSchedule", text);
        return;
    }
    let name = job_name(cron, due.at);
    let is_made = jobs.iter().any(|job| meta::name(&job.metadata) == name);
    let is_done = plan
        .status
        .last_schedule_time
        .as_ref()
        .is_some_and(|t| t.0 >= due.at);
    if is_made || is_done {
        return;
    }
    let running: Vec<_> = jobs
        .iter()
        .filter(|job| !is_finished(job))
        .cloned()
        .collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency \
                        policy is Forbid";
            plan.tell(false, "JobAlreadyActive", text);
            return;
        }
        Some("Replace") => {
            plan.replace = running;
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some(due.at);
    plan.status.last_schedule_time = Some(Time(due.at));
}

/// From when on times count: the last one that was served, and no earlier than the deadline lets.
fn earliest(cron: &CronJob, spec: &CronJobSpec, now: Timestamp) -> Timestamp {
    let served = cron
        .status
        .as_ref()
        .and_then(|s| s.last_schedule_time.as_ref());
    let made = cron.metadata.creation_timestamp.as_ref();
    let since = served.or(made).map_or(now, |time| time.0);
    let deadline = spec.starting_deadline_seconds;
    let reach = deadline.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok());
    reach.map_or(since, |reach| since.max(reach))
}

/// Ended Jobs beyond the limits of history, oldest first.
fn beyond_history(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut doomed = Vec::new();
    for (end, limit) in [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let ended = jobs
            .iter()
            .filter(|job| is_finished(job) && end_of(job) == end);
        let mut ended: Vec<_> = ended
            .filter(|j| !meta::is_terminating(&j.metadata))
            .collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|s| s.start_time.as_ref());
            (start.map(|time| time.0), job.metadata.name.clone())
        });
        let kept = usize::try_from(limit).unwrap_or(0);
        let surplus = ended.len().saturating_sub(kept);
        doomed.extend(ended.into_iter().take(surplus).cloned());
    }
    doomed
}

/// The name of the Job for a time: the same however often it is tried.
fn job_name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", meta::name(&cron.metadata), due.as_second() / 60)
}

/// The Job that was due then.
pub(super) fn job(cron: &CronJob, due: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let from = template.metadata.unwrap_or_default();
    let mut annotations = from.annotations.unwrap_or_default();
    let text = match Times::zone(cron.spec.time_zone.as_deref()) {
        Ok(zone) if zone != jiff::tz::TimeZone::UTC => {
            let local = due.to_zoned(zone);
            jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S%:z", &local).ok()
        }
        _ => None,
    };
    annotations.insert(
        SCHEDULED_AT.to_owned(),
        text.unwrap_or_else(|| time::seconds(due)),
    );
    let owner = meta::controller_ref(CronJob::API_VERSION, CronJob::KIND, &cron.metadata);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, due)),
            namespace: cron.metadata.namespace.clone(),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    fn cron(spec: &Value, status: &Value) -> CronJob {
        let mut object = json!({"metadata": {"name": "c", "namespace": "n", "uid": "c",
                "creationTimestamp": at("00:00:30").to_string()},
            "spec": {"schedule": "*/10 * * * *", "jobTemplate": {}}, "status": status});
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn job_of(name: &str, end: &str, minute: u8) -> Arc<Job> {
        let conditions = match end {
            "" => json!([]),
            end => json!([{"type": end, "status": "True"}]),
        };
        let time = at(&format!("00:{minute:02}:00")).to_string();
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "uid": name,
                "annotations": {SCHEDULED_AT: time}},
                "status": {"startTime": time, "completionTime": time,
                    "conditions": conditions}}))
            .unwrap(),
        )
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.events.iter().map(|event| event.reason).collect()
    }

    #[test]
    fn a_job_is_made_once_for_each_time() {
        let first = cron(&json!({}), &json!({}));
        let early = plan(&first, &[], at("00:09:00"));
        assert_eq!(early.create, None);
        assert_eq!(early.wake_in.unwrap().as_secs(), 60);
        let due = plan(&first, &[], at("00:10:01"));
        assert_eq!(due.create, Some(at("00:10:00")));
        assert_eq!(due.status.last_schedule_time, Some(Time(at("00:10:00"))));
        let made = job(&first, at("00:10:00"));
        let minutes = at("00:10:00").as_second() / 60;
        assert_eq!(made.metadata.name, Some(format!("c-{minutes}")));
        // The status was not written, but the Job is there; or it was, and is not seen yet.
        let again = plan(&first, &[Arc::new(made)], at("00:10:02"));
        assert_eq!(again.create, None);
        let written = serde_json::to_value(&due.status).unwrap();
        let again = plan(&cron(&json!({}), &written), &[], at("00:10:02"));
        assert_eq!(again.create, None);
    }

    #[test]
    fn policies_say_what_happens_while_a_job_runs() {
        let running = [job_of("old", "", 1)];
        for (policy, creates, replaces) in [
            ("Allow", true, 0),
            ("Forbid", false, 0),
            ("Replace", true, 1),
        ] {
            let cron = cron(&json!({"concurrencyPolicy": policy}), &json!({}));
            let plan = plan(&cron, &running, at("00:10:01"));
            assert_eq!(plan.create.is_some(), creates, "{policy}");
            assert_eq!(plan.replace.len(), replaces, "{policy}");
        }
    }

    #[test]
    fn a_time_past_its_deadline_is_missed_and_a_suspended_one_does_not_come() {
        let late = cron(&json!({"startingDeadlineSeconds": 20}), &json!({}));
        assert_eq!(
            plan(&late, &[], at("00:10:15")).create,
            Some(at("00:10:00"))
        );
        assert_eq!(plan(&late, &[], at("00:10:40")).create, None);
        let suspended = cron(&json!({"suspend": true}), &json!({}));
        let plan = plan(&suspended, &[], at("00:10:15"));
        assert_eq!((plan.create, plan.wake_in), (None, None));
    }

    #[test]
    fn a_wrong_zone_or_schedule_is_told() {
        for (spec, reason) in [
            (json!({"timeZone": "Mars/Phobos"}), "UnknownTimeZone"),
            (json!({"schedule": "every day"}), "UnparseableSchedule"),
        ] {
            let plan = plan(&cron(&spec, &json!({})), &[], at("00:10:15"));
            assert_eq!(reasons(&plan), [reason]);
        }
    }

    #[test]
    fn ended_jobs_leave_the_list_and_old_ones_go() {
        let active = json!({"active": [{"name": "a", "uid": "a"}, {"name": "x", "uid": "x"}]});
        let cron = cron(&json!({"successfulJobsHistoryLimit": 1}), &active);
        let jobs = [
            job_of("a", "Complete", 5),
            job_of("b", "Complete", 3),
            job_of("f", "Failed", 4),
            job_of("r", "", 6),
        ];
        let plan = plan(&cron, &jobs, at("00:09:00"));
        let names: Vec<_> = plan
            .forget
            .iter()
            .map(|j| meta::name(&j.metadata))
            .collect();
        assert_eq!(names, ["b"]);
        assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
        let active = plan.status.active.unwrap();
        assert_eq!(active[0].name.as_deref(), Some("r"));
        assert_eq!(plan.status.last_successful_time, Some(Time(at("00:05:00"))));
    }
}
