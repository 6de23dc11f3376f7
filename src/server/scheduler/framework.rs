//! What a plugin is: a struct made for one pod, with what it had to count beforehand as its only
//! state, and one method per phase it takes part in.
//!
//! A plugin that has nothing to say about a pod is not made for it, so that the usual pod passes
//! three or four filters.

use super::pod::PodInfo;
use super::snapshot::{NodeInfo, Snapshot};

/// Highest score of a node after normalizing.
pub(crate) const SCORE_MAX: i64 = 100;

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The plugin that says so.
    pub(crate) plugin: Plugin,
    /// As users read it, after a count: `Insufficient cpu`.
    pub(crate) reasons: Vec<String>,
    /// Whether ending pods of the node could change it.
    pub(crate) may_preempt: bool,
}

impl Verdict {
    /// That ending other pods may change (`Unschedulable` upstream).
    pub(crate) fn new(plugin: Plugin, reason: impl Into<String>) -> Self {
        Self {
            plugin,
            reasons: vec![reason.into()],
            may_preempt: true,
        }
    }

    /// That stands whatever pods are there (`UnschedulableAndUnresolvable` upstream).
    pub(crate) fn lasting(plugin: Plugin, reason: impl Into<String>) -> Self {
        Self {
            may_preempt: false,
            ..Self::new(plugin, reason)
        }
    }
}

/// The plugins that can reject, for the wake-up hints of [`Plugin::is_woken_by`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Plugin {
    NodeName,
    Unschedulable,
    Ports,
    NodeAffinity,
    Taints,
    ResourcesFit,
    Volumes,
    Spread,
    PodAffinity,
}

/// What happened in the cluster that may make room for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    /// A node came.
    NodeAdded,
    /// Amounts, labels, taints or cordon of a node changed.
    NodeChanged,
    /// A pod was bound by somebody, or the labels of a bound pod changed.
    PodPlaced,
    /// A bound pod ended or is gone.
    PodGone,
    /// A claim, volume, class or driver came or changed.
    VolumesChanged,
}

impl Plugin {
    /// Upstream's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Plugin::NodeName => "NodeName",
            Plugin::Unschedulable => "NodeUnschedulable",
            Plugin::Ports => "NodePorts",
            Plugin::NodeAffinity => "NodeAffinity",
            Plugin::Taints => "TaintToleration",
            Plugin::ResourcesFit => "NodeResourcesFit",
            Plugin::Volumes => "VolumeBinding",
            Plugin::Spread => "PodTopologySpread",
            Plugin::PodAffinity => "InterPodAffinity",
        }
    }

    /// Whether a pod this plugin rejected may pass after `happening`.
    pub(crate) fn is_woken_by(self, happening: Happening) -> bool {
        match happening {
            Happening::NodeAdded => true,
            Happening::NodeChanged => !matches!(self, Plugin::NodeName | Plugin::Ports),
            Happening::PodPlaced => matches!(self, Plugin::Spread | Plugin::PodAffinity),
            Happening::PodGone => matches!(
                self,
                Plugin::ResourcesFit
                    | Plugin::Ports
                    | Plugin::Volumes
                    | Plugin::Spread
                    | Plugin::PodAffinity
            ),
            Happening::VolumesChanged => self == Plugin::Volumes,
        }
    }
}

/// Says which nodes cannot take a pod.
pub(crate) trait Filter {
    /// `None`: this plugin has nothing against the node.
    fn reject(&self, node: &NodeInfo) -> Option<Verdict>;

    /// Counts as if `other` were on `node`, for what is kept beside the node.
    fn add(&mut self, _other: &PodInfo, _node: &NodeInfo) {}

    /// Counts as if `other` were not on `node`; the opposite of [`Filter::add`].
    fn remove(&mut self, _other: &PodInfo, _node: &NodeInfo) {}

    /// What a rejection is about, in figures: `needs 2 cpu, 0.5 free of 4`.
    fn figures(&self, _node: &NodeInfo) -> Vec<String> {
        Vec::new()
    }
}

/// The filters of one pod.
pub(crate) type Filters<'a> = Vec<Box<dyn Filter + 'a>>;

/// Says which nodes suit a pod better.
pub(crate) trait Score {
    /// Any scale, higher is better.
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings the scores of all candidates to `0..=SCORE_MAX`.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Makes a filter for a pod; `None` where it has nothing to say.
pub(crate) type MakeFilter = for<'a> fn(&'a PodInfo, &'a Snapshot) -> Option<Box<dyn Filter + 'a>>;
/// Makes a score for a pod; `None` where it has nothing to say.
pub(crate) type MakeScore = for<'a> fn(&'a PodInfo, &'a Snapshot) -> Option<Box<dyn Score + 'a>>;

/// Scales so that the highest becomes [`SCORE_MAX`].
pub(crate) fn scale_up(scores: &mut [i64]) {
    let most = scores.iter().copied().max().unwrap_or(0);
    if most > 0 {
        for score in scores {
            *score = *score * SCORE_MAX / most;
        }
    }
}

/// Scales so that the lowest becomes [`SCORE_MAX`] and the highest 0: for counts of what is
/// unwelcome. Where all are alike, all are best.
pub(crate) fn invert(scores: &mut [i64]) {
    let most = scores.iter().copied().max().unwrap_or(0);
    let least = scores.iter().copied().min().unwrap_or(0);
    for score in scores {
        *score = if most == least {
            SCORE_MAX
        } else {
            (most - *score) * SCORE_MAX / (most - least)
        };
    }
}
