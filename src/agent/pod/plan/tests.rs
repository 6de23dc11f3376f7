//! Tables of a pod's state and what is to be done.

use serde_json::json;

use crate::agent::pod::state::Namespaces;
use crate::agent::pod::testing::{Scene, at, deleted, exited, instance, pod, running};
use crate::runtime::Phase;

use super::super::{restart, state::Step};
use super::*;

/// Actions as short texts, in order.
fn acts(scene: &Scene, second: i64) -> Vec<String> {
    let plan = plan(&scene.view(second));
    plan.actions.iter().map(short).collect()
}

fn short(action: &Action) -> String {
    let seconds = |kill_at: &Timestamp| kill_at.duration_since(at(0)).as_secs();
    match action {
        Action::FindImage { container } => format!("image {container}"),
        Action::Launch { container, attempt } => format!("launch {container} {attempt}"),
        Action::CancelLaunch { container } => format!("cancel {container}"),
        Action::Stop {
            id, kill_at, why, ..
        } => format!("stop {id} {} {why:?}", seconds(kill_at)),
        Action::Hasten { container, kill_at } => {
            format!("hasten {container} {}", seconds(kill_at))
        }
        Action::Remove { id, .. } => format!("remove {id}"),
        Action::GiveUp(ended) => format!("give up {}", ended.reason),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_new_pod_gets_volumes_namespaces_and_image_at_once() {
    let scene = Scene::new(pod(json!({})));
    assert_eq!(acts(&scene, 0), ["Pin", "SetUpVolumes", "image a"]);
}

#[test]
fn network_is_attached_while_the_container_is_made() {
    let mut scene = Scene::ready(pod(json!({})));
    scene.memory.addresses = Step::default();
    assert_eq!(acts(&scene, 0), ["Attach", "launch a 0"]);
    scene.memory.namespaces = Step::default();
    assert_eq!(acts(&scene, 0), ["Pin"]);
}

#[test]
fn a_pod_in_the_host_s_network_needs_no_namespaces_of_its_own() {
    let one = Scene::new(pod(json!({"hostNetwork": true})));
    assert_eq!(acts(&one, 0), ["SetUpVolumes", "image a"]);
    let two = json!({"hostNetwork": true, "containers": [{"name": "a"}, {"name": "b"}]});
    let two = Scene::new(pod(two));
    assert_eq!(acts(&two, 0), ["Pin", "SetUpVolumes", "image a", "image b"]);
}

#[test]
fn what_is_under_way_is_not_asked_for_twice() {
    let mut scene = Scene::new(pod(json!({})));
    scene.memory.namespaces.begin();
    scene.memory.volumes.begin();
    scene.memory.containers.get_mut("a").unwrap().image.begin();
    assert_eq!(plan(&scene.view(0)), Plan::default());
}

#[test]
fn a_failed_step_waits_for_its_time() {
    let mut scene = Scene::new(pod(json!({"hostNetwork": true})));
    scene.memory.volumes.succeed(());
    let image = &mut scene.memory.containers.get_mut("a").unwrap().image;
    image.fail(("ErrImagePull", "no".into()), restart::image_delay, at(0));
    let early = plan(&scene.view(0));
    assert!(early.actions.is_empty());
    assert_eq!(early.wake_at, Some(at(1)), "to show that it waits");
    assert_eq!(plan(&scene.view(2)).wake_at, Some(at(10)));
    assert_eq!(acts(&scene, 10), ["image a"]);
}

#[test]
fn init_containers_run_one_by_one_and_before_the_others() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}]});
    let table: [(&[_], &[&str]); 5] = [
        (&[], &["launch i 0"]),
        (&[instance("i", 0, running())], &[]),
        (&[instance("i", 0, exited(0, 2))], &["launch j 0"]),
        (
            &[
                instance("i", 0, exited(0, 2)),
                instance("j", 0, exited(0, 3)),
            ],
            &["launch a 0"],
        ),
        (&[instance("i", 0, exited(1, 2))], &["launch i 1"]),
    ];
    for (states, expected) in table {
        let scene = Scene::ready(pod(spec.clone())).with(states);
        assert_eq!(acts(&scene, 5), expected, "{states:?}");
    }
}

