//! Decisions of the whole profile as tables, properties over random clusters, and the loop against
//! a scripted API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::api::status::ApiError;
use crate::client::{Informers, fake::Fake};
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

use super::cycle::{Decision, cycle};
use super::explain::Explainer;
use super::pod::PodInfo;
use super::profile::Profile;
use super::snapshot::Snapshot;
use super::testing::{NodeBuilder, node, pod};

fn snapshot(nodes: impl IntoIterator<Item = NodeBuilder>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node.build());
    }
    snapshot
}

fn decide(snapshot: &Snapshot, pod: &PodInfo) -> Decision {
    cycle(snapshot, pod, &Profile::default(), &mut 0, &Rng::seeded(7))
}

fn node_of(decision: Decision) -> String {
    match decision {
        Decision::Bind(node) => node.to_string(),
        Decision::Unschedulable(why, _) => panic!("{}", why.message()),
    }
}

fn why_not(decision: Decision) -> String {
    match decision {
        Decision::Bind(node) => panic!("bound to {node}"),
        Decision::Unschedulable(why, _) => why.message(),
    }
}

/// Places `count` pods of one owner one after another and counts them by node.
fn fill(snapshot: &mut Snapshot, count: usize, make: impl Fn(usize) -> Arc<PodInfo>) -> Vec<usize> {
    let mut counts = BTreeMap::new();
    for i in 0..count {
        let pod = make(i);
        let node = node_of(decide(snapshot, &pod));
        snapshot.place(pod, &node);
        *counts.entry(node).or_insert(0) += 1;
    }
    counts.into_values().collect()
}

#[test]
fn six_replicas_over_three_nodes_are_two_each_also_where_one_node_is_busy() {
    let mut equal = snapshot(["a", "b", "c"].map(node));
    let busy = pod("other").cpu("3").asks("memory", "1Gi").info();
    let owned = |i: usize| pod(&format!("p{i}")).owner("u").info();
    assert_eq!(fill(&mut equal, 6, owned), [2, 2, 2]);
    let mut uneven = snapshot(["a", "b", "c"].map(node));
    uneven.place(busy, "a");
    assert_eq!(fill(&mut uneven, 6, owned), [2, 2, 2]);
}

#[test]
fn replicas_are_spread_over_zones_first() {
    let zone = |name: &str, zone: &str| node(name).label("topology.kubernetes.io/zone", zone);
    let mut nodes = snapshot([
        zone("a", "x"),
        zone("b", "x"),
        zone("c", "x"),
        zone("d", "y"),
    ]);
    let owned = |i: usize| pod(&format!("p{i}")).owner("u").info();
    let two = fill(&mut nodes, 2, owned);
    assert_eq!(two, [1, 1]);
    assert_eq!(nodes.node("d").unwrap().pods.len(), 1);
}

#[test]
fn each_reason_is_counted_in_upstreams_words() {
    let nodes = snapshot([
        node("small").cpu("1"),
        node("full").has("pods", "0").cpu("1"),
        node("tainted").taint("dedicated", "NoSchedule"),
        node("cordoned").cordoned(),
    ]);
    let large = pod("p").cpu("2").asks("example.com/gpu", "1").info();
    assert_eq!(
        why_not(decide(&nodes, &large)),
        "0/4 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint {dedicated: }, \
         1 node(s) were unschedulable, 2 Insufficient cpu, 2 Insufficient example.com/gpu."
    );
    let picky = pod("p").spec("nodeSelector", json!({"disk": "ssd"})).info();
    let nodes = snapshot([node("a"), node("b")]);
    assert_eq!(
        why_not(decide(&nodes, &picky)),
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    );
    assert_eq!(
        why_not(decide(&Snapshot::default(), &picky)),
        "no nodes available to schedule pods"
    );
}

