//! Whether something that happened can help a parked pod
//! (`QueueingHintFn` of upstream's plugins). Pure.
//!
//! An answer "no" must be right, since the pod then waits on; "yes" may be wrong and costs one
//! decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::framework::{Happening, MakeFilter, Plugin};
use super::plugins::{
    node_affinity, node_name, ports, resources_fit, spread, taints, unschedulable,
};
use super::pod::PodInfo;
use super::snapshot::{NodeInfo, Snapshot};

/// Comparisons of parked pods with events in one lap; beyond, only the kind of event is looked at.
const COMPARISONS_MAX: usize = 100_000;

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) what: Happening,
    /// The node it is about.
    pub(crate) node: Option<Arc<str>>,
    /// The pod that came or went.
    pub(crate) pod: Option<Arc<PodInfo>>,
}

impl Event {
    /// About a node.
    pub(crate) fn of_node(what: Happening, node: &str) -> Self {
        Self {
            what,
            node: Some(node.into()),
            pod: None,
        }
    }

    /// About a pod on a node.
    pub(crate) fn of_pod(what: Happening, pod: Arc<PodInfo>, node: &str) -> Self {
        Self {
            what,
            node: Some(node.into()),
            pod: Some(pod),
        }
    }

    /// About neither.
    pub(crate) fn plain(what: Happening) -> Self {
        Self {
            what,
            node: None,
            pod: None,
        }
    }
}

/// Whether any of `events` may help `pod`, which `rejected_by` rejected. `parked`: how many pods
/// this is asked for.
pub(crate) fn helps(
    snapshot: &Snapshot,
    pod: &PodInfo,
    rejected_by: &BTreeSet<Plugin>,
    events: &[Event],
    parked: usize,
) -> bool {
    let is_coarse = events.len().saturating_mul(parked) > COMPARISONS_MAX;
    events.iter().any(|event| {
        // Without nodes nobody rejects: such pods wait for the first node.
        if rejected_by.is_empty() {
            return event.what == Happening::NodeAdded;
        }
        let mut concerned = rejected_by.iter().filter(|p| p.is_woken_by(event.what));
        concerned.any(|plugin| is_coarse || one_helps(snapshot, pod, *plugin, event))
    })
}

fn one_helps(snapshot: &Snapshot, pod: &PodInfo, plugin: Plugin, event: &Event) -> bool {
    let node = event.node.as_deref().and_then(|name| snapshot.node(name));
    match event.what {
        Happening::VolumesChanged => true,
        Happening::NodeAdded | Happening::NodeChanged => {
            // Which domains there are, and where volumes are, counts for other nodes too.
            matches!(plugin, Plugin::Spread | Plugin::Volumes)
                || node.is_some_and(|node| may_take(pod, node, snapshot))
        }
        Happening::PodGone | Happening::PodPlaced => {
            let Some(other) = &event.pod else {
                return true;
            };
            match plugin {
                Plugin::ResourcesFit | Plugin::Ports => {
                    node.is_some_and(|node| may_take(pod, node, snapshot))
                }
                Plugin::Spread => spread::concerns(pod, other),
                Plugin::PodAffinity => {
                    speaks_of(pod, other, snapshot) || speaks_of(other, pod, snapshot)
                }
                Plugin::Volumes => !other.claims.is_empty(),
                _ => true,
            }
        }
    }
}

fn speaks_of(pod: &PodInfo, other: &PodInfo, snapshot: &Snapshot) -> bool {
    let terms = pod.affinity.iter();
    let mut terms = terms.flat_map(|t| t.required.iter().chain(&t.required_anti));
    terms.any(|term| term.selects(other, snapshot))
}

/// Whether `node` by itself may take `pod`, perhaps when others make room.
fn may_take(pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> bool {
    let makers: [MakeFilter; 6] = [
        unschedulable::filter,
        node_name::filter,
        taints::filter,
        node_affinity::filter,
        ports::filter,
        resources_fit::filter,
    ];
    let verdicts = makers
        .iter()
        .filter_map(|make| make(pod, snapshot)?.reject(node));
    let gives_way = || {
        node.pods
            .values()
            .any(|other| other.priority < pod.priority)
    };
    let mut verdicts = verdicts.peekable();
    verdicts.peek().is_none() || verdicts.all(|v| v.may_preempt) && gives_way()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scheduler::testing::{node, pod};
    use serde_json::json;

    fn asks(snapshot: &Snapshot, pod: &PodInfo, by: Plugin, event: Event) -> bool {
        helps(snapshot, pod, &BTreeSet::from([by]), &[event], 1)
    }

    #[test]
    fn a_node_or_room_helps_only_those_it_is_enough_for() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a").cpu("2").build());
        snapshot.set_node(node("kept").taint("own", "NoSchedule").build());
        let (small, large) = (pod("s").cpu("1").info(), pod("l").cpu("3").info());
        let gone = pod("gone").cpu("1").info();
        let by = Plugin::ResourcesFit;
        let event = || Event::of_pod(Happening::PodGone, gone.clone(), "a");
        assert!(asks(&snapshot, &small, by, event()));
        assert!(!asks(&snapshot, &large, by, event()));
        let kept = Event::of_node(Happening::NodeAdded, "kept");
        assert!(!asks(&snapshot, &large, by, kept.clone()));
        let tolerant = pod("t").spec("tolerations", json!([{"operator": "Exists"}]));
        assert!(asks(&snapshot, &tolerant.info(), Plugin::Taints, kept));
        // Someone less important can be ended there.
        snapshot.place(pod("low").cpu("2").info(), "a");
        let urgent = pod("u").priority(5).cpu("2").info();
        let changed = Event::of_node(Happening::NodeChanged, "a");
        assert!(asks(&snapshot, &urgent, by, changed.clone()));
        assert!(!asks(&snapshot, &small, by, changed));
    }

    #[test]
    fn pods_that_no_rule_speaks_of_help_nobody() {
        let snapshot = Snapshot::default();
        let constraint = json!([{"topologyKey": "zone", "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "w"}}}]);
        let spread = pod("p")
            .spec("topologySpreadConstraints", constraint)
            .info();
        let placed = |app: &str| {
            let other = pod("o").label("app", app).info();
            Event::of_pod(Happening::PodPlaced, other, "a")
        };
        assert!(asks(&snapshot, &spread, Plugin::Spread, placed("w")));
        assert!(!asks(&snapshot, &spread, Plugin::Spread, placed("x")));
        let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "w"}}}]}});
        let near = pod("p").spec("affinity", near).info();
        assert!(asks(&snapshot, &near, Plugin::PodAffinity, placed("w")));
        assert!(!asks(&snapshot, &near, Plugin::PodAffinity, placed("x")));
    }
}
