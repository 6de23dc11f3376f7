//! Tables of a pod's state and what the server is told.

use serde_json::{Value, json};

use crate::agent::pod::restart::{self, CrashLoop};
use crate::agent::pod::state::Ended;
use crate::agent::pod::testing::{Scene, at, deleted, exited, instance, pod, running};
use crate::agent::probe::Report;
use crate::runtime::Phase;

use super::*;

fn facts() -> NodeFacts {
    NodeFacts {
        addresses: vec!["192.168.1.5".parse().unwrap()],
    }
}

fn told(scene: &Scene, second: i64) -> Value {
    serde_json::to_value(status(&scene.view(second), &facts())).unwrap()
}

fn says(status: &Value, kind: &str) -> String {
    let list = status["conditions"].as_array().unwrap();
    let found = list.iter().find(|c| c["type"] == kind).unwrap();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    [text("status"), text("reason"), text("message")].join("|")
}

#[test]
fn a_new_pod_is_being_created() {
    let status = told(&Scene::new(pod(json!({}))), 0);
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["hostIP"], "192.168.1.5");
    assert_eq!(status["startTime"], at(0).to_string());
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(container["started"], false);
    assert_eq!(says(&status, "Initialized"), "True||");
    assert_eq!(says(&status, "PodReadyToStartContainers"), "False||");
    assert_eq!(
        says(&status, "Ready"),
        "False|ContainersNotReady|containers with unready status: [a]"
    );
    assert_eq!(says(&status, "PodScheduled"), "True||");
}

#[test]
fn a_running_pod_is_ready_with_its_addresses() {
    let scene = Scene::ready(pod(json!({}))).with(&[instance("a", 0, running())]);
    let status = told(&scene, 2);
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.0.0.2");
    assert_eq!(status["podIPs"], json!([{"ip": "10.0.0.2"}]));
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "containerd://a0");
    assert_eq!(container["imageID"], "sha256:1");
    assert_eq!(container["ready"], true);
    assert_eq!(
        container["state"]["running"]["startedAt"],
        at(1).to_string()
    );
    assert_eq!(says(&status, "Ready"), "True||");
}

#[test]
fn the_host_s_address_is_the_pod_s_in_the_host_s_network() {
    let scene = Scene::ready(pod(json!({"hostNetwork": true})));
    assert_eq!(told(&scene, 2)["podIP"], "192.168.1.5");
}

#[test]
fn times_change_only_with_the_status_of_a_condition() {
    let mut scene = Scene::ready(pod(json!({}))).with(&[instance("a", 0, running())]);
    scene.before = status(&scene.view(2), &facts());
    let later = status(&scene.view(9), &facts());
    assert_eq!(scene.before, later);
    let a = scene.memory.containers.get_mut("a").unwrap();
    a.probed.ready = false;
    let unready = status(&scene.view(9), &facts());
    let ready = condition(&unready.conditions, "Ready").unwrap();
    assert_eq!(ready.last_transition_time, Some(Time(at(9))));
    let initialized = condition(&unready.conditions, "Initialized").unwrap();
    assert_eq!(initialized.last_transition_time, Some(Time(at(2))));
}

#[test]
fn conditions_of_others_and_readiness_gates_are_respected() {
    let spec = json!({"readinessGates": [{"conditionType": "x/gate"}]});
    let mut scene = Scene::ready(pod(spec)).with(&[instance("a", 0, running())]);
    let before = json!({"conditions": [{"type": "x/gate", "status": "False"}]});
    scene.before = serde_json::from_value(before).unwrap();
    let status = told(&scene, 2);
    assert_eq!(says(&status, "x/gate"), "False||");
    assert_eq!(
        says(&status, "Ready"),
        "False|ReadinessGatesNotReady|corresponding condition of pod readiness gate \"x/gate\" \
         does not exist."
    );
    assert_eq!(says(&status, "ContainersReady"), "True||");
    scene.pod.status = Some(PodStatus {
        conditions: Some(vec![PodCondition {
            type_: "x/gate".into(),
            status: "True".into(),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    });
    assert_eq!(says(&told(&scene, 2), "Ready"), "True||");
}

#[test]
fn phases_follow_the_containers() {
    let app = |code| instance("a", 0, exited(code, 2));
    let table = [
        ("Always", vec![instance("a", 0, Phase::Created)], "Pending"),
        ("Always", vec![app(0)], "Running"),
        ("OnFailure", vec![app(0)], "Succeeded"),
        ("OnFailure", vec![app(1)], "Running"),
        ("Never", vec![app(0)], "Succeeded"),
        ("Never", vec![app(1)], "Failed"),
    ];
    for (policy, states, phase) in table {
        let scene = Scene::ready(pod(json!({"restartPolicy": policy}))).with(&states);
        assert_eq!(told(&scene, 3)["phase"], phase, "{policy} {states:?}");
    }
}

#[test]
fn init_containers_keep_the_pod_pending() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}]});
    let scene = |state| Scene::ready(pod(spec.clone())).with(&[state]);
    let status = told(&scene(instance("i", 0, running())), 3);
    assert_eq!(status["phase"], "Pending");
    assert_eq!(
        says(&status, "Initialized"),
        "False|ContainersNotInitialized|containers with incomplete status: [i]"
    );
    let app = &status["containerStatuses"][0];
    assert_eq!(app["state"]["waiting"]["reason"], "PodInitializing");
    let status = told(&scene(instance("i", 0, exited(0, 2))), 3);
    assert_eq!(says(&status, "Initialized"), "True||");
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    let status = told(&scene(instance("i", 0, exited(1, 2))), 3);
    assert_eq!(status["phase"], "Failed");
}