#[test]
fn init_containers_do_not_run_again_once_the_pod_runs() {
    let spec = json!({"initContainers": [{"name": "i"}]});
    let scene = Scene::ready(pod(spec)).with(&[instance("a", 0, exited(1, 2))]);
    assert_eq!(acts(&scene, 5), ["launch a 1"]);
}

#[test]
fn after_a_restart_of_the_machine_a_pod_starts_from_its_first_init_container() {
    let spec = json!({"initContainers": [{"name": "i"}]});
    let old = |mut state: crate::runtime::ContainerState| {
        let boot = super::super::names::BOOT.to_owned();
        state.labels.insert(boot, "earlier".to_owned());
        state
    };
    let states = [
        old(instance("i", 0, exited(0, 2))),
        old(instance("a", 3, Phase::Unknown)),
    ];
    let scene = Scene::ready(pod(spec.clone())).with(&states);
    assert_eq!(acts(&scene, 5), ["launch i 1"]);
    let states = [instance("i", 1, exited(0, 4)), states[1].clone()];
    let scene = Scene::ready(pod(spec)).with(&states);
    assert_eq!(acts(&scene, 5), ["launch a 4"]);
}

#[test]
fn a_sidecar_is_waited_for_then_started_again_on_its_own() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let mut scene = Scene::ready(pod(spec)).with(&[instance("s", 0, running())]);
    scene.memory.containers.get_mut("s").unwrap().probed.started = false;
    assert!(
        acts(&scene, 5).is_empty(),
        "its startup probe has not succeeded"
    );
    scene.memory.containers.get_mut("s").unwrap().probed.started = true;
    assert_eq!(acts(&scene, 5), ["launch a 0"]);
    let states = [instance("s", 0, exited(0, 2)), instance("a", 0, running())];
    assert_eq!(acts(&scene.with(&states), 5), ["launch s 1"]);
}

#[test]
fn a_hook_after_the_start_holds_the_next_container_back() {
    let hook = json!({"postStart": {"exec": {"command": ["x"]}}});
    let spec = json!({"containers": [{"name": "a", "lifecycle": hook}, {"name": "b"}]});
    let mut scene = Scene::ready(pod(spec));
    assert_eq!(acts(&scene, 0), ["launch a 0"]);
    scene = scene.with(&[instance("a", 0, running())]);
    scene.memory.containers.get_mut("a").unwrap().hook = Hook::Running("a0".into());
    assert!(acts(&scene, 0).is_empty());
    scene.memory.containers.get_mut("a").unwrap().hook = Hook::Over;
    assert_eq!(acts(&scene, 0), ["launch b 0"]);
}

#[test]
fn crash_loops_wait_and_then_start_again() {
    let mut scene = Scene::ready(pod(json!({}))).with(&[instance("a", 2, exited(1, 5))]);
    let first = plan(&scene.view(6));
    assert!(first.actions.is_empty(), "two restarts before: 20 s");
    assert_eq!(first.wake_at, Some(at(25)));
    assert_eq!(acts(&scene, 25), ["launch a 3"]);
    scene.memory.containers.get_mut("a").unwrap().crash = None;
    assert_eq!(
        acts(&scene, 6),
        ["launch a 3"],
        "the first restart is at once"
    );
}

#[test]
fn a_container_that_only_was_made_is_made_again() {
    let scene = Scene::ready(pod(json!({}))).with(&[instance("a", 1, Phase::Created)]);
    assert_eq!(acts(&scene, 5), ["launch a 1"]);
}

