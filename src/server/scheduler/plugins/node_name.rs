//! A pod that names its node goes there or nowhere. Such pods are bound already and do not come
//! here; this is for what changes its mind while it waits.

use crate::server::scheduler::{
    framework::{Filter, Plugin, Verdict},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct NodeName<'a>(&'a str);

/// For pods that name a node.
pub(crate) fn filter<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    pod.node_name().map(|name| Box::new(NodeName(name)) as _)
}

impl Filter for NodeName<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let reason = "node(s) didn't match the requested node name";
        (*node.name != *self.0).then(|| Verdict::lasting(Plugin::NodeName, reason))
    }
}
