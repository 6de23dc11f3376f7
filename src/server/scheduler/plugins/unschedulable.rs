//! A cordoned node takes no pod that does not tolerate it.

use k8s_openapi::api::core::v1::Taint;

use crate::api::toleration::{NO_SCHEDULE, is_tolerated};
use crate::server::scheduler::{
    framework::{Filter, Plugin, Verdict},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct Unschedulable;

/// For pods that do not tolerate cordoned nodes: nearly all.
pub(crate) fn filter<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: NO_SCHEDULE.to_owned(),
        ..Taint::default()
    };
    (!is_tolerated(pod.tolerations(), &cordon)).then(|| Box::new(Unschedulable) as _)
}

impl Filter for Unschedulable {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let reason = "node(s) were unschedulable";
        node.unschedulable
            .then(|| Verdict::lasting(Plugin::Unschedulable, reason))
    }
}