#[test]
fn host_ports_collide_on_one_node_only() {
    let mut nodes = snapshot([node("a"), node("b")]);
    let web = |i: usize| pod(&format!("p{i}")).host_port(80).info();
    assert_eq!(fill(&mut nodes, 2, web), [1, 1]);
    assert_eq!(
        why_not(decide(&nodes, &web(3))),
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."
    );
}

#[test]
fn tolerations_and_required_node_affinity_open_nodes() {
    let nodes = snapshot([
        node("a").taint("k", "NoExecute").label("disk", "ssd"),
        node("b"),
    ]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}});
    let picky = pod("p").spec("affinity", affinity);
    let why = why_not(decide(&nodes, &picky.info()));
    assert!(
        why.contains("1 node(s) had untolerated taint {k: }"),
        "{why}"
    );
    let tolerant = pod("p").spec("tolerations", json!([{"operator": "Exists"}]));
    let tolerant = tolerant.spec("nodeSelector", json!({"disk": "ssd"})).info();
    assert_eq!(node_of(decide(&nodes, &tolerant)), "a");
}

#[test]
fn preferences_images_and_free_room_decide_among_candidates() {
    let nodes = snapshot([
        node("a").image("nginx:latest", 900),
        node("b").label("disk", "ssd"),
        node("c").taint("old", "PreferNoSchedule"),
    ]);
    assert_eq!(node_of(decide(&nodes, &pod("p").info())), "a");
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 10, "preference": {"matchExpressions":
            [{"key": "disk", "operator": "Exists"}]}}]}});
    let picky = pod("p").spec("affinity", affinity).info();
    assert_eq!(node_of(decide(&nodes, &picky)), "b");
    let mut nodes = snapshot([node("a"), node("b")]);
    nodes.place(pod("x").cpu("3").info(), "a");
    assert_eq!(node_of(decide(&nodes, &pod("p").cpu("100m").info())), "b");
}

