//! Tables of Jobs and Pods, and what the plan makes of them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::facts::holds;
use super::plan::{Plan, plan};
use super::template::{FINALIZER, INDEX, INDEX_FAILURES};
use crate::api::meta;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn job(spec: &Value, status: &Value) -> Job {
    let mut object = json!({"metadata": {"name": "j", "namespace": "n", "uid": "j"},
        "spec": {"template": {"spec": {"containers": [], "restartPolicy": "Never"}}},
        "status": status});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// A Pod whose container ended (where it has) at second 0.
fn pod(name: &str, phase: &str, change: impl Fn(&mut Value)) -> Arc<Pod> {
    let code = i32::from(phase == "Failed");
    let state = match phase {
        "Succeeded" | "Failed" => {
            json!({"terminated": {"exitCode": code, "finishedAt": at(0).to_string()}})
        }
        _ => json!({"running": {}}),
    };
    let mut value = json!({
        "metadata": {"name": name, "uid": name, "finalizers": [FINALIZER]},
        "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": state}]}});
    change(&mut value);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn indexed(index: i32, phase: &str, failures: i32) -> Arc<Pod> {
    pod(&format!("p{index}-{failures}"), phase, |pod| {
        pod["metadata"]["annotations"] =
            json!({INDEX: index.to_string(), INDEX_FAILURES: failures.to_string()});
    })
}

fn released(pod: &Arc<Pod>) -> Arc<Pod> {
    let mut pod = (**pod).clone();
    pod.metadata.finalizers = None;
    Arc::new(pod)
}

fn look(job: &Job, pods: &[Arc<Pod>], second: i64) -> Plan {
    plan(job, pods, true, at(second)).unwrap()
}

/// The Job after its status was written.
fn after(job: &Job, plan: &Plan) -> Job {
    Job {
        status: Some(plan.status.clone()),
        ..job.clone()
    }
}

fn reason(status: &JobStatus, kind: &str) -> String {
    let condition = holds(status, kind);
    condition.and_then(|c| c.reason.clone()).unwrap_or_default()
}

#[test]
fn pods_are_made_up_to_parallelism_and_what_is_missing() {
    for (parallelism, completions, running, done, expected) in [
        (2, Some(5), 0, 0, 2),
        (2, Some(5), 1, 0, 1),
        (4, Some(5), 0, 3, 2),
        (3, None, 0, 0, 3),
        (3, None, 1, 1, 0),
    ] {
        let spec = json!({"parallelism": parallelism, "completions": completions});
        let job = job(&spec, &json!({"succeeded": done}));
        let pods: Vec<_> = (0..running)
            .map(|i| pod(&format!("r{i}"), "Running", |_| {}))
            .collect();
        let plan = look(&job, &pods, 100);
        assert_eq!(plan.create.len(), expected, "{spec} {running} {done}");
    }
    let too_many: Vec<_> = (0..3)
        .map(|i| pod(&format!("r{i}"), "Running", |_| {}))
        .collect();
    let job = job(&json!({"parallelism": 1, "completions": 5}), &json!({}));
    assert_eq!(look(&job, &too_many, 0).dismiss.len(), 2);
}

#[test]
fn a_pod_is_noted_then_released_then_counted_and_never_twice() {
    let first = job(&json!({"completions": 2, "parallelism": 1}), &json!({}));
    let done = pod("a", "Succeeded", |_| {});
    let noted = look(&first, std::slice::from_ref(&done), 10);
    assert_eq!(noted.release.len(), 1);
    assert_eq!(noted.status.succeeded, None);
    let notes = noted.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(notes.succeeded, Some(vec!["a".to_owned()]));
    assert_eq!(
        noted.create.len(),
        1,
        "what is noted counts for what is missing"
    );
    // The process ends before the finalizer is off: the same note, once.
    let second = after(&first, &noted);
    let again = look(&second, std::slice::from_ref(&done), 11);
    assert_eq!(
        again.status.uncounted_terminated_pods,
        noted.status.uncounted_terminated_pods
    );
    // It is off, or the Pod is gone: counted.
    for pods in [vec![released(&done)], vec![]] {
        let counted = look(&second, &pods, 12);
        assert_eq!(counted.status.succeeded, Some(1));
        let notes = counted.status.uncounted_terminated_pods.clone().unwrap();
        assert_eq!(notes.succeeded, None);
        let third = look(&after(&second, &counted), &pods, 13);
        assert_eq!(third.status.succeeded, Some(1));
    }
}

#[test]
fn a_job_is_complete_when_everything_is_counted_and_nothing_runs() {
    let status = json!({"startTime": at(0).to_string(), "succeeded": 1});
    let job = job(&json!({"completions": 1}), &status);
    let rest = pod("x", "Running", |pod| {
        pod["metadata"]["deletionTimestamp"] = at(1).to_string().into();
        pod["metadata"]["finalizers"] = json!([]);
    });
    let waits = look(&job, &[rest], 20);
    assert_eq!(
        reason(&waits.status, "SuccessCriteriaMet"),
        "CompletionsReached"
    );
    assert!(holds(&waits.status, "Complete").is_none());
    let ends = look(&after(&job, &waits), &[], 21);
    assert_eq!(reason(&ends.status, "Complete"), "CompletionsReached");
    assert!(ends.status.completion_time.is_some());
    assert_eq!(ends.events[0].1, "Completed");
}

