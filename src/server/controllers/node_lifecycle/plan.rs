//! What a node's silence and conditions lead to: pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::toleration::{NO_EXECUTE, NO_SCHEDULE};
use crate::server::controllers::shared::nodes;

/// The conditions an agent keeps.
const KEPT: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Of an unreachable node.
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Of a node that says it is not ready.
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Of a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taints by the condition they follow from.
const BY_CONDITION: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];
/// A zone of which more than this share is not ready is disrupted.
const UNHEALTHY_PERCENT: usize = 55;

/// How badly a zone fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disruption {
    /// Pods of nodes that fail are driven out.
    None,
    /// More than half of the zone is gone (and at least three nodes): pods stay, since the others
    /// could hardly take them. Upstream stops here in zones of up to 50 nodes and slows down above.
    Partial,
    /// No node of any zone is ready: it is us who are cut off. Nobody is driven out.
    Full,
}

impl Disruption {
    /// Of `zone`, by each node's zone and whether it is ready.
    pub(super) fn of<'a>(nodes: impl Iterator<Item = (&'a str, bool)>, zone: &str) -> Self {
        let mut zones: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (zone, is_ready) in nodes {
            let (ready, not_ready) = zones.entry(zone).or_default();
            if is_ready {
                *ready += 1;
            } else {
                *not_ready += 1;
            }
        }
        let any_ready = zones.values().any(|(ready, _)| *ready > 0);
        let (ready, not_ready) = zones.get(zone).copied().unwrap_or_default();
        if !any_ready && not_ready > 0 {
            Self::Full
        } else if not_ready > 2 && 100 * not_ready >= UNHEALTHY_PERCENT * (ready + not_ready) {
            Self::Partial
        } else {
            Self::None
        }
    }
}

/// What is looked at.
pub(super) struct View<'a> {
    pub(super) node: &'a Node,
    pub(super) is_silent: bool,
    pub(super) now: Timestamp,
    pub(super) disruption: Disruption,
    /// Whether the rate allows one more node to lose its pods.
    pub(super) may_evict: bool,
}

/// What to write.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// The conditions that change.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// All taints of the node, where they change.
    pub(super) taints: Option<Vec<Taint>>,
    /// Whether the taints newly drive pods out.
    pub(super) evicts: bool,
    /// Whether they would, were it not for the rate.
    pub(super) waits_to_evict: bool,
    /// Whether the node is ready after this.
    pub(super) is_ready: bool,
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let changed = if view.is_silent {
        silenced(view.node, view.now)
    } else {
        Vec::new()
    };
    let status_of = |kind: &str| -> String {
        let new = changed.iter().find(|c| c.type_ == kind);
        let old = || nodes::condition(view.node, kind);
        new.or_else(old)
            .map_or("", |c| c.status.as_str())
            .to_owned()
    };
    let old = view.node.spec.as_ref().and_then(|spec| spec.taints.clone());
    let old = old.unwrap_or_default();
    let ready = status_of("Ready");
    let mut wanted = by_condition(view.node, &status_of);
    let (drive_out, waits) = drive_out(view, &old, &ready);
    wanted.extend(drive_out);
    let evicts = wanted
        .iter()
        .any(|taint| taint.effect == NO_EXECUTE && !old.iter().any(|o| is_same(o, taint)));
    Plan {
        conditions: (!changed.is_empty()).then_some(changed),
        taints: merged(&old, wanted, view.now),
        evicts,
        waits_to_evict: waits,
        is_ready: ready == "True",
    }
}

/// The conditions of a silent node that do not say so yet.
fn silenced(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let unknown = KEPT
        .iter()
        .filter_map(|kind| match nodes::condition(node, kind) {
            Some(condition) if condition.status == "Unknown" => None,
            Some(condition) => Some(NodeCondition {
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusUnknown".to_owned()),
                message: Some("Kubelet stopped posting node status.".to_owned()),
                last_transition_time: Some(Time(now)),
                ..condition.clone()
            }),
            None => Some(NodeCondition {
                type_: (*kind).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        });
    unknown.collect()
}

/// The taints that keep new pods away.
fn by_condition(node: &Node, status_of: &impl Fn(&str) -> String) -> Vec<Taint> {
    let mut keys = Vec::new();
    match status_of("Ready").as_str() {
        "False" => keys.push(NOT_READY),
        "Unknown" => keys.push(UNREACHABLE),
        _ => {}
    }
    let pressed = BY_CONDITION
        .iter()
        .filter(|(kind, _)| status_of(kind) == "True");
    keys.extend(pressed.map(|(_, key)| *key));
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    keys.into_iter()
        .map(|key| taint(key, NO_SCHEDULE))
        .collect()
}

/// The taint that drives pods out, and whether it has to wait.
fn drive_out(view: &View<'_>, old: &[Taint], ready: &str) -> (Option<Taint>, bool) {
    let key = match ready {
        "False" => NOT_READY,
        "Unknown" => UNREACHABLE,
        _ => return (None, false),
    };
    let taint = taint(key, NO_EXECUTE);
    let drives = |t: &Taint| t.effect == NO_EXECUTE && (t.key == NOT_READY || t.key == UNREACHABLE);
    let has_some = old.iter().any(drives);
    match view.disruption {
        Disruption::Full => (None, false),
        // From one of the two to the other is not one node more.
        _ if has_some => (Some(taint), false),
        Disruption::Partial => (None, false),
        Disruption::None if view.may_evict => (Some(taint), false),
        Disruption::None => (None, true),
    }
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        ..Taint::default()
    }
}

fn is_same(a: &Taint, b: &Taint) -> bool {
    a.key == b.key && a.effect == b.effect
}

/// Others' taints as they are, ours as wanted; `None` where nothing changes.
fn merged(old: &[Taint], wanted: Vec<Taint>, now: Timestamp) -> Option<Vec<Taint>> {
    let is_ours = |taint: &Taint| {
        let by_condition = BY_CONDITION.iter().any(|(_, key)| *key == taint.key);
        let by_ready = taint.key == NOT_READY || taint.key == UNREACHABLE;
        (by_ready && matches!(taint.effect.as_str(), NO_SCHEDULE | NO_EXECUTE))
            || ((by_condition || taint.key == UNSCHEDULABLE) && taint.effect == NO_SCHEDULE)
    };
    let mut taints: Vec<_> = old
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.iter().any(|w| is_same(w, taint)))
        .cloned()
        .collect();
    for taint in wanted {
        if !taints.iter().any(|known| is_same(known, &taint)) {
            taints.push(Taint {
                time_added: Some(Time(now)),
                ..taint
            });
        }
    }
    (taints != old).then_some(taints)
}
