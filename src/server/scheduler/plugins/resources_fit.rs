//! A node takes a pod only where all it asks for is still free.

use crate::server::scheduler::{
    framework::{Filter, Plugin, Verdict},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct Fit<'a>(&'a PodInfo);

/// For every pod.
pub(crate) fn filter<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    Some(Box::new(Fit(pod)))
}

impl Filter for Fit<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let (asks, has, used) = (&self.0.requests, &node.allocatable, &node.requested);
        let mut reasons = Vec::new();
        if node.pods.len() as i64 + 1 > node.pods_max {
            reasons.push("Too many pods".to_owned());
        }
        let fixed = [
            ("cpu", asks.milli_cpu, has.milli_cpu - used.milli_cpu),
            ("memory", asks.memory, has.memory - used.memory),
            (
                "ephemeral-storage",
                asks.ephemeral_storage,
                has.ephemeral_storage - used.ephemeral_storage,
            ),
        ];
        let others = asks.others.iter().map(|(name, amount)| {
            let total = has.others.get(name).copied().unwrap_or(0);
            let taken = used.others.get(name).copied().unwrap_or(0);
            (name.as_str(), *amount, total - taken)
        });
        for (name, wanted, free) in fixed.into_iter().chain(others) {
            if wanted > 0 && wanted > free {
                reasons.push(format!("Insufficient {name}"));
            }
        }
        (!reasons.is_empty()).then_some(Verdict {
            plugin: Plugin::ResourcesFit,
            reasons,
        })
    }
}
