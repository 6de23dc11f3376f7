//! The objects there are from the start (`k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`): what is
//! mandatory, and what is suggested.

use serde_json::{Value, json};

const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, per cent lendable, and queues with hand size and length.
type LimitedRow = (&'static str, u32, u32, Option<(u32, u32, u32)>);

const LIMITED: &[LimitedRow] = &[
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("catch-all", 5, 0, None),
];

/// Every default PriorityLevelConfiguration.
pub(super) fn priority_levels() -> Vec<Value> {
    let exempt = json!({"type": "Exempt",
        "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut levels = vec![object("PriorityLevelConfiguration", "exempt", exempt)];
    levels.extend(LIMITED.iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            Some((queues, hand, length)) => json!({"type": "Queue", "queuing": {
                "queues": queues, "handSize": hand, "queueLengthLimit": length}}),
            None => json!({"type": "Reject"}),
        };
        let spec = json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": response}});
        object("PriorityLevelConfiguration", name, spec)
    }));
    levels
}

/// Name, precedence, level, distinguisher, and the subjects all of whose requests it is for.
type PlainRow = (
    &'static str,
    u32,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const EVERYBODY: &[&str] = &["Group/system:unauthenticated", "Group/system:authenticated"];
const PLAIN: &[PlainRow] = &[
    ("exempt", 1, "exempt", "", &["Group/system:masters"]),
    (
        "system-nodes",
        500,
        "system",
        "ByUser",
        &["Group/system:nodes"],
    ),
    (
        "kube-controller-manager",
        800,
        "workload-high",
        "ByNamespace",
        &["User/system:kube-controller-manager"],
    ),
    (
        "kube-scheduler",
        800,
        "workload-high",
        "ByNamespace",
        &["User/system:kube-scheduler"],
    ),
    (
        "kube-system-service-accounts",
        900,
        "workload-high",
        "ByNamespace",
        &["ServiceAccount/*"],
    ),
    (
        "service-accounts",
        9000,
        "workload-low",
        "ByUser",
        &["Group/system:serviceaccounts"],
    ),
    (
        "global-default",
        9900,
        "global-default",
        "ByUser",
        EVERYBODY,
    ),
    ("catch-all", 10_000, "catch-all", "ByUser", EVERYBODY),
];

/// Every default FlowSchema.
pub(super) fn flow_schemas() -> Vec<Value> {
    let plain = PLAIN.iter().map(|(name, precedence, level, by, who)| {
        let rules = json!([{"subjects": subjects(who),
            "resourceRules": [cluster_too(resources(&["*"], "*", &["*"]))],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]);
        schema(name, *precedence, (level, by), &rules)
    });
    let probes = json!([{"subjects": subjects(EVERYBODY), "nonResourceRules": [{"verbs": ["get"],
        "nonResourceURLs": ["/healthz", "/livez", "/readyz"]}]}]);
    let leaders = leader_election();
    let special = [
        schema("probes", 2, ("exempt", ""), &probes),
        schema(
            "system-leader-election",
            100,
            ("leader-election", "ByUser"),
            &leaders,
        ),
        schema(
            "endpoint-controller",
            150,
            ("workload-high", "ByUser"),
            &endpoints(),
        ),
        schema(
            "workload-leader-election",
            200,
            ("leader-election", "ByUser"),
            &leaders,
        ),
        schema(
            "system-node-high",
            400,
            ("node-high", "ByUser"),
            &node_heartbeats(),
        ),
    ];
    plain.chain(special).collect()
}

fn leader_election() -> Value {
    let verbs = &["get", "create", "update"];
    let leases = resources(verbs, "coordination.k8s.io", &["leases"]);
    let own = &[
        "User/system:kube-controller-manager",
        "User/system:kube-scheduler",
        "ServiceAccount/*",
    ];
    json!([{"subjects": subjects(own), "resourceRules": [leases]}])
}

fn endpoints() -> Value {
    let verbs = &["get", "create", "update"];
    let who = &[
        "User/system:kube-controller-manager",
        "ServiceAccount/endpoint-controller",
        "ServiceAccount/endpointslicemirroring-controller",
    ];
    json!([{"subjects": subjects(who), "resourceRules": [
        resources(verbs, "", &["endpoints"]),
        resources(verbs, "discovery.k8s.io", &["endpointslices"])]}])
}

fn node_heartbeats() -> Value {
    json!([{"subjects": subjects(&["Group/system:nodes"]), "resourceRules": [
        cluster_too(resources(&["*"], "", &["nodes", "nodes/status"])),
        resources(&["*"], "coordination.k8s.io", &["leases"])]}])
}

/// `Kind/name`; service accounts are those of `kube-system`.
fn subjects(who: &[&str]) -> Vec<Value> {
    let subject = |text: &&str| match text.split_once('/') {
        Some(("User", name)) => json!({"kind": "User", "user": {"name": name}}),
        Some(("ServiceAccount", name)) => json!({"kind": "ServiceAccount",
            "serviceAccount": {"namespace": "kube-system", "name": name}}),
        Some((_, name)) => json!({"kind": "Group", "group": {"name": name}}),
        None => Value::Null,
    };
    who.iter().map(subject).collect()
}

fn schema(name: &str, precedence: u32, (level, by): (&str, &str), rules: &Value) -> Value {
    let mut spec = json!({"matchingPrecedence": precedence,
        "priorityLevelConfiguration": {"name": level}, "rules": rules});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, spec)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind,
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}}, "spec": spec})
}

fn resources(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]})
}

fn cluster_too(mut rule: Value) -> Value {
    rule["clusterScope"] = true.into();
    rule
}
