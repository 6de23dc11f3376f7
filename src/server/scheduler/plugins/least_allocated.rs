//! Prefers nodes with more left of cpu and memory.

use crate::server::scheduler::{
    framework::{SCORE_MAX, Score},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct LeastAllocated<'a>(&'a PodInfo);

/// For every pod.
pub(crate) fn score<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    Some(Box::new(LeastAllocated(pod)))
}

impl Score for LeastAllocated<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (asks, used, has) = (
            &self.0.score_requests,
            &node.score_requested,
            &node.allocatable,
        );
        let parts = [
            (used.milli_cpu + asks.milli_cpu, has.milli_cpu),
            (used.memory + asks.memory, has.memory),
        ];
        let known = parts.iter().filter(|(_, total)| *total > 0);
        let sum: i64 = known.clone().map(|(used, total)| left(*used, *total)).sum();
        sum / i64::try_from(known.count().max(1)).unwrap_or(1)
    }
}

fn left(used: i64, total: i64) -> i64 {
    let share = i128::from((total - used).max(0)) * i128::from(SCORE_MAX) / i128::from(total);
    i64::try_from(share).unwrap_or(0)
}