#[test]
fn failures_pause_twice_as_long_each_and_then_fail_the_job() {
    let first = job(&json!({"backoffLimit": 2}), &json!({"failed": 1}));
    let failed = [released(&pod("a", "Failed", |_| {}))];
    let waits = look(&first, &failed, 4);
    assert!(waits.create.is_empty());
    assert_eq!(waits.wake_in.unwrap().as_secs(), 6);
    assert_eq!(look(&first, &failed, 10).create.len(), 1);
    let two = [failed[0].clone(), released(&pod("b", "Failed", |_| {}))];
    assert_eq!(look(&first, &two, 4).wake_in.unwrap().as_secs(), 16);
    let over = job(&json!({"backoffLimit": 2}), &json!({"failed": 3}));
    let running = [pod("r", "Running", |_| {})];
    let verdict = look(&over, &running, 50);
    assert_eq!(
        reason(&verdict.status, "FailureTarget"),
        "BackoffLimitExceeded"
    );
    assert_eq!(verdict.delete.len(), 1);
    let end = look(&after(&over, &verdict), &[], 51);
    assert_eq!(reason(&end.status, "Failed"), "BackoffLimitExceeded");
}

#[test]
fn a_deadline_ends_a_job_and_a_suspension_stops_the_clock() {
    let status = json!({"startTime": at(0).to_string()});
    let spec = json!({"activeDeadlineSeconds": 30});
    let soon = look(&job(&spec, &status), &[], 10);
    assert_eq!(soon.wake_in.unwrap().as_secs(), 20);
    let late = look(&job(&spec, &status), &[], 30);
    assert_eq!(reason(&late.status, "FailureTarget"), "DeadlineExceeded");
    let running = [pod("r", "Running", |_| {})];
    let suspended = job(
        &json!({"activeDeadlineSeconds": 30, "suspend": true}),
        &status,
    );
    let stops = look(&suspended, &running, 40);
    assert_eq!(reason(&stops.status, "Suspended"), "JobSuspended");
    assert_eq!(stops.dismiss.len(), 1);
    let mut resumed = after(&suspended, &stops);
    resumed.spec.as_mut().unwrap().suspend = Some(false);
    // The old start is past the deadline: only a start that is set anew goes on.
    resumed.status.as_mut().unwrap().start_time = None;
    let goes = look(&resumed, &[], 50);
    assert_eq!(goes.events[0].1, "Resumed");
    assert_eq!(goes.status.start_time.as_ref().unwrap().0, at(50));
    assert_eq!(goes.create.len(), 1);
}

#[test]
fn an_indexed_job_fills_the_free_indexes_and_counts_each_once() {
    let spec = json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"});
    let first = job(&spec, &json!({"completedIndexes": "1", "succeeded": 1}));
    let pods = [
        indexed(0, "Running", 0),
        indexed(3, "Succeeded", 0),
        indexed(1, "Succeeded", 0),
    ];
    let plan = look(&first, &pods, 10);
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("1,3"));
    assert_eq!(plan.status.succeeded, Some(2));
    assert_eq!(
        plan.create.iter().map(|w| w.index).collect::<Vec<_>>(),
        [Some(2)]
    );
    assert_eq!(plan.release.len(), 2);
}

#[test]
fn an_index_fails_alone_and_the_job_when_all_have_ended() {
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1, "backoffLimit": null});
    let first = job(&spec, &json!({}));
    // The first failure is kept until index 0 has a new Pod that knows of it.
    let failed = indexed(0, "Failed", 0);
    let plan = look(&first, &[failed.clone(), indexed(1, "Running", 0)], 20);
    assert!(plan.release.is_empty());
    assert_eq!(plan.create[0].index, Some(0));
    assert_eq!(plan.create[0].failures, Some(1));
    let again = indexed(0, "Failed", 1);
    let plan = look(&first, &[failed, again, indexed(1, "Succeeded", 0)], 60);
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("1"));
    assert_eq!(plan.release.len(), 3);
    assert_eq!(reason(&plan.status, "FailureTarget"), "FailedIndexes");
}

#[test]
fn a_success_policy_ends_a_job_early() {
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]}});
    let pods = [indexed(0, "Running", 0), indexed(2, "Succeeded", 0)];
    let plan = look(&job(&spec, &json!({})), &pods, 10);
    assert_eq!(reason(&plan.status, "SuccessCriteriaMet"), "SuccessPolicy");
    assert_eq!(plan.delete.len(), 1);
    assert_eq!(meta::name(&plan.delete[0].metadata), "p0-0");
}
