//! Taints keep away pods that do not tolerate them.

use k8s_openapi::api::core::v1::Taint;

use crate::api::toleration::{NO_EXECUTE, NO_SCHEDULE, PREFER_NO_SCHEDULE, is_tolerated};
use crate::server::scheduler::{
    framework::{Filter, Plugin, Score, Verdict, invert},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct Taints<'a>(&'a PodInfo);

/// For every pod.
pub(crate) fn filter<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    Some(Box::new(Taints(pod)))
}

/// For every pod.
pub(crate) fn score<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    Some(Box::new(Taints(pod)))
}

/// The first taint that keeps `pod` off `node`.
pub(crate) fn untolerated<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    node.taints.iter().find(|taint| {
        matches!(taint.effect.as_str(), NO_SCHEDULE | NO_EXECUTE)
            && !is_tolerated(pod.tolerations(), taint)
    })
}

impl Filter for Taints<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let taint = untolerated(self.0, node)?;
        let value = taint.value.as_deref().unwrap_or_default();
        let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
        Some(Verdict::lasting(Plugin::Taints, reason))
    }
}

impl Score for Taints<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let unwelcome = node.taints.iter().filter(|taint| {
            taint.effect == PREFER_NO_SCHEDULE && !is_tolerated(self.0.tolerations(), taint)
        });
        i64::try_from(unwelcome.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        invert(scores);
    }
}