#[test]
fn crash_loops_show_why_they_wait_and_how_they_ended() {
    let states = [instance("a", 1, exited(3, 5))];
    let mut scene = Scene::ready(pod(json!({}))).with(&states);
    let a = scene.memory.containers.get_mut("a").unwrap();
    a.crash = Some(CrashLoop::after_restart(None, at(0), at(1)));
    a.messages.insert("a1".into(), "so it goes".into());
    let container = &told(&scene, 6)["containerStatuses"][0];
    let waiting = &container["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(
        waiting["message"],
        "back-off 10s restarting failed container=a pod=p_n(u)"
    );
    let last = &container["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 3);
    assert_eq!(last["reason"], "Error");
    assert_eq!(last["message"], "so it goes");
    assert_eq!(container["restartCount"], 1);
    let over = &told(&scene, 16)["containerStatuses"][0];
    assert_eq!(over["state"]["terminated"]["exitCode"], 3);
}

#[test]
fn pulls_show_the_failure_then_that_they_wait() {
    let mut scene = Scene::ready(pod(json!({})));
    let image = &mut scene.memory.containers.get_mut("a").unwrap().image;
    image.fail(
        ("ErrImagePull", "no such".into()),
        restart::image_delay,
        at(0),
    );
    let waiting = |second| {
        let status = told(&scene, second);
        status["containerStatuses"][0]["state"]["waiting"].clone()
    };
    assert_eq!(
        waiting(0),
        json!({"reason": "ErrImagePull", "message": "no such"})
    );
    assert_eq!(
        waiting(2),
        json!({"reason": "ImagePullBackOff",
            "message": "Back-off pulling image \"image\": ErrImagePull: no such"})
    );
}

#[test]
fn out_of_memory_and_failed_starts_have_their_reasons() {
    let oom = Phase::Exited(crate::runtime::Exit {
        code: 137,
        at: at(4),
        oom_killed: true,
    });
    let scene = Scene::ready(pod(json!({"restartPolicy": "Never"})));
    let mut scene = scene.with(&[instance("a", 0, oom)]);
    let reason = |scene: &Scene| {
        told(scene, 5)["containerStatuses"][0]["state"]["terminated"]["reason"].clone()
    };
    assert_eq!(reason(&scene), "OOMKilled");
    let a = scene.memory.containers.get_mut("a").unwrap();
    a.instances[0].start_error = Some("no such program".into());
    assert_eq!(reason(&scene), "StartError");
}

#[test]
fn the_attempt_before_is_the_last_state() {
    let states = [instance("a", 0, exited(1, 2)), instance("a", 1, running())];
    let mut scene = Scene::ready(pod(json!({}))).with(&states);
    let last = |scene: &Scene| {
        told(scene, 5)["containerStatuses"][0]["lastState"]["terminated"]["exitCode"].clone()
    };
    assert_eq!(last(&scene), 1);
    scene.before = status(&scene.view(5), &facts());
    let scene = scene.with(&states[1..]);
    assert_eq!(last(&scene), 1, "also when the runtime has it no more");
}

#[test]
fn an_ended_pod_keeps_what_was_known_of_removed_containers() {
    let spec = json!({"restartPolicy": "Never"});
    let scene = Scene::ready(deleted(pod(spec), 30));
    let mut scene = scene.with(&[instance("a", 0, exited(0, 2))]);
    let done = status(&scene.view(3), &facts());
    assert_eq!(done.phase.as_deref(), Some("Succeeded"));
    scene.before = done.clone();
    let again = status(&scene.with(&[]).view(9), &facts());
    assert_eq!(again.container_statuses, done.container_statuses);
    assert_eq!(again.phase, done.phase);
}

#[test]
fn a_container_that_vanished_from_an_ending_pod_is_unknown() {
    let mut scene = Scene::ready(pod(json!({}))).with(&[instance("a", 0, running())]);
    scene.before = status(&scene.view(3), &facts());
    scene.pod = deleted(scene.pod, 30);
    let status = told(&scene.with(&[]), 9);
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["reason"], "ContainerStatusUnknown");
    assert_eq!(ended["exitCode"], 137);
}

#[test]
fn the_agent_s_own_end_of_a_pod_is_its_failure() {
    let mut scene = Scene::ready(pod(json!({}))).with(&[instance("a", 0, running())]);
    scene.memory.ended = Some(Ended {
        reason: "DeadlineExceeded",
        message: "too long".into(),
    });
    let status = told(&scene, 9);
    assert_eq!(status["phase"], "Failed");
    assert_eq!(status["reason"], "DeadlineExceeded");
    assert_eq!(says(&status, "Ready"), "False|PodFailed|");
}

#[test]
fn a_container_is_not_started_before_its_probe_and_hook() {
    let mut scene = Scene::ready(pod(json!({}))).with(&[instance("a", 0, running())]);
    let a = scene.memory.containers.get_mut("a").unwrap();
    a.probed = Report {
        id: "a0".into(),
        ready: true,
        ..Report::default()
    };
    let container = &told(&scene, 5)["containerStatuses"][0];
    assert_eq!(
        (&container["started"], &container["ready"]),
        (&json!(false), &json!(false))
    );
    let a = scene.memory.containers.get_mut("a").unwrap();
    a.probed.started = true;
    a.hook = Hook::Running("a0".into());
    let container = &told(&scene, 5)["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "ContainerCreating");
}
