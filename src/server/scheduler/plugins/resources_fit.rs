//! A node takes a pod only where all it asks for is still free.

use crate::server::scheduler::{
    framework::{Filter, Plugin, Verdict},
    pod::PodInfo,
    resources::Resources,
    snapshot::{NodeInfo, Snapshot},
};

struct Fit<'a>(&'a PodInfo);

/// For every pod.
pub(crate) fn filter<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    Some(Box::new(Fit(pod)))
}

/// One resource: what is asked for, what is free, what there is.
struct Amount<'a> {
    name: &'a str,
    wanted: i64,
    free: i64,
    total: i64,
}

fn amounts<'a>(pod: &'a PodInfo, node: &'a NodeInfo) -> impl Iterator<Item = Amount<'a>> {
    let (asks, has, used) = (&pod.requests, &node.allocatable, &node.requested);
    let amount = |name, wanted, total, used| Amount {
        name,
        wanted,
        free: total - used,
        total,
    };
    let fixed = [
        amount("cpu", asks.milli_cpu, has.milli_cpu, used.milli_cpu),
        amount("memory", asks.memory, has.memory, used.memory),
        amount(
            "ephemeral-storage",
            asks.ephemeral_storage,
            has.ephemeral_storage,
            used.ephemeral_storage,
        ),
    ];
    let others = asks.others.iter().map(move |(name, wanted)| {
        let of = |list: &Resources| list.others.get(name).copied().unwrap_or(0);
        amount(name.as_str(), *wanted, of(has), of(used))
    });
    fixed.into_iter().chain(others)
}

impl Amount<'_> {
    fn is_short(&self) -> bool {
        self.wanted > 0 && self.wanted > self.free
    }

    fn show(&self, amount: i64) -> String {
        match self.name {
            "cpu" => format!("{}", amount as f64 / 1000.0),
            "memory" | "ephemeral-storage" => format!("{}Mi", (amount + (1 << 19)) >> 20),
            _ => amount.to_string(),
        }
    }
}

impl Filter for Fit<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let mut reasons = Vec::new();
        let mut may_preempt = true;
        if node.pods.len() as i64 + 1 > node.pods_max {
            reasons.push("Too many pods".to_owned());
        }
        for amount in amounts(self.0, node).filter(Amount::is_short) {
            reasons.push(format!("Insufficient {}", amount.name));
            may_preempt &= amount.wanted <= amount.total;
        }
        (!reasons.is_empty()).then_some(Verdict {
            plugin: Plugin::ResourcesFit,
            reasons,
            may_preempt,
        })
    }

    fn figures(&self, node: &NodeInfo) -> Vec<String> {
        let mut figures = Vec::new();
        if node.pods.len() as i64 + 1 > node.pods_max {
            let pods = node.pods.len();
            figures.push(format!("{pods} pods of at most {}", node.pods_max));
        }
        let short = amounts(self.0, node).filter(Amount::is_short);
        figures.extend(short.map(|amount| {
            format!(
                "needs {} {}, {} free of {}",
                amount.show(amount.wanted),
                amount.name,
                amount.show(amount.free.max(0)),
                amount.show(amount.total)
            )
        }));
        figures
    }
}

/// The missing parts of what is asked for, together.
pub(crate) fn shortage(pod: &PodInfo, node: &NodeInfo) -> f64 {
    let short = amounts(pod, node).filter(Amount::is_short);
    let parts = short.map(|a| (a.wanted - a.free.max(0)) as f64 / a.wanted as f64);
    parts.sum()
}

/// What would make `pod` fit in what `node` has.
pub(crate) fn change(pod: &PodInfo, node: &NodeInfo) -> String {
    let short = amounts(pod, node).filter(Amount::is_short);
    let mut steps: Vec<_> = short
        .map(|amount| {
            let (name, free) = (amount.name, amount.free.max(0));
            let (has, wants) = (amount.show(free), amount.show(amount.wanted));
            let ask = match free {
                0 => format!("ask for no {name}"),
                _ => format!("ask for {has} {name} instead of {wants}"),
            };
            if amount.wanted > amount.total {
                return ask;
            }
            let missing = amount.show(amount.wanted - free);
            format!("{ask}, or free {missing} {name}")
        })
        .collect();
    if node.pods.len() as i64 + 1 > node.pods_max {
        steps.push("end a pod there, or raise --max-pods".to_owned());
    }
    steps.join(" and ")
}