#[test]
fn containers_are_stopped_for_probes_hooks_and_new_images() {
    let probe = json!({"exec": {}, "terminationGracePeriodSeconds": 3});
    let spec = json!({"containers": [{"name": "a", "livenessProbe": probe}],
        "terminationGracePeriodSeconds": 20});
    let mut scene = Scene::ready(pod(spec)).with(&[instance("a", 0, running())]);
    assert!(acts(&scene, 5).is_empty());
    let container = |scene: &mut Scene| scene.memory.containers.remove("a").unwrap();
    let mut a = container(&mut scene);
    a.hook = Hook::Failed("a0".into());
    scene.memory.containers.insert("a".into(), a.clone());
    assert_eq!(acts(&scene, 5), ["stop a0 25 Hook"]);
    a.hook = Hook::Over;
    a.probed.failed = Some(Failed::Liveness);
    scene.memory.containers.insert("a".into(), a.clone());
    assert_eq!(acts(&scene, 5), ["stop a0 8 Probe(Liveness)"]);
    a.stopping = Some(("a0".into(), at(8)));
    scene.memory.containers.insert("a".into(), a.clone());
    assert!(acts(&scene, 6).is_empty());
    a.stopping = None;
    a.probed.failed = None;
    scene.memory.containers.insert("a".into(), a);
    scene.pod.spec.as_mut().unwrap().containers[0].image = Some("newer".into());
    assert_eq!(acts(&scene, 5), ["stop a0 25 Changed"]);
}

#[test]
fn a_deleted_pod_is_stopped_taken_down_reported_and_deleted() {
    let scene = Scene::ready(deleted(pod(json!({})), 20)).with(&[instance("a", 0, running())]);
    assert_eq!(acts(&scene, 0), ["stop a0 20 Ending"]);
    let mut scene = scene.with(&[instance("a", 0, exited(0, 1))]);
    assert_eq!(acts(&scene, 2), ["TearDown", "remove a0"]);
    scene.memory.teardown.succeed(());
    scene = scene.with(&[]);
    assert!(
        acts(&scene, 2).is_empty(),
        "its last status is not reported"
    );
    scene.memory.is_reported = true;
    assert_eq!(acts(&scene, 2), ["Delete"]);
    assert_eq!(plan(&scene.view(2)).stage, Stage::Ended);
}

#[test]
fn a_pod_that_is_gone_is_forgotten_when_nothing_of_it_is_left() {
    let mut scene = Scene::ready(pod(json!({}))).with(&[instance("a", 0, running())]);
    scene.is_gone = true;
    assert_eq!(acts(&scene, 0), ["stop a0 30 Ending"]);
    scene = scene.with(&[]);
    assert_eq!(acts(&scene, 0), ["TearDown"]);
    scene.memory.teardown.succeed(());
    assert_eq!(plan(&scene.view(0)).stage, Stage::Gone);
}

#[test]
fn a_shorter_grace_hastens_what_is_being_stopped() {
    let mut scene = Scene::ready(deleted(pod(json!({})), 30)).with(&[instance("a", 0, running())]);
    scene.memory.ending_since = Some(at(0));
    scene.memory.containers.get_mut("a").unwrap().stopping = Some(("a0".into(), at(30)));
    assert!(acts(&scene, 5).is_empty());
    scene.pod.metadata.deletion_grace_period_seconds = Some(0);
    assert_eq!(acts(&scene, 5), ["hasten a 1"]);
}

#[test]
fn sidecars_are_stopped_last_and_in_reverse_order() {
    let sidecar = |name: &str| json!({"name": name, "restartPolicy": "Always"});
    let spec = json!({"initContainers": [sidecar("s"), sidecar("t")]});
    let all = [
        instance("a", 0, running()),
        instance("s", 0, running()),
        instance("t", 0, running()),
    ];
    let mut scene = Scene::ready(deleted(pod(spec), 30)).with(&all);
    scene.memory.ending_since = Some(at(0));
    assert_eq!(acts(&scene, 1), ["stop a0 30 Ending"]);
    let scene = scene.with(&all[1..]);
    assert_eq!(acts(&scene, 2), ["stop t0 30 Ending"]);
    let scene = scene.with(&all[1..2]);
    assert_eq!(acts(&scene, 40), ["stop s0 42 Ending"]);
}

