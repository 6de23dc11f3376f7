//! A port of the host can be used by one pod of a node.

use crate::api::pod::HostPort;
use crate::server::scheduler::{
    framework::{Filter, Plugin, Verdict},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct Ports<'a>(&'a [HostPort]);

/// For pods that want host ports.
pub(crate) fn filter<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    (!pod.host_ports.is_empty()).then(|| Box::new(Ports(&pod.host_ports)) as _)
}

impl Filter for Ports<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        let taken = |wanted: &HostPort| {
            node.host_ports
                .iter()
                .any(|used| wanted.collides_with(used))
        };
        self.0
            .iter()
            .any(taken)
            .then(|| Verdict::new(Plugin::Ports, reason))
    }
}