#[test]
fn hard_topology_constraints_limit_the_skew() {
    let zone = |name: &str, zone: &str| node(name).label("zone", zone);
    let mut nodes = snapshot([zone("a", "x"), zone("b", "y"), node("c")]);
    let constrained = |i: usize| {
        let constraints = json!([{"topologyKey": "zone", "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "w"}}}]);
        let pod = pod(&format!("p{i}")).label("app", "w");
        pod.spec("topologySpreadConstraints", constraints).info()
    };
    assert_eq!(fill(&mut nodes, 4, constrained), [2, 2]);
    nodes.place(constrained(9), "a");
    nodes.set_node(zone("b", "y").cordoned().build());
    assert_eq!(
        why_not(decide(&nodes, &constrained(10))),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 \
         node(s) didn't match pod topology spread constraints (missing required label), 1 \
         node(s) were unschedulable."
    );
}

#[test]
fn anti_affinity_holds_both_ways_and_affinity_lets_the_first_in() {
    let term = json!({"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "w"}}});
    let required = |kind: &str, term: &Value| json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let mut nodes = snapshot([node("a"), node("b")]);
    let apart = |i: usize| {
        let pod = pod(&format!("p{i}")).label("app", "w");
        pod.spec("affinity", required("podAntiAffinity", &term))
            .info()
    };
    assert_eq!(fill(&mut nodes, 2, apart), [1, 1]);
    let why = why_not(decide(&nodes, &apart(3)));
    assert!(
        why.contains("2 node(s) didn't match pod anti-affinity rules"),
        "{why}"
    );
    let why = why_not(decide(&nodes, &pod("x").label("app", "w").info()));
    assert!(
        why.contains("2 node(s) didn't satisfy existing pods anti-affinity rules"),
        "{why}"
    );

    let mut nodes = snapshot([node("a"), node("b")]);
    let together = |i: usize| {
        let pod = pod(&format!("p{i}")).label("app", "w").owner("u");
        pod.spec("affinity", required("podAffinity", &term)).info()
    };
    assert_eq!(fill(&mut nodes, 3, together), [3]);
    let lonely = pod("x").spec(
        "affinity",
        required(
            "podAffinity",
            &json!({
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "none"}}}),
        ),
    );
    let why = why_not(decide(&nodes, &lonely.info()));
    assert!(
        why.contains("2 node(s) didn't match pod affinity rules"),
        "{why}"
    );
}

proptest! {
    #[test]
    fn pods_go_only_where_they_fit_and_a_seed_repeats(
        nodes in prop::collection::vec((0..8_i64, any::<bool>()), 1..8),
        pods in prop::collection::vec(0..3000_i64, 1..30),
        seed in any::<u64>(),
    ) {
        let build = || {
            let nodes = nodes.iter().enumerate().map(|(i, (cpu, cordoned))| {
                let node = node(&format!("n{i}")).cpu(&cpu.to_string());
                if *cordoned { node.cordoned() } else { node }
            });
            snapshot(nodes)
        };
        let run = || {
            let (mut snapshot, rng, mut start) = (build(), Rng::seeded(seed), 0);
            let mut placed = Vec::new();
            for (i, cpu) in pods.iter().enumerate() {
                let pod = pod(&format!("p{i}")).cpu(&format!("{cpu}m")).info();
                let decision = cycle(&snapshot, &pod, &Profile::default(), &mut start, &rng);
                if let Decision::Bind(node) = &decision {
                    snapshot.place(pod, node);
                }
                placed.push(decision);
            }
            (snapshot, placed)
        };
        let (snapshot, first) = run();
        for node in snapshot.nodes() {
            prop_assert!(node.requested.milli_cpu <= node.allocatable.milli_cpu);
            prop_assert!(node.pods.is_empty() || !node.unschedulable);
        }
        prop_assert_eq!(first, run().1);
    }

    #[test]
    fn one_more_node_never_makes_a_pod_unschedulable(
        cpus in prop::collection::vec(0..4_i64, 0..6),
        wanted in 0..4000_i64,
    ) {
        let nodes = cpus.iter().enumerate();
        let nodes = nodes.map(|(i, cpu)| node(&format!("n{i}")).cpu(&cpu.to_string()));
        let mut snapshot = snapshot(nodes);
        let pod = pod("p").cpu(&format!("{wanted}m")).info();
        let before = matches!(decide(&snapshot, &pod), Decision::Bind(_));
        snapshot.set_node(node("more").build());
        let after = matches!(decide(&snapshot, &pod), Decision::Bind(_));
        prop_assert!(after || !before);
    }
}

#[test]
fn a_thousand_nodes_take_turns() {
    let mut nodes = snapshot((0..1000).map(|i| node(&format!("n{i}"))));
    let (profile, rng, mut start) = (Profile::default(), Rng::seeded(3), 0);
    for i in 0..1000 {
        let pod = pod(&format!("p{i}")).cpu("10m").owner("u").info();
        let node = node_of(cycle(&nodes, &pod, &profile, &mut start, &rng));
        nodes.place(pod, &node);
    }
    let most = nodes.nodes().iter().map(|node| node.pods.len()).max();
    assert!(most <= Some(2), "{most:?}");
}

// === the loop ===

const LIMIT: Duration = Duration::from_secs(60);

fn list(items: Vec<Value>) -> Value {
    json!({"metadata": {"resourceVersion": "10"}, "items": items})
}

fn api(nodes: Vec<NodeBuilder>, pods: Vec<Value>) -> Arc<Fake> {
    let nodes = nodes
        .into_iter()
        .map(|n| serde_json::to_value(&*n.build()).unwrap());
    let fake = Fake::new();
    fake.answer("GET /api/v1/nodes", list(nodes.collect()));
    fake.answer("GET /api/v1/pods", list(pods));
    fake.answer("GET /api/v1/namespaces", list(Vec::new()));
    for path in [
        "/api/v1/persistentvolumeclaims",
        "/api/v1/persistentvolumes",
        "/apis/policy/v1/poddisruptionbudgets",
        "/apis/storage.k8s.io/v1/csinodes",
        "/apis/storage.k8s.io/v1/storageclasses",
    ] {
        fake.answer(&format!("GET {path}"), list(Vec::new()));
    }
    fake.answer(
        "POST /api/v1/namespaces/default/events",
        json!({"metadata": {}, "involvedObject": {}}),
    );
    fake
}

fn start(fake: &Arc<Fake>) -> Tasks {
    let tasks = Tasks::new();
    let client = fake.client();
    let informers = Informers::new(client.clone(), tasks.clone());
    let world = (Clock::system(), Rng::seeded(1));
    super::start(client, &informers, &tasks, &Explainer::default(), world);
    tasks
}

/// The bodies of the requests that begin with `line`, as soon as there are `count`.
async fn requests(fake: &Fake, line: &str, count: usize) -> Vec<Value> {
    let waiting = async {
        loop {
            let seen = fake.seen().into_iter();
            let found: Vec<_> = seen
                .filter(|(l, _)| l.starts_with(line))
                .map(|(_, b)| b)
                .collect();
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let found = tokio::time::timeout(LIMIT, waiting).await;
    found.unwrap_or_else(|_| panic!("no {count} × {line} in {:#?}", fake.seen()))
}

#[tokio::test(start_paused = true)]
async fn waiting_pods_are_bound_and_an_event_says_so() {
    let fake = api(
        vec![node("n1")],
        vec![pod("a").json(), pod("b").on("n1").json()],
    );
    fake.answer(
        "POST /api/v1/namespaces/default/pods/a/binding",
        json!({"kind": "Status"}),
    );
    let tasks = start(&fake);
    let events = requests(&fake, "POST /api/v1/namespaces/default/events", 1).await;
    let text = "Successfully assigned default/a to n1";
    assert_eq!(events[0]["message"], text);
    let line = "POST /api/v1/namespaces/default/pods/a/binding";
    let bindings = requests(&fake, line, 1).await;
    assert_eq!(bindings[0]["target"]["name"], "n1");
    assert_eq!(bindings[0]["metadata"]["uid"], "a");
    tasks.shutdown(LIMIT).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fits_nowhere_is_told_and_tried_when_a_node_comes() {
    let fake = api(vec![node("n1").cpu("1")], vec![pod("a").cpu("2").json()]);
    fake.answer(
        "PATCH /api/v1/namespaces/default/pods/a/status",
        pod("a").json(),
    );
    fake.answer(
        "POST /api/v1/namespaces/default/pods/a/binding",
        json!({"kind": "Status"}),
    );
    let mut nodes = fake.stream("/api/v1/nodes");
    let tasks = start(&fake);
    let line = "PATCH /api/v1/namespaces/default/pods/a/status";
    let patch = &requests(&fake, line, 1).await[0]["status"]["conditions"][0];
    assert_eq!(patch["reason"], "Unschedulable");
    assert_eq!(
        patch["message"],
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
         0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let added =
        json!({"type": "ADDED", "object": serde_json::to_value(&*node("n2").build()).unwrap()});
    let sent = nodes.send_data(format!("{added}\n").into()).await;
    sent.unwrap();
    let line = "POST /api/v1/namespaces/default/pods/a/binding";
    assert_eq!(requests(&fake, line, 1).await[0]["target"]["name"], "n2");
    tasks.shutdown(LIMIT).await;
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_fails_gives_the_room_back_and_is_tried_again() {
    let fake = api(vec![node("n1")], vec![pod("a").cpu("3").json()]);
    let line = "POST /api/v1/namespaces/default/pods/a/binding";
    fake.fail(line, ApiError::internal("disk full"));
    let tasks = start(&fake);
    let events = requests(&fake, "POST /api/v1/namespaces/default/events", 1).await;
    assert_eq!(events[0]["reason"], "FailedScheduling");
    fake.answer(line, json!({"kind": "Status"}));
    requests(&fake, line, 2).await;
    tasks.shutdown(LIMIT).await;
}