#[test]
fn a_launch_under_way_ends_before_anything_is_taken_down() {
    let mut scene = Scene::ready(deleted(pod(json!({})), 30));
    scene.memory.containers.get_mut("a").unwrap().launch.begin();
    assert_eq!(acts(&scene, 0), ["cancel a"]);
}

#[test]
fn finished_pods_are_taken_down_but_their_containers_kept() {
    let spec = json!({"restartPolicy": "OnFailure",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let states = [instance("a", 0, exited(0, 2)), instance("s", 0, running())];
    let mut scene = Scene::ready(pod(spec)).with(&states);
    assert_eq!(acts(&scene, 5), ["stop s0 35 Ending"]);
    scene = scene.with(&[states[0].clone(), instance("s", 0, exited(0, 6))]);
    assert_eq!(acts(&scene, 6), ["TearDown"]);
    scene.memory.teardown.succeed(());
    let last = plan(&scene.view(6));
    assert!(last.actions.is_empty() && last.stage == Stage::Ended);
}

#[test]
fn a_failed_init_container_that_does_not_restart_ends_the_pod() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}]});
    let scene = Scene::ready(pod(spec)).with(&[instance("i", 0, exited(1, 2))]);
    assert_eq!(acts(&scene, 5), ["TearDown"]);
}

#[test]
fn what_the_server_knows_as_ended_never_starts_again() {
    let mut scene = Scene::ready(pod(json!({})));
    scene.before.phase = Some("Failed".into());
    assert_eq!(acts(&scene, 5), ["TearDown"]);
}

#[test]
fn a_container_lost_from_the_runtime_starts_with_the_next_count() {
    let mut scene = Scene::ready(pod(json!({})));
    scene.before = serde_json::from_value(json!({"containerStatuses": [
        {"name": "a", "restartCount": 4, "containerID": "containerd://x", "image": "",
            "imageID": "", "ready": true, "state": {"running": {}}}]}))
    .unwrap();
    assert_eq!(acts(&scene, 5), ["launch a 5"]);
}

#[test]
fn the_deadline_ends_the_pod() {
    let mut scene = Scene::ready(pod(json!({"activeDeadlineSeconds": 10})));
    scene = scene.with(&[instance("a", 0, running())]);
    scene.before.start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    assert_eq!(plan(&scene.view(3)).wake_at, Some(at(10)));
    assert_eq!(acts(&scene, 10), ["give up DeadlineExceeded"]);
}

#[test]
fn only_the_newest_two_attempts_are_kept() {
    let states = [
        instance("a", 0, exited(1, 1)),
        instance("a", 1, exited(1, 2)),
        instance("a", 2, running()),
    ];
    let mut scene = Scene::ready(pod(json!({}))).with(&states);
    assert_eq!(acts(&scene, 5), ["remove a0"]);
    let a = scene.memory.containers.get_mut("a").unwrap();
    a.removing.insert("a0".into());
    assert!(acts(&scene, 5).is_empty());
}

#[test]
fn tokens_are_renewed_in_time() {
    let mut scene = Scene::ready(pod(json!({}))).with(&[instance("a", 0, running())]);
    scene.memory.refresh_at = Some(at(100));
    assert_eq!(plan(&scene.view(5)).wake_at, Some(at(100)));
    assert_eq!(acts(&scene, 100), ["SetUpVolumes"]);
    scene.memory.volumes.begin();
    assert_eq!(plan(&scene.view(100)), Plan::default());
}

#[test]
fn namespaces_that_were_made_are_kept() {
    let mut scene = Scene::new(pod(json!({})));
    scene.memory.namespaces.succeed(Namespaces::default());
    assert_eq!(acts(&scene, 0), ["Attach", "SetUpVolumes", "image a"]);
}
