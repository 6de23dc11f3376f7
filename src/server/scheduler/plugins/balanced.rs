//! Prefers nodes whose cpu and memory will be used to the same degree, so that neither is left
//! over when the other is spent.

use crate::server::scheduler::{
    framework::{SCORE_MAX, Score},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct Balanced<'a>(&'a PodInfo);

/// For every pod that asks for something; a pod that asks for nothing changes no balance.
pub(crate) fn score<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    let asks = pod.requests.milli_cpu > 0 || pod.requests.memory > 0;
    asks.then(|| Box::new(Balanced(pod)) as _)
}

impl Score for Balanced<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (asks, used, has) = (&self.0.requests, &node.requested, &node.allocatable);
        let cpu = fraction(used.milli_cpu + asks.milli_cpu, has.milli_cpu);
        let memory = fraction(used.memory + asks.memory, has.memory);
        // The standard deviation of two numbers is half their distance.
        let deviation = (cpu - memory).abs() / 2.0;
        ((1.0 - deviation) * SCORE_MAX as f64) as i64
    }
}

fn fraction(used: i64, total: i64) -> f64 {
    if total <= 0 {
        return 1.0;
    }
    (used as f64 / total as f64).min(1.0)
}
