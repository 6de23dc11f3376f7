//! A pod goes only where its volumes are or can be: who else uses them, how many a node can hold,
//! where they can be reached from, and in which zone they are.

use std::collections::BTreeSet;

use crate::server::scheduler::{
    framework::{Filter, Plugin, Verdict},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
    volumes::Volumes,
};

const IN_USE: &str = "node has pod using PersistentVolumeClaim with the same name and \
                      ReadWriteOncePod access mode";
const TOO_MANY: &str = "node(s) exceed max volume count";
const LOST: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const OUT_OF_REACH: &str = "node(s) had volume node affinity conflict";
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const OTHER_ZONE: &str = "node(s) had no available volume zone";

struct OfVolumes<'a> {
    pod: &'a PodInfo,
    volumes: &'a Volumes,
    /// Claims only one pod may use.
    exclusive: BTreeSet<String>,
    /// Other pods that use one of them.
    users: i64,
}

/// For pods with claims.
pub(crate) fn filter<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    if pod.claims.is_empty() {
        return None;
    }
    let volumes = snapshot.volumes();
    let (exclusive, users) = volumes.exclusive(pod);
    Some(Box::new(OfVolumes {
        pod,
        volumes,
        exclusive,
        users,
    }))
}

impl OfVolumes<'_> {
    fn change(&mut self, other: &PodInfo, by: i64) {
        if other.key.namespace != self.pod.key.namespace {
            return;
        }
        let claims = other.claims.iter();
        let shared = claims.filter(|claim| self.exclusive.contains(&claim.name));
        self.users += by * i64::try_from(shared.count()).unwrap_or(0);
    }
}

impl Filter for OfVolumes<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        if self.users > 0 {
            return Some(Verdict::new(Plugin::Volumes, IN_USE));
        }
        if !self.volumes.within_limits(self.pod, node) {
            return Some(Verdict::new(Plugin::Volumes, TOO_MANY));
        }
        let lasting = |reason| Some(Verdict::lasting(Plugin::Volumes, reason));
        for volume in self.volumes.bound(self.pod) {
            match volume {
                None => return lasting(LOST),
                Some(volume) if !volume.fits_node(node) => return lasting(OUT_OF_REACH),
                Some(_) => {}
            }
        }
        if self.volumes.plan(self.pod, node).is_none() {
            return lasting(NONE_TO_BIND);
        }
        let mut bound = self.volumes.bound(self.pod).flatten();
        if !bound.all(|volume| volume.fits_zone(node)) {
            return lasting(OTHER_ZONE);
        }
        None
    }

    fn add(&mut self, other: &PodInfo, _: &NodeInfo) {
        self.change(other, 1);
    }

    fn remove(&mut self, other: &PodInfo, _: &NodeInfo) {
        self.change(other, -1);
    }
}
