//! Probes of a container in the fake runtime, with time that jumps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::runtime::fake::Fake;
use crate::runtime::{ContainerSpec, ExecOutput, ImageConfig, Namespace, Resources, Security};

use super::*;

struct World {
    probes: Probes,
    woken: Arc<Notify>,
    began: Instant,
    asked: Arc<Mutex<Vec<u64>>>,
    told: Arc<AtomicUsize>,
}

/// A container `c` with these probes, whose commands answer with these codes, then with 0.
async fn world(container: Value, codes: &[i32]) -> World {
    let runtime = Fake::new(Clock::system());
    runtime.add_image("image", ImageConfig::default());
    runtime.create(&spec()).await.unwrap();
    runtime.start("c").await.unwrap();
    let began = Instant::now();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let codes = Mutex::new(codes.iter().copied().collect::<VecDeque<_>>());
    let noted = asked.clone();
    runtime.on_exec(Box::new(move |_, _| {
        noted.lock().push(began.elapsed().as_secs());
        Ok(ExecOutput {
            code: codes.lock().pop_front().unwrap_or(0),
            output: b"said".to_vec(),
        })
    }));
    let woken = Arc::new(Notify::new());
    let waker = woken.clone();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let tell: Tell = Arc::new(move |_, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let wake: Wake = Arc::new(move || waker.notify_one());
    let clock = Clock::fixed(Timestamp::UNIX_EPOCH);
    let mut probes = Probes::new(runtime, clock, Tasks::new(), (tell, wake));
    probes.follow(vec![subject(container)]);
    World {
        probes,
        woken,
        began,
        asked,
        told,
    }
}

fn subject(container: Value) -> Subject {
    let mut value = json!({"name": "c"});
    for (key, field) in container.as_object().unwrap() {
        value[key] = field.clone();
    }
    Subject {
        container: Arc::new(serde_json::from_value(value).unwrap()),
        id: "c".into(),
        address: None,
        started_at: Timestamp::UNIX_EPOCH,
        was_started: false,
        was_ready: false,
    }
}

fn spec() -> ContainerSpec {
    ContainerSpec {
        id: "c".into(),
        image: "image".into(),
        args: vec!["x".into()],
        env: vec![],
        working_dir: String::new(),
        mounts: vec![],
        devices: vec![],
        network: Namespace::Private,
        ipc: Namespace::Private,
        uts: Namespace::Private,
        pid: Namespace::Private,
        cgroup: String::new(),
        resources: Resources::default(),
        oom_score_adj: 0,
        security: Security::default(),
        tty: false,
        stdin: false,
        stdin_once: false,
        log: "/dev/null".into(),
        labels: BTreeMap::new(),
    }
}

fn exec(fields: Value) -> Value {
    let mut probe = json!({"exec": {"command": ["x"]}});
    for (key, field) in fields.as_object().unwrap() {
        probe[key] = field.clone();
    }
    probe
}

impl World {
    /// The report after its next change, and the second of that.
    async fn next(&self) -> (Report, u64) {
        self.woken.notified().await;
        (self.report(), self.began.elapsed().as_secs())
    }

    fn report(&self) -> Report {
        self.probes.reports()["c"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn without_probes_a_container_is_started_and_ready() {
    let world = world(json!({}), &[]).await;
    let report = world.report();
    assert!(report.started && report.ready && report.failed.is_none());
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_for_its_delay_and_thresholds() {
    let probe = exec(json!({"initialDelaySeconds": 3, "periodSeconds": 5,
        "successThreshold": 2, "failureThreshold": 2}));
    let world = world(json!({"readinessProbe": probe}), &[0, 1, 0, 0, 1, 1]).await;
    assert!(!world.report().ready);
    let (report, at) = world.next().await;
    assert!(report.ready);
    assert_eq!(at, 18);
    let (report, at) = world.next().await;
    assert!(!report.ready);
    assert_eq!(at, 28);
    assert_eq!(*world.asked.lock(), [3, 8, 13, 18, 23, 28]);
    assert_eq!(world.told.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn liveness_fails_once_for_all_after_its_threshold() {
    let probe = exec(json!({"periodSeconds": 2}));
    let world = world(json!({"livenessProbe": probe}), &[0, 1, 1, 1]).await;
    let (report, at) = world.next().await;
    assert_eq!(report.failed, Some(Failed::Liveness));
    assert_eq!(at, 6);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.asked.lock().len(), 4, "it is on hold");
}

#[tokio::test(start_paused = true)]
async fn the_startup_probe_comes_first_and_alone() {
    let startup = exec(json!({"periodSeconds": 1, "failureThreshold": 5}));
    let readiness = exec(json!({"periodSeconds": 10}));
    let both = json!({"startupProbe": startup, "readinessProbe": readiness});
    let world = world(both, &[1, 1, 0, 0]).await;
    let (report, at) = world.next().await;
    assert!(report.started && report.ready);
    assert_eq!(at, 2, "readiness begins as soon as it has started");
    assert_eq!(*world.asked.lock(), [0, 1, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_that_fails_too_often_ends_the_container() {
    let startup = exec(json!({"periodSeconds": 1, "failureThreshold": 2}));
    let world = world(json!({"startupProbe": startup}), &[1, 1]).await;
    let (report, _) = world.next().await;
    assert_eq!(report.failed, Some(Failed::Startup));
    assert!(!report.started);
}

#[tokio::test(start_paused = true)]
async fn what_was_known_before_stays_until_probes_say_otherwise() {
    let probe = exec(json!({"periodSeconds": 5, "failureThreshold": 1}));
    let mut world = world(json!({}), &[1]).await;
    world.probes.follow(vec![]);
    let mut again = subject(json!({"readinessProbe": probe, "startupProbe": probe}));
    again.was_ready = true;
    again.was_started = true;
    world.probes.follow(vec![again]);
    assert!(world.report().ready && world.report().started);
    let (report, _) = world.next().await;
    assert!(!report.ready);
}
