//! Which plugins decide, in which order, with which weight
//! (`k8s.io/kubernetes/pkg/scheduler/apis/config/v1/default_plugins.go`).

use super::framework::{MakeFilter, MakeScore};
use super::plugins::{
    balanced, image_locality, least_allocated, node_affinity, node_name, pod_affinity, ports,
    resources_fit, spread, taints, unschedulable, volumes,
};

/// The plugins of one scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// The first that rejects a node is the one that is told.
    pub(crate) filters: Vec<MakeFilter>,
    /// With weights.
    pub(crate) scores: Vec<(MakeScore, i64)>,
}

impl Default for Profile {
    /// Upstream's plugins and weights.
    fn default() -> Self {
        Self {
            filters: vec![
                unschedulable::filter,
                node_name::filter,
                taints::filter,
                node_affinity::filter,
                ports::filter,
                resources_fit::filter,
                volumes::filter,
                spread::filter,
                pod_affinity::filter,
            ],
            scores: vec![
                (taints::score, 3),
                (node_affinity::score, 2),
                (spread::score, 2),
                (pod_affinity::score, 2),
                (least_allocated::score, 1),
                (balanced::score, 1),
                (image_locality::score, 1),
            ],
        }
    }
}
